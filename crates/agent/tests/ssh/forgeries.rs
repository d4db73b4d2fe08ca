//! I3: replays and forgeries of each kind. None opens anything.

use std::time::Duration;

use serde_json::{Value, json};
use testkit::{
    client::publish_lines,
    proxy::{Faults, Link},
};

use crate::{
    story::{Story, answers},
    support::{SOON, proof, tier, wait_status},
};

/// How long looking at so many may take.
const LONG: Duration = Duration::from_secs(180);
const PAST: &str = "2020-01-01T00:00:00Z";

/// What is sent to a topic, the n-th of its kind.
struct Kind<'a> {
    name: &'static str,
    topic: &'static str,
    payload: Box<dyn Fn(usize) -> String + 'a>,
}

/// One request that was opened and closed, one that is open, and what somebody may make of them.
fn kinds(story: &Story) -> Vec<Kind<'_>> {
    let request = |id: String, more: Value| {
        let mut request = json!({ "request_id": id, "lport": story.echo, "rport": 0 });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request.to_string()
    };
    let mut kinds = Vec::new();
    let mut add =
        |name, topic, payload: Box<dyn Fn(usize) -> String>| kinds.push(Kind { name, topic, payload });
    let own = "iot/d1/ssh";
    let good = request("good".to_owned(), json!({}));
    let cut = good.clone();
    add("replayed", own, Box::new(move |_| good.clone()));
    add("of what is open", own, Box::new(move |_| request("open".to_owned(), json!({}))));
    let other = |n: usize| {
        [
            json!({ "rport": 40_000 + n % 1000 }),
            json!({ "lport": 22 }),
            json!({ "lhost": "localhost" }),
            json!({ "backend_port": 22 }),
            json!({ "ttl_s": 1 + n }),
            json!({ "expires_at": "2999-01-01T00:00:00Z" }),
            json!({ "server_id": format!("s{n}") }),
        ][n % 7]
            .clone()
    };
    add("with another body", own, Box::new(move |n| request("good".to_owned(), other(n))));
    let target = |n: usize| {
        [json!({ "lport": 22 }), json!({ "lhost": "localhost" }), json!({ "lhost": "10.0.0.1" })][n % 3]
            .clone()
    };
    add("to another target", own, Box::new(move |n| request(format!("t{n}"), target(n))));
    let backend =
        |n: usize| [json!({ "backend_host": "evil.example" }), json!({ "backend_port": 22 })][n % 2].clone();
    add("by another server", own, Box::new(move |n| request(format!("b{n}"), backend(n))));
    add("refused before", own, Box::new(move |n| request(format!("{}{n}", ["t", "b"][n % 2]), json!({}))));
    add("expired", own, Box::new(move |n| request(format!("e{n}"), json!({ "expires_at": PAST }))));
    let device = |n: usize| json!({ "device_id": format!("d{}", 1 + n % 2) });
    add("with a device", own, Box::new(move |n| request(format!("d{n}"), device(n))));
    add("cut", own, Box::new(move |n| cut[..n % cut.len()].to_owned()));
    let close = |n: usize| json!({ "request_id": format!("c{n}"), "close": true }).to_string();
    add("ends of what is not there", own, Box::new(close));
    add("ended before it came", own, Box::new(move |n| request(format!("c{n}"), json!({}))));
    add("for another device", "iot/d2/ssh", Box::new(move |n| request(format!("o{n}"), json!({}))));
    add("on the status", "iot/d1/ssh/status", Box::new(move |n| request(format!("s{n}"), json!({}))));
    kinds
}

/// Nothing but what was opened at first has ever been.
fn nothing_more(story: &Story, what: &str) {
    // `good` and `open`.
    assert_eq!(story.listened(), 2, "{what}: something was opened");
}

