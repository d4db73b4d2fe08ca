//! What is believed, held against files, hashes and certificates that ssh-keygen makes.

use std::fs;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use testkit::sshd::{keygen, run_keygen};

use super::*;
use crate::clock::Reading;

/// A folder with keys.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().expect("text").to_owned()
    }

    /// Makes a key; its public half as `kind base64`.
    fn key(&self, name: &str, kind: &str) -> String {
        let bits = if kind == "ecdsa" { 384 } else { 0 };
        keygen(self.0.path().join(name).as_path(), kind, bits).expect("a key");
        self.public(name)
    }

    fn public(&self, name: &str) -> String {
        let line = fs::read_to_string(self.path(&format!("{name}.pub"))).expect("its public half");
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    fn file(&self, text: &str) -> Trust {
        fs::write(self.path("known_hosts"), text).expect("a file");
        Trust::known_hosts(Path::new(&self.path("known_hosts")))
    }

    /// Has `authority` sign the key `name`: the certificate as it goes over the wire.
    fn certificate(&self, authority: &str, name: &str, options: &[&str]) -> Vec<u8> {
        let (ca, key) = (self.path(authority), self.path(&format!("{name}.pub")));
        let mut arguments = vec!["-q", "-s", &ca, "-I", "test"];
        arguments.extend(options);
        arguments.push(&key);
        run_keygen(&arguments).expect("a certificate");
        wire(&self.public(&format!("{name}-cert")))
    }
}

fn wire(public: &str) -> Vec<u8> {
    STANDARD.decode(public.split_whitespace().nth(1).expect("a key")).expect("base64")
}

fn server(host: &str, port: u16) -> Server {
    Server { host: host.into(), port }
}

#[allow(clippy::disallowed_methods, reason = "what ssh-keygen signs by")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn clock(time: SystemTime, synchronised: bool) -> Clock {
    Clock::with_source(SystemTime::UNIX_EPOCH, move || Reading { time, synchronised })
}

fn judge(trust: &Trust, server: &Server, shown: &[u8]) -> Result<(), Distrust> {
    trust.of(server)?.judge(shown, &clock(now(), true))
}

#[test]
fn a_key_is_known_unknown_wrong_or_revoked() {
    let place = Place::new();
    let (good, other) = (place.key("good", "ed25519"), place.key("other", "ecdsa"));
    let at = server("Host.example", 22);
    let trust = place.file(&format!("# a comment\n\nhost.example,10.0.0.1 {good} a comment\n"));
    judge(&trust, &at, &wire(&good)).expect("the right key");
    judge(&trust, &server("10.0.0.1", 22), &wire(&good)).expect("its address");
    assert!(matches!(judge(&trust, &at, &wire(&other)), Err(Distrust::Wrong { .. })));
    for stranger in [server("example", 22), server("host.example", 2222), server("xhost.example", 22)] {
        assert!(matches!(judge(&trust, &stranger, &wire(&good)), Err(Distrust::Unknown { .. })));
    }
    let trust = place.file(&format!("host.example {good}\n@revoked * {good}\n"));
    assert!(matches!(judge(&trust, &at, &wire(&good)), Err(Distrust::Revoked { .. })));
    let trust = Trust::known_hosts(Path::new("/nowhere/known_hosts"));
    assert!(matches!(judge(&trust, &at, &wire(&good)), Err(Distrust::File { .. })));
}

#[test]
fn the_fingerprint_shown_is_that_of_ssh_keygen() {
    let place = Place::new();
    let key = place.key("key", "ed25519");
    let line = run_keygen(&["-l", "-f", &place.path("key.pub")]).expect("a fingerprint");
    let sum = line.split_whitespace().nth(1).expect("a fingerprint");
    assert_eq!(Fingerprint::of(&wire(&key)).to_string(), sum);
    let error = judge(&place.file(""), &server("h", 22), &wire(&key)).expect_err("unknown").to_string();
    assert!(error.contains(sum), "{error}");
    judge(&Trust::pinned(sum).expect("a fingerprint"), &server("h", 22), &wire(&key)).expect("the right key");
}

