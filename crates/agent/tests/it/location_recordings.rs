//! What real receivers have said, played on a line to the real program: a place is one that gpsd has, or there is none.

use std::{pin::pin, time::Duration};

use serde_json::Value;
use testkit::{
    receiver::Line,
    recordings::{self, Recording},
};
use tokio::{task::JoinSet, time::timeout};

use crate::support::{
    Home,
    command::{Ended, begin},
};

/// How many are played at once.
const AT_ONCE: usize = 6;
/// Silence after which every moment is over.
const OVER: Duration = Duration::from_secs(1);
/// The longest recording has a megabyte.
const LONG: Duration = Duration::from_secs(60);
/// Those that gpsd has fixes of, by sentences, and we have none.
const NONE: [(&str, &str); 1] =
    [("tcp-torture.log", "its bars are not the receiver's: they tell gpsfake where to cut packets")];

/// Plays it from byte `first` on, and unplugs the receiver at its end.
async fn play(recording: &Recording, first: usize) -> Ended {
    let line = Line::new().unwrap();
    let device = line.device().display();
    let home = Home::new("mqtt://127.0.0.1:1").yaml(&format!(
        "services: {{location: {{enabled: true, gps_device_path: '{device}', gps_baud_rate: 38400}}}}"
    ));
    let asking = begin(&home, &["location", "once", "--source", "gps", "--json", "--timeout", "60"]);
    let mut ended = pin!(timeout(LONG, asking.wait_with_output()));
    let output = tokio::select! {
        ended = &mut ended => Some(ended),
        played = line.play(&recording.bytes[first..]) => {
            played.unwrap();
            timeout(OVER, &mut ended).await.ok()
        }
    };
    drop(line);
    let output = match output {
        Some(output) => output,
        None => ended.await,
    };
    let output = output.expect("it ends without a receiver").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended {
        code: output.status.code().expect("no panic"),
        out: text(output.stdout),
        errors: text(output.stderr),
    }
}

/// Whether there was a place.
async fn heard(recording: &Recording, first: usize) -> bool {
    let shown = play(recording, first).await;
    assert!(!shown.errors.contains("panicked"), "{}: {shown:#?}", recording.name);
    if shown.code == 1 {
        shown.assert(1, "");
        return false;
    }
    assert_eq!(shown.code, 0, "{}: {shown:#?}", recording.name);
    let place: Value = serde_json::from_str(&shown.out).unwrap();
    let place = (place["latitude"].as_f64().unwrap(), place["longitude"].as_f64().unwrap());
    assert!(recording.has(place), "{} from {first}: {place:?} is not of gpsd", recording.name);
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_receiver_is_where_gpsd_says() {
    let (mut playing, mut counts) = (JoinSet::new(), (0, 0));
    let mut count = |was_heard: bool| {
        counts = (counts.0 + 1, counts.1 + usize::from(was_heard));
    };
    for recording in recordings::all().unwrap() {
        while playing.len() >= AT_ONCE {
            count(playing.join_next().await.unwrap().unwrap());
        }
        playing.spawn(async move {
            let was_heard = heard(&recording, 0).await;
            let known = NONE.iter().any(|(of, _)| *of == recording.name);
            let ours = recording.valid > 0 && !known && !recording.places().unwrap().is_empty();
            assert!(was_heard || !ours, "{}: none, and {} of gpsd", recording.name, recording.valid);
            if crate::support::tier() > 1 {
                // Opened while it speaks, be it in the midst of a sentence.
                heard(&recording, recording.bytes.len() / 3).await;
            }
            was_heard
        });
    }
    while let Some(played) = playing.join_next().await {
        count(played.unwrap());
    }
    println!("{} recordings played, {} with a place", counts.0, counts.1);
    assert!(counts.1 >= 80, "{counts:?}");
}
