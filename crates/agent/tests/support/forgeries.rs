//! Replies that must never be believed.

#![allow(unreachable_pub, reason = "used by the stories beside it")]
#![allow(clippy::unwrap_used, reason = "a test says where it failed")]

use protocol::{
    proof::{Psk, sign_reply},
    registration::Request,
};
use serde_json::{Value, json};
use testkit::Rng;

use crate::support::backend::{id, nonce, psk, signed};

/// One bad reply to `request`, of any kind, as text without a line end.
pub fn line(rng: &mut Rng, request: &Request) -> String {
    let right = String::from_utf8(signed(request, id("evil"))).unwrap();
    let with = |key: &str, value: Value| {
        let mut reply: Value = serde_json::from_str(&right).unwrap();
        reply[key] = value;
        reply.to_string()
    };
    let without = |key: &str| {
        let mut reply: Value = serde_json::from_str(&right).unwrap();
        reply.as_object_mut().unwrap().remove(key);
        reply.to_string()
    };
    let (client_id, nonce) = (request.client_id.as_str(), nonce(request));
    let (mine, nonce) = (psk(), nonce.as_str());
    let fresh = format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64());
    let evil = json!({"device_id": "evil"});
    match rng.below(24) {
        0 => right[..usize::try_from(1 + rng.below(right.len() as u64 - 1)).unwrap()].to_owned(),
        1 => (*rng.pick(&["[]", "null", "7", "\"evil\"", "[{\"device_id\":\"evil\"}]", "evil", "{"]))
            .to_owned(),
        2 => evil.to_string(),
        3 => without("mac"),
        4 => with(
            "mac",
            (*rng.pick(&[Value::Null, json!(7), json!(""), json!("00"), json!({}), json!([])])).clone(),
        ),
        5 => flipped(rng, &right),
        6 => with("device_id", json!("devil")),
        7 => with("message", json!("added on the way")),
        8 => with("error", json!("added")),
        9 => with("nonce", json!(fresh)),
        10 => without("nonce"),
        11 => forge(&Psk::from_file_bytes(b"the secret of another fleet").unwrap(), client_id, nonce, evil),
        12 => forge(&mine, "another-client", nonce, evil),
        13 => forge(&mine, client_id, &fresh, evil),
        14 => forge(&mine, client_id, "", evil),
        15 => forge(&mine, client_id, &nonce.to_uppercase().replace(char::is_numeric, "A"), evil),
        16 => forge(&mine, client_id, nonce, json!({"message": "neither an id nor an error"})),
        17 => forge(&mine, client_id, nonce, json!({"device_id": null, "error": null})),
        18 | 19 => forge(&mine, client_id, nonce, json!({"device_id": bad_id(rng)})),
        20 => forge(
            &mine,
            client_id,
            nonce,
            json!({"error": (*rng.pick(&[json!(7), json!([]), json!({})])).clone()}),
        ),
        21 => forge(&mine, client_id, nonce, json!({"error": "clock", "server_time": "yesterday"})),
        22 => "[".repeat(usize::try_from(100 + rng.below(5000)).unwrap()),
        _ => long(rng),
    }
}

/// Bytes that are no line of text.
pub fn binary(request: &Request) -> Vec<Vec<u8>> {
    let right = signed(request, id("evil"));
    let mut not_utf8 = right.clone();
    let at = not_utf8.windows(4).position(|four| four == b"evil").unwrap();
    not_utf8[at] = 0xff;
    let with_zero = [&right[..], b"\0"].concat();
    let lines = [b"{}\n".as_slice(), &right].concat();
    let nested = format!("{}1{}", "{\"device_id\":".repeat(10_000), "}".repeat(10_000));
    vec![
        not_utf8,
        with_zero,
        lines,
        vec![],
        vec![0xff; 200_000],
        nested.into_bytes(),
        [b"\xef\xbb\xbf", &right[..]].concat(),
    ]
}

/// A properly signed reply with a body of the forger's choice.
fn forge(psk: &Psk, client_id: &str, nonce: &str, mut body: Value) -> String {
    body["nonce"] = json!(nonce);
    body["mac"] = json!(sign_reply(psk, client_id, nonce, &body));
    body.to_string()
}

fn flipped(rng: &mut Rng, right: &str) -> String {
    let mut reply: Value = serde_json::from_str(right).unwrap();
    let mut mac: Vec<char> = reply["mac"].as_str().unwrap().chars().collect();
    let at = usize::try_from(rng.below(mac.len() as u64)).unwrap();
    mac[at] = if mac[at] == '0' { '1' } else { '0' };
    reply["mac"] = json!(mac.into_iter().collect::<String>());
    reply.to_string()
}

fn bad_id(rng: &mut Rng) -> Value {
    let long = json!("x".repeat(129));
    let bad = ["", "a/b", "a+b", "#", "$evil", "evil\u{7}", "evil\n", "registration"].map(|id| json!(id));
    let wrong = [json!(7), json!(true), json!(["evil"]), json!({"id": "evil"}), long];
    rng.pick(&[&bad[..], &wrong[..]].concat()).clone()
}

/// As much as a packet may hold, nearly.
fn long(rng: &mut Rng) -> String {
    let filling = if rng.below(8) == 0 { 200_000 } else { 2_000 };
    json!({"device_id": "evil", "nonce": "0".repeat(32), "mac": "0".repeat(64), "filling": "x".repeat(filling)}).to_string()
}
