//! The owner's part: policy, key, settings.

use serde_json::json;

use crate::{
    story::{Story, answers},
    support::{SOON, command::run},
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
    let text =
        crate::story::services(&story.server, story.echo, "").replace(", known_hosts: known_hosts", "");
    let home = crate::support::Home::new("mqtt://127.0.0.1:1").device("d1").yaml(&text);
    let checked = run(&home, &["config", "check"], "").await;
    assert_eq!(checked.code, 78, "{checked:#?}");
    checked.assert_said("services.ssh.known_hosts: no host key of a server is known");
    let home = crate::support::Home::new("mqtt://127.0.0.1:1")
        .yaml("services:\n  registration: {device_secret_file: psk}\n  ssh: {enabled: true, ssh_user: x}\n");
    let checked = run(&home, &["config", "check"], "").await;
    assert_eq!(checked.code, 78, "{checked:#?}");
    checked.assert_said("services.ssh.backend_host: must be set");
}
