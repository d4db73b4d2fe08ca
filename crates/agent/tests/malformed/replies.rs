//! Replies to a registration: each is ignored for its reason and counted, and then the right one enrols.

use protocol::{
    proof::{Psk, sign_reply},
    registration::Request,
};
use serde_json::{Value, json};
use testkit::{Mosquitto, Watcher, client::publish_lines, publish};

use crate::support::{
    SOON,
    backend::{Backend, enrolled, home, id, ignored, nonce, patient, psk, reply_topic, signed},
    wait_status,
};

const NOT_JSON: &str = "the reply is malformed: ";
const NO_OBJECT: &str = "the reply is not a JSON object";
const NO_MAC: &str = "the reply has no mac";
const BAD_MAC: &str = "the mac is wrong: the backend has another secret, or the reply was altered";
const OTHER: &str = "the reply answers another request";
const EMPTY: &str = "the reply has neither a device_id nor an error";
const NO_TEXT: &str = "the reply's device_id is not a string";
const BAD_ID: &str = "the reply's device_id cannot be used: an id must not ";

/// A line, and how the reason begins that the agent logs.
fn rows(request: &Request) -> Vec<(String, String)> {
    let mut rows = Vec::new();
    let mut row = |line: String, reason: String| rows.push((line, reason));
    for (text, why) in [
        ("evil", "expected value at line 1 column 1"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("{\"device_id\":\"d1\"", "EOF while parsing an object at line 1 column 17"),
        ("{'device_id': 'd1'}", "key must be a string at line 1 column 2"),
        ("{\"device_id\":\"d1\"} x", "trailing characters at line 1 column 20"),
        ("{\"device_id\":\"\\ud800\"}", "unexpected end of hex escape at line 1 column 21"),
        ("{\"device_id\":1e999}", "number out of range at line 1 column 18"),
        ("{\"a\":tru}", "expected ident at line 1 column 9"),
        ("\u{feff}{}", "expected value at line 1 column 1"),
    ] {
        row(text.to_owned(), format!("{NOT_JSON}{why}"));
    }
    row("[".repeat(300), format!("{NOT_JSON}recursion limit exceeded"));
    for text in ["[]", "null", "7", "true", "\"d1\"", "[{\"device_id\":\"d1\"}]"] {
        row(text.to_owned(), NO_OBJECT.to_owned());
    }
    for text in ["{}", "{\"device_id\":\"d1\"}", "{\"error\":\"no\"}", "{\"Mac\":\"\"}"] {
        row(text.to_owned(), NO_MAC.to_owned());
    }
    let (client, nonce) = (request.client_id.as_str(), nonce(request));
    let right: Value = serde_json::from_slice(&signed(request, id("d1"))).unwrap();
    let altered = |key: &str, value: Value| {
        let mut reply = right.clone();
        reply[key] = value;
        reply.to_string()
    };
    for mac in [
        Value::Null,
        json!(7),
        json!(""),
        json!("00"),
        json!([]),
        json!("g".repeat(64)),
        json!("0".repeat(64)),
    ] {
        row(altered("mac", mac), BAD_MAC.to_owned());
    }
    for (key, value) in [
        ("device_id", json!("d2")),
        ("message", json!("added")),
        ("nonce", json!("0".repeat(32))),
        ("nonce", Value::Null),
        ("nonce", json!(nonce.as_str().to_uppercase() + "0")),
    ] {
        row(altered(key, value), BAD_MAC.to_owned());
    }
    let another = Psk::from_file_bytes(b"the secret of another fleet").unwrap();
    row(sign(&another, client, nonce.as_str(), json!({"device_id": "d1"})), BAD_MAC.to_owned());
    row(sign(&psk(), "another-client", nonce.as_str(), json!({"device_id": "d1"})), BAD_MAC.to_owned());
    let fresh = "0123456789abcdef".repeat(2);
    for nonce in [&fresh, "", "x"] {
        row(sign(&psk(), client, nonce, json!({"device_id": "d1"})), OTHER.to_owned());
    }
    let mut senseless =
        |body: Value, reason: &str| row(sign(&psk(), client, nonce.as_str(), body), reason.to_owned());
    for body in [json!({}), json!({"device_id": null}), json!({"error": null}), json!({"message": "hello"})] {
        senseless(body, EMPTY);
    }
    for id in [json!(7), json!(true), json!(["d1"]), json!({"id": "d1"})] {
        senseless(json!({"device_id": id}), NO_TEXT);
    }
    for (id, why) in [
        ("", "be empty"),
        ("a/b", "contain '/'"),
        ("a+b", "contain '+'"),
        ("#", "contain '#'"),
        ("$d1", "begin with '$'"),
        ("d1\u{7}", "contain the control character '\\u{7}'"),
        ("d1\n", "contain the control character '\\n'"),
        ("\u{fffe}", "contain the control character '\\u{fffe}'"),
    ] {
        senseless(json!({"device_id": id}), &format!("{BAD_ID}{why}"));
    }
    senseless(
        json!({"device_id": "x".repeat(129)}),
        &format!("{BAD_ID}be longer than 128 bytes, this one has 129"),
    );
    senseless(json!({"device_id": "registration"}), "the reply's device_id cannot be used: \"registration\"");
    for (body, why) in [
        (json!({"error": 7}), "invalid type: integer `7`, expected a string"),
        (json!({"error": ["no"]}), "invalid type: sequence, expected a string"),
        (json!({"error": "no", "message": {}}), "invalid type: map, expected a string"),
        (json!({"error": "clock", "server_time": 7}), "invalid type: integer `7`, expected a string"),
        (json!({"error": "clock", "server_time": "yesterday"}), "\"yesterday\" is not an RFC 3339 time"),
    ] {
        senseless(body, &format!("{NOT_JSON}{why}"));
    }
    rows
}

fn sign(psk: &Psk, client: &str, nonce: &str, mut body: Value) -> String {
    body["nonce"] = json!(nonce);
    body["mac"] = json!(sign_reply(psk, client, nonce, &body));
    body.to_string()
}

/// How many there are.
pub(crate) async fn table() -> usize {
    let broker = Mosquitto::builder().line("max_queued_messages 1000").start().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home =
        patient(home(&broker), "{device_secret_file: psk, response_timeout: 5m}").yaml("log: {level: debug}");
    let agent = home.start();
    let request = backend.request().await;
    let rows = rows(&request);
    let topic = reply_topic(&request.client_id);
    let lines: Vec<String> = rows.iter().map(|(line, _)| line.clone()).collect();
    publish_lines(&broker, &topic, &lines, 1).await.unwrap();
    for (line, reason) in &rows {
        let said = agent.wait_line("\"registration reply ignored\"", SOON).await.unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        assert!(said["error"].as_str().unwrap().starts_with(reason), "{line}: {said}");
    }
    // What is no line: not UTF-8, and nothing at all.
    for (payload, reason) in
        [(&b"{\"device_id\":\"\xff\"}"[..], "invalid unicode code point"), (b"", "EOF while parsing")]
    {
        publish(&broker, &topic, payload, 1, false).await.unwrap();
        let said = agent.wait_line("\"registration reply ignored\"", SOON).await.unwrap();
        assert!(said.contains(&format!("{NOT_JSON}{reason}")), "{said}");
    }
    let count = rows.len() + 2;
    wait_status(&home, |status| ignored(status) == count as u64).await;
    let watcher = Watcher::start(&broker, "iot/d1/status").await.unwrap();
    backend.answer(&request, id("d1")).await;
    enrolled(&home, &backend, "d1").await;
    watcher.next_on("iot/d1/status", SOON).await.unwrap();
    count
}
