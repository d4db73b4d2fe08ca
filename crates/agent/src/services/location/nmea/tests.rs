use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::services::location::fix::Fix;

/// With its checksum and line end.
pub(in super::super) fn sealed(text: &str) -> String {
    format!("${text}*{:02X}\r\n", text.bytes().fold(0, |sum, byte| sum ^ byte))
}

fn sentences(bytes: &[u8]) -> Vec<String> {
    let mut splitter = Splitter::default();
    bytes.iter().filter_map(|byte| splitter.push(*byte).map(str::to_owned)).collect()
}

/// What each moment of these bytes but the last comes to, and the last.
pub(super) fn heard(bytes: &[u8]) -> (Vec<Judgement>, Epochs) {
    let (mut splitter, mut epochs) = (Splitter::default(), Epochs::default());
    let mut judged = Vec::new();
    for byte in bytes {
        let sentence = splitter.push(*byte).and_then(Sentence::parse);
        judged.extend(sentence.and_then(|sentence| epochs.push(sentence, Instant::now())));
    }
    (judged, epochs)
}

fn judgements(bytes: &[u8]) -> Vec<Judgement> {
    let (mut judged, epochs) = heard(bytes);
    judged.extend(epochs.judge());
    judged
}

fn told(lines: &[&str]) -> Vec<Judgement> {
    judgements(lines.iter().map(|line| sealed(line)).collect::<String>().as_bytes())
}