#[test]
fn one_key_can_be_pinned() {
    let place = Place::new();
    let (good, other) = (place.key("good", "ed25519"), place.key("other", "ed25519"));
    for text in [good.clone(), format!("{good} root@server\n"), Fingerprint::of(&wire(&good)).to_string()] {
        let trust = Trust::pinned(&text).expect("a key");
        judge(&trust, &server("any", 1), &wire(&good)).expect("the right key");
        assert!(matches!(judge(&trust, &server("any", 1), &wire(&other)), Err(Distrust::Wrong { .. })));
    }
    let rsa = place.key("rsa", "rsa");
    let truncated = &good[..good.len() - 8];
    for bad in ["", "SHA256:", "SHA256:abc", "MD5:00:11", "ssh-ed25519", "ssh-ed25519 AAAA", &rsa, truncated]
    {
        assert_eq!(Trust::pinned(bad).err(), (bad != truncated).then_some(NoHostKey), "{bad}");
    }
}

#[test]
fn rsa_is_refused_also_where_it_is_on_file() {
    let place = Place::new();
    let rsa = place.key("rsa", "rsa");
    let trust = place.file(&format!("h {rsa}\n"));
    assert!(matches!(judge(&trust, &server("h", 22), &wire(&rsa)), Err(Distrust::Kind)));
}

#[test]
fn names_are_hashed_negated_and_have_ports_as_in_openssh() {
    let place = Place::new();
    let key = place.key("key", "ed25519");
    place.file(&format!("secret.example {key}\n[secret.example]:2222 {key}\n"));
    run_keygen(&["-q", "-H", "-f", &place.path("known_hosts")]).expect("hashes");
    let text = fs::read_to_string(place.path("known_hosts")).expect("the file");
    assert!(text.starts_with("|1|") && !text.contains("secret"), "{text}");
    let trust = place.file(&text);
    judge(&trust, &server("secret.example", 22), &wire(&key)).expect("a hashed name");
    judge(&trust, &server("secret.example", 2222), &wire(&key)).expect("a hashed name with its port");
    assert!(judge(&trust, &server("secret.example", 23), &wire(&key)).is_err());
    let names = "*.example,!bad.example,[127.0.0.1]:2200,ho?t";
    let trust = place.file(&format!("{names} {key}\n"));
    for (host, port, known) in [
        ("a.example", 22, true),
        ("bad.example", 22, false),
        ("example", 22, false),
        ("127.0.0.1", 2200, true),
        ("127.0.0.1", 22, false),
        ("host", 22, true),
        ("hoot", 22, true),
        ("hot", 22, false),
    ] {
        assert_eq!(judge(&trust, &server(host, port), &wire(&key)).is_ok(), known, "{host} {port}");
    }
}

#[test]
fn patterns_match_as_globs_do_and_never_for_long() {
    for (pattern, name, fits) in [
        ("*", "", true),
        ("?", "", false),
        ("a*c", "abbc", true),
        ("a*c", "abbd", false),
        ("*a*b*", "xxaxxbxx", true),
        ("a**", "a", true),
        ("", "", true),
        ("", "a", false),
    ] {
        assert_eq!(known_hosts::matches(pattern, name), fits, "{pattern} {name}");
    }
    assert!(!known_hosts::matches(&"a*".repeat(1_000), &"a".repeat(999)));
}

#[test]
fn the_kinds_on_file_are_asked_for_first() {
    let place = Place::new();
    let ecdsa = place.key("ecdsa", "ecdsa");
    let at = server("h", 22);
    let expected = place.file(&format!("h {ecdsa}\n")).of(&at).expect("the file");
    assert_eq!(expected.kinds(), ["ecdsa-sha2-nistp384", "ssh-ed25519", "ecdsa-sha2-nistp256"]);
    assert!(!expected.takes_certificates());
    let expected = place.file(&format!("@cert-authority * {ecdsa}\n")).of(&at).expect("the file");
    assert_eq!(expected.kinds(), KINDS);
    assert!(expected.takes_certificates());
}

