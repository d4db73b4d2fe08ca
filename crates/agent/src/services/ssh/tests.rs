use std::time::Duration;

use protocol::ssh::Wanted;
use serde_json::json;

use super::*;

fn config(more: serde_json::Value) -> Config {
    let mut keys = json!({ "backend_host": "ssh.example", "ssh_user": "tunnel" });
    keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(keys).unwrap()
}

fn refusal(more: serde_json::Value) -> String {
    let config = config(more);
    config.complete().err().or_else(|| config.check().err()).unwrap().to_string()
}

#[test]
fn a_setting_that_cannot_work_is_told() {
    assert!(config(json!({})).check().is_ok());
    for (keys, said) in [
        (json!({ "backend_host": null }), "backend_host: must be set"),
        (json!({ "backend_host": "a b" }), "backend_host: Some(\"a b\") is no host"),
        (json!({ "backend_port": 0 }), "backend_port: must be from 1"),
        (json!({ "ssh_user": null }), "ssh_user: must be set"),
        (json!({ "ssh_user": " " }), "ssh_user: must be set"),
        (json!({ "max_connections": 0 }), "max_connections: must be from 1 to 1024"),
        (json!({ "max_connections": 1025 }), "max_connections: must be from 1 to 1024"),
        (json!({ "bind": "" }), "bind: must be an address"),
        (json!({ "host_key": "AAAA" }), "host_key: is no host key"),
        (json!({ "host_key": "SHA256:xyz" }), "host_key: is no host key"),
        (json!({ "targets": ["127.0.0.1"] }), "targets: expected host:port, found \"127.0.0.1\""),
        (json!({ "targets": ["*:22"] }), "targets: \"*\" is no host"),
        (json!({ "backends": ["a/b"] }), "backends: expected host:port, found \"a/b\""),
    ] {
        let refused = refusal(keys.clone());
        assert!(refused.starts_with(said), "{keys}: {refused}");
    }
}

#[test]
fn a_backend_without_a_port_is_meant_with_the_usual_one() {
    let allowed =
        config(json!({ "backend_port": 2222, "backends": ["other", "[::1]", "third:5"] })).check().unwrap();
    let has = |place: &str| {
        let place = crate::action::policy::Target::parse(place).unwrap();
        allowed.backends.iter().any(|allowed| allowed.has(&place))
    };
    for place in ["ssh.example:2222", "other:2222", "[::1]:2222", "third:5"] {
        assert!(has(place), "{place}");
    }
    for place in ["ssh.example:22", "other:22", "third:2222", "fourth:2222"] {
        assert!(!has(place), "{place}");
    }
}

#[test]
fn what_is_kept_for_long_is_brief_and_still_an_end() {
    let wanted: Wanted = serde_json::from_value(json!({ "lport": 22, "rport": 5 })).unwrap();
    let now = protocol::Timestamp::from_millis(0).unwrap();
    let report = Report::of(State::Failed, now).on(&wanted).because("ä".repeat(100));
    let outcome = Outcome { report, server_id: Some("s1".to_owned()) };
    let written = serde_json::value::to_raw_value(&outcome).unwrap();
    let brief: Outcome = serde_json::from_str(outcome::brief(&written).get()).unwrap();
    assert_eq!(brief.report.reason, Some("ä".repeat(32)));
    assert_eq!((brief.report.rport, brief.server_id.as_deref()), (Some(5), Some("s1")));
    assert_eq!(outcome::brief(RawValue::NULL).get(), "null");
}

#[test]
fn a_place_is_written_as_it_is_read() {
    let place = |host: &str| link::Server { host: host.to_owned(), port: 22 }.to_string();
    assert_eq!(place("::1"), "[::1]:22");
    assert_eq!(place("host"), "host:22");
    assert_eq!(<Opener as Action>::STANDS, Some(Duration::from_secs(60)));
}
