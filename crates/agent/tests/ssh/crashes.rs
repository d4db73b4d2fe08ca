//! The agent is killed in every state: never two tunnels for one request, and always one end.

use std::time::Duration;

use serde_json::json;
use testkit::Rng;
use tokio::time::sleep;

use crate::{
    story::{Story, gone},
    support::{proof, tier},
};

/// S4: gone at the server within five seconds, and the next life says so.
#[tokio::test]
async fn an_open_one_ends_with_the_agent_and_is_interrupted() {
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    let port = story.open("a", json!({})).await;
    agent.kill().await.unwrap();
    gone(port, Duration::from_secs(5)).await;
    let _agent = story.online().await;
    let end = story.end("a").await;
    assert_eq!((&end["state"], &end["reason"]), (&json!("closed"), &json!("interrupted")));
    story.ask("a", json!({})).await;
    story.hears(Some("a"), 3).await;
    assert_eq!((story.ends("a").len(), story.listened()), (1, 1));
}

/// While it is accepted, being opened, open, or being closed; each request comes more than once.
#[tokio::test]
async fn prove_i3_no_request_opens_two_tunnels() {
    let requests = if tier() > 1 { 60 } else { 8 };
    let seed = testkit::seed();
    let mut rng = Rng::new(seed);
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    for n in 0..requests {
        let id = format!("r{n}");
        story.ask(&id, json!({})).await;
        story.ask(&id, json!({})).await;
        if n % 4 == 3 {
            story.wait(&id, |_| true).await;
            story.close(&id).await;
        }
        sleep(Duration::from_millis(rng.below(150))).await;
        agent.kill().await.unwrap();
        agent = story.online().await;
        story.ask(&id, json!({})).await;
        // One that was not written down before is opened by its copy.
        story.close(&id).await;
    }
    let mut most = 0;
    for n in 0..requests {
        story.end(&format!("r{n}")).await;
        most = most.max(story.ends(&format!("r{n}")).len());
        // Each opening has a port of its own.
        let said = story.said(Some(&format!("r{n}")));
        let mut ports: Vec<u64> = said
            .iter()
            .filter(|said| said["state"] == "open")
            .filter_map(|said| said["rport"].as_u64())
            .collect();
        ports.dedup();
        assert!(ports.len() < 2, "{said:#?}; seed {seed}");
    }
    let listened = story.listened();
    let figures = format!("wanted=ends:1 requests={requests} ends={most} listened={listened} seed={seed}");
    proof("i3-ssh", &figures);
    assert_eq!(most, 1, "seed {seed}");
    assert!(listened <= requests, "{listened} of {requests}; seed {seed}");
}
