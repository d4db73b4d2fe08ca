//! The owner's part: policy, key, settings.

use serde_json::json;
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::{
    story::{Story, answers, gone, services},
    support::{Home, SOON, command::run, wait_status},
};

#[tokio::test]
async fn the_policy_has_the_last_word() {
    let story = Story::with("", "policy: policy.yaml\n", "").await;
    let _agent = story.online().await;
    story.ask("a", json!({})).await;
    let end = story.end("a").await;
    assert_eq!(end["state"], "refused");
    assert!(end["reason"].as_str().unwrap().starts_with("policy: "), "{end}");
    let allowed = format!("ssh: {{allow: true, targets: [\"127.0.0.1:{}\"]}}\n", story.echo);
    story.home.file("policy.yaml", &allowed, 0o644);
    answers(story.open("b", json!({})).await, "hello").await;
    let audit = run(&story.home, &["audit", "verify"], "").await;
    assert_eq!(audit.code, 0, "{audit:#?}");
}

/// A policy that changes counts for what is open, too; while it is being written it does not.
#[tokio::test]
async fn what_the_policy_takes_back_is_closed() {
    let other = crate::story::echo().await;
    let story = Story::with(", targets: ['127.0.0.1:*']", "policy: policy.yaml\n", "").await;
    let allow = |ports: &[u16]| {
        let targets: Vec<String> = ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let policy = format!("ssh: {{allow: true, targets: [{}]}}\n", targets.join(", "));
        story.home.file("policy.yaml", &policy, 0o644);
    };
    allow(&[story.echo, other]);
    let _agent = story.online().await;
    let stays = story.open("stays", json!({})).await;
    let goes = story.open("goes", json!({ "lport": other })).await;
    let mut used = tokio::net::TcpStream::connect(("127.0.0.1", goes)).await.unwrap();
    allow(&[story.echo]);
    let end = story.end("goes").await;
    assert_eq!(end["state"], "closed");
    assert!(end["reason"].as_str().unwrap().starts_with("policy: "), "{end}");
    let mut rest = Vec::new();
    timeout(SOON, used.read_to_end(&mut rest)).await.unwrap().ok();
    gone(goes, SOON).await;
    answers(stays, "hello").await;
    // A file that cannot be read allows nothing.
    std::fs::remove_file(story.home.path().join("policy.yaml")).unwrap();
    let end = story.end("stays").await;
    assert!(end["reason"].as_str().unwrap().starts_with("policy: the policy cannot be used"), "{end}");
    gone(stays, SOON).await;
}

/// It is made once, is the owner's alone, and the birth has its public half.
#[tokio::test]
async fn the_key_is_made_and_shown() {
    use std::os::unix::fs::PermissionsExt as _;
    let story = Story::begin("").await;
    let printed = run(&story.home, &["ssh", "key"], "").await.out;
    assert!(printed.starts_with("ssh-ed25519 AAAA"), "{printed}");
    let file = story.home.path().join("state/ssh/id_ed25519");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let _agent = story.online().await;
    let birth = |message: &testkit::client::Message| {
        let said = message.json().unwrap_or_default();
        message.topic == "iot/d1/status" && said["ssh_public_key"] == printed.trim()
    };
    story.watcher.messages().find(birth, SOON).await.unwrap();
    assert_eq!(run(&story.home, &["ssh", "key"], "").await.out, printed);
}

#[tokio::test]
async fn no_known_host_key_is_a_bad_configuration() {
    let story = Story::begin("").await;
    let text = services(&story.server, story.echo, "").replace(", known_hosts: known_hosts", "");
    let home = Home::new("mqtt://127.0.0.1:1").device("d1").yaml(&text);
    let checked = run(&home, &["config", "check"], "").await;
    assert_eq!(checked.code, 78, "{checked:#?}");
    checked.assert_said("services.ssh.known_hosts: no host key of a server is known");
    let home = Home::new("mqtt://127.0.0.1:1")
        .yaml("services:\n  registration: {device_secret_file: psk}\n  ssh: {enabled: true, ssh_user: x}\n");
    let checked = run(&home, &["config", "check"], "").await;
    assert_eq!(checked.code, 78, "{checked:#?}");
    checked.assert_said("services.ssh.backend_host: must be set");
}

/// `config check` refuses such a file. An agent that runs with one goes on, says what is missing, and logs in nowhere.
#[tokio::test]
async fn what_the_settings_lack_is_said_to_every_request() {
    let mut story = Story::begin("").await;
    let unenrolled = Home::new("mqtt://127.0.0.1:1")
        .yaml("services:\n  registration: {device_secret_file: psk}\n  ssh: {enabled: true}\n");
    let mut agent = unenrolled.start();
    wait_status(&unenrolled, |status| status["services"]["ssh"]["state"] == "degraded").await;
    agent.kill().await.unwrap();
    let (whole, user) = (services(&story.server, story.echo, ""), story.server.user());
    for (n, (key, reason)) in [
        (format!(", ssh_user: {user}"), "services.ssh.ssh_user: must be set: the user on the SSH server"),
        (", known_hosts: known_hosts".to_owned(), "no host key of a server is known"),
    ]
    .iter()
    .enumerate()
    {
        story.home = Home::new(&format!("mqtt://127.0.0.1:{}", story.broker.port()))
            .device("d1")
            .yaml(&whole.replace(key, ""));
        story.home.file("known_hosts", "", 0o644);
        let mut agent = story.online().await;
        let degraded = |status: &serde_json::Value| {
            let ssh = &status["services"]["ssh"];
            ssh["state"] == "degraded" && ssh["detail"].as_str().is_some_and(|said| said.contains(reason))
        };
        wait_status(&story.home, degraded).await;
        // The key was there and is shown; it is not read for each request.
        std::fs::remove_file(story.home.path().join("state/ssh/id_ed25519")).unwrap();
        for m in 0..3 {
            let id = format!("{n}-{m}");
            story.ask(&id, json!({})).await;
            let end = story.end(&id).await;
            assert_eq!(end["state"], "failed", "{end}");
            assert!(end["reason"].as_str().unwrap().contains(reason), "{end}");
        }
        assert!(!story.home.path().join("state/ssh/id_ed25519").exists());
        wait_status(&story.home, degraded).await;
        agent.kill().await.unwrap();
    }
    assert_eq!(story.server.log().matches("userauth-request").count(), 0, "{}", story.server.log());
}

#[tokio::test]
async fn an_end_that_is_wanted_of_what_is_not_known_is_answered_in_its_own_words() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    story.close("a").await;
    let end = story.end("a").await;
    let reason = "not known here, so there is nothing to close; and no tunnel will be opened under this id";
    assert_eq!((&end["state"], &end["reason"]), (&json!("refused"), &json!(reason)));
    let closed = run(&story.home, &["ssh", "close", "b"], "").await;
    closed.assert_said("no tunnel b is known here");
    // The first came over the wire, and stands.
    story.ask("a", json!({})).await;
    story.hears(Some("a"), 2).await;
    assert_eq!(story.ends("a"), [end]);
    answers(story.open("b", json!({})).await, "hello").await;
}
