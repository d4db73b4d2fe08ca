//! Payloads: what the backend answers, what its registrar is asked, what devices say of themselves.

use std::fmt::Debug;

use protocol::{
    ClientId, Timestamp,
    canonical::canonical,
    heartbeat::Heartbeat,
    proof::{Psk, sign_reply, sign_request},
    registration::{
        METHOD, Nonce, PlainRequest, Reply, ReplyError, Request, RequestError, claimed_sender,
        open_plain_reply, open_reply, open_request,
    },
    status::Presence,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

const NONCE: &str = "00112233445566778899aabbccddeeff";
const TIME: &str = "2026-01-31T12:00:00.000Z";

/// Whatever decodes is written down and decodes as the same again; without the secret nothing is believed; with it
/// nothing is refused but for its fields.
pub fn payloads(data: &[u8]) {
    let psk = Psk::from_file_bytes(b"a secret of the whole fleet").expect("long enough");
    again::<Presence>(data);
    again::<Heartbeat>(data);
    again::<PlainRequest>(data);
    assert!(open_request(&psk, data).is_err(), "a forged request");
    assert!(open_reply(&psk, &client("c1"), &nonce(), data).is_err(), "a forged reply");
    if let Ok(reply) = open_plain_reply(data) {
        answers(&reply);
        assert_eq!(open_plain_reply(&reply.unsigned()).ok(), Some(reply));
    }
    let value: Value = match serde_json::from_slice(data) {
        Ok(value) => value,
        Err(_) => return assert_eq!(claimed_sender(data), (None, None)),
    };
    let text = canonical(&value);
    let parsed: Value = serde_json::from_str(&text).expect("the canonical form is JSON");
    assert_eq!(canonical(&parsed), text, "one form for one value");
    if let Value::Object(body) = value {
        signed_reply(&psk, body.clone());
        signed_request(&psk, body);
    }
}

fn again<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    if let Ok(first) = serde_json::from_slice::<T>(data) {
        let written = serde_json::to_vec(&first).expect("what was JSON");
        assert_eq!(serde_json::from_slice::<T>(&written).expect("what was written"), first);
    }
}

fn answers(reply: &Reply) {
    assert!(reply.device_id.is_some() || reply.error.is_some(), "a reply that says nothing");
}

/// A backend that knows the secret and answers whatever.
fn signed_reply(psk: &Psk, mut body: Map<String, Value>) {
    body.remove("mac");
    body.insert("nonce".into(), NONCE.into());
    let plain = open_plain_reply(json!(body).to_string().as_bytes());
    let mac = sign_reply(psk, "c1", NONCE, &json!(body));
    body.insert("mac".into(), mac.clone().into());
    let bytes = json!(body).to_string().into_bytes();
    match open_reply(psk, &client("c1"), &nonce(), &bytes) {
        Ok(reply) => {
            answers(&reply);
            let rewritten = reply.clone().signed(psk, &client("c1"), nonce());
            let again = open_reply(psk, &client("c1"), &nonce(), &rewritten).expect("our own reply");
            assert_eq!(again, Reply { mac: None, ..reply });
        }
        Err(error) => {
            use ReplyError::{BadMac, MissingMac, WrongNonce};
            assert!(!matches!(error, MissingMac | BadMac | WrongNonce), "{error}: {body:?}");
            assert_eq!(plain.expect_err("it is the same reply").to_string(), error.to_string());
        }
    }
    assert!(open_reply(psk, &client("c2"), &nonce(), &bytes).is_err(), "another's reply");
    body.insert("mac".into(), altered(&mac).into());
    let forged = open_reply(psk, &client("c1"), &nonce(), json!(body).to_string().as_bytes());
    assert!(matches!(forged, Err(ReplyError::BadMac)), "{forged:?}");
}

/// A device that knows the secret and asks whatever, as the hub's registrar takes it.
fn signed_request(psk: &Psk, mut body: Map<String, Value>) {
    body.remove("proof");
    let sender = body.get("client_id").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mac = sign_request(psk, &sender, NONCE, TIME, &json!(body));
    let mut proof = json!({"method": METHOD, "nonce": NONCE, "timestamp": TIME, "mac": mac});
    body.insert("proof".into(), proof.clone());
    let bytes = json!(body).to_string().into_bytes();
    let claimed = claimed_sender(&bytes);
    assert_eq!(claimed.1, Some(nonce()));
    match open_request(psk, &bytes) {
        Ok(request) => {
            assert_eq!(claimed.0.as_ref(), Some(&request.client_id));
            let rewritten = request.clone().signed(psk, nonce(), time());
            let again =
                open_request(psk, &rewritten).unwrap_or_else(|error| panic!("our own: {error}: {body:?}"));
            assert_eq!(without_mac(again), without_mac(request));
        }
        Err(error) => assert!(matches!(error, RequestError::Fields(_)), "{error}: {body:?}"),
    }
    proof["mac"] = altered(&mac).into();
    body.insert("proof".into(), proof);
    let forged = open_request(psk, json!(body).to_string().as_bytes());
    assert!(matches!(forged, Err(RequestError::BadMac)), "{forged:?}");
}

/// Fields that mean nothing to us are signed too, and gone when it is written again.
fn without_mac(mut request: Request) -> Request {
    if let Some(proof) = &mut request.proof {
        proof.mac.clear();
    }
    request
}

fn altered(mac: &str) -> String {
    let first = if mac.starts_with('0') { "1" } else { "0" };
    format!("{first}{}", &mac[1..])
}

fn client(id: &str) -> ClientId {
    id.parse().expect("an id")
}

fn nonce() -> Nonce {
    NONCE.to_owned().try_into().expect("32 digits")
}

fn time() -> Timestamp {
    TIME.parse().expect("a time")
}
