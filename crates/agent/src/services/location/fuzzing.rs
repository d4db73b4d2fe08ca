//! What must hold for whatever comes over a serial port, from a gpsd, or from a geolocation service.

use std::time::SystemTime;

use tokio::time::Instant;

use super::{
    Fix,
    google::check_answer,
    gpsd::{Devices, Lines, Told},
    nmea::{Epochs, Judgement, Sentence, Splitter},
};

/// A fix is a place on earth, and its numbers are numbers.
fn check(fix: &Fix) {
    assert!(fix.point.latitude.abs() <= 90.0 && fix.point.longitude.abs() <= 180.0, "{fix:?}");
    assert!(fix.accuracy.is_finite() && fix.accuracy > 0.0, "{fix:?}");
    assert!(fix.heading.is_none_or(|heading| (0.0..360.0).contains(&heading)), "{fix:?}");
    assert!(fix.speed.is_none_or(|speed| speed >= 0.0 && speed.is_finite()), "{fix:?}");
    for other in [fix.altitude, fix.hdop].into_iter().flatten() {
        assert!(other.is_finite(), "{fix:?}");
    }
    let place = fix.place(protocol::location::Source::Gps, Instant::now(), Some(0.01));
    serde_json::to_vec(&place).expect("finite numbers make JSON");
}

/// A receiver's bytes, and the reports of a gpsd.
pub fn nmea(data: &[u8]) {
    let (mut splitter, mut epochs, now) = (Splitter::default(), Epochs::default(), Instant::now());
    let judged = |judgement: Option<Judgement>| {
        if let Some(Judgement::Fix(fix)) = judgement {
            check(&fix);
        }
    };
    for byte in data {
        let sentence = splitter.push(*byte).and_then(Sentence::parse);
        judged(sentence.and_then(|sentence| epochs.push(sentence, now)));
    }
    judged(epochs.judge());
    // Without checksums, which chance finds seldom.
    for line in String::from_utf8_lossy(data).lines() {
        let text = line.trim_start_matches('$').split('*').next().unwrap_or_default();
        judged(Sentence::parse(text).and_then(|sentence| epochs.push(sentence, now)));
        judged(epochs.judge());
    }
    let (mut lines, mut devices) = (Lines::default(), Devices::default());
    lines.push(data, |line| {
        if let Some(Told::Fix(fix)) = devices.take(line, now, SystemTime::UNIX_EPOCH) {
            check(&fix);
        }
    });
}

/// The body of a geolocation service's answer.
pub fn geolocation(data: &[u8]) {
    for status in [200, 301, 400, 403, 404, 429, 503] {
        check_answer(status, data);
    }
}
