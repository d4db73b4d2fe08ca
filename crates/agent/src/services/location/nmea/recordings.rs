//! Every fix that is made of what real receivers have said, beside those of gpsd and the places that pynmea2 reads.

use testkit::recordings::{self, Recording};

use super::{tests::heard, *};

/// Recordings in which gpsd reports other moments than it is told of, and so many fixes of ours that it does not have.
const OTHERS: [(&str, usize, &str); 2] = [
    ("humminbird-M37.log", 2, "each second another sentence: gpsd keeps some to itself, as RMC of 19:41:03"),
    (
        "bundg_zeus_9.log",
        2,
        "GGA and GLL tell another time than RMC: gpsd 3.25 reports that of GLL, 0.3 m away",
    ),
];
/// Those that gpsd has fixes of, by sentences, and we have none.
const NONE: [(&str, &str); 1] =
    [("tcp-torture.log", "its bars are not the receiver's: they tell gpsfake where to cut packets")];

fn fixes(recording: &Recording) -> Vec<(f64, f64)> {
    let (judged, epochs) = heard(&recording.bytes);
    let fixes = judged.into_iter().chain(epochs.pause()).filter_map(|judgement| match judgement {
        Judgement::Fix(fix) => Some((fix.point.latitude, fix.point.longitude)),
        Judgement::NoFix(_) => None,
    });
    fixes.collect()
}

#[test]
fn each_fix_of_a_recording_is_one_of_gpsd_and_of_pynmea2() {
    let (mut recorded, mut heard, mut found, mut only_ours) = (0, 0, 0, 0);
    for recording in recordings::all().unwrap() {
        let (name, fixes) = (recording.name.as_str(), fixes(&recording));
        let places = recording.places().unwrap();
        for fix in &fixes {
            assert!(recordings::is_one_of(*fix, &places), "{name}: {fix:?} is nowhere in it");
        }
        let others: Vec<_> = fixes.iter().filter(|fix| !recording.has(**fix)).collect();
        let allowed = OTHERS.iter().find(|(of, ..)| *of == name).map_or(0, |(_, count, _)| *count);
        assert!(others.len() <= allowed, "{name}: not of gpsd: {others:?}");
        // What is binary, or without places, is nothing to us.
        let ours = !places.is_empty() && recording.valid > 0 && NONE.iter().all(|(of, _)| *of != name);
        assert!(!ours || !fixes.is_empty(), "{name}: none, and {} of gpsd", recording.valid);
        recorded += 1;
        heard += usize::from(!fixes.is_empty());
        found += fixes.len();
        only_ours += others.len();
    }
    println!("{recorded} recordings, {heard} with fixes: {found}, of which {only_ours} not of gpsd");
    assert!(heard >= 80 && found >= 2500, "{heard} recordings, {found} fixes");
}
