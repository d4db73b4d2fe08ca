use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::fields::MAX_SECONDS;

fn decode(payload: &Value) -> Result<Request, Malformed> {
    Request::decode(payload.to_string().as_bytes())
}

/// With these fields besides an id and a command.
fn order(more: &Value) -> Result<Order, Malformed> {
    let mut fields = json!({ "execution_id": "e1", "command": "true" });
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    match decode(&fields)? {
        Request::Run { order, .. } => Ok(order),
        Request::Cancel { .. } => panic!("{more} cancels"),
    }
}

#[test]
fn each_mistake_has_its_reason() {
    let long = "x".repeat(129);
    let table = [
        (json!({ "command": "" }), "command: empty"),
        (json!({ "command": " \n\t" }), "command: empty"),
        (json!({ "command": null }), "command: missing"),
        (json!({ "command": ["ls"] }), "command: expected a string, found a list"),
        (json!({ "command": "a\u{0}b" }), "command: contains a NUL character"),
        (json!({ "timeout_s": "5" }), "timeout_s: expected a number, found a string"),
        (json!({ "timeout_s": 0 }), "timeout_s: must be over 0, found 0"),
        (json!({ "timeout_s": -1e300 }), "timeout_s: must be over 0, found -1e+300"),
        (json!({ "expires_at": 5 }), "expires_at: expected a string, found a number"),
        (json!({ "expect_reboot": "yes" }), "expect_reboot: expected true or false, found a string"),
        (json!({ "stream": 1 }), "stream: expected true or false, found a number"),
        (json!({ "cancel": "true" }), "cancel: expected true or false, found a string"),
        (json!({ "args": "x" }), "args: expected an object, found a string"),
        (json!({ "args": { "a": 1 } }), "args.a: expected a string, found a number"),
        (json!({ "args": { "a": null } }), "args.a: expected a string, found null"),
        (json!({ "args": { "a": "\u{0}" } }), "args: contains a NUL character"),
        (json!({ "env": [] }), "env: expected an object, found a list"),
        (json!({ "env": { "": "x" } }), "env: \"\" cannot be the name of a variable"),
        (json!({ "env": { "A=B": "x" } }), "env: \"A=B\" cannot be the name of a variable"),
        (json!({ "env": { "A\u{0}": "x" } }), "env: contains a NUL character"),
        (json!({ "cwd": "tmp" }), "cwd: must be an absolute path, found \"tmp\""),
        (json!({ "cwd": "" }), "cwd: must be an absolute path, found \"\""),
        (json!({ "cwd": "/\u{0}" }), "cwd: contains a NUL character"),
    ];
    for (fields, reason) in table {
        let malformed = order(&fields).expect_err(reason);
        assert_eq!((malformed.reason.as_str(), malformed.valid_id), (reason, true), "{fields}");
        assert_eq!(malformed.execution_id.as_deref(), Some("e1"));
    }
    for at in ["", "tomorrow", "2026-02-30T00:00:00.000Z"] {
        let malformed = order(&json!({ "expires_at": at })).expect_err(at);
        assert!(malformed.reason.starts_with("expires_at: "), "{malformed}");
    }
    for id in ["", "a/b", "+", "#", "$x", "a\nb", "a\u{0}", &long] {
        let malformed = decode(&json!({ "execution_id": id, "command": "true" })).expect_err(id);
        assert_eq!((malformed.execution_id.as_deref(), malformed.valid_id), (Some(id), false));
        assert!(malformed.reason.starts_with("execution_id: "), "{malformed}");
    }
}

#[test]
fn what_cannot_be_answered_says_why() {
    let table: &[(&[u8], &str)] = &[
        (b"", "not JSON: "),
        (b"{", "not JSON: "),
        (b"\xff", "not JSON: "),
        (b"{} {}", "not JSON: "),
        (b"[]", "not a JSON object"),
        (b"\"e1\"", "not a JSON object"),
        (b"{}", "execution_id: missing"),
        (br#"{"execution_id":7}"#, "execution_id: expected a string, found a number"),
        (br#"{"execution_id":null}"#, "execution_id: expected a string, found null"),
    ];
    for (payload, reason) in table {
        let malformed = Request::decode(payload).expect_err(reason);
        assert!(malformed.reason.starts_with(reason), "{malformed}");
        assert_eq!(malformed.execution_id, None);
    }
    let deep = [b"{\"execution_id\":".repeat(10_000), b"1".to_vec()].concat();
    assert!(Request::decode(&deep).is_err());
}

#[test]
fn a_time_is_one_that_can_be_counted() {
    for (wanted, found) in [(json!(1e300), MAX_SECONDS), (json!(u64::MAX), MAX_SECONDS), (json!(0.25), 0.25)]
    {
        assert_eq!(order(&json!({ "timeout_s": wanted })).unwrap().timeout_s, Some(found));
    }
    for tiny in [1e-9, 5e-324] {
        let seconds = order(&json!({ "timeout_s": tiny })).unwrap().timeout_s.unwrap();
        assert!(std::time::Duration::from_secs_f64(seconds) <= std::time::Duration::from_nanos(1));
    }
}

#[test]
fn what_is_null_or_unknown_is_as_good_as_absent() {
    let nothing = json!({ "args": null, "timeout_s": null, "env": null, "cwd": null, "stream": null,
        "cancel": null, "expires_at": null, "priority": [1], "expect_reboot": null });
    let plain = Order { command: "true".to_owned(), ..Order::default() };
    assert_eq!(order(&nothing), Ok(plain));
    let cancel = json!({ "execution_id": "e1", "cancel": true, "command": 7 });
    assert!(matches!(decode(&cancel), Ok(Request::Cancel { .. })));
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z/=+#$\u{0}ä]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-z=\u{0}]{0,3}", inner, 0..3)
                .prop_map(|fields| fields.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

proptest! {
    #[test]
    fn bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        drop(Request::decode(&bytes));
    }

    /// Whatever the fields: no panic, an answer where there is an id, and what is taken can be kept.
    #[test]
    fn fields_never_panic(
        names in proptest::collection::vec(
            proptest::sample::select(vec![
                "command", "args", "expect_reboot", "timeout_s", "expires_at", "env", "cwd", "stream", "cancel",
            ]),
            0..6,
        ),
        values in proptest::collection::vec(value(), 6),
    ) {
        let mut fields = Map::from_iter([("execution_id".to_owned(), json!("e1")), ("command".to_owned(), json!("x"))]);
        fields.extend(names.into_iter().map(str::to_owned).zip(values));
        match decode(&fields.into()) {
            Ok(Request::Run { order, .. }) => {
                let kept = serde_json::to_string(&order).unwrap();
                prop_assert_eq!(serde_json::from_str::<Order>(&kept).unwrap(), order);
            }
            Ok(Request::Cancel { execution_id }) => prop_assert_eq!(execution_id.as_str(), "e1"),
            Err(malformed) => {
                prop_assert_eq!((malformed.execution_id.as_deref(), malformed.valid_id), (Some("e1"), true));
                prop_assert!(!malformed.reason.is_empty());
            }
        }
    }
}
