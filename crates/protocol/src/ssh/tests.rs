use proptest::prelude::*;
use serde_json::json;

use super::*;

fn decode(payload: &Value) -> Result<Request, Malformed> {
    Request::decode(payload.to_string().as_bytes())
}

/// With these fields besides an id and two ports.
fn wanted(more: &Value) -> Result<Wanted, Malformed> {
    let mut fields = json!({ "request_id": "r1", "lport": 22, "rport": 0 });
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    match decode(&fields)? {
        Request::Open { wanted, .. } => Ok(wanted),
        Request::Close { .. } => panic!("{more} closes"),
    }
}

#[test]
fn each_mistake_has_its_reason() {
    let table = [
        (json!({ "lport": null }), "lport: missing"),
        (json!({ "rport": null }), "rport: missing; 0 lets the server choose"),
        (json!({ "lport": "22" }), "lport: expected a number, found a string"),
        (json!({ "lport": 0 }), "lport: must be a whole number from 1 to 65535, found 0"),
        (json!({ "lport": 65536 }), "lport: must be a whole number from 1 to 65535, found 65536"),
        (json!({ "lport": 22.5 }), "lport: must be a whole number from 1 to 65535, found 22.5"),
        (json!({ "rport": -1 }), "rport: must be a whole number from 0 to 65535, found -1"),
        (json!({ "rport": [1] }), "rport: expected a number, found a list"),
        (json!({ "backend_port": 0 }), "backend_port: must be a whole number from 1 to 65535, found 0"),
        (json!({ "lhost": 127 }), "lhost: expected a string, found a number"),
        (json!({ "lhost": "" }), "lhost: \"\" is no host"),
        (json!({ "lhost": "a b" }), "lhost: \"a b\" is no host"),
        (json!({ "lhost": "-oProxyCommand=x" }), "lhost: \"-oProxyCommand=x\" is no host"),
        (json!({ "lhost": "[::1]:22" }), "lhost: \"[::1]:22\" is no host"),
        (json!({ "backend_host": "a/b" }), "backend_host: \"a/b\" is no host"),
        (json!({ "ttl_s": "5" }), "ttl_s: expected a number, found a string"),
        (json!({ "ttl_s": 0 }), "ttl_s: must be over 0, found 0"),
        (json!({ "ttl_s": -3 }), "ttl_s: must be over 0, found -3"),
        (json!({ "expires_at": 5 }), "expires_at: expected a string, found a number"),
        (json!({ "close": "yes" }), "close: expected true or false, found a string"),
        (json!({ "server_id": 7 }), "server_id: expected a string, found a number"),
        (
            json!({ "server_id": "a/b" }),
            "server_id: an id must not contain '/': it has a meaning in MQTT topics",
        ),
        (json!({ "device_id": "d1" }), "device_id: has no place in a request; the topic says which device"),
    ];
    for (fields, reason) in table {
        let malformed = wanted(&fields).expect_err(reason);
        assert_eq!((malformed.reason.as_str(), malformed.valid_id), (reason, true), "{fields}");
        assert_eq!(malformed.request_id.as_deref(), Some("r1"));
    }
    for id in ["", "a/b", "+", "#", "$x", "a\nb", "a\u{0}"] {
        let malformed = decode(&json!({ "request_id": id, "lport": 22, "rport": 0 })).expect_err(id);
        assert_eq!((malformed.request_id.as_deref(), malformed.valid_id), (Some(id), false));
    }
}

#[test]
fn what_has_no_id_to_answer_is_said_too() {
    for (payload, reason) in [
        ("", "not JSON: EOF while parsing a value at line 1 column 0"),
        ("[]", "not a JSON object"),
        (r#"{"request_id": 7}"#, "request_id: expected a string, found a number"),
        (r#"{"close": true}"#, "request_id: missing; it says what to close"),
        (r#"{"rport": 5}"#, "lport: missing"),
        (
            r#"{"device_id": "d1", "lport": 22, "rport": 5}"#,
            "device_id: has no place in a request; the topic says which device",
        ),
    ] {
        let malformed = Request::decode(payload.as_bytes()).unwrap_err();
        let expected = Malformed { request_id: None, valid_id: false, reason: reason.to_owned() };
        assert_eq!(malformed, expected, "{payload}");
    }
}

#[test]
fn hosts_come_with_brackets_or_without() {
    for (text, host) in
        [("[::1]", "::1"), ("::1", "::1"), ("10.0.0.7", "10.0.0.7"), ("Printer.local", "Printer.local")]
    {
        assert_eq!(wanted(&json!({ "lhost": text })).unwrap().lhost.as_deref(), Some(host));
    }
    assert_eq!(wanted(&json!({ "ttl_s": 1e300 })).unwrap().ttl_s, Some(31_536_000.0), "a year");
}

proptest! {
    #[test]
    fn whatever_comes_has_a_reason_or_is_written_and_read_again(payload in "\\PC*") {
        if let Ok(Request::Open { wanted, .. }) = Request::decode(payload.as_bytes()) {
            let written = serde_json::to_vec(&wanted).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Wanted>(&written).unwrap(), wanted);
        }
    }
}
