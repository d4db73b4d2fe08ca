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
    let said = timeout(SOON, ask(&home, b"{\"command\":\"status\"}\n".to_vec())).await.unwrap();
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["ok"]["identity"]["device_id"], "d1");
    assert!(agent.is_running().unwrap());
    agent.terminate().unwrap();
    assert!(agent.wait_exit(Duration::from_secs(5)).await.unwrap().success());
    rows.len()
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
