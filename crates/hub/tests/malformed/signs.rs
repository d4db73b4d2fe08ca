//! Presence and heartbeats. There is nobody to answer: the reason is logged.

use serde_json::{Value, json};
use testkit::publish;

use crate::support::{PATIENCE, Place, presence};

const MALFORMED: &str = "it cannot be read: ";
const FOREIGN: &str = "it names another device than its topic";

fn heartbeat(device_id: &str) -> Value {
    json!({"device_id": device_id, "timestamp": "2026-01-31T12:00:00.000Z", "status": "1", "seq": 1, "run_id": "r",
        "uptime_s": 1, "services": {}, "tunnels": 0, "outbox": {"messages": 0, "bytes": 0, "dropped": 0}})
}

/// A topic's last level, a payload, and the reason.
fn rows(device: &str) -> Vec<(&'static str, String, String)> {
    let mut rows = Vec::new();
    let birth: Value = serde_json::from_str(&presence(device, "online", "r")).unwrap();
    for (leaf, right) in [("status", birth), ("heartbeat", heartbeat(device))] {
        let mut row = |payload: String, reason: &str| rows.push((leaf, payload, reason.to_owned()));
        for (payload, why) in [
            ("online", "expected value at line 1 column 1"),
            ("{", "EOF while parsing an object"),
            ("{}", "missing field"),
            ("null", "invalid type: null"),
            ("7", "invalid type: integer `7`"),
        ] {
            row(payload.to_owned(), &format!("{MALFORMED}{why}"));
        }
        let mut with = |key: &str, value: Value, reason: &str| {
            let mut payload = right.clone();
            payload[key] = value;
            row(payload.to_string(), reason);
        };
        with("device_id", json!("another"), FOREIGN);
        with("device_id", json!(7), &format!("{MALFORMED}invalid type: integer `7`"));
        with("device_id", json!("a/b"), &format!("{MALFORMED}an id must not contain '/'"));
        with("padding", json!("x".repeat(70_000)), "it is too large");
    }
    let mut odd: Value = serde_json::from_str(&presence(device, "asleep", "r")).unwrap();
    rows.push(("status", odd.to_string(), format!("{MALFORMED}unknown variant `asleep`")));
    odd["state"] = json!(null);
    rows.push(("status", odd.to_string(), MALFORMED.to_owned()));
    let mut odd = heartbeat(device);
    odd["seq"] = json!(-1);
    rows.push(("heartbeat", odd.to_string(), format!("{MALFORMED}invalid value: integer `-1`")));
    rows
}

/// How many there are.
pub(crate) async fn table() -> usize {
    let place = Place::new();
    let hub = place.hub().await;
    let count = rows("").len();
    for row in 0..count {
        // A device each: the hub complains of one once in a while.
        let device = format!("d{row}");
        let (leaf, payload, reason) = &rows(&device)[row];
        publish(hub.broker, &format!("iot/{device}/{leaf}"), payload, 1, false).await.unwrap();
        let logged = hub.process.wait_line("message ignored", PATIENCE).await.unwrap();
        assert!(logged.contains(&device) && logged.contains(reason), "{leaf} {payload:.100}: {logged}");
    }
    publish(hub.broker, "iot/right/status", presence("right", "online", "r"), 1, false).await.unwrap();
    publish(hub.broker, "iot/right/heartbeat", heartbeat("right").to_string(), 1, false).await.unwrap();
    place.devices_until(|devices| devices.len() == 1 && devices[0]["state"] == "online").await;
    hub.stop().await;
    count
}
