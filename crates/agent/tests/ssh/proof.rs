//! S2 to S5 and L3: what holds under many requests, and in time.

use std::time::Duration;

use serde_json::json;
use testkit::{Process, procfs};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    story::{Story, echo, gone},
    support::{SOON, proof, tier},
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

/// Each is closed when its time is over, also while it is used; and is gone when the agent is.
#[tokio::test]
async fn prove_s4_none_outlives_its_time_or_the_agent() {
    let rounds = if tier() > 1 { 20 } else { 2 };
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    let (ttl, mut late, mut after_kill) = (Duration::from_secs(1), Duration::ZERO, Duration::ZERO);
    for n in 0..rounds {
        let id = format!("ttl{n}");
        let asked = Instant::now();
        let port = story.open(&id, json!({ "ttl_s": ttl.as_secs() })).await;
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        while stream.write_all(&[7; 1000]).await.is_ok()
            && stream.read(&mut [0; 1000]).await.is_ok_and(|n| n > 0)
        {}
        gone(port, SOON).await;
        late = late.max(asked.elapsed().saturating_sub(ttl));
        let end = story.end(&id).await;
        assert_eq!(end["reason"], "ttl", "{end}");
        assert!(end["duration_ms"].as_u64() >= Some(1000), "{end}");
        let port = story.open(&format!("kill{n}"), json!({})).await;
        let killed = Instant::now();
        agent.kill().await.unwrap();
        gone(port, SOON).await;
        after_kill = after_kill.max(killed.elapsed());
        agent = story.online().await;
    }
    let (late, after_kill) = (late.as_millis(), after_kill.as_millis());
    let wanted = "wanted=late_ms<=2000,after_kill_ms<=5000";
    proof("s4", &format!("{wanted} rounds={rounds} late_ms={late} after_kill_ms={after_kill}"));
    assert!(late <= 2000 && after_kill <= 5000, "{late} {after_kill}");
}

/// One tunnel with traffic on several connections, which ends in one of the ways in which it can.
async fn work(story: &Story, id: &str, n: usize) {
    let ttl = if n % 5 == 4 { json!({ "ttl_s": 0.5 }) } else { json!({}) };
    let port = story.open(id, ttl).await;
    let talk = async |_| {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
        let (mut read, mut write) = stream.split();
        let send = async {
            write.write_all(&[7; 100_000]).await.ok();
            write.shutdown().await.ok();
        };
        let mut back = Vec::new();
        let receive = read.read_to_end(&mut back);
        // One whose time is over breaks off.
        drop(tokio::join!(send, receive));
    };
    tokio::join!(talk(1), talk(2), talk(3), talk(4));
    if n % 5 != 4 {
        story.close(id).await;
    }
    story.end(id).await;
    story.ask(&format!("{id}-no"), json!({ "lport": 1 })).await;
    story.end(&format!("{id}-no")).await;
}

/// A day's work: tunnels with traffic, four at a time, their ends, and what is refused.
#[tokio::test]
async fn prove_l3_a_day_of_tunnels_leaves_nothing() {
    let rounds = if tier() > 1 { 250 } else { 10 };
    let story = Story::begin("").await;
    let agent = story.online().await;
    let usage = || procfs::usage(agent.pid()).unwrap();
    let mut before = usage();
    for n in 0..rounds {
        let ids: Vec<String> = (0..4).map(|m| format!("r{n}-{m}")).collect();
        let [a, b, c, d] = &ids[..] else { unreachable!("four") };
        tokio::join!(
            work(&story, a, n),
            work(&story, b, n + 1),
            work(&story, c, n + 2),
            work(&story, d, n + 3)
        );
        if n == rounds / 5 {
            idle(&story, &agent).await;
            before = usage();
        }
    }
    idle(&story, &agent).await;
    let after = usage();
    let grown = (after.rss as f64 / before.rss as f64 - 1.0) * 100.0;
    let figures = format!(
        "wanted=fds:+-2,threads:+-0,rss:<=+10% tunnels={} fds={:+} threads={:+} rss={grown:+.1}% rss_kib={}",
        4 * rounds,
        after.fds as i64 - before.fds as i64,
        after.threads as i64 - before.threads as i64,
        after.rss >> 10,
    );
    proof("l3-ssh", &figures);
    assert!(
        after.fds.abs_diff(before.fds) <= 2 && after.threads == before.threads && grown <= 10.0,
        "{figures}"
    );
}

/// No connection to the server is left, and no thread but the two that are always there: one that has waited for the disk
/// goes when it has had nothing to do for ten seconds.
async fn idle(story: &Story, agent: &Process) {
    until("the server is still connected", SOON, || story.server.connections().is_empty()).await;
    until("threads stay", Duration::from_secs(40), || threads(agent) <= 2).await;
}
