//! What is not opened, and why.

use serde_json::{Value, json};

use crate::{
    story::{Story, answers},
    support::wait_status,
};

async fn refused(story: &Story, id: &str, more: Value) -> String {
    story.ask(id, more).await;
    let end = story.end(id).await;
    assert_eq!(end["state"], "refused", "{end}");
    end["reason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_the_settings_do_not_allow_is_refused_with_the_reason() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    for (id, more, reason) in [
        ("a", json!({ "lport": 22 }), "target not allowed: 127.0.0.1:22 is not among"),
        ("b", json!({ "lhost": "localhost" }), "target not allowed: localhost:"),
        ("c", json!({ "lhost": "::1" }), "target not allowed: [::1]:"),
        ("d", json!({ "backend_host": "other" }), "backend not allowed: other:"),
        ("e", json!({ "backend_port": 1 }), "backend not allowed: 127.0.0.1:1 is not among"),
        ("f", json!({ "expires_at": "2001-01-01T00:00:00Z" }), "expired"),
        ("g", json!({ "lport": "22" }), "lport: expected a number"),
        ("h", json!({ "device_id": "d1" }), "device_id: has no place"),
        ("i", json!({ "server_id": "a/b" }), "server_id: an id must not contain"),
    ] {
        let said = refused(&story, id, more).await;
        assert!(said.starts_with(reason), "{id}: {said}");
    }
    // And then a good one works; nothing was ever asked of the server before.
    assert_eq!(story.listened(), 0);
    answers(story.open("z", json!({})).await, "hello").await;
    for unreadable in ["", "[]", "{}", r#"{"device_id":"d1","lport":1,"rport":2}"#, r#"{"close":true}"#] {
        story.send(unreadable).await;
    }
    wait_status(&story.home, |status| status["services"]["ssh"]["counters"]["unreadable"] == 5).await;
}

#[tokio::test]
async fn there_are_no_more_than_max_connections() {
    let story = Story::begin(", max_connections: 2").await;
    let _agent = story.online().await;
    story.open("a", json!({})).await;
    story.open("b", json!({})).await;
    assert!(refused(&story, "c", json!({})).await.starts_with("too many: max_connections is 2"));
    story.close("a").await;
    story.end("a").await;
    story.open("d", json!({})).await;
}

#[tokio::test]
async fn a_copy_opens_no_second_one() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let port = story.open("a", json!({})).await;
    story.ask("a", json!({})).await;
    story.hears(Some("a"), 2).await;
    let said = story.said(Some("a"));
    assert!(said.iter().all(|said| said["state"] == "open" && said["rport"] == port), "{said:#?}");
    story.close("a").await;
    let end = story.end("a").await;
    story.ask("a", json!({})).await;
    story.hears(Some("a"), 4).await;
    assert_eq!(story.ends("a"), [end]);
    assert_eq!(story.listened(), 1);
}

/// Its content stands for the id that it has not; also in the next life of the agent.
#[tokio::test]
async fn one_without_an_id_is_known_by_what_it_asks() {
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    let request = json!({ "lport": story.echo, "rport": 0 }).to_string();
    story.send(&request).await;
    story.hears(None, 1).await;
    story.send(&request).await;
    story.hears(None, 2).await;
    let said = story.said(None);
    assert_eq!((&said[0]["state"], &said[0]["rport"]), (&said[1]["state"], &said[1]["rport"]));
    assert_eq!(said[0]["request_id"], said[1]["request_id"]);
    agent.kill().await.unwrap();
    let _agent = story.online().await;
    let id = said[0]["request_id"].as_str().unwrap().to_owned();
    assert_eq!(story.end(&id).await["reason"], "interrupted");
    story.send(&request).await;
    story.hears(Some(&id), 4).await;
    assert_eq!((story.ends(&id).len(), story.listened()), (1, 1));
}

/// Of a server that is not who it should be nothing is taken, and nothing is given to it.
#[tokio::test]
async fn prove_s1_a_wrong_host_key_is_no_session() {
    let story = Story::begin("").await;
    let other = testkit::sshd::Sshd::plain().await.unwrap().host_key("ed25519").unwrap();
    let asked = if crate::support::tier() > 1 { 50 } else { 5 };
    let agent = story.online().await;
    for (n, known) in
        [format!("[127.0.0.1]:{} {other}\n", story.server.port()), String::new()].iter().enumerate()
    {
        story.home.file("known_hosts", known, 0o644);
        for m in 0..asked {
            let id = format!("{n}-{m}");
            story.ask(&id, json!({})).await;
            let end = story.end(&id).await;
            assert_eq!(end["state"], "failed", "{end}");
            assert!(end["reason"].to_string().contains("SHA256:"), "{end}");
        }
    }
    let sessions = story.server.log().matches("Accepted publickey").count();
    crate::support::proof("s1", &format!("wanted=sessions:0 asked={} sessions={sessions}", 2 * asked));
    assert_eq!(sessions, 0);
    assert!(agent.stderr.all().iter().any(|line| line.contains("NOT the one on file")));
}
