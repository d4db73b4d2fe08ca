use protocol::update::Sha256;
use semver::Version;

use super::*;
use judge::{Offer, Verdict, judge};

/// What becomes of a version, where another is installed and must not be gone below.
fn judged(version: &str, installed: &str, floor: &str, allow_downgrade: bool) -> Result<Verdict> {
    let present = Installed {
        version: Some(installed.to_owned()),
        sha256: Sha256([1; 32]).to_string().to_uppercase(),
        content: Some(Sha256([3; 32])),
        floor: floor.to_owned(),
        target: None,
    };
    let parsed = Version::parse(version).unwrap();
    let offer = Offer { name: "app", version: &parsed, min_version: None, allow_downgrade, content: None };
    judge(&offer, version, Sha256([2; 32]), &[("app".to_owned(), present)].into())
}

#[test]
fn versions_compare_by_semver() {
    for (version, installed, floor) in [
        ("1.0.1", "1.0.0", "1.0.0"),
        ("1.10.0", "1.9.0", "1.9.0"),
        ("2.0.0", "2.0.0-rc.1", "2.0.0-rc.1"),
        ("2.0.0-rc.10", "2.0.0-rc.9", "2.0.0-rc.9"),
        // Of the same rank: none is older.
        ("1.0.0+a", "1.0.0+b", "1.0.0+b"),
        // Below what is installed, but not below the floor.
        ("1.5.0", "2.0.0", "1.0.0"),
    ] {
        let verdict = judged(version, installed, floor, false).unwrap();
        assert_eq!(verdict, Verdict { downgrade: false, already: false }, "{version} over {installed}");
    }
    for (version, floor) in [("1.9.0", "1.10.0"), ("2.0.0-rc.1", "2.0.0"), ("2.0.0-alpha", "2.0.0-beta")] {
        let error = judged(version, "0.1.0", floor, false).unwrap_err();
        assert!(matches!(error, Error::Older { .. }), "{error}");
        assert!(judged(version, "0.1.0", floor, true).unwrap().downgrade);
    }
    assert!(matches!(judged("1.0.0", "1.0.0", "1.0.0", false), Err(Error::Rebuilt { .. })));
    assert!(matches!(judged("2.0.0", "1.0.0", "", false), Err(Error::Record { .. })));
    assert!(matches!(judged("2.0.0", "1", "1.0.0", false), Err(Error::Record { .. })));
}

/// A hash is the same however it is written.
#[test]
fn the_same_file_is_known_again() {
    let version = Version::new(1, 0, 0);
    let offer =
        Offer { name: "app", version: &version, min_version: None, allow_downgrade: false, content: None };
    let present = Installed {
        version: Some("1.0.0".to_owned()),
        sha256: Sha256([0xab; 32]).to_string().to_uppercase(),
        content: None,
        floor: "1.0.0".to_owned(),
        target: None,
    };
    let installed = [("app".to_owned(), present)].into();
    assert!(judge(&offer, "1.0.0", Sha256([0xab; 32]), &installed).unwrap().already);
    assert!(judge(&offer, "1.0.0", Sha256([0xac; 32]), &installed).is_err());
}

/// The same packed otherwise is the same; nothing is, of which that is not known.
#[test]
fn the_same_content_is_known_again() {
    let version = Version::new(1, 0, 0);
    let known = |recorded: Option<u8>, offered: Option<u8>| {
        let digest = |byte| Sha256([byte; 32]);
        let content = offered.map(digest);
        let offer =
            Offer { name: "app", version: &version, min_version: None, allow_downgrade: false, content };
        let present = Installed {
            version: Some("1.0.0".to_owned()),
            sha256: digest(1).to_string(),
            content: recorded.map(digest),
            floor: "1.0.0".to_owned(),
            target: None,
        };
        judge(&offer, "1.0.0", digest(2), &[("app".to_owned(), present)].into())
    };
    assert!(known(Some(7), Some(7)).unwrap().already);
    for (recorded, offered) in [(Some(7), Some(8)), (None, Some(8)), (Some(7), None), (None, None)] {
        let error = known(recorded, offered).unwrap_err();
        assert!(matches!(error, Error::Rebuilt { .. }), "{recorded:?} {offered:?}: {error}");
    }
}

#[test]
fn orders_and_reports_are_lines() {
    let order = Order::Back { target: "/opt/app".into(), version: "1.0.0".into(), previous: None };
    let text = serde_json::to_string(&order).unwrap();
    assert_eq!(text, r#"{"op":"back","target":"/opt/app","version":"1.0.0","previous":null}"#);
    assert!(matches!(read(Some(text.into())), Ok(Order::Back { previous: None, .. })));
    assert!(matches!(read(None), Err(Error::Order(_))));
    let report = Report::Error { reason: "two\nlines".to_owned(), lasting: true };
    assert_eq!(
        serde_json::to_string(&report).unwrap(),
        r#"{"error":{"reason":"two\nlines","lasting":true}}"#
    );
}
