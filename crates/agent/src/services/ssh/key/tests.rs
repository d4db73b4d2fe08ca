//! Keys of every kind and file format, as ssh-keygen and openssl make them, held against what ssh-keygen says of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use tempfile::TempDir;
use testkit::sshd::{keygen, run_keygen};

use super::*;
use crate::services::ssh::wire::Reader;

fn folder() -> TempDir {
    TempDir::new().expect("a folder")
}

fn openssl(arguments: &[&str]) {
    let output = Command::new("openssl").args(arguments).output().expect("openssl");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The first two words of the line of the public key that ssh-keygen makes of a private one.
fn public(path: &Path) -> String {
    let line = run_keygen(&["-y", "-f", path.to_str().expect("text")]).expect("a public key");
    line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// What ssh-keygen thinks of a signature (PROTOCOL.sshsig) that was made by our key.
fn verified_by_openssh(key: &Key, folder: &Path) -> bool {
    let message = b"a message";
    let mut signed = Vec::from(b"SSHSIG");
    let sum = ring::digest::digest(&ring::digest::SHA512, message);
    for part in [&b"file"[..], b"", b"sha512", sum.as_ref()] {
        signed.put_string(part);
    }
    let signature = key.sign(key.algorithm(None), &signed).expect("a signature");
    let mut whole = Vec::from(b"SSHSIG\0\0\0\x01");
    for part in [key.blob(), b"file", b"", b"sha512", &signature] {
        whole.put_string(part);
    }
    let armoured =
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", STANDARD.encode(whole));
    fs::write(folder.join("sig"), armoured).expect("a file");
    fs::write(folder.join("signers"), format!("me {}\n", key.public())).expect("a file");
    fs::write(folder.join("message"), message).expect("a file");
    let mut verify = Command::new("ssh-keygen");
    verify.args(["-Y", "verify", "-I", "me", "-n", "file", "-f"]).arg(folder.join("signers"));
    verify.arg("-s").arg(folder.join("sig")).stdin(File::open(folder.join("message")).expect("the message"));
    verify.output().expect("ssh-keygen").status.success()
}

fn good(path: &Path, kind: &str) {
    let key = Key::load(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(key.public().starts_with(&public(path)), "{} of {}", key.public(), path.display());
    assert_eq!(key.kind(), kind);
    assert!(verified_by_openssh(&key, path.parent().expect("a folder")), "{}", path.display());
}

#[test]
fn keys_of_openssh_are_read_and_sign() {
    for (name, bits, kind) in [
        ("ed25519", 0, "ssh-ed25519"),
        ("ecdsa", 256, "ecdsa-sha2-nistp256"),
        ("ecdsa", 384, "ecdsa-sha2-nistp384"),
        ("rsa", 2048, "ssh-rsa"),
        ("rsa", 3072, "ssh-rsa"),
    ] {
        let dir = folder();
        keygen(&dir.path().join("key"), name, bits).expect("a key");
        good(&dir.path().join("key"), kind);
    }
}

/// Numbers of ECDSA and RSA that begin with zeroes are shorter on the wire: one in 128 is.
#[test]
fn short_numbers_are_no_damage() {
    let dir = folder();
    for at in 0..300 {
        let path = dir.path().join(format!("key{at}"));
        keygen(&path, "ecdsa", 256).expect("a key");
        let key = Key::load(&path).expect("a key");
        for data in 0..3_u8 {
            let signature = key.sign("ecdsa-sha2-nistp256", &[data]).expect("a signature");
            let mut reader = Reader::new(&signature);
            assert_eq!(reader.text(), Ok("ecdsa-sha2-nistp256"));
            let mut numbers = Reader::new(reader.string().expect("two numbers"));
            assert!(numbers.mpint().is_ok() && numbers.mpint().is_ok() && numbers.is_empty());
        }
    }
}

#[test]
fn keys_of_openssl_are_read_and_sign() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().expect("text").to_owned();
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", &text("ed.p8")]);
    for (curve, name) in [("P-256", "p256"), ("P-384", "p384")] {
        let option = format!("ec_paramgen_curve:{curve}");
        let (p8, sec1) = (text(&format!("{name}.p8")), text(&format!("{name}.sec1")));
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", &option, "-out", &p8]);
        openssl(&["ec", "-in", &p8, "-out", &sec1]);
    }
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-out", &text("with-curve.sec1")]);
    openssl(&["genrsa", "-out", &text("rsa.p8"), "2048"]);
    openssl(&["rsa", "-in", &text("rsa.p8"), "-traditional", "-out", &text("rsa.p1")]);
    for name in ["p256.p8", "p256.sec1", "with-curve.sec1", "p384.p8", "p384.sec1", "rsa.p8", "rsa.p1"] {
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).expect("its mode");
        good(
            &path(name),
            match &name[..2] {
                "p3" => "ecdsa-sha2-nistp384",
                "rs" => "ssh-rsa",
                _ => "ecdsa-sha2-nistp256",
            },
        );
    }
    // This form of Ed25519 ssh-keygen does not read: it is held against what openssl says of it.
    let key = Key::load(&path("ed.p8")).expect("a key");
    openssl(&["pkey", "-in", &text("ed.p8"), "-pubout", "-outform", "DER", "-out", &text("ed.pub")]);
    let der = fs::read(path("ed.pub")).expect("the public half");
    assert!(key.blob().ends_with(&der[der.len() - 32..]));
    assert!(verified_by_openssh(&key, dir.path()));
}

#[test]
fn what_cannot_be_used_says_what_to_do() {
    let dir = folder();
    let path = |name: &str| dir.path().join(name);
    let text = |name: &str| path(name).to_str().expect("text").to_owned();
    let refused = |name: &str| {
        if path(name).exists() && name != "exposed" {
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).expect("its mode");
        }
        Key::load(&path(name)).err().expect("no key").to_string()
    };
    run_keygen(&["-q", "-t", "ed25519", "-N", "secret", "-f", &text("locked")]).expect("a key");
    assert!(refused("locked").contains("is encrypted") && refused("locked").contains("ssh-keygen -p"));
    openssl(&["genrsa", "-out", &text("rsa"), "2048"]);
    openssl(&[
        "rsa",
        "-in",
        &text("rsa"),
        "-aes128",
        "-passout",
        "pass:x",
        "-traditional",
        "-out",
        &text("old"),
    ]);
    assert!(refused("old").contains("is encrypted"));
    openssl(&["pkcs8", "-topk8", "-in", &text("rsa"), "-passout", "pass:x", "-out", &text("p8")]);
    assert!(refused("p8").contains("is encrypted"));
    openssl(&["genrsa", "-out", &text("weak"), "1024"]);
    assert!(refused("weak").contains("2048 to 4096"));
    keygen(&path("p521"), "ecdsa", 521).expect("a key");
    assert!(refused("p521").contains("curve"));
    keygen(&path("exposed"), "ed25519", 0).expect("a key");
    fs::set_permissions(path("exposed"), fs::Permissions::from_mode(0o640)).expect("its mode");
    assert!(refused("exposed").contains("mode 0640") && refused("exposed").contains("chmod 600"));
    fs::write(path("empty"), "").expect("a file");
    assert!(refused("empty").contains("holds no private key"));
    assert!(refused("exposed.pub").contains("holds no private key"));
    assert!(matches!(Key::load(&path("nowhere")), Err(KeyError::Missing(_))));
}

