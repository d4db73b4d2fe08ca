//! S2, S3, S5, and replays: what holds under many requests.

use std::time::Duration;

use serde_json::json;
use testkit::Process;
use tokio::time::{Instant, sleep};

use crate::{
    story::{Story, echo},
    support::{proof, tier},
};

fn files(agent: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count()
}

fn threads(agent: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", agent.pid())).unwrap().count()
}

async fn until(what: &str, limit: Duration, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "{what} after {limit:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A flood: no more than the limit are open, all others are told.
#[tokio::test]
async fn prove_s2_a_flood_opens_no_more_than_the_limit() {
    let requests = if tier() > 1 { 1000 } else { 200 };
    let story = Story::begin("").await;
    let agent = story.online().await;
    let before = files(&agent);
    let line = |n| json!({ "request_id": format!("r{n}"), "lport": story.echo, "rport": 0 }).to_string();
    let lines: Vec<String> = (0..requests).map(line).collect();
    testkit::client::publish_lines(&story.broker, "iot/d1/ssh", &lines, 1).await.unwrap();
    until("not all are told", Duration::from_secs(60), || story.said(None).len() >= requests).await;
    let said = story.said(None);
    let open: Vec<_> = said.iter().filter(|said| said["state"] == "open").collect();
    let told = said.iter().filter(|said| said["reason"].to_string().contains("too many")).count();
    for said in &open {
        story.close(said["request_id"].as_str().unwrap()).await;
    }
    for said in &open {
        story.end(said["request_id"].as_str().unwrap()).await;
    }
    until("files stay open", Duration::from_secs(10), || files(&agent) <= before).await;
    let open = open.len();
    let figures = format!(
        "wanted=open:5,files:{before} requests={requests} open={open} refused={told} files={}",
        files(&agent)
    );
    proof("s2", &figures);
    assert_eq!((open, told), (5, requests - 5));
}

/// Whatever is asked, only what is allowed is dialled.
#[tokio::test]
async fn prove_s3_only_allowed_targets_are_dialled() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let other = echo().await;
    let hosts =
        ["127.0.0.1", "localhost", "::1", "127.0.0.2", "0.0.0.0", "127.1", "2130706433", "::ffff:127.0.0.1"];
    let mut refused = 0;
    for (n, host) in hosts.iter().enumerate() {
        let id = format!("r{n}");
        story.ask(&id, json!({ "lport": other, "lhost": host })).await;
        refused += usize::from(story.end(&id).await["state"] == "refused");
    }
    proof("s3", &format!("wanted=refused:{} refused={refused} listened={}", hosts.len(), story.listened()));
    assert_eq!((refused, story.listened()), (hosts.len(), 0));
}

/// Many, one after the other, leave nothing behind.
#[tokio::test]
async fn prove_s5_many_opened_and_closed_leave_nothing() {
    let rounds = if tier() > 1 { 1000 } else { 30 };
    let story = Story::begin("").await;
    let agent = story.online().await;
    // What is made once is there after the first.
    let mut before = (0, 0);
    for n in 0..=rounds {
        let id = format!("r{n}");
        crate::story::answers(story.open(&id, json!({})).await, "x").await;
        story.close(&id).await;
        story.end(&id).await;
        if n == 0 {
            until("the server is still connected", Duration::from_secs(10), || {
                story.server.connections().is_empty()
            })
            .await;
            before = (files(&agent), threads(&agent));
        }
    }
    // A thread that waits for the disk goes when it has had nothing to do for ten seconds.
    let as_before = || files(&agent) <= before.0 && threads(&agent) <= before.1;
    until("files or threads stay", Duration::from_secs(40), as_before).await;
    let after = (files(&agent), threads(&agent));
    proof(
        "s5",
        &format!(
            "wanted=files:{},threads:{} rounds={rounds} files={} threads={}",
            before.0, before.1, after.0, after.1
        ),
    );
    assert!(after.0 <= before.0 && after.1 <= before.1, "{before:?} {after:?}");
}
