//! What must hold for whatever is on file about servers, and for whatever a server shows.

use super::*;
use crate::clock::{Reading, built};

/// What is before the first NUL is a file of known hosts, what is after it the key or certificate that a server shows. It
/// is believed where it, or who has signed it, is on file and not revoked; and nothing has signed anything.
pub fn hosts(data: &[u8]) {
    let (text, shown) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len()));
    let (text, shown) = (String::from_utf8_lossy(text), shown.get(1..).unwrap_or_default());
    let clock = Clock::with_source(built(), || Reading { time: built(), synchronised: true });
    let server = Server { host: "ssh.example".to_owned(), port: 22 };
    let expected =
        Expected { host: server.host.clone(), known: known_hosts::about(&text, &server), sum: None };
    assert!(expected.algorithms().iter().all(|name| KINDS.contains(name) || CERTIFIED.contains(name)));
    let judged = expected.judge(shown, &clock);
    let on_file = expected.keys().any(|key| key == shown);
    let signed = Certificate::read(shown)
        .is_some_and(|certificate| expected.authorities().any(|key| key == certificate.authority));
    match judged {
        Ok(()) => assert!((on_file || signed) && !expected.revoked(shown), "believed"),
        Err(why) => assert!(!why.to_string().is_empty()),
    }
    if let Ok(pinned) = Trust::pinned(&text) {
        let expected = pinned.of(&server).expect("nothing is read");
        // Only the key itself, or what has its hash.
        let judged = expected.judge(shown, &clock);
        assert!(judged.is_err() || expected.sum.is_some() || expected.keys().any(|key| key == shown));
    }
    for algorithm in KINDS.iter().chain(&CERTIFIED) {
        assert!(verify(algorithm, shown, shown, text.as_bytes()).is_err(), "{algorithm}: forged");
    }
}