/// The only fix of these.
#[track_caller]
fn fix(lines: &[&str]) -> Fix {
    match told(lines).as_slice() {
        [Judgement::Fix(fix)] => fix.clone(),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_no_fix(lines: &[&str]) {
    let told = told(lines);
    assert!(told.iter().all(|judged| matches!(judged, Judgement::NoFix(_))), "{lines:?}: {told:?}");
}

fn is_near(found: f64, expected: f64) -> bool {
    (found - expected).abs() < 1e-9
}

/// The examples that have been in every manual for thirty years, with their own checksums.
#[test]
fn known_sentences_are_read() {
    let known = b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n\
        $GPRMC,123519,A,4807.038,N,01131.000,E,022.4,084.4,230394,003.1,W*6A\r\n";
    let judged = judgements(known);
    let [Judgement::Fix(fix)] = judged.as_slice() else { panic!("{judged:?}") };
    assert!(is_near(fix.point.latitude, 48.1173) && is_near(fix.point.longitude, 11.516_666_666_666_667));
    assert_eq!((fix.altitude, fix.satellites, fix.hdop), (Some(545.4), Some(8), Some(0.9)));
    assert!(is_near(fix.speed.unwrap(), 11.523_555_555_555_556), "22.4 knots: {fix:?}");
    assert!(is_near(fix.heading.unwrap(), 84.4) && is_near(fix.accuracy, 0.9 * 7.0), "{fix:?}");
}

#[test]
fn what_is_no_sentence_is_passed_over() {
    let good = sealed("GPGLL,4916.45,N,12311.12,W,225444,A");
    let text = "GPGLL,4916.45,N,12311.12,W,225444,A";
    let bare = good.trim_end();
    let long = format!("${},*00", "A".repeat(10_000));
    for (before, after) in [
        ("", ""),
        ("$GPGGA,12351", ""),
        ("\u{0}\u{b5}b\u{1}\u{7}$\u{5c}\u{0}", ""),
        ("$$$$", "$$"),
        ("$GPGGA,1*", "garbage"),
        ("$GPGGA,1*4", ""),
        ("$GPGGA,1*ZZ", "*00"),
        ("!AIVDM,1,1,,A,14eG;o@034o8sd<L9i:a;WF>062D,0*7D\r\n", ""),
        (long.as_str(), ""),
    ] {
        for glued in [&good, bare] {
            let line = format!("{before}{glued}{after}");
            assert_eq!(sentences(line.as_bytes()), [text], "{line:?}");
        }
    }
    assert_eq!(sentences(format!("{bare}{bare}").as_bytes()), [text, text], "glued");
    assert_eq!(sentences(bare.to_lowercase().replace("gpgll", "x").as_bytes()), [""; 0], "another checksum");
    let small =
        good.replace(bare.rsplit('*').next().unwrap(), &bare.rsplit('*').next().unwrap().to_lowercase());
    assert_eq!(sentences(small.as_bytes()), [text]);
    for bad in ["$GPGLL,4916.45,N,12311.12,W,225444,A\r\n", "$GPGLL,4916.45,N,12311.12,W,225444,A*00\r\n"] {
        assert_eq!(sentences(bad.as_bytes()), [""; 0], "{bad}");
    }
    let high = "$GP\u{e9}GLL*00";
    assert_eq!(sentences(high.as_bytes()), [""; 0]);
}

#[test]
fn every_talker_counts() {
    for talker in ["GP", "GN", "GL", "GA", "GB", "BD", "GQ", "QZ", "GI", "II"] {
        let line = format!("{talker}GNS,093000.50,3345.6789,S,15112.3456,E,AAN,12,0.8,31.5,20.0,,,V");
        let fix = fix(&[&line]);
        assert!(is_near(fix.point.latitude, -(33.0 + 45.6789 / 60.0)), "{fix:?}");
        assert!(is_near(fix.point.longitude, 151.0 + 12.3456 / 60.0));
        assert_eq!((fix.satellites, fix.altitude), (Some(12), Some(31.5)));
    }
}

/// The quality decides, whatever else is in the sentence.
#[test]
fn only_a_valid_fix_counts() {
    const AT: &str = "4807.038,N,01131.000,E";
    for quality in ["0", "", "7", "8", "9", "x", "-1"] {
        assert_no_fix(&[&format!("GPGGA,123519,{AT},{quality},08,0.9,545.4,M,46.9,M,,")]);
    }
    for quality in ["1", "2", "3", "4", "5", "6"] {
        fix(&[&format!("GPGGA,123519,{AT},{quality},08,0.9,545.4,M,46.9,M,,")]);
    }
    for (status, mode) in
        [("V", ""), ("", ""), ("V", ",A"), ("A", ",N"), ("A", ",S"), ("A", ",M"), ("V", ",E")]
    {
        assert_no_fix(&[&format!("GPRMC,123519,{status},{AT},022.4,084.4,230394,003.1,W{mode}")]);
        assert_no_fix(&[&format!("GPGLL,{AT},123519,{status}{mode}")]);
    }
    for mode in ["", ",", ",A", ",D", ",E", ",F", ",R", ",P"] {
        fix(&[&format!("GPRMC,123519,A,{AT},022.4,084.4,230394,003.1,W{mode}")]);
        fix(&[&format!("GPGLL,{AT},123519,A{mode}")]);
    }
    // NMEA 4.1: the status of navigation is no matter of the fix.
    fix(&[&format!("GNRMC,123519,A,{AT},022.4,084.4,230394,,,A,V")]);
    for modes in ["N", "NN", "NNNN", "", "S", "M"] {
        assert_no_fix(&[&format!("GNGNS,123519,{AT},{modes},08,0.9,545.4,46.9,,")]);
    }
    assert!(told(&["GPGGA,,,,,,0,00,99.99,,,,,,"]) == [Judgement::NoFix(Some(0))]);
    // Of one moment: one that says no is enough.
    let gga = format!("GPGGA,123519,{AT},1,08,0.9,545.4,M,46.9,M,,");
    for no in ["GPRMC,123519,V,,,,,,,230394,,", "GNRMC,123519,V,,,,,,,230394,,", "GPGSA,A,1,,,,,,,,,,,,,,,"] {
        assert_no_fix(&[&gga, no]);
    }
    // Nobody has a fix of two satellites, but by dead reckoning; where sentences differ, those who tell more are right.
    let few = |quality: u8, count: &str| format!("GNGGA,123519,{AT},{quality},{count},0.9,545.4,M,46.9,M,,");
    for count in ["0", "00", "02"] {
        assert_no_fix(&[&few(1, count)]);
        assert_no_fix(&[&few(2, count), &format!("GNRMC,123519,A,{AT},022.4,084.4,230394,,,A,V")]);
        fix(&[&few(6, count)]);
        fix(&[&few(2, count), &format!("GNGNS,123519,{AT},NDD,11,0.9,545.4,46.9,,")]);
    }
    fix(&[&few(1, "03")]);
    fix(&[&few(1, "")]);
    fix(&[&gga, "GLGLL,,,,,123519,V"]);
    fix(&[&gga, "GNGSA,A,1,,,,,,,,,,,,,,,", "GNGSA,A,3,01,02,03,,,,,,,,,,1.5,0.9,1.2"]);
}

#[test]
fn a_place_that_makes_no_sense_is_none() {
    for place in [
        "9000.001,N,01131.000,E",
        "4860.000,N,01131.000,E",
        "4807.038,N,18000.001,E",
        "4807.038,X,01131.000,E",
        "4807.038,N,01131.000,",
        "4807.038,,01131.000,E",
        "-4807.038,N,01131.000,E",
        "+807.038,N,01131.000,E",
        "4807.0.38,N,01131.000,E",
        "4.8e3,N,01131.000,E",
        "NaN,N,01131.000,E",
        "inf,N,01131.000,E",
        ",N,,E",
        "123456789012345678901234567890.1,N,01131.000,E",
    ] {
        assert_no_fix(&[&format!("GPGGA,123519,{place},1,08,0.9,545.4,M,46.9,M,,")]);
    }
    for (place, latitude, longitude) in [
        ("0000.000,S,00000.000,W", 0.0, 0.0),
        ("9000.000,S,18000.000,W", -90.0, -180.0),
        ("0001.5,N,1.5,E", 0.025, 0.025),
        ("4807,N,01131,E", 48.0 + 7.0 / 60.0, 11.0 + 31.0 / 60.0),
    ] {
        let fix = fix(&[&format!("GPGGA,123519,{place},1,08,0.9,545.4,M,46.9,M,,")]);
        assert!(is_near(fix.point.latitude, latitude) && is_near(fix.point.longitude, longitude), "{fix:?}");
    }
}

#[test]
fn a_moment_is_put_together() {
    let moment = fix(&[
        "GNRMC,101010.00,A,4722.6147,N,00832.5020,E,3.888,271.30,310126,,,D,V",
        "GNVTG,271.30,T,,M,3.888,N,7.200,K,D",
        "GNGGA,101010.00,4722.6147,N,00832.5020,E,2,12,0.74,408.6,M,47.3,M,,0000",
        "GNGSA,A,3,01,02,03,,,,,,,,,,1.5,0.74,1.2,1",
        "GNGLL,4722.6147,N,00832.5020,E,101010.00,A,D",
        "GNGST,101010.00,12,,,,1.2,0.9,2.5",
    ]);
    assert!(is_near(moment.accuracy, 1.5), "errors of 1.2 and 0.9 m: {moment:?}");
    assert!(is_near(moment.speed.unwrap(), 3.888 * 1852.0 / 3600.0));
    assert_eq!((moment.heading, moment.satellites, moment.hdop), (Some(271.3), Some(12), Some(0.74)));
    assert_eq!(moment.altitude, Some(408.6));
    // In two dimensions there is no height; without any sign of how good it is, it is poor.
    let flat = fix(&[
        "GPGGA,101010,4722.6147,N,00832.5020,E,1,03,,408.6,M,47.3,M,,",
        "GPGSA,A,2,01,02,03,,,,,,,,,,3.5,2.74,1.2",
    ]);
    assert_eq!((flat.altitude, flat.hdop), (None, Some(2.74)));
    let bare = fix(&["GPGLL,4722.6147,N,00832.5020,E,101010,A"]);
    assert!(is_near(bare.accuracy, 35.0));
    // The old form of VTG.
    let old = fix(&["GPGLL,4722.6147,N,00832.5020,E,101010,A", "GPVTG,090.0,089.0,010.0,018.5"]);
    assert_eq!((old.heading, old.speed.map(|speed| (speed * 100.0).round())), (Some(90.0), Some(514.0)));
    for (quality, accuracy) in [("1", 7.0), ("2", 2.0), ("3", 1.5), ("4", 0.05), ("5", 0.5), ("6", 20.0)] {
        let fix = fix(&[&format!("GPGGA,101010,4722.6147,N,00832.5020,E,{quality},09,1.0,408.6,M,47.3,M,,")]);
        assert!(is_near(fix.accuracy, accuracy), "{fix:?}");
    }
}

/// Midnight, a leap second, the wrong century, a clock that is set back: another time is another moment, and no more.
#[test]
fn time_begins_moments_and_means_nothing_else() {
    let gga = |time: &str| format!("GPGGA,{time},4722.6147,N,00832.5020,E,1,09,1.0,408.6,M,47.3,M,,");
    let rmc = |time: &str| format!("GPRMC,{time},A,4722.6147,N,00832.5020,E,0,0,060480,,");
    let times = ["235959", "000000", "000000.5", "235960", "", "120000", "115959"];
    let lines: Vec<String> = times.iter().flat_map(|time| [gga(time), rmc(time)]).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    assert_eq!(told(&lines).len(), times.len());
    // Without a time, what is said again is another moment.
    assert_eq!(told(&[&gga(""), &rmc(""), &gga(""), &rmc(""), &gga("")]).len(), 3);
    // A late GLL of the moment before, as some send it.
    assert_eq!(told(&[&gga("100001"), "GPGLL,4722.6147,N,00832.5020,E,100000,A", &rmc("100001")]).len(), 1);
}

/// What would yet come may say that there is no fix.
#[test]
fn a_moment_that_breaks_off_is_not_judged_by_its_beginning() {
    let lines = |time: &str| {
        let rmc = format!("GPRMC,{time},A,4722.6147,N,00832.5020,E,0,0,060480,,");
        let gga = format!("GPGGA,{time},4722.6147,N,00832.5020,E,1,09,1.0,408.6,M,47.3,M,,");
        [sealed(&rmc), sealed(&gga)]
    };
    let [rmc, gga] = lines("101010");
    let [next_rmc, next_gga] = lines("101011");
    let paused = |texts: &[&String]| {
        let bytes: Vec<u8> = texts.iter().flat_map(|text| text.bytes()).collect();
        matches!(heard(&bytes).1.pause(), Some(Judgement::Fix(_)))
    };
    assert!(paused(&[&rmc]), "nothing is known of how it ends");
    assert!(paused(&[&rmc, &gga]));
    assert!(!paused(&[&rmc, &gga, &next_rmc]));
    assert!(paused(&[&rmc, &gga, &next_rmc, &next_gga]));
}

/// A receiver whose clock stands still repeats an old fix.
#[tokio::test(start_paused = true)]
async fn a_fix_is_as_old_as_its_moment() {
    let mut epochs = Epochs::default();
    let line = "GPGGA,101010,4722.6147,N,00832.5020,E,1,09,1.0,408.6,M,47.3,M,,";
    let began = Instant::now();
    for _ in 0..30 {
        assert_eq!(epochs.push(Sentence::parse(line).unwrap(), Instant::now()), None);
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    assert!(matches!(epochs.judge(), Some(Judgement::Fix(Fix { at, .. })) if at == began));
}

proptest! {
    /// What a hand makes of a place, this makes of it again, to a ten-millionth of a minute.
    #[test]
    fn places_come_back(latitude in -90.0..90.0_f64, longitude in -180.0..180.0_f64) {
        let angle = |degrees: f64, width: usize, sides: [&str; 2]| {
            let (degrees, side) = (degrees.abs(), sides[usize::from(degrees < 0.0)]);
            // In units of the last digit, so that nothing is rounded up to 60 minutes.
            let units = (degrees * 6e8).round();
            let (whole, minutes) = ((units / 6e8).floor(), (units % 6e8) / 1e7);
            format!("{:0width$}{minutes:010.7},{side}", whole)
        };
        let place = format!("{},{}", angle(latitude, 2, ["N", "S"]), angle(longitude, 3, ["E", "W"]));
        let fix = fix(&[&format!("GPGLL,{place},101010,A")]);
        prop_assert!((fix.point.latitude - latitude).abs() < 3e-9, "{place}: {fix:?}");
        prop_assert!((fix.point.longitude - longitude).abs() < 3e-9, "{place}: {fix:?}");
    }

    /// However a stream is cut, and whatever is between the sentences, the same is read.
    #[test]
    fn noise_between_sentences_changes_nothing(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
        let noise: Vec<u8> = noise.into_iter().filter(|byte| *byte != b'$').collect();
        let good = sealed("GPGLL,4916.45,N,12311.12,W,225444,A");
        let bytes = [noise.as_slice(), good.as_bytes(), noise.as_slice(), good.as_bytes()].concat();
        prop_assert_eq!(sentences(&bytes).len(), 2);
    }
}
