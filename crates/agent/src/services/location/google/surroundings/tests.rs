use serde_json::{Value, json};

use super::*;

/// The one with this last byte.
fn point(last: u8, signal: i32) -> AccessPoint {
    AccessPoint {
        address: [0x00, 0x1b, 0x2c, 0x3d, 0x4e, last],
        ssid: format!("net{last}").into(),
        signal: Some(signal),
        frequency: Some(2437),
        age: Duration::from_millis(1500),
    }
}

fn cell(radio: Radio, id: u64) -> Cell {
    Cell {
        radio,
        country: 228,
        network: 1,
        area: Some(415),
        id,
        signal: Some(-95),
        timing_advance: None,
        serving: true,
    }
}

fn of(points: Vec<AccessPoint>, cells: Vec<Cell>) -> Surroundings {
    Surroundings::of(&Heard { access_points: points, cells, ..Heard::default() }, || None)
}

fn request(surroundings: &Surroundings) -> Value {
    serde_json::from_str(&surroundings.request(false)).unwrap()
}

#[test]
fn a_request_is_as_google_documents_it() {
    let heard = of(vec![point(1, -70), point(2, -50)], vec![cell(Radio::Lte, 12_345_678)]);
    assert_eq!(
        request(&heard),
        json!({
            "considerIp": false,
            "radioType": "lte",
            "cellTowers": [{
                "radioType": "lte", "mobileCountryCode": 228, "mobileNetworkCode": 1, "locationAreaCode": 415,
                "cellId": 12_345_678, "signalStrength": -95,
            }],
            "wifiAccessPoints": [
                {"macAddress": "00:1b:2c:3d:4e:02", "signalStrength": -50, "age": 1500, "channel": 6},
                {"macAddress": "00:1b:2c:3d:4e:01", "signalStrength": -70, "age": 1500, "channel": 6},
            ],
        })
    );
    let new = of(Vec::new(), vec![Cell { timing_advance: Some(3), ..cell(Radio::Nr, 68_000_000_000) }]);
    assert_eq!(
        request(&new)["cellTowers"],
        json!([{
            "radioType": "nr", "mobileCountryCode": 228, "mobileNetworkCode": 1, "locationAreaCode": 415,
            "newRadioCellId": 68_000_000_000_u64, "signalStrength": -95, "timingAdvance": 3,
        }])
    );
    let nothing = of(Vec::new(), Vec::new());
    assert_eq!(nothing.request(true), r#"{"considerIp":true}"#);
    assert!(!nothing.tell_a_place() && new.tell_a_place());
}

#[test]
fn who_does_not_want_to_be_told_is_not() {
    let named = |last, ssid: &str| AccessPoint { ssid: ssid.into(), ..point(last, -50) };
    let addressed = |address| AccessPoint { address, ..point(9, -50) };
    let heard = of(
        vec![
            point(1, -50),
            point(2, -50),
            named(3, "home_nomap"),
            named(4, "home_optout_x"),
            named(5, "home_nomap_not"),
            named(6, "_NoMap"),
            addressed([0x02, 1, 2, 3, 4, 5]),
            addressed([0x01, 0, 0x5e, 3, 4, 5]),
            addressed([0xff; 6]),
            addressed([0; 6]),
            AccessPoint { age: Duration::from_secs(121), ..point(7, -50) },
        ],
        Vec::new(),
    );
    let told: Vec<u8> = heard.points.iter().map(|point| point.address[5]).collect();
    assert_eq!(told, [1, 2, 5]);
    assert!(!of(vec![point(1, -50), named(3, "home_nomap")], Vec::new()).tell_a_place(), "one is too few");
}

#[test]
fn of_many_the_strongest_are_told_once() {
    let many = (0..250).map(|last| point(last, -30 - i32::from(last)));
    let heard = of(many.chain([point(0, -99)]).collect(), Vec::new());
    let told = request(&heard)["wifiAccessPoints"].as_array().unwrap().clone();
    assert_eq!((heard.points.len(), told.len()), (MOST_POINTS, TOLD_POINTS));
    assert_eq!((&told[0]["signalStrength"], &told[19]["signalStrength"]), (&json!(-30), &json!(-49)));
    let cells = (1..30).map(|id| Cell { serving: id == 7, ..cell(Radio::Lte, id) });
    let heard = of(Vec::new(), cells.chain([Cell { serving: false, ..cell(Radio::Gsm, 3) }]).collect());
    let told = request(&heard)["cellTowers"].as_array().unwrap().clone();
    assert_eq!((told.len(), &told[0]["cellId"]), (TOLD_CELLS, &json!(7)));
    assert!(told.iter().all(|tower| tower["radioType"] == "lte"), "one technology in a request");
}

#[test]
fn cells_without_sense_are_left_out() {
    for (what, cell, sound) in [
        ("lte", cell(Radio::Lte, (1 << 28) - 2), true),
        ("lte, unknown", cell(Radio::Lte, (1 << 28) - 1), false),
        ("lte, all ones", cell(Radio::Lte, u64::MAX), false),
        ("lte without area", Cell { area: None, ..cell(Radio::Lte, 5) }, true),
        ("gsm without area", Cell { area: None, ..cell(Radio::Gsm, 5) }, false),
        ("gsm, too large", cell(Radio::Gsm, 1 << 16), false),
        ("no country", Cell { country: 0, ..cell(Radio::Lte, 5) }, false),
        ("cdma has none", Cell { country: 0, network: 30_000, ..cell(Radio::Cdma, 5) }, true),
        ("unknown area", Cell { area: Some(65_535), ..cell(Radio::Lte, 5) }, false),
        ("nr, wide area", Cell { area: Some(65_535), ..cell(Radio::Nr, 5) }, true),
    ] {
        assert_eq!(is_sound(&cell), sound, "{what}");
    }
    let cdma = of(Vec::new(), vec![Cell { network: 30_000, ..cell(Radio::Cdma, 5) }]);
    assert_eq!(request(&cdma)["cellTowers"][0].get("mobileCountryCode"), None);
}

#[test]
fn the_same_place_shares_half_of_its_access_points_and_the_cell() {
    let points = |range: std::ops::Range<u8>| range.map(|last| point(last, -60)).collect::<Vec<_>>();
    let (one, two) = (vec![cell(Radio::Lte, 1)], vec![cell(Radio::Lte, 2)]);
    for (what, left, right, alike) in [
        ("the same", of(points(0..4), vec![]), of(points(0..4), vec![]), true),
        ("half", of(points(0..4), vec![]), of(points(0..2), vec![]), true),
        ("less", of(points(0..5), vec![]), of(points(0..2), vec![]), false),
        ("others", of(points(0..4), vec![]), of(points(4..8), vec![]), false),
        ("another cell", of(points(0..4), one.clone()), of(points(0..4), two.clone()), false),
        ("its modem is slow", of(points(0..4), one.clone()), of(points(0..4), vec![]), true),
        ("the cell alone", of(vec![], one.clone()), of(vec![], one.clone()), true),
        ("another cell alone", of(vec![], one.clone()), of(vec![], two), false),
        ("access points, and a cell", of(points(0..4), vec![]), of(vec![], one), false),
        ("nothing and something", of(points(0..4), vec![]), of(vec![], vec![]), false),
        ("nothing", of(vec![], vec![]), of(vec![], vec![]), true),
    ] {
        assert_eq!((left.are_those_of(&right), right.are_those_of(&left)), (alike, alike), "{what}");
    }
    let at = |address: [u8; 4]| Surroundings::of(&Heard::default(), || Some(IpAddr::from(address)));
    assert!(at([10, 0, 0, 1]).are_those_of(&at([10, 0, 0, 1])));
    assert!(!at([10, 0, 0, 1]).are_those_of(&at([10, 0, 0, 2])));
}

#[test]
fn channels_have_their_numbers() {
    for (frequency, number) in [
        (2412, Some(1)),
        (2472, Some(13)),
        (2484, Some(14)),
        (5180, Some(36)),
        (5825, Some(165)),
        (5955, Some(1)),
        (7115, Some(233)),
        (900, None),
        (0, None),
    ] {
        assert_eq!(channel(frequency), number, "{frequency}");
    }
}
