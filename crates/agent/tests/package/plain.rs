//! A plain file, whose signature's trusted comment says what it is; signed by the real minisign.

use iot_agent::services::update::package::{Claim, Error, PlainFile};

use crate::made::{Bench, sha256};

const CONTENT: &[u8] = b"a firmware image";

fn comment(change: impl Fn(String) -> String) -> String {
    change(format!("name=firmware version=2.0.0 hardware=board-2,board-3 sha256={}", sha256(CONTENT)))
}

#[test]
fn the_comment_says_what_the_file_is() {
    let bench = Bench::new();
    bench.write("image", CONTENT, 0o644);
    let sign = |comment: &str| {
        bench.run("minisign", &["-S", "-s", "release.key", "-m", "image", "-t", comment]);
        String::from_utf8(bench.read("image.minisig")).unwrap()
    };
    let (keys, signature) = (bench.keys(), sign(&comment(|text| text + " downgrade=allow")));
    let (claim, whole) = PlainFile::new(&keys, &signature).unwrap().check(CONTENT).unwrap();
    assert_eq!((claim.name.as_str(), claim.version.to_string().as_str()), ("firmware", "2.0.0"));
    assert!(claim.allow_downgrade && whole.size == CONTENT.len() as u64 && whole.sha256 == claim.sha256);
    claim.fits(Some("board-3")).unwrap();
    assert!(matches!(claim.fits(Some("board-4")), Err(Error::Hardware { .. })));
    assert!(matches!(claim.fits(None), Err(Error::HardwareUnset(_))));
    let other = PlainFile::new(&keys, &signature).unwrap().check(&b"another image"[..]);
    assert!(matches!(other, Err(Error::BadSignature(_))));
    let forged = signature.replace("version=2.0.0", "version=9.0.0");
    assert!(matches!(PlainFile::new(&keys, &forged).unwrap().check(CONTENT), Err(Error::BadSignature(_))));
    let untrusted = Bench::new().keys();
    assert!(matches!(PlainFile::new(&untrusted, &signature), Err(Error::UntrustedKey(_))));
    let wrong = sign(&comment(|text| text.replace(&sha256(CONTENT), &sha256(b"x"))));
    assert!(matches!(PlainFile::new(&keys, &wrong).unwrap().check(CONTENT), Err(Error::FileContent)));
    // What minisign says by itself is nothing of use.
    bench.run("minisign", &["-S", "-s", "release.key", "-m", "image"]);
    let bare = String::from_utf8(bench.read("image.minisig")).unwrap();
    assert!(matches!(PlainFile::new(&keys, &bare).unwrap().check(CONTENT), Err(Error::Comment(_))));
}

#[test]
fn a_comment_says_all_of_it_once() {
    assert!(!Claim::parse(&comment(|text| text)).unwrap().allow_downgrade);
    assert!(
        Claim::parse(&comment(|text| text.replace("board-2,board-3", ""))).unwrap().hardware_ids.is_empty()
    );
    Claim::parse(&comment(|text| text + " timestamp:17 channel=beta")).unwrap();
    let wrong = [
        ("name=firmware ", "", "has no name="),
        ("version=2.0.0 ", "", "has no version="),
        ("hardware=board-2,board-3 ", "", "has no hardware="),
        ("sha256=", "sha-256=", "has no sha256="),
        ("sha256=", "sha256=00", "has a sha256= that is not"),
        ("version=2.0.0", "version=2.0.0 version=1.0.0", "has version= twice"),
        ("version=2.0.0", "version=2", "version \"2\" is no semantic version"),
        ("board-2,", ",", "hardware_ids \"\" is not"),
        ("name=", "downgrade=yes name=", "has a downgrade= that is not"),
    ];
    for (from, to, reason) in wrong {
        let error = Claim::parse(&comment(|text| text.replacen(from, to, 1))).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}, not {reason}");
    }
}
