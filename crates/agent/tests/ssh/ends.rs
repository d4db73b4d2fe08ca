//! How tunnels come to be and end.

use std::time::Duration;

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    story::{Story, answers, gone, port},
    support::{SOON, command::run, stop, wait_status},
};

#[tokio::test]
async fn one_is_opened_used_listed_and_closed() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let port = story.open("a", json!({})).await;
    answers(port, "hello").await;
    wait_status(&story.home, |status| {
        let tunnel = &status["tunnels"][0];
        tunnel["request_id"] == "a"
            && tunnel["rport"] == port
            && tunnel["bytes_in"] == 5
            && tunnel["channels"] == 0
    })
    .await;
    let counted = |message: &testkit::client::Message| message.json().is_ok_and(|said| said["tunnels"] == 1);
    story.watcher.messages().find(counted, SOON).await.unwrap();
    let list = run(&story.home, &["ssh", "list"], "").await;
    assert!(list.out.contains(&format!("port {port} to 127.0.0.1:{}", story.echo)), "{list:#?}");
    let status = run(&story.home, &["status"], "").await;
    assert!(status.out.contains("tunnel        a  127.0.0.1:"), "{status:#?}");
    story.close("a").await;
    let end = story.end("a").await;
    assert_eq!((&end["state"], &end["reason"]), (&json!("closed"), &json!("requested")));
    assert_eq!((&end["bytes_in"], &end["bytes_out"], &end["rport"]), (&json!(5), &json!(5), &json!(port)));
    assert!(end["duration_ms"].is_u64() && end["lport"] == story.echo, "{end}");
    gone(port, SOON).await;
    assert_eq!(run(&story.home, &["ssh", "list", "--json"], "").await.out, "");
}

#[tokio::test]
async fn the_command_line_closes_one() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let port = story.open("a", json!({})).await;
    run(&story.home, &["ssh", "close", "a"], "").await.assert(0, "a: is being closed\n");
    assert_eq!(story.end("a").await["reason"], "requested");
    gone(port, SOON).await;
    let other = run(&story.home, &["ssh", "close", "b"], "").await;
    assert_eq!(other.code, 1, "{other:#?}");
    other.assert_said("no tunnel b is known here");
}

/// S4: its time is over; what goes through it does not keep it open.
#[tokio::test]
async fn its_time_ends_it() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let port = story.open("a", json!({ "ttl_s": 1.5 })).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"x").await.unwrap();
    let end = story.end("a").await;
    assert_eq!(end["reason"], "ttl");
    let took = end["duration_ms"].as_u64().unwrap();
    assert!((1500..3500).contains(&took), "{took} ms");
    gone(port, Duration::from_secs(2)).await;
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.unwrap().ok();
}

#[tokio::test]
async fn no_request_gets_more_time_than_the_owner_gives() {
    let story = Story::begin(", max_ttl: 1s").await;
    let _agent = story.online().await;
    story.open("a", json!({ "ttl_s": 3600 })).await;
    story.open("b", json!({})).await;
    for id in ["a", "b"] {
        assert_eq!(story.end(id).await["reason"], "ttl", "{id}");
    }
}

#[tokio::test]
async fn one_that_is_not_used_is_closed_and_one_that_is_stays() {
    let story = Story::begin(", idle_timeout: 1s").await;
    let _agent = story.online().await;
    let (used, _) = (story.open("used", json!({})).await, story.open("idle", json!({})).await);
    let mut stream = TcpStream::connect(("127.0.0.1", used)).await.unwrap();
    let end = story.end("idle").await;
    assert_eq!(end["reason"], "idle");
    // Nothing was said through it for as long.
    stream.write_all(b"x").await.unwrap();
    timeout(SOON, stream.read_exact(&mut [0; 1])).await.unwrap().unwrap();
    assert_eq!(story.states("used"), ["open"]);
    drop(stream);
    assert_eq!(story.end("used").await["reason"], "idle");
}

#[tokio::test]
async fn a_server_that_is_killed_ends_them_and_is_used_again() {
    let mut story = Story::begin("").await;
    let _agent = story.online().await;
    for id in ["a", "b"] {
        story.open(id, json!({})).await;
    }
    story.server.kill();
    for id in ["a", "b"] {
        let reason = story.end(id).await["reason"].to_string();
        assert!(reason.starts_with("\"connection lost: "), "{reason}");
    }
    story.ask("c", json!({})).await;
    assert_eq!(story.end("c").await["state"], "failed");
    story.server.start().await.unwrap();
    answers(story.open("d", json!({})).await, "again").await;
}

/// L1.
#[tokio::test]
async fn sigterm_closes_them_and_tells() {
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    let port = story.open("a", json!({})).await;
    answers(port, "hello").await;
    stop(&mut agent, "open").await;
    let end = story.end("a").await;
    assert_eq!(
        (&end["state"], &end["reason"], &end["bytes_in"]),
        (&json!("closed"), &json!("shutdown"), &json!(5))
    );
    gone(port, Duration::from_secs(5)).await;
    assert_eq!(story.ends("a").len(), 1);
}

#[tokio::test]
async fn a_port_that_is_asked_for_is_the_one() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let first = port(&{
        story.open("a", json!({})).await;
        story.said(Some("a"))[0].clone()
    });
    // In use there.
    story.ask("b", json!({ "rport": first })).await;
    let end = story.end("b").await;
    assert_eq!((&end["state"], &end["rport"]), (&json!("failed"), &json!(first)));
    assert!(end["reason"].to_string().contains("in use"), "{end}");
    story.close("a").await;
    story.end("a").await;
    gone(first, SOON).await;
    assert_eq!(story.open("c", json!({ "rport": first })).await, first);
}
