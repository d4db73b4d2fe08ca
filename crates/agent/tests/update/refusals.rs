//! What is never installed, and what is said of it.

use std::fs;

use serde_json::{Value, json};

use crate::{
    story::{Builder, Story, sha256},
    support::wait_status,
};

/// Asks, and it fails with these words in its reason; nothing of the version in use changes.
async fn refused(story: &Story, id: &str, request: &Value, said: &str) {
    story.send(request.to_string()).await;
    let end = story.end(id).await;
    assert_eq!(end["state"], "failed", "{id}: {end}");
    assert!(end["error"].as_str().unwrap().contains(said), "{said:?}: {end}");
    assert_eq!(story.version().as_deref(), Some("1.5.0"), "{id}");
}

#[tokio::test]
async fn each_has_its_reason() {
    let story =
        Story::begin(", hardware_id: board-1, max_retry_attempts: 0, download: {max_size: 1MiB}").await;
    let _agent = story.online().await;
    let good = story.package("1.5.0", &[], &[]);
    assert_eq!(story.update("good", "1.5.0", &good).await["state"], "success");

    let stranger = Builder::new();
    let target = story.target();
    let foreign = stranger.package("1.6.0", &[], &["--target", target.to_str().unwrap()]);
    let table = [
        (story.package("1.4.9", &[], &[]), "1.4.9", "1.5.0"),
        (story.package("1.6.1", &[], &["--hardware-id", "board-2"]), "1.6.1", "board-2"),
        (story.package("1.6.2", &[], &["--min-version", "1.5.1"]), "1.6.2", "1.5.1"),
        (story.package("1.6.3", &[], &[]), "1.6.4", "1.6.3"),
        (foreign, "1.6.0", "key"),
    ];
    for (at, (file, version, said)) in table.iter().enumerate() {
        let id = format!("table-{at}");
        let request = story.request(&id, version, file).await;
        refused(&story, &id, &request, said).await;
    }

    let sound = story.package("2.0.0", &[], &[]);
    let request = story.request("x", "2.0.0", &sound).await;
    let with = |id: &str, key: &str, value: Value| {
        let mut request = request.clone();
        request["update_id"] = id.into();
        request[key] = value;
        request
    };
    let size = request["size"].as_u64().unwrap();
    for (id, key, value, said) in [
        ("sha", "sha256", json!(sha256(b"other")), "SHA-256"),
        ("long", "size", json!(size + 1), ""),
        ("short", "size", json!(size - 1), ""),
        ("huge", "size", json!(2_u64 << 20), "download.max_size"),
        ("gone", "expires_at", json!("2026-01-01T00:00:00Z"), "expired"),
        ("word", "version", json!("latest"), "no semantic version"),
        ("none", "version", json!(null), "version: missing"),
        ("file", "update_url", json!("file:///etc/passwd"), "update_url: "),
        ("http", "update_url", json!("http://updates.example/x"), "update_url: "),
    ] {
        refused(&story, id, &with(id, key, value), said).await;
    }

    // Damaged on the way, by whoever then says what it is now.
    let mut damaged = fs::read(&sound).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 4;
    let file = story.builder.write("damaged.pkg", &damaged, 0o644);
    let request = story.request("damaged", "2.0.0", &file).await;
    refused(&story, "damaged", &request, "").await;
    let file = story.builder.write("cut.pkg", &damaged[..middle], 0o644);
    let request = story.request("cut", "2.0.0", &file).await;
    refused(&story, "cut", &request, "").await;

    // The other content under the version that is in use, and older software that is signed for it.
    let other = story.package("1.5.0", &[("more", "")], &[]);
    let request = story.request("other", "1.5.0", &other).await;
    refused(&story, "other", &request, "1.5.0").await;
    let older = story.package("1.0.0", &[], &["--allow-downgrade"]);
    assert_eq!(story.update("older", "1.0.0", &older).await["state"], "success");
    assert_eq!(story.version().as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn without_keys_or_against_the_policy_nothing_comes_in() {
    let story = Story::begin(", trusted_keys: []").await;
    let package = story.package("1.0.0", &[], &[]);
    let mut agent = story.online().await;
    let status = story.home.status().unwrap();
    assert_eq!(status["services"]["update"]["state"], "degraded");
    let detail = status["services"]["update"]["detail"].as_str().unwrap();
    assert!(detail.contains("no trusted keys"), "{detail}");
    let end = story.update("u1", "1.0.0", &package).await;
    assert!(end["error"].as_str().unwrap().contains("no trusted keys"), "{end}");
    assert_eq!(story.fetched(), 0);
    crate::support::stop(&mut agent, "degraded").await;

    let story = Story::with("", "policy: policy.yaml\n").await;
    story.home.file("policy.yaml", "update: {allow: false}\n", 0o644);
    let package = story.package("1.0.0", &[], &[]);
    let _agent = story.online().await;
    let end = story.update("u1", "1.0.0", &package).await;
    assert!(end["error"].as_str().unwrap().contains("policy"), "{end}");
    assert_eq!((story.fetched(), story.version()), (0, None));
    story.home.file("policy.yaml", "update: {allow: true}\n", 0o644);
    assert_eq!(story.update("u2", "1.0.0", &package).await["state"], "success");
    wait_status(&story.home, |status| status["services"]["update"]["state"] == "running").await;
}

#[tokio::test]
async fn what_cannot_be_read_is_answered_where_it_has_an_id() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    for payload in ["", "{", "[]", "{\"version\": \"1.0.0\"}", "{\"update_id\": 5}"] {
        story.send(payload).await;
    }
    story.send(json!({"update_id": "a/b", "version": "1.0.0"}).to_string()).await;
    let end = story.end("a/b").await;
    assert!(end["error"].as_str().unwrap().starts_with("update_id: "), "{end}");
    let status = wait_status(&story.home, |status| {
        status["services"]["update"]["counters"]["unreadable"].as_u64() == Some(5)
    })
    .await;
    assert_eq!(status["services"]["update"]["state"], "running");
    let package = story.package("1.0.0", &[], &[]);
    assert_eq!(story.update("u1", "1.0.0", &package).await["state"], "success");
}

#[tokio::test]
async fn a_lost_record_opens_no_way_back() {
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    let [old, new] = ["1.0.0", "2.0.0"].map(|version| story.package(version, &[], &[]));
    assert_eq!(story.update("new", "2.0.0", &new).await["state"], "success");
    let state = story.home.path().join("state/update");
    for (id, lost) in [("one", &["installed.json"][..]), ("both", &["installed.json", "floors.json"])] {
        agent.kill().await.unwrap();
        for name in lost {
            fs::write(state.join(name), "x").unwrap();
        }
        agent = story.online().await;
        let end = story.update(id, "1.0.0", &old).await;
        assert_eq!(end["state"], "failed", "{end}");
        assert!(end["error"].as_str().unwrap().contains("is older than 2.0.0"), "{end}");
        assert_eq!(story.version().as_deref(), Some("2.0.0"));
    }
}

#[tokio::test]
async fn another_software_does_not_come_where_one_lies() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let app = story.package("2.0.0", &[], &[]);
    let other = story.package("1.0.0", &[], &["--name", "other"]);
    assert_eq!(story.update("app", "2.0.0", &app).await["state"], "success");
    let end = story.update("other", "1.0.0", &other).await;
    assert!(end["error"].as_str().unwrap().contains("other needs a target of its own"), "{end}");
    assert_eq!(story.version().as_deref(), Some("2.0.0"));
}