#[test]
fn certificates_hold_for_their_authority_names_and_time() {
    let place = Place::new();
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let name = |of: &str| format!("{of}-{kind}");
        let ca = place.key(&name("ca"), kind);
        let other = place.key(&name("other"), kind);
        let host = place.key(&name("host"), "ecdsa");
        let at = server("a.example", 2200);
        let trust_here = place.file(&format!("@cert-authority [*.example]:* {ca}\n"));
        let sign = |by: &str, options: &[&str]| place.certificate(&name(by), &name("host"), options);
        let good = sign("ca", &["-h", "-n", "a.example,b.example", "-V", "-1h:+1h"]);
        judge(&trust_here, &at, &good).expect("a good certificate");
        let trust = place.file(&format!("@cert-authority *.example {ca}\n"));
        judge(&trust, &server("A.example", 22), &good).expect("a good certificate");
        let why = |shown: &[u8]| match judge(&trust, &server("a.example", 22), shown) {
            Err(Distrust::Certificate { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert!(why(&sign("other", &["-h", "-n", "a.example"])).contains("is not known to sign"));
        assert!(why(&sign("ca", &["-h", "-n", "c.example"])).contains("other names"));
        assert!(why(&sign("ca", &["-h"])).contains("other names"), "no name is no wildcard");
        assert!(why(&sign("ca", &["-n", "a.example"])).contains("not for hosts"));
        assert!(why(&sign("ca", &["-h", "-n", "a.example", "-V", "-2h:-1h"])).contains("expired"));
        assert!(why(&sign("ca", &["-h", "-n", "a.example", "-V", "+1h:+2h"])).contains("not valid yet"));
        let critical = ["-h", "-n", "a.example", "-O", "critical:odd@example=1"];
        assert!(why(&sign("ca", &critical)).contains("critical"));
        for revoked in [&ca, &host] {
            let text = format!("@cert-authority *.example {ca}\n@revoked * {revoked}\n");
            let judged = judge(&place.file(&text), &server("a.example", 22), &good);
            assert!(matches!(judged, Err(Distrust::Revoked { .. })));
        }
        // An authority's key is not a host's, nor the other way round.
        let trust = place.file(&format!("@cert-authority *.example {ca}\n"));
        assert!(judge(&trust, &server("a.example", 22), &wire(&ca)).is_err());
        let trust = place.file(&format!("a.example {ca}\n"));
        assert!(judge(&trust, &server("a.example", 22), &good).is_err());
        assert_ne!(ca, other);
    }
}

#[test]
fn no_byte_of_a_certificate_can_be_changed() {
    let place = Place::new();
    let ca = place.key("ca", "ed25519");
    place.key("host", "ed25519");
    let good = place.certificate("ca", "host", &["-h", "-n", "h", "-V", "-1h:+1h"]);
    let trust = place.file(&format!("@cert-authority * {ca}\n"));
    judge(&trust, &server("h", 22), &good).expect("a good certificate");
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(judge(&trust, &server("h", 22), &bad).is_err(), "byte {at}");
        assert!(judge(&trust, &server("h", 22), &good[..at]).is_err(), "cut at {at}");
    }
}

/// A device that boots in 1970 must be reachable, and one that is set back must not believe what has expired.
#[test]
fn an_unsynchronised_clock_judges_by_what_is_known_to_have_passed() {
    let place = Place::new();
    let ca = place.key("ca", "ed25519");
    place.key("host", "ed25519");
    let shown = place.certificate("ca", "host", &["-h", "-n", "h", "-V", "-2h:-1h"]);
    let expected = place.file(&format!("@cert-authority * {ca}\n")).of(&server("h", 22)).expect("the file");
    let at = |floor: SystemTime| {
        let read = || Reading { time: SystemTime::UNIX_EPOCH, synchronised: false };
        Clock::with_source(floor, read)
    };
    expected.judge(&shown, &at(now() - Duration::from_secs(86_400))).expect("not known to have expired");
    assert!(expected.judge(&shown, &at(now())).is_err());
}
