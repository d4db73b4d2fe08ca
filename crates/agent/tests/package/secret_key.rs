//! What the real minisign signs we verify, and what we sign it verifies; with its keys, also those with a password.

use iot_agent::services::update::package::{Error, Password, Sealed};

use crate::made::Bench;

#[test]
fn minisign_verifies_what_we_sign() {
    let bench = Bench::new();
    let key = bench.secret();
    bench.write("note", "some bytes", 0o644);
    bench.write("note.minisig", key.sign(b"some bytes", "name=note version=1.0.0").unwrap(), 0o644);
    let said = bench.run("minisign", &["-V", "-p", "release.pub", "-m", "note"]);
    assert!(said.contains("name=note version=1.0.0"), "{said}");
    let public = String::from_utf8(bench.read("release.pub")).unwrap();
    assert!(public.contains(&key.public()) && public.contains(&key.id().to_string()), "{public}");
    bench.write("note", "other bytes", 0o644);
    assert!(!bench.try_run("minisign", &["-V", "-p", "release.pub", "-m", "note"]).status.success());
    assert!(matches!(key.sign(b"x", "two\nlines"), Err(Error::Comment(_))));
}

#[test]
fn we_verify_what_minisign_signs() {
    let bench = Bench::new();
    let (keys, others) = (bench.keys(), Bench::new().keys());
    bench.write("note", "some bytes", 0o644);
    bench.run("minisign", &["-S", "-s", "release.key", "-m", "note", "-t", "said by the signer"]);
    let signature = String::from_utf8(bench.read("note.minisig")).unwrap();
    let signed = keys.verify(b"some bytes", &signature).unwrap();
    assert_eq!(
        (signed.trusted_comment.as_str(), Some(signed.key)),
        ("said by the signer", keys.ids().next())
    );
    assert!(matches!(keys.verify(b"some byte", &signature), Err(Error::BadSignature(_))));
    assert!(matches!(others.verify(b"some bytes", &signature), Err(Error::UntrustedKey(_))));
    let forged = signature.replace("by the signer", "by somebody else");
    assert!(matches!(keys.verify(b"some bytes", &forged), Err(Error::BadSignature(_))));
    for wrong in ["", "x", &format!("{signature}more\n"), &signature.replace("untrusted", "trusted")] {
        assert!(matches!(keys.verify(b"some bytes", wrong), Err(Error::SignatureFormat)), "{wrong:?}");
    }
    bench.run("minisign", &["-S", "-l", "-s", "release.key", "-m", "note"]);
    let legacy = String::from_utf8(bench.read("note.minisig")).unwrap();
    assert!(matches!(keys.verify(b"some bytes", &legacy), Err(Error::Legacy)));
}

/// The password is asked for on the terminal, and not shown on it; python3 is the one who types.
#[test]
fn a_password_opens_the_key() {
    const SCRIPT: &str = r#"
import os, pty, sys, termios, time
pid, tty = pty.fork()
if pid == 0:
    os.execvp(sys.argv[2], sys.argv[2:])
said, end = b"", time.monotonic() + 120
wanted = [b"Password: ", b"more time): "] if sys.argv[1] == "twice" else [b"secret key: "]
while True:
    try:
        more = os.read(tty, 1000)
    except OSError:
        break
    if not more:
        break
    said += more
    if wanted and wanted[0] in said:
        wanted.pop(0)
        while termios.tcgetattr(tty)[3] & termios.ECHO:
            assert time.monotonic() < end, "the terminal shows what is typed"
        os.write(tty, b"correct horse\n")
sys.stdout.buffer.write(said)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;
    let bench = Bench::new();
    let typed = |arguments: &[&str]| bench.run("python3", &[&["-c", SCRIPT], arguments].concat());
    typed(&["twice", "minisign", "-G", "-f", "-p", "release.pub", "-s", "sealed.key"]);
    let text = String::from_utf8(bench.read("sealed.key")).unwrap();
    let sealed = Sealed::parse(&text).unwrap();
    assert!(sealed.has_password());
    assert!(matches!(sealed.open(None), Err(Error::SecretKey(_))));
    match sealed.open(Some(&Password::new(b"wrong".to_vec()))) {
        Err(Error::Password) => {}
        other => panic!("{:?}", other.map(|key| key.id())),
    }

    bench.write("app.pkg", crate::made::package(&Bench::new()), 0o644);
    let said = typed(&["once", crate::made::AGENT, "package", "sign", "app.pkg", "--key", "sealed.key"]);
    assert!(said.contains("signed with key") && !said.contains("correct horse"), "{said}");
    bench.agent(&["verify", "app.pkg", "--key", "release.pub"]);

    bench.write("password", "correct horse\n", 0o600);
    let sign = ["sign", "app.pkg", "--key", "sealed.key", "--password-file", "password"];
    bench.agent(&sign);
    bench.agent(&["verify", "app.pkg", "--key", "release.pub"]);
}

#[test]
fn what_is_no_secret_key_is_none() {
    let bench = Bench::new();
    let text = String::from_utf8(bench.read("release.key")).unwrap();
    let line = text.lines().nth(1).unwrap();
    let public = String::from_utf8(bench.read("release.pub")).unwrap();
    for wrong in ["", "x", &public, &line[4..], &line.replacen('R', "S", 1)] {
        assert!(matches!(Sealed::parse(wrong), Err(Error::SecretKey(_))), "{wrong:?}");
    }
    let damaged = format!("{}AAAA{}", &line[..100], &line[104..]);
    assert!(matches!(Sealed::parse(&damaged).unwrap().open(None), Err(Error::SecretKey(_))));
}
