use protocol::registration::{Nonce, Request, open_plain_reply, open_reply};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::store::tests::at;

fn psk() -> Psk {
    Psk::from_file_bytes(b"a fleet secret of ample length").unwrap()
}

fn hub(folder: &TempDir) -> Hub {
    Hub::new(Store::open(folder.path()).unwrap(), psk()).unwrap()
}

fn nonce(n: u32) -> Nonce {
    format!("{n:032x}").try_into().unwrap()
}

fn signed(client: &str, n: u32) -> Vec<u8> {
    let request = json!({"client_id": client, "agent_version": "0.1.0"});
    serde_json::from_value::<Request>(request).unwrap().signed(&psk(), nonce(n), at(0))
}

fn status(device_id: &DeviceId) -> Value {
    json!({"device_id": device_id, "state": "online", "timestamp": at(0), "boot_id": "b", "run_id": "r",
        "agent_version": "0.1.0", "os": "linux", "arch": "x86_64", "services": {}, "schema": 1})
}

#[test]
fn both_layouts_are_answered_where_their_devices_listen() {
    let folder = TempDir::new().unwrap();
    let mut hub = hub(&folder);
    let plain = br#"{"client_id":"c2","device_secret":"a fleet secret of ample length"}"#;
    for (topic, payload, reply_topic) in [
        ("iot/registration/c1", signed("c1", 1), "iot/registration/c1/reply"),
        ("iot-registration", plain.to_vec(), "iot-registration/response/c2"),
        ("iot-registration", signed("c3", 2), "iot-registration/response/c3"),
        ("iot/registration/status", signed("status", 3), "iot/registration/status/reply"),
    ] {
        let handled = hub.handle(topic, &payload, false, at(0));
        assert_eq!(handled.reply.expect("a reply").0, reply_topic);
        assert!(matches!(handled.event, Some(Event::Enrolled { new: true, .. })), "{topic}");
    }
    let foreign = hub.handle("iot/registration/c9", b"{\"client_id\":\"c9\"}", false, at(0));
    assert_eq!(open_plain_reply(&foreign.reply.unwrap().1).unwrap().error.as_deref(), Some("unauthorized"));
    assert_eq!(hub.devices().len(), 4);
}

#[test]
fn a_device_from_enrolment_to_a_restart_of_the_hub() {
    let folder = TempDir::new().unwrap();
    let mut first = hub(&folder);
    let (_, reply) = first.handle("iot/registration/c1", &signed("c1", 1), false, at(0)).reply.unwrap();
    let device_id = open_reply(&psk(), &"c1".parse().unwrap(), &nonce(1), &reply).unwrap().device_id.unwrap();
    let online = serde_json::to_vec(&status(&device_id)).unwrap();
    let handled = first.handle(&format!("iot/{device_id}/status"), &online, false, at(1));
    assert_eq!(handled.event, Some(Event::Online(device_id.clone())));
    for (topic, seq) in [(format!("iot/{device_id}/heartbeat"), 1), ("iot-heartbeat".to_owned(), 2)] {
        let beat = json!({"device_id": device_id, "seq": seq, "run_id": "r"}).to_string();
        let handled = first.handle(&topic, beat.as_bytes(), false, at(seq));
        assert_eq!(handled.event, Some(Event::Heartbeat(device_id.clone(), Some(seq as u64))));
    }
    let before = first.devices();
    assert_eq!(before[0].client_id.as_ref().unwrap().as_str(), "c1");
    first.save();
    drop(first);
    assert_eq!(hub(&folder).devices(), before);
}

#[test]
fn what_is_not_for_the_hub_changes_nothing() {
    let folder = TempDir::new().unwrap();
    let mut hub = hub(&folder);
    for topic in
        ["", "iot", "iot/d1/command", "iot/a/b/status", "iot/registration/c1/reply", "other/d1/status"]
    {
        let handled = hub.handle(topic, b"{}", false, at(0));
        assert!(handled.reply.is_none() && handled.event.is_none(), "{topic}");
    }
    for topic in ["iot/d1/status", "iot/d1/heartbeat", "iot-heartbeat", "iot-registration"] {
        let handled = hub.handle(topic, b"{", false, at(0));
        assert!(handled.reply.is_none() && handled.event.is_none(), "{topic}");
    }
    assert_eq!(hub.devices(), []);
}