/// Cut anywhere, or with any byte changed, a file is a key or an error, never a panic.
#[test]
fn damage_is_an_error() {
    let dir = folder();
    for (kind, bits) in [("ed25519", 0), ("ecdsa", 256), ("rsa", 2048)] {
        let path = dir.path().join(kind);
        keygen(&path, kind, bits).expect("a key");
        let text = fs::read(&path).expect("its file");
        for end in 0..text.len() - 40 {
            assert!(Key::parse(&text[..end]).is_err(), "{kind} cut at {end}");
        }
        let (_, der) = pem::private(&text).expect("what is in it");
        for at in 0..der.len() {
            let mut damaged = der.to_vec();
            damaged[at] ^= 0x81;
            openssh::read(&damaged).err();
            openssh::read(&der[..at]).err().expect("a key cut short");
        }
    }
}

#[test]
fn a_key_of_our_own_is_one_for_openssh_too() {
    let dir = folder();
    let path = dir.path().join("made");
    let made = Key::make(&path, "device-1").expect("a key");
    assert_eq!(path.metadata().expect("its file").mode() & 0o7777, 0o600);
    good(&path, "ssh-ed25519");
    assert!(made.public().ends_with(" device-1"));
    assert_eq!(Key::load(&path).expect("a key").public(), made.public());
    assert_ne!(Key::make(&dir.path().join("other"), "").expect("a key").blob(), made.blob());
    assert!(matches!(Key::make(Path::new("/nowhere/key"), ""), Err(KeyError::Write { .. })));
}

#[test]
fn rsa_signs_with_what_the_server_takes() {
    let dir = folder();
    keygen(&dir.path().join("rsa"), "rsa", 2048).expect("a key");
    let key = Key::load(&dir.path().join("rsa")).expect("a key");
    assert_eq!(key.algorithm(None), "rsa-sha2-512");
    assert_eq!(key.algorithm(Some("ssh-ed25519,rsa-sha2-256")), "rsa-sha2-256");
    assert_eq!(key.algorithm(Some("rsa-sha2-256,rsa-sha2-512")), "rsa-sha2-512");
    assert_eq!(key.algorithm(Some("ssh-rsa")), "rsa-sha2-512", "never SHA-1");
}
