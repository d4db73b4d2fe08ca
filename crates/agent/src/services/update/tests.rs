use serde_json::json;

use super::*;

fn config(more: serde_json::Value) -> Config {
    serde_json::from_value(more).unwrap()
}

#[test]
fn a_setting_that_cannot_work_is_told() {
    assert!(config(json!({})).check().is_ok());
    for (keys, said) in [
        (json!({ "update_url": "updates.example" }), "update_url: expected a URL"),
        (json!({ "update_url": "http://updates.example/x" }), "update_url: everyone on the way"),
        (json!({ "max_retry_attempts": 1001 }), "max_retry_attempts: must be at most 1000"),
        (json!({ "keep_versions": 0 }), "keep_versions: must be from 1 to 1000"),
        (json!({ "hardware_id": "" }), "hardware_id: must be 1 to 128"),
        (json!({ "hardware_id": "a,b" }), "hardware_id: must be 1 to 128"),
    ] {
        let refused = config(keys.clone()).check().unwrap_err().to_string();
        assert!(refused.starts_with(said), "{keys}: {refused}");
    }
    for bad in [json!(""), json!([]), json!(["", "x"]), json!(5), json!("a\u{0}b")] {
        let keys = json!({ "update_command": bad });
        assert!(serde_json::from_value::<Config>(keys.clone()).is_err(), "{keys}");
    }
}

fn package(version: &str) -> installer::Unpacked {
    serde_json::from_value(json!({
        "name": "app", "version": version, "kind": "files", "target": "/opt/app", "path": "/opt/app/x",
        "scripts": {}, "downgrade": false, "previous": null, "already": false,
    }))
    .unwrap()
}

#[test]
fn what_is_installed_goes_forward_and_one_step_back() {
    let mut inventory = record::Inventory::default();
    let sha256 = |byte| protocol::update::Sha256([byte; 32]);
    inventory.confirm(&package("1.0.0"), sha256(1));
    inventory.confirm(&package("1.1.0"), sha256(2));
    // By a process that did not see that the one before had done so.
    inventory.confirm(&package("1.1.0"), sha256(2));
    let versions = |inventory: &record::Inventory| {
        let app = inventory.software.get("app")?;
        let previous = app.previous.as_ref().map(|previous| previous.version.clone());
        Some((app.current.version.clone(), inventory.floors["app"].clone(), previous))
    };
    let known = |current: &str, floor: &str, previous: Option<&str>| {
        Some((current.to_owned(), floor.to_owned(), previous.map(str::to_owned)))
    };
    assert_eq!(versions(&inventory), known("1.1.0", "1.1.0", Some("1.0.0")));
    inventory.restore("app", "2.0.0");
    assert_eq!(versions(&inventory), known("1.1.0", "1.1.0", Some("1.0.0")), "that was never in use");
    inventory.restore("app", "1.1.0");
    assert_eq!(versions(&inventory), known("1.0.0", "1.1.0", None), "the floor stays");
    // What was signed for that goes below it, and the floor with it; but not when that is taken back.
    inventory.confirm(&package("0.9.0"), sha256(3));
    assert_eq!(versions(&inventory), known("0.9.0", "0.9.0", Some("1.0.0")));
    inventory.restore("app", "0.9.0");
    assert_eq!(versions(&inventory), known("1.0.0", "1.0.0", None));
    inventory.restore("app", "1.0.0");
    assert_eq!(versions(&inventory), None);
    assert_eq!(inventory.installed()["app"].floor, "1.0.0", "it is not forgotten with the rest");
}

#[test]
fn what_is_kept_for_long_is_brief_and_still_an_end() {
    let report = Report::of(State::Failed, Timestamp::from_system_time(std::time::UNIX_EPOCH));
    let outcome = Outcome(report.because("ü".repeat(5000)));
    let long = serde_json::value::to_raw_value(&outcome).unwrap();
    let brief: Outcome = serde_json::from_str(outcome::brief(&long).get()).unwrap();
    assert_eq!((brief.0.state, brief.0.error.unwrap().len()), (State::Failed, 200));
}
