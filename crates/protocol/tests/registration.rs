//! Each way a request or a reply can be wrong has its own reason.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use iot_agent_protocol::proof::{Psk, sign_reply, sign_request};
use iot_agent_protocol::registration::{
    METHOD, Nonce, Reply, ReplyError, Request, RequestError, claimed_sender, open_plain_reply, open_reply,
    open_request,
};
use iot_agent_protocol::{ClientId, IdError, Timestamp};
use serde_json::{Value, json};

const NONCE: &str = "00112233445566778899aabbccddeeff";
const TIME: &str = "2026-01-31T12:00:00.123Z";

fn psk() -> Psk {
    Psk::from_file_bytes(b"a fleet secret of ample length").unwrap()
}

fn other_psk() -> Psk {
    Psk::from_file_bytes(b"another secret of ample length").unwrap()
}

fn client() -> ClientId {
    "c1".parse().unwrap()
}

fn nonce() -> Nonce {
    NONCE.to_owned().try_into().unwrap()
}

fn request() -> Request {
    serde_json::from_value(json!({"client_id": "c1", "agent_version": "0.1.0"})).unwrap()
}

/// A body signed as it is, whatever it says.
fn signed(body: Value) -> Value {
    let mac = sign_request(&psk(), body["client_id"].as_str().unwrap_or_default(), NONCE, TIME, &body);
    let mut request = body;
    request["proof"] = json!({"method": METHOD, "nonce": NONCE, "timestamp": TIME, "mac": mac});
    request
}

fn signed_reply(mut body: Value, nonce: &str) -> Vec<u8> {
    body["nonce"] = nonce.into();
    body["mac"] = sign_reply(&psk(), "c1", nonce, &body).into();
    serde_json::to_vec(&body).unwrap()
}

fn open(value: &Value) -> Result<Request, RequestError> {
    open_request(&psk(), &serde_json::to_vec(value).unwrap())
}

#[test]
fn each_wrong_request_has_its_reason() {
    let good = signed(json!({"client_id": "c1", "agent_version": "0.1.0", "invented_later": [1.50]}));
    assert_eq!(open(&good).unwrap().client_id, client());
    let spoilt = |path: &str, value: Value| {
        let mut request = good.clone();
        *request.pointer_mut(path).unwrap() = value;
        open(&request).unwrap_err()
    };
    assert!(matches!(open_request(&psk(), b"{\"client_id\""), Err(RequestError::Malformed(_))));
    assert!(matches!(open(&json!([])), Err(RequestError::NotAnObject)));
    assert!(matches!(open(&json!({"client_id": "c1"})), Err(RequestError::MissingProof)));
    assert!(matches!(spoilt("/proof", Value::Null), RequestError::MissingProof));
    assert!(matches!(spoilt("/proof", json!({})), RequestError::MalformedProof(_)));
    assert!(matches!(spoilt("/proof/nonce", json!("1234")), RequestError::MalformedProof(_)));
    assert!(matches!(spoilt("/proof/timestamp", json!("yesterday")), RequestError::MalformedProof(_)));
    assert!(matches!(spoilt("/proof/method", json!("none")), RequestError::UnknownMethod));
    assert!(matches!(spoilt("/proof/mac", json!("00")), RequestError::BadMac));
    assert!(matches!(spoilt("/proof/timestamp", json!("2026-01-31T12:00:00.124Z")), RequestError::BadMac));
    assert!(matches!(spoilt("/proof/nonce", json!("0".repeat(32))), RequestError::BadMac));
    assert!(matches!(spoilt("/client_id", json!("c2")), RequestError::BadMac));
    assert!(matches!(spoilt("/invented_later", json!(1)), RequestError::BadMac));
    for body in [
        json!({"agent_version": "1"}),
        json!({"client_id": "a/b", "agent_version": "1"}),
        json!({"client_id": "c1", "agent_version": "1", "device_id": "#"}),
    ] {
        assert!(matches!(open(&signed(body)), Err(RequestError::Fields(_))));
    }
    let foreign = request().signed(&other_psk(), nonce(), TIME.parse().unwrap());
    assert!(matches!(open_request(&psk(), &foreign), Err(RequestError::BadMac)));
    assert_eq!(claimed_sender(&foreign), (Some(client()), Some(nonce())));
    assert_eq!(claimed_sender(b"[1"), (None, None));
}

