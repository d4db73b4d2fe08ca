//! The line is dead, or the server does not take us.

use std::time::Duration;

use serde_json::json;
use testkit::proxy::{Faults, Link};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

use crate::{
    story::{Story, answers, gone},
    support::{SOON, command::run, proof, tier, wait_status},
};

/// Bytes in both directions, for as long as they flow.
async fn load(port: u16) -> JoinHandle<()> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    tokio::spawn(async move {
        let send = async { while write.write_all(&[7; 64 << 10]).await.is_ok() {} };
        let receive = async {
            let mut buffer = vec![0; 64 << 10];
            while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        };
        tokio::join!(send, receive);
    })
}

/// Within three times `keep_alive`: at tier 2 with its default, 45 s. At tier 1 a busy machine gets a second more.
#[tokio::test]
async fn prove_s4_a_black_hole_in_mid_transfer_is_noticed() {
    let (keep_alive, more) = if tier() > 1 { (15_000, "") } else { (500, ", keep_alive: 500ms") };
    let wanted = Duration::from_millis(3 * keep_alive) + Duration::from_secs(u64::from(tier() == 1));
    let story = Story::begin(more).await;
    let line = story.line_to_server().await;
    let _agent = story.online().await;
    let (used, idle) = (story.open("used", json!({})).await, story.open("idle", json!({})).await);
    let load = load(used).await;
    line.wait(|stats| stats.up > 4 << 20 && stats.down > 4 << 20, SOON).await.unwrap();
    line.set(Faults::both(Link { blackhole: true, ..Link::default() }));
    let began = Instant::now();
    for id in ["used", "idle"] {
        let end = story.end_within(id, wanted + SOON).await;
        assert_eq!(end["state"], "closed", "{end}");
        let reason = end["reason"].as_str().unwrap();
        assert!(reason.starts_with("connection lost: ") && reason.contains("nothing was heard"), "{end}");
        assert!(id == "idle" || end["bytes_in"].as_u64() > Some(1 << 20), "{end}");
    }
    let noticed = began.elapsed();
    wait_status(&story.home, |status| status["tunnels"].as_array().is_none_or(Vec::is_empty)).await;
    line.heal();
    load.await.unwrap();
    for port in [used, idle] {
        gone(port, SOON).await;
    }
    answers(story.open("again", json!({})).await, "hello").await;
    let figures = format!("wanted=noticed_ms<={} noticed_ms={}", wanted.as_millis(), noticed.as_millis());
    proof("s4-black-hole", &figures);
    assert!(noticed <= wanted, "{noticed:?}");
}

#[tokio::test]
async fn a_key_that_is_not_taken_is_said_with_what_to_do() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    story.server.let_in("").unwrap();
    for id in ["a", "b"] {
        story.ask(id, json!({})).await;
        let end = story.end(id).await;
        assert_eq!(end["state"], "failed");
        let reason = end["reason"].as_str().unwrap();
        let todo = "put the line of its public key into that user's authorized_keys";
        assert!(reason.contains(&format!("key for {}; {todo}", story.server.user())), "{reason}");
    }
    let key = run(&story.home, &["ssh", "key"], "").await.out;
    story.server.let_in(&key).unwrap();
    answers(story.open("c", json!({})).await, "hello").await;
}

/// The user of the key may have this port only.
#[tokio::test]
async fn a_port_that_is_not_permitted_is_said_with_where_to_look() {
    let story = Story::begin("").await;
    let key = run(&story.home, &["ssh", "key"], "").await.out;
    let port = testkit::ports::free_port();
    let line = format!("restrict,port-forwarding,permitlisten=\"localhost:{port}\" {key}");
    story.server.let_in(&line).unwrap();
    let _agent = story.online().await;
    story.ask("a", json!({})).await;
    let end = story.end("a").await;
    assert_eq!(end["state"], "failed");
    assert!(end["reason"].as_str().unwrap().contains("or not permitted (AllowTcpForwarding"), "{end}");
    let opened = story.open("b", json!({ "rport": port })).await;
    assert_eq!(opened, port);
    answers(port, "hello").await;
}