/// What waits is not what has begun: the owner's last word and the end of its time still hold.
#[tokio::test]
async fn while_it_waits_it_may_be_forbidden_or_expire() {
    let story = Story::with(", hold_file: '{home}/hold'", "policy: policy.yaml\n").await;
    story.home.file("policy.yaml", "update: {allow: true}\n", 0o644);
    let hold = story.home.path().join("hold");
    let package = story.package("1.0.0", &[], &[]);
    let mut agent = story.online().await;
    fs::write(&hold, "").unwrap();
    story.ask("forbidden", "1.0.0", &package).await;
    story.wait("forbidden", |state| state == "waiting").await;
    let rollback = crate::support::command::run(&story.home, &["update", "rollback"], "").await;
    assert_eq!(rollback.code, 1);
    rollback.assert_said("another update is in hand");
    story.home.file("policy.yaml", "update: {allow: false}\n", 0o644);
    fs::remove_file(&hold).unwrap();
    let end = story.end("forbidden").await;
    assert!(end["error"].as_str().unwrap().contains("policy"), "{end}");

    story.home.file("policy.yaml", "update: {allow: true}\n", 0o644);
    fs::write(&hold, "").unwrap();
    let mut request = story.request("late", "1.0.0", &package).await;
    let clock = iot_agent::clock::Clock::new(iot_agent::clock::built(), None);
    let expires = clock.now() + std::time::Duration::from_secs(3);
    request["expires_at"] = protocol::Timestamp::from_system_time(expires).to_string().into();
    story.send(request.to_string()).await;
    story.wait("late", |state| state == "waiting").await;
    agent.kill().await.unwrap();
    crate::story::until("its time is over", || clock.now() > expires).await;
    fs::remove_file(&hold).unwrap();
    let _agent = story.online().await;
    let end = story.end("late").await;
    assert!(end["error"].as_str().unwrap().starts_with("expired"), "{end}");
    assert_eq!((story.fetched(), story.version()), (0, None));
}
