//! What the device's owner allows, and what is written down of it.

use std::fs;

use serde_json::{Value, json};
use testkit::client::Message;

use crate::{
    story::Story,
    support::{SOON, command::run},
};

const POLICY: &str = r#"
command:
  named:
    say: {run: "printf '[%s]' {words} \"{words}\"", args: {words: "[^x]*"}}
  patterns: ["^uptime$", "^true$"]
"#;

fn policy(story: &Story, text: &str) {
    // As an editor saves it.
    story.home.file("policy.new", text, 0o600);
    fs::rename(story.file("policy.new"), story.file("policy.yaml")).unwrap();
}

async fn owned() -> Story {
    let story = Story::with("", "policy: policy.yaml\n").await;
    policy(&story, POLICY);
    story
}

async fn refused(story: &Story, id: &str, command: &str, why: &str) {
    story.order(id, command).await;
    let end = story.end(id).await;
    assert_eq!(end["status"], "rejected", "{end:#}");
    assert!(end["message"].as_str().unwrap().contains(why), "{end:#}");
}

#[tokio::test]
async fn only_what_the_owner_allows_is_run_and_a_value_is_one_word() {
    let story = owned().await;
    let _agent = story.online().await;
    story.order("allowed", "true").await;
    assert_eq!(story.end("allowed").await["status"], "success");
    refused(&story, "other", "touch here", "the policy does not allow this command").await;
    refused(&story, "lines", "true\ntouch here", "the policy allows only commands of one line").await;
    refused(&story, "missing", "say", "args: words is missing").await;
    let words = "a  b\n*; $(touch here) `touch here` \" ' \\";
    story.order_with("named", "say", json!({ "args": { "words": words } })).await;
    let end = story.end("named").await;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("success"), &json!(format!("[{words}][{words}]"))));
    story.order_with("wrong", "say", json!({ "args": { "words": "x" } })).await;
    assert_eq!(story.end("wrong").await["message"], "args: words is not what the policy allows");

    policy(&story, "command: {allow_any: true}");
    story.order("any", "touch there && pwd").await;
    assert_eq!(story.end("any").await["status"], "success");
    policy(&story, "command: {allow_any: true");
    refused(&story, "broken", "true", "the policy cannot be used: ").await;
    fs::remove_file(story.file("policy.yaml")).unwrap();
    refused(&story, "gone", "true", "the policy cannot be used: ").await;
    policy(&story, POLICY);
    story.order("mended", "true").await;
    assert_eq!(story.end("mended").await["status"], "success");
}

fn records(story: &Story) -> Vec<Message> {
    story.watcher.all().into_iter().filter(|message| message.topic == "iot/d1/audit").collect()
}

fn is_record(message: &Message, id: &str, decision: &str) -> bool {
    let record = message.json().unwrap_or_default();
    message.topic == "iot/d1/audit" && record["id"] == id && record["decision"] == decision
}

#[tokio::test]
async fn what_was_asked_refused_and_done_is_chained_and_sent_up() {
    let story = owned().await;
    let mut agent = story.online().await;
    story.order("good", "true").await;
    story.end("good").await;
    refused(&story, "bad", "false", "does not allow").await;
    for (id, decision) in [("good", "asked"), ("good", "done"), ("bad", "refused")] {
        let found = story.watcher.messages().find(|message| is_record(message, id, decision), SOON).await;
        found.unwrap_or_else(|error| panic!("{id} {decision}: {error}"));
    }
    let sent: Vec<String> = records(&story).iter().map(Message::text).collect();
    let first: Value = serde_json::from_str(&sent[0]).unwrap();
    assert_eq!((&first["seq"], &first["rule"]), (&json!(1), &json!("command.patterns[1]")), "{first:#}");
    assert_eq!(first["prev"], "0".repeat(64));

    let shown = run(&story.home, &["audit", "show", "--json"], "").await;
    shown.assert(0, &format!("{}\n", sent.join("\n")));
    let row = run(&story.home, &["audit", "show", "--id", "bad"], "").await;
    assert!(row.out.contains("  command  refused  bad") && row.out.lines().count() == 1, "{row:?}");
    let verified = run(&story.home, &["audit", "verify"], "").await;
    assert!(verified.code == 0 && verified.out.starts_with("3 records, whole, from 1 of "), "{verified:?}");
    // What the backend has kept, and what somebody would have liked it to be.
    let kept = shown.out.clone();
    run(&story.home, &["audit", "verify", "-"], &kept).await.assert(0, &verified.out);
    let changed = run(&story.home, &["audit", "verify", "-"], kept.replacen("good", "evil", 1)).await;
    changed.assert(1, "");
    changed.assert_said(
        "not whole, 1 records before it are: line 2: record 2 does not follow the record 1 that is here",
    );

    agent.terminate().unwrap();
    agent.wait_exit(SOON).await.unwrap();
    let log = story.file("state/audit/0000000001.log");
    let text = fs::read_to_string(&log).unwrap();
    fs::write(&log, text.replace("\"refused\"", "\"done\"")).unwrap();
    let changed = run(&story.home, &["audit", "verify"], "").await;
    assert!(changed.code == 1 && changed.errors.contains("not whole"), "{changed:?}");
    let _agent = story.online().await;
    story.order("later", "true").await;
    assert_eq!(story.end("later").await["status"], "success", "it goes on");
    let still = run(&story.home, &["audit", "verify"], "").await;
    assert_eq!(still.code, 1, "{still:?}");
}