#[tokio::test]
async fn prove_i3_replays_and_forgeries_of_requests() {
    let each = if tier() > 1 { 10_000 } else { 200 };
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let port = open_two(&story).await;
    let kinds = kinds(&story);
    for kind in &kinds {
        let lines: Vec<String> = (0..each).map(&kind.payload).collect();
        publish_lines(&story.broker, kind.topic, &lines, 1).await.unwrap();
        story.caught_up(&format!("after {}", kind.name), LONG).await;
        nothing_more(&story, kind.name);
    }
    // None of it had to do with the one that is open.
    answers(port, "hello").await;
    assert!(story.ends("open").is_empty(), "{:?}", story.ends("open"));
    assert_eq!(story.ends("good").len(), 1);
    let executed = story.listened() - 2;
    proof(
        "i3-ssh-forged",
        &format!("wanted=executed:0 kinds={} each={each} executed={executed}", kinds.len()),
    );
}

/// Opens one and closes it, and another one that stays; its port.
async fn open_two(story: &Story) -> u16 {
    story.open("good", json!({})).await;
    story.close("good").await;
    story.end("good").await;
    story.open("open", json!({})).await
}

/// What is old stays old in the next life, and in that after it, each ended by SIGKILL.
#[tokio::test]
async fn prove_i3_replays_to_later_lives() {
    let (lives, each) = if tier() > 1 { (20, 500) } else { (2, 100) };
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    open_two(&story).await;
    story.ask("refused", json!({ "lport": 1 })).await;
    story.end("refused").await;
    let ids = ["good", "open", "refused"];
    let line = |id| json!({ "request_id": id, "lport": story.echo, "rport": 0 }).to_string();
    let lines: Vec<String> = ids.iter().cycle().take(each).map(line).collect();
    for life in 0..lives {
        // While they arrive.
        let publish = publish_lines(&story.broker, "iot/d1/ssh", &lines, 1);
        let (published, killed) = tokio::join!(publish, agent.kill());
        published.unwrap();
        killed.unwrap();
        agent = story.online().await;
        story.caught_up(&format!("life {life}"), LONG).await;
        nothing_more(&story, &format!("life {life}"));
    }
    assert_eq!(story.end("open").await["reason"], "interrupted");
    for id in ids {
        assert_eq!(story.ends(id).len(), 1, "{:#?}", story.ends(id));
    }
    let executed = story.listened() - 2;
    proof(
        "i3-ssh-lives",
        &format!("wanted=executed:0 lives={lives} replayed={} executed={executed}", lives * each),
    );
}

/// What the broker sends again, with DUP set, since no acknowledgement has reached it.
#[tokio::test]
async fn prove_i3_what_is_delivered_again() {
    let rounds = if tier() > 1 { 50 } else { 3 };
    let story = Story::begin("").await;
    let line = story.line_to_broker().await;
    let _agent = story.online().await;
    open_two(&story).await;
    for round in 0..rounds {
        let deaf = Link { blackhole: true, ..Link::default() };
        line.set(Faults { up: deaf, ..Faults::default() });
        // New ones, each of which may be opened once; and old ones.
        let new = format!("new{round}");
        let request = |id: &str| json!({ "request_id": id, "lport": story.echo, "rport": 0 }).to_string();
        let lines = [request(&new), request("good"), request("open"), request(&new)];
        publish_lines(&story.broker, "iot/d1/ssh", &lines, 1).await.unwrap();
        // Which nobody is told meanwhile.
        let open = |status: &Value| {
            status["tunnels"].as_array().is_some_and(|open| open.iter().any(|open| open["request_id"] == new))
        };
        wait_status(&story.home, open).await;
        line.heal();
        line.reset_all();
        story.close(&new).await;
        story.end(&new).await;
        story.caught_up(&format!("after {round}"), SOON).await;
        wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
        assert_eq!(story.ends(&new).len(), 1, "{:#?}", story.ends(&new));
        assert_eq!(story.listened(), 3 + round, "round {round}");
    }
    let again = story
        .broker
        .log()
        .lines()
        .filter(|line| line.contains("(d1, q1") && line.contains("iot/d1/ssh'"))
        .count();
    let executed = story.listened() - 2 - rounds;
    let figures = format!(
        "wanted=executed_twice:0,dup:>={rounds} rounds={rounds} dup={again} executed_twice={executed}"
    );
    proof("i3-ssh-dup", &figures);
    assert!(again >= rounds, "{again} were sent again");
}
