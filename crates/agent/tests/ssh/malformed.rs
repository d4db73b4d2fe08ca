//! I2: requests that are none, each answered with its own reason, or counted where there is nobody to answer; and then a
//! good one works.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::{
    story::{Story, answers},
    support::{SOON, log, proof, wait_status},
};

const WANTED: usize = 100;

/// A value, and what is said of it.
type Row = (Value, String);

/// What is wrong with each kind of value where a number of a port is expected, from `least` on.
fn ports(least: u16) -> Vec<Row> {
    let range = |found: &str| format!("must be a whole number from {least} to 65535, found {found}");
    let mut rows = vec![
        (json!(-1), range("-1")),
        (json!(65_536), range("65536")),
        (json!(22.5), range("22.5")),
        (json!(1e3), range("1000.0")),
        (json!(u64::MAX), range("18446744073709551615")),
    ];
    if least > 0 {
        rows.push((json!(0), range("0")));
    }
    rows.extend(others("a number", &["22"]));
    rows
}

/// What is of another kind than is expected.
fn others(expected: &str, texts: &[&str]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let mut row = |value, found| rows.push((value, format!("expected {expected}, found {found}")));
    texts.iter().for_each(|text| row(json!(text), "a string"));
    if expected != "true or false" {
        row(json!(true), "a boolean");
    }
    if expected != "a number" {
        row(json!(7), "a number");
    }
    row(json!([22]), "a list");
    row(json!({ "a": 1 }), "an object");
    rows
}

fn hosts() -> Vec<Row> {
    let long = "a".repeat(254);
    let bad = [
        "",
        "a b",
        " a",
        "-oProxyCommand=x",
        ".a",
        "a/b",
        "a:b",
        "[::1",
        "::1]",
        "[::1]:22",
        "1::2::3",
        "ä",
        "%61",
        "a\u{0}b",
        "127.0.0.1\n",
        "$(id)",
        "a;b",
        "user@host",
        &long,
    ];
    let said = |text: &str| format!("{:?} is no host", text.chars().take(80).collect::<String>());
    let mut rows: Vec<Row> = bad.iter().map(|text| (json!(text), said(text))).collect();
    rows.extend(others("a string", &[]));
    rows
}

/// What cannot be an id.
fn ids() -> Vec<Row> {
    let topic = |c: char| format!("an id must not contain {c:?}: it has a meaning in MQTT topics");
    let control = |c: char| format!("an id must not contain the control character {c:?}");
    vec![
        (json!(""), "an id must not be empty".to_owned()),
        (json!("a/b"), topic('/')),
        (json!("+"), topic('+')),
        (json!("a#"), topic('#')),
        (json!("$SYS"), "an id must not begin with '$': brokers keep such topics for themselves".to_owned()),
        (json!("a\nb"), control('\n')),
        (json!("a\u{7f}"), control('\u{7f}')),
        (json!("\u{fdd0}"), control('\u{fdd0}')),
        (json!("x".repeat(129)), "an id must not be longer than 128 bytes, this one has 129".to_owned()),
    ]
}

fn times() -> Vec<Row> {
    let texts =
        ["", "tomorrow", "2026-11-23", "2026-11-23T10:00:00", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z"];
    let mut rows: Vec<Row> = texts
        .iter()
        .map(|text| {
            (json!(text), format!("{text:?} is not an RFC 3339 time such as 2026-01-31T12:00:00.000Z"))
        })
        .collect();
    rows.extend(others("a string", &[]));
    rows
}

/// All that can be answered: the field, its value, and the whole reason.
fn answered(story: &Story) -> Vec<(&'static str, Value, String)> {
    let mut rows = Vec::new();
    let mut add = |key: &'static str, values: Vec<Row>| {
        rows.extend(values.into_iter().map(|(value, why)| (key, value, format!("{key}: {why}"))));
    };
    add("lport", ports(1));
    add("rport", ports(0));
    add("backend_port", ports(1));
    add("lport", vec![(Value::Null, "missing".to_owned())]);
    add("rport", vec![(Value::Null, "missing; 0 lets the server choose".to_owned())]);
    add("lhost", hosts());
    add("backend_host", hosts());
    add("server_id", ids());
    add("server_id", others("a string", &[]));
    let over = |found: &str| format!("must be over 0, found {found}");
    add("ttl_s", vec![(json!(0), over("0")), (json!(-1), over("-1")), (json!(-0.5), over("-0.5"))]);
    add("ttl_s", others("a number", &["30m"]));
    add("expires_at", times());
    add("close", others("true or false", &["yes"]));
    let place = "has no place in a request; the topic says which device".to_owned();
    add("device_id", [json!("d1"), json!("d2"), Value::Null].map(|id| (id, place.clone())).into());
    let (echo, server) = (story.echo, story.server.port());
    let target = |place: String| format!("target not allowed: {place} is not among services.ssh.targets");
    let backend = |place: String| format!("backend not allowed: {place} is not among services.ssh.backends");
    rows.extend([
        ("lport", json!(1), target("127.0.0.1:1".to_owned())),
        ("lhost", json!("localhost"), target(format!("localhost:{echo}"))),
        ("lhost", json!("::1"), target(format!("[::1]:{echo}"))),
        ("lhost", json!("0.0.0.0"), target(format!("0.0.0.0:{echo}"))),
        ("backend_host", json!("evil.example"), backend(format!("evil.example:{server}"))),
        ("backend_port", json!(22), backend("127.0.0.1:22".to_owned())),
        ("expires_at", json!("2020-01-01T00:00:00Z"), "expired: it came after expires_at".to_owned()),
    ]);
    rows
}