/// The mac is over the strings as received: another way to write the same time is another request.
#[test]
fn a_time_written_otherwise_is_verified_as_written() {
    let body = json!({"client_id": "c1", "agent_version": "1"});
    let time = "2026-01-31T13:00:00+01:00";
    let mac = sign_request(&psk(), "c1", NONCE, time, &body);
    let mut request = body;
    request["proof"] = json!({"method": METHOD, "nonce": NONCE, "timestamp": time, "mac": mac});
    let opened = open(&request).unwrap().proof.unwrap().timestamp;
    assert_eq!(opened, "2026-01-31T12:00:00Z".parse::<Timestamp>().unwrap());
}

#[test]
fn each_wrong_reply_has_its_reason() {
    let open = |bytes: &[u8]| open_reply(&psk(), &client(), &nonce(), bytes);
    let body = json!({"device_id": "d1", "credentials": {"password": "hunter2"}});
    let good = signed_reply(body.clone(), NONCE);
    let reply = open(&good).unwrap();
    assert_eq!(reply.device_id.as_ref().unwrap().as_str(), "d1");
    assert!(!format!("{reply:?}").contains("hunter2"), "credentials show");

    assert!(matches!(open(&good[1..]), Err(ReplyError::Malformed(_))));
    assert!(matches!(open(b"7"), Err(ReplyError::NotAnObject)));
    assert!(matches!(open(br#"{"device_id":"d1"}"#), Err(ReplyError::MissingMac)));
    assert!(matches!(open(br#"{"device_id":"d1","mac":"00"}"#), Err(ReplyError::BadMac)));
    assert!(matches!(open(br#"{"device_id":"d1","mac":7}"#), Err(ReplyError::BadMac)));
    let swapped = String::from_utf8(good.clone()).unwrap().replace("d1", "d2");
    assert!(matches!(open(swapped.as_bytes()), Err(ReplyError::BadMac)));
    let foreign = Reply { error: Some("x".into()), ..Reply::default() };
    assert!(matches!(
        open(&foreign.clone().signed(&other_psk(), &client(), nonce())),
        Err(ReplyError::BadMac)
    ));
    let another_s = foreign.signed(&psk(), &"c2".parse().unwrap(), nonce());
    assert!(matches!(open(&another_s), Err(ReplyError::BadMac)));
    assert!(matches!(open(&signed_reply(body, &"1".repeat(32))), Err(ReplyError::WrongNonce)));
    assert!(matches!(open(&signed_reply(json!({}), NONCE)), Err(ReplyError::Empty)));
    assert!(matches!(open(&signed_reply(json!({"device_id": null}), NONCE)), Err(ReplyError::Empty)));
    assert!(matches!(open(&signed_reply(json!({"device_id": 7}), NONCE)), Err(ReplyError::IdNotText)));
    let invalid = open(&signed_reply(json!({"device_id": "registration"}), NONCE));
    assert!(matches!(invalid, Err(ReplyError::InvalidId(IdError::Reserved))));
    let wrong_field = signed_reply(json!({"error": "clock", "server_time": 7}), NONCE);
    assert!(matches!(open(&wrong_field), Err(ReplyError::Malformed(_))));
}

#[test]
fn a_plain_reply_needs_no_mac() {
    assert_eq!(open_plain_reply(br#"{"device_id":"d1","x":1}"#).unwrap().device_id.unwrap().as_str(), "d1");
    assert!(matches!(open_plain_reply(br#"{"device_id":""}"#), Err(ReplyError::InvalidId(IdError::Empty))));
    assert!(matches!(open_plain_reply(b"{}"), Err(ReplyError::Empty)));
    assert!(matches!(open_plain_reply(b""), Err(ReplyError::Malformed(_))));
}
