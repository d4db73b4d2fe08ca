//! State files: what cannot be used is set aside with its reason, and the device goes on.

use std::fs;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{Home, SOON, stop, wait_status};

/// Agents at a time.
const AT_ONCE: usize = 8;

const IDENTITY: &str = "identity.json";
const DEVICE: &str = "device.json";
const CLOCK: &str = "clock.json";
const FIELDS: &str = "its fields are not those of this file";
const VERSION: &str = "it has no version";

/// A file, what it holds, and why it is set aside.
const ROWS: &[(&str, &[u8], &str)] = &[
    (IDENTITY, b"", "no JSON object: line 1 column 0"),
    (IDENTITY, b"{", "no JSON object: line 1 column 1"),
    (IDENTITY, b"\0\0\0\0", "no JSON object: line 1 column 1"),
    (IDENTITY, b"[]", "no JSON object: line 1 column 0"),
    (IDENTITY, b"{\"client_id\":\"c1\"}", VERSION),
    (IDENTITY, b"{\"client_id\":\"c1\",\"version\":0}", VERSION),
    (IDENTITY, b"{\"client_id\":\"c1\",\"version\":\"1\"}", VERSION),
    (IDENTITY, b"{\"version\":1}", FIELDS),
    (IDENTITY, b"{\"client_id\":7,\"version\":1}", FIELDS),
    (IDENTITY, b"{\"client_id\":\"a/b\",\"version\":1}", FIELDS),
    (IDENTITY, b"{\"client_id\":\"c1\",\"machine\":[],\"version\":1}", FIELDS),
    (DEVICE, b"", "no JSON object: line 1 column 0"),
    (DEVICE, b"d1", "no JSON object: line 1 column 1"),
    (DEVICE, b"\"d1\"", "no JSON object: line 1 column 4"),
    (DEVICE, b"{\"device_id\":\"d\xff\"}", "no JSON object: line 1 column 16"),
    (DEVICE, b"{\"device_id\":7}", "its device_id is not text"),
    (DEVICE, b"{\"device_id\":{}}", "its device_id is not text"),
    (DEVICE, b"{\"deviceID\":false}", "its deviceID is not text"),
    (DEVICE, b"{\"device_id\":\"d1\",\"deviceID\":\"d2\"}", "its device_id and its deviceID differ"),
    (
        DEVICE,
        b"{\"device_id\":\"a/b\"}",
        "its device_id: an id must not contain '/': it has a meaning in MQTT topics",
    ),
    (
        DEVICE,
        b"{\"device_id\":\"$d\"}",
        "its device_id: an id must not begin with '$': brokers keep such topics for themselves",
    ),
    (
        DEVICE,
        b"{\"device_id\":\"d\\n\"}",
        "its device_id: an id must not contain the control character '\\n'",
    ),
    (CLOCK, b"}", "no JSON object: line 1 column 1"),
    (CLOCK, b"{\"time\":\"2026-11-22T12:00:00Z\"}", VERSION),
    (CLOCK, b"{\"version\":1}", FIELDS),
    (CLOCK, b"{\"time\":1795305600,\"version\":1}", FIELDS),
    (CLOCK, b"{\"time\":\"noon\",\"version\":1}", FIELDS),
];

/// How many there are.
pub(crate) async fn table() -> usize {
    let mut agents = JoinSet::new();
    for row in ROWS {
        if agents.len() == AT_ONCE {
            agents.join_next().await.unwrap().unwrap();
        }
        agents.spawn(set_aside(row));
    }
    agents.join_all().await;

    let home = Home::new("mqtt://127.0.0.1:1");
    fs::create_dir(home.path().join("state")).unwrap();
    home.file("state/identity.json", "{\"client_id\":\"c1\",\"version\":1}", 0o600);
    home.file("state/device.json", "{\"device_id\":\"d1\"}", 0o600);
    let mut agent = home.start();
    let status = wait_status(&home, |_| true).await;
    assert_eq!(
        (&status["identity"]["client_id"], &status["identity"]["device_id"]),
        (&"c1".into(), &"d1".into())
    );
    stop(&mut agent, "a valid state").await;
    assert_eq!(agent.stderr.count(|line| line.contains("set a file aside")), 0);
    ROWS.len()
}

async fn set_aside((name, content, reason): &(&'static str, &'static [u8], &'static str)) {
    let home = Home::new("mqtt://127.0.0.1:1");
    fs::create_dir(home.path().join("state")).unwrap();
    let file = home.file(&format!("state/{name}"), "", 0o600);
    fs::write(&file, content).unwrap();
    let mut agent = home.start();
    let said: Value =
        serde_json::from_str(&agent.find_line("set a file aside", SOON).await.unwrap()).unwrap();
    assert_eq!(said["reason"], *reason, "{name}: {:?}", content.escape_ascii().to_string());
    assert_eq!(fs::read(said["kept_as"].as_str().unwrap()).unwrap(), *content);
    let status = wait_status(&home, |_| true).await;
    assert_eq!(status["identity"]["device_id"], Value::Null);
    stop(&mut agent, name).await;
}