/// What has no id that could be answered.
fn unreadable() -> Vec<(Vec<u8>, String)> {
    let mut rows: Vec<(Vec<u8>, String)> = Vec::new();
    for (text, why) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("open a tunnel", "expected value at line 1 column 1"),
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("{\"request_id\":\"u\",\"lport\":22", "EOF while parsing an object at line 1 column 28"),
        ("{'request_id': 'u'}", "key must be a string at line 1 column 2"),
        ("{\"lport\":22} {}", "trailing characters at line 1 column 14"),
        ("{\"lport\":022}", "invalid number at line 1 column 11"),
        ("{\"lport\":1e999}", "number out of range at line 1 column 14"),
        ("{\"request_id\":\"\\ud800\"}", "unexpected end of hex escape at line 1 column 22"),
        ("\u{feff}{}", "expected value at line 1 column 1"),
        ("\u{0}", "expected value at line 1 column 1"),
    ] {
        rows.push((text.into(), format!("not JSON: {why}")));
    }
    rows.push((
        b"{\"a\":\"\xff\"}".to_vec(),
        "not JSON: invalid unicode code point at line 1 column 7".to_owned(),
    ));
    rows.push(("[".repeat(300).into(), "not JSON: recursion limit exceeded at line 1 column 128".to_owned()));
    for text in ["[]", "null", "7", "true", "\"u\"", "[{\"lport\":22,\"rport\":0}]"] {
        rows.push((text.into(), "not a JSON object".to_owned()));
    }
    for (id, found) in [("7", "a number"), ("false", "a boolean"), ("[]", "a list"), ("{}", "an object")] {
        let text = format!("{{\"request_id\":{id},\"lport\":22,\"rport\":0}}");
        rows.push((text.into(), format!("request_id: expected a string, found {found}")));
    }
    for (text, why) in [
        ("{}", "lport: missing"),
        ("{\"request_id\":null}", "lport: missing"),
        ("{\"lport\":22}", "rport: missing; 0 lets the server choose"),
        ("{\"close\":true}", "request_id: missing; it says what to close"),
        (
            "{\"device_id\":\"d1\",\"lport\":22,\"rport\":0}",
            "device_id: has no place in a request; the topic says which device",
        ),
    ] {
        rows.push((text.into(), why.to_owned()));
    }
    rows
}

#[tokio::test]
async fn prove_i2_what_is_no_request_is_answered_with_its_reason() {
    let story = Story::begin("").await;
    let agent = story.online().await;
    let (mut rows, mut distinct) = (0, HashSet::new());
    for (n, (key, value, reason)) in answered(&story).into_iter().enumerate() {
        assert!(distinct.insert(format!("{key} {value}")), "{key}: {value} is there twice");
        let id = format!("r{n}");
        story.ask(&id, json!({ key: value })).await;
        let end = story.end(&id).await;
        assert_eq!((&end["state"], &end["reason"]), (&json!("refused"), &json!(reason)), "{key}: {value}");
        rows += 1;
    }
    for (id, reason) in ids() {
        let id = id.as_str().unwrap();
        story.ask(id, json!({})).await;
        assert_eq!(story.end(id).await["reason"], format!("request_id: {reason}"), "{id:?}");
        rows += 1;
    }
    let unreadable = unreadable();
    for (payload, _) in &unreadable {
        story.send(payload).await;
    }
    let count = unreadable.len();
    wait_status(&story.home, |status| status["services"]["ssh"]["counters"]["unreadable"] == count).await;
    // The last of them is in the log only a moment after it was counted.
    agent.find_line("has no place in a request", SOON).await.unwrap();
    let reasons: Vec<Value> = log(&agent)
        .into_iter()
        .filter(|line| line["message"] == "an order that cannot be read, nor answered")
        .map(|line| line["reason"].clone())
        .collect();
    assert_eq!(reasons, unreadable.into_iter().map(|(_, reason)| json!(reason)).collect::<Vec<_>>());
    rows += count;
    assert_eq!(story.listened(), 0);
    answers(story.open("good", json!({})).await, "hello").await;
    proof("i2-ssh", &format!("wanted={WANTED}-rows rows={rows} unanswered=0"));
    assert!(rows >= WANTED, "{rows} rows");
}
