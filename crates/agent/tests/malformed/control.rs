//! Requests on the control socket.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use crate::support::{Home, SOON, wait_status};

const UNKNOWN: &str = "{\"error\":\"unknown command\"}\n";

/// Requests for what exists, and what is wrong with them.
const BAD: &[(&str, &str)] = &[
    (r#""publish""#, "missing field `stream`"),
    (r#""publish","stream":"a/b""#, "a stream is 1 to 64 of the characters a-z, 0-9, _ and -"),
    (r#""publish","stream":7"#, "invalid type: integer `7`, expected a string"),
    (r#""publish","stream":"a","class":"metrics""#, "missing field `qos`"),
    (r#""publish","stream":"a","class":"metrics","qos":3"#, "expected 0, 1 or 2, found the integer 3"),
    (
        r#""publish","stream":"a","class":"metrics","qos":1,"live":"yes""#,
        "invalid type: string \"yes\", expected a boolean",
    ),
    (r#""outbox_list""#, "missing field `class`"),
    (r#""outbox_list","class":7"#, "invalid type: integer `7`"),
    (r#""outbox_list","class":"none""#, "unknown variant `none`, expected one of `audit`"),
    (r#""outbox_list","class":"audit","from":-1"#, "invalid value: integer `-1`, expected u64"),
    (r#""outbox_purge","classes":"all""#, "invalid type: string \"all\", expected a sequence"),
    (r#""outbox_purge","classes":["none"]"#, "unknown variant `none`, expected one of `audit`"),
    (r#""update_install""#, "missing field `path`"),
    (r#""update_install","path":"/x""#, "missing field `wanted`"),
    (r#""update_install","path":"/x","wanted":{"version":"1"}"#, "missing field `update_url`"),
    (r#""update_rollback","name":7"#, "invalid type: integer `7`, expected a string"),
    (r#""outbox_purge","refused":1"#, "invalid type: integer `1`, expected a boolean"),
];

/// A line that is published, and why it is not taken.
fn lines() -> Vec<(Vec<u8>, &'static str)> {
    vec![
        (b"\xff".to_vec(), "not UTF-8"),
        (b"{\"t\": \"\xc3\x28\"}".to_vec(), "not UTF-8"),
        (b"x".repeat((1 << 20) + 1), "longer than 1 MiB"),
    ]
}

/// Each line is refused by its number; the right one after them is on disk.
async fn publish(home: &Home) -> usize {
    let mut said =
        b"{\"command\":\"publish\",\"stream\":\"room\",\"class\":\"metrics\",\"qos\":1}\n".to_vec();
    for (line, _) in lines() {
        said.extend(line);
        said.push(b'\n');
    }
    said.extend(b"the right one\nnever finished");
    let replies = timeout(SOON, ask(home, said)).await.unwrap();
    let replies: Vec<Value> = replies.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let refused: Vec<&Value> = replies.iter().filter_map(|reply| reply.get("refused")).collect();
    assert_eq!(refused.len(), lines().len(), "{replies:#?}");
    for ((number, refused), (_, reason)) in (1..).zip(refused).zip(lines()) {
        assert_eq!((&refused["line"], &refused["reason"]), (&Value::from(number), &Value::from(reason)));
    }
    let ok = &replies.last().unwrap()["ok"];
    assert_eq!((&ok["on_disk"], &ok["refused"]), (&1.into(), &lines().len().into()), "{replies:#?}");
    lines().len()
}

/// A request and its answer; none where the daemon hangs up.
fn rows() -> Vec<(Vec<u8>, &'static str)> {
    let mut rows: Vec<(Vec<u8>, &'static str)> = [
        &b"status\n"[..],
        b"\n",
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"7\n",
        b"\"status\"\n",
        b"{\"command\":null}\n",
        b"{\"command\":7}\n",
        b"{\"command\":\"stop\"}\n",
        b"{\"command\":\"Status\"}\n",
        b"{\"command\":\"status\"} {}\n",
        b"{\"command\":\"status\"\n",
        b"{\"command\":\"stat\xff\"}\n",
        b"\0\n",
        b"{\"status\":{}}\n",
        b"GET / HTTP/1.1\r\n",
    ]
    .into_iter()
    .map(|line| (line.to_vec(), UNKNOWN))
    .collect();
    rows.push(([&b"[".repeat(1000)[..], b"\n"].concat(), UNKNOWN));
    rows.push((b"x".repeat(1 << 17), ""));
    rows
}

/// How many there are.
pub(crate) async fn table() -> usize {
    let home = Home::new("mqtt://127.0.0.1:1").device("d1");
    let mut agent = home.start();
    wait_status(&home, |_| true).await;
    let rows = rows();
    for (request, answer) in &rows {
        let (request, answer) = (request.clone(), *answer);
        let said = timeout(SOON, ask(&home, request.clone())).await.unwrap();
        assert_eq!(said, answer, "{:?}", request.escape_ascii().to_string());
    }
    for (request, reason) in BAD {
        let said =
            timeout(SOON, ask(&home, format!("{{\"command\":{request}}}\n").into_bytes())).await.unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        assert!(
            said["error"].as_str().unwrap().starts_with(&format!("bad request: {reason}")),
            "{request}: {said}"
        );
    }
    let kept = b"{\"command\":\"publish\",\"stream\":\"a\",\"class\":\"metrics\",\"qos\":0}\n".to_vec();
    let said = timeout(SOON, ask(&home, kept)).await.unwrap();
    assert_eq!(said, "{\"error\":\"with qos 0 nothing is kept: ask for live, or for qos 1 or 2\"}\n");
    let published = publish(&home).await;
    let said = timeout(SOON, ask(&home, b"{\"command\":\"status\"}\n".to_vec())).await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["ok"]["identity"]["device_id"], "d1");
    assert!(agent.is_running().unwrap());
    agent.terminate().unwrap();
    assert!(agent.wait_exit(Duration::from_secs(5)).await.unwrap().success());
    rows.len() + BAD.len() + 1 + published
}

async fn ask(home: &Home, request: Vec<u8>) -> String {
    let mut client = UnixStream::connect(home.path().join("run/iot-agent.sock")).await.unwrap();
    // The daemon may hang up before all is said.
    let said = client.write_all(&request).await;
    if said.is_ok() {
        client.shutdown().await.ok();
    }
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.ok();
    String::from_utf8(answer).unwrap()
}
