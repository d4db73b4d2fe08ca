use serde_json::json;

use super::*;

fn sound() -> Value {
    json!({ "update_id": "u1", "version": "1.2.0", "update_url": "https://updates.example/app",
        "sha256": "0F".repeat(32), "size": 1024 })
}

/// A sound request with these fields instead.
fn with(more: &Value) -> Result<Request, Malformed> {
    let mut fields = sound();
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Request::decode(fields.to_string().as_bytes())
}

#[test]
fn a_request_is_read() {
    let request =
        with(&json!({ "more": 1, "signature": null, "expires_at": "2026-01-31T12:00:00Z" })).unwrap();
    assert_eq!(request.update_id.as_str(), "u1");
    assert_eq!(request.wanted.sha256, Sha256([15; 32]));
    assert_eq!((request.wanted.size, request.wanted.signature), (1024, None));
    assert!(request.expires_at.is_some());
}

#[test]
fn each_mistake_has_its_reason() {
    let table = [
        (json!({ "version": null }), "version: missing"),
        (json!({ "version": 1.2 }), "version: expected a string, found a number"),
        (json!({ "version": "" }), "version: must have 1 to 128 bytes, found 0"),
        (json!({ "version": "1".repeat(129) }), "version: must have 1 to 128 bytes, found 129"),
        (json!({ "update_url": null }), "update_url: missing"),
        (json!({ "update_url": ["x"] }), "update_url: expected a string, found a list"),
        (json!({ "update_url": "x".repeat(4097) }), "update_url: longer than 4096 bytes"),
        (json!({ "sha256": null }), "sha256: missing"),
        (json!({ "sha256": "0f" }), "sha256: expected 64 hexadecimal digits"),
        (json!({ "sha256": "0x".repeat(32) }), "sha256: expected 64 hexadecimal digits"),
        (json!({ "sha256": true }), "sha256: expected a string, found a boolean"),
        (json!({ "size": null }), "size: missing"),
        (json!({ "size": "1024" }), "size: expected a number, found a string"),
        (json!({ "size": 0 }), "size: must be a whole number of bytes, at least 1, found 0"),
        (json!({ "size": -1 }), "size: must be a whole number of bytes, at least 1, found -1"),
        (json!({ "size": 1.5 }), "size: must be a whole number of bytes, at least 1, found 1.5"),
        (json!({ "size": 1e300 }), "size: must be a whole number of bytes, at least 1, found 1e+300"),
        (json!({ "signature": {} }), "signature: expected a string, found an object"),
        (json!({ "signature": "x".repeat(4097) }), "signature: longer than 4096 bytes"),
        (json!({ "expires_at": 5 }), "expires_at: expected a string, found a number"),
    ];
    for (fields, reason) in table {
        let malformed = with(&fields).expect_err(reason);
        assert_eq!((malformed.reason.as_str(), malformed.valid_id), (reason, true), "{fields}");
        assert_eq!(malformed.update_id.as_deref(), Some("u1"));
    }
    for id in ["", "a/b", "+", "#", "$x", "a\nb"] {
        let malformed = with(&json!({ "update_id": id })).expect_err(id);
        assert_eq!((malformed.update_id.as_deref(), malformed.valid_id), (Some(id), false));
    }
    for (fields, reason) in [
        (json!({ "update_id": null }), "update_id: missing"),
        (json!({ "update_id": 7 }), "update_id: expected"),
    ] {
        let malformed = with(&fields).expect_err(reason);
        assert_eq!((malformed.update_id, malformed.reason.starts_with(reason)), (None, true));
    }
    for payload in ["", "{", "[]", "null", "\"x\"", "\u{0}"] {
        assert_eq!(Request::decode(payload.as_bytes()).expect_err(payload).update_id, None);
    }
}

#[test]
fn an_offer_is_a_request_without_an_id() {
    let mut offer = sound();
    offer["hardware_ids"] = json!(["board-1", "board-2"]);
    let offer = Offer::decode(offer.to_string().as_bytes()).unwrap();
    assert_eq!((offer.hardware_ids.len(), offer.wanted.version.as_str()), (2, "1.2.0"));
    for (ids, reason) in [
        (json!("board-1"), "hardware_ids: expected a list, found a string"),
        (json!([1]), "hardware_ids: expected strings, found a number"),
    ] {
        let mut offer = sound();
        offer["hardware_ids"] = ids;
        assert_eq!(Offer::decode(offer.to_string().as_bytes()).expect_err(reason), reason);
    }
}
