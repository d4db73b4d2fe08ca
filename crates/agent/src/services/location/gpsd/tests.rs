use std::time::{Duration, SystemTime};

use protocol::Timestamp;

use super::*;
use crate::services::location::fix::Fix;

fn time(text: &str) -> SystemTime {
    text.parse::<Timestamp>().unwrap().to_system_time()
}

const NOW: &str = "2026-01-31T12:00:00.500Z";

fn told(devices: &mut Devices, line: &str) -> Option<Told> {
    devices.take(line.as_bytes(), Instant::now(), time(NOW))
}

#[track_caller]
fn fix(devices: &mut Devices, line: &str) -> Fix {
    match told(devices, line) {
        Some(Told::Fix(fix)) => fix,
        other => panic!("{line}: {other:?}"),
    }
}

fn tpv(device: &str, time: &str, more: &str) -> String {
    format!(
        "{{\"class\":\"TPV\",\"device\":\"{device}\",\"time\":\"{time}\",\"mode\":3,\"lat\":47.5,\"lon\":-8.25{more}}}"
    )
}

#[test]
fn fields_of_old_and_new_gpsd_are_read() {
    let mut devices = Devices::default();
    let sky = r#"{"class":"SKY","device":"/dev/a","hdop":0.9,"satellites":[{"PRN":1,"used":true},{"PRN":2,"used":false}]}"#;
    assert_eq!(told(&mut devices, sky), None);
    // gpsd 3.17.
    let old = fix(
        &mut devices,
        &tpv(
            "/dev/a",
            NOW,
            ",\"ept\":0.005,\"alt\":408.1,\"epx\":3.92,\"epy\":5.88,\"epv\":9.2,\"track\":360.0,\"speed\":1.5",
        ),
    );
    assert_eq!((old.altitude, old.speed, old.heading), (Some(408.1), Some(1.5), Some(0.0)));
    assert!((old.accuracy - 2.0_f64.hypot(3.0)).abs() < 1e-9, "{old:?}");
    assert_eq!((old.satellites, old.hdop), (Some(1), Some(0.9)));
    assert_eq!((old.point.latitude, old.point.longitude), (47.5, -8.25));
    // gpsd 3.25.
    told(&mut devices, r#"{"class":"SKY","device":"/dev/a","nSat":20,"uSat":14}"#);
    let new = fix(
        &mut devices,
        &tpv(
            "/dev/a",
            "2026-01-31T12:00:01Z",
            ",\"status\":2,\"alt\":455.4,\"altHAE\":455.4,\"altMSL\":408.1,\"eph\":16.15,\"epx\":99",
        ),
    );
    assert_eq!((new.altitude, new.satellites), (Some(408.1), Some(14)));
    assert!((new.accuracy - 10.0).abs() < 1e-9, "{new:?}");
    let flat = tpv("/dev/a", NOW, ",\"altMSL\":1").replace("\"mode\":3", "\"mode\":2");
    assert_eq!(fix(&mut devices, &flat).altitude, None);
}

#[test]
fn only_a_fix_is_one() {
    for (from, to) in [
        ("\"mode\":3", "\"mode\":1"),
        ("\"mode\":3", "\"mode\":0"),
        ("\"mode\":3,", ""),
        ("\"mode\":3", "\"mode\":3,\"status\":8"),
        ("\"mode\":3", "\"mode\":3,\"status\":7"),
        ("\"lat\":47.5,", ""),
        ("\"lat\":47.5", "\"lat\":90.5"),
        ("\"lat\":47.5", "\"lat\":null"),
    ] {
        let line = tpv("/dev/a", NOW, "").replace(from, to);
        let told = told(&mut Devices::default(), &line);
        assert_eq!(told, Some(Told::None("gpsd has no fix of /dev/a".into())), "{line}");
    }
    for line in [
        "",
        "{",
        "null",
        "[]",
        "{\"class\":7}",
        "{\"class\":\"TPV\",\"mode\":\"x\"}",
        "{\"class\":\"VERSION\"}",
    ] {
        assert_eq!(told(&mut Devices::default(), line), None, "{line}");
    }
    assert_eq!(
        told(&mut Devices::default(), r#"{"class":"ERROR","message":"Unrecognized request"}"#),
        Some(Told::None("gpsd says: Unrecognized request".into()))
    );
}

/// gpsd repeats a lost fix, to those who come later, too.
#[tokio::test(start_paused = true)]
async fn a_fix_is_as_old_as_its_time() {
    tokio::time::advance(Duration::from_secs(3600)).await;
    let mut devices = Devices::default();
    let age = |fix: Fix| fix.at.elapsed().as_secs();
    let old = tpv("/dev/a", "2026-01-31T11:50:00.000Z", "");
    assert_eq!(age(fix(&mut devices, &old)), 600);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(age(fix(&mut devices, &old)), 660);
    // It goes on: whatever the clock says, this is new.
    let next = tpv("/dev/a", "2026-01-31T11:50:01.000Z", "");
    assert_eq!(age(fix(&mut devices, &next)), 0);
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(age(fix(&mut devices, &next)), 5);
    // Another receiver has a time of its own, and a recording one that is long ago.
    assert_eq!(age(fix(&mut devices, &tpv("/dev/b", "2009-01-31T11:50:01.000Z", ""))), 0);
    assert_eq!(age(fix(&mut devices, &next)), 5);
    assert_eq!(
        age(fix(&mut devices, &tpv("/dev/c", "2026-01-31T13:00:00.000Z", ""))),
        0,
        "a clock that is late"
    );
}

#[test]
fn one_receiver_does_not_undo_anothers_fix() {
    let mut devices = Devices::default();
    let lost = |device| tpv(device, NOW, "").replace("\"mode\":3", "\"mode\":1");
    fix(&mut devices, &tpv("/dev/a", NOW, ""));
    assert_eq!(told(&mut devices, &lost("/dev/b")), None);
    assert_eq!(told(&mut devices, &lost("/dev/a")), Some(Told::None("gpsd has no fix of /dev/a".into())));
    for number in 0..1000 {
        told(&mut devices, &tpv(&format!("/dev/{number}"), NOW, ""));
    }
    assert!(told(&mut devices, &tpv("/dev/999", NOW, "")).is_none(), "bounded");
}

#[test]
fn lines_are_bounded() {
    let mut lines = Lines::default();
    let mut found = Vec::new();
    let mut push = |bytes: &[u8]| lines.push(bytes, |line| found.push(line.len()));
    push(b"one\ntw");
    push(b"o\n\n");
    for _ in 0..100 {
        push(&[b'x'; 4096]);
    }
    push(b"end\nnext\n");
    push(&[b'y'; LONGEST]);
    push(b"\n");
    push(&[b'z'; LONGEST + 1]);
    push(b"\nlast\n");
    assert_eq!(found, [3, 3, 0, 4, LONGEST, 4]);
}
