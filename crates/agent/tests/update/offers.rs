//! Updates that are found at a place rather than sent.

use std::fs;

use serde_json::{Value, json};
use testkit::web::{Answer, Web};

use crate::story::{Builder, Story, until};

/// The document and its signature, for so many looks.
fn offer(web: &Web, document: &Value, builder: &Builder, looks: usize) {
    let file = builder.write("device.json", document.to_string(), 0o644);
    let signature = builder.sign(&file, "an offer");
    for _ in 0..looks {
        web.answers([Answer::json(200, &document.to_string()), Answer::json(200, &signature)]);
    }
}

async fn looked(web: &Web, times: usize) {
    until("it looks", || web.requests().len() >= times).await;
}

#[tokio::test]
async fn what_is_offered_and_signed_is_installed_once() {
    let web = Web::start().await.unwrap();
    let story = Story::begin(&format!(
        ", update_url: '{}/device.json', update_interval: 200ms, hardware_id: board-1",
        web.url().trim_end_matches('/')
    ))
    .await;
    let package = story.package("1.0.0", &[], &[]);
    let mut document = story.request("unused", "1.0.0", &package).await;
    let id = document["sha256"].as_str().unwrap().to_owned();
    document.as_object_mut().unwrap().remove("update_id");

    // By nobody who is trusted, and for others.
    let stranger = Builder::new();
    offer(&web, &document, &stranger, 2);
    let mut others = document.clone();
    others["hardware_ids"] = json!(["board-2", "board-3"]);
    offer(&web, &others, &story.builder, 2);
    let _agent = story.online().await;
    looked(&web, 8).await;
    assert_eq!((story.said(&id).len(), story.fetched()), (0, 0));

    document["hardware_ids"] = json!(["board-1"]);
    offer(&web, &document, &story.builder, 20);
    let end = story.end(&id).await;
    assert_eq!(end["state"], "success", "{end}");
    assert_eq!(story.version().as_deref(), Some("1.0.0"));
    looked(&web, 20).await;
    assert_eq!((story.ends(&id).len(), story.fetched()), (1, 1));
    assert_eq!(story.states(&id).iter().filter(|state| *state == "success").count(), 1);
    let asked = &web.requests()[1].target;
    assert!(asked.ends_with("/device.json.minisig"), "{asked}");
}

#[tokio::test]
async fn one_that_failed_is_not_tried_again_not_even_by_the_next_process() {
    let web = Web::start().await.unwrap();
    let story = Story::begin(&format!(
        ", update_url: '{}/device.json', update_interval: 200ms, health: {{timeout: 1s}}",
        web.url().trim_end_matches('/')
    ))
    .await;
    let package = story.package("1.0.0", &[("health", "#!/bin/sh\nexit 1\n")], &["--health", "health"]);
    let document = story.request("unused", "1.0.0", &package).await;
    let id = document["sha256"].as_str().unwrap().to_owned();
    offer(&web, &document, &story.builder, 60);
    let mut agent = story.online().await;
    assert_eq!(story.end(&id).await["state"], "rolled_back");
    let before = web.requests().len();
    looked(&web, before + 6).await;
    agent.kill().await.unwrap();
    let _agent = story.online().await;
    let before = web.requests().len();
    looked(&web, before + 6).await;
    assert_eq!((story.ends(&id).len(), story.fetched()), (1, 1));
    assert!(fs::read_dir(story.target().join("versions")).unwrap().next().is_none());
}

#[tokio::test]
async fn what_the_owner_does_not_let_in_yet_is_let_in_later() {
    let web = Web::start().await.unwrap();
    let keys =
        format!(", update_url: '{}/device.json', update_interval: 200ms", web.url().trim_end_matches('/'));
    let story = Story::with(&keys, "policy: policy.yaml\n").await;
    story.home.file("policy.yaml", "update: {allow: false}\n", 0o644);
    let package = story.package("1.0.0", &[], &[]);
    let document = story.request("unused", "1.0.0", &package).await;
    let id = document["sha256"].as_str().unwrap().to_owned();
    offer(&web, &document, &story.builder, 60);
    let _agent = story.online().await;
    looked(&web, 6).await;
    assert_eq!((story.said(&id).len(), story.fetched()), (0, 0));
    story.home.file("policy.yaml", "update: {allow: true}\n", 0o644);
    assert_eq!(story.end(&id).await["state"], "success");
}
