//! What is not run, and why.

use serde_json::{Value, json};

use crate::{
    story::Story,
    support::{command::run, wait_status},
};

#[tokio::test]
async fn each_bad_order_has_its_reason_and_the_next_one_works() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let long = "x".repeat(200);
    let table: Vec<(Value, &str)> = vec![
        (json!({ "execution_id": "a/b", "command": "true" }), "execution_id: "),
        (json!({ "execution_id": "", "command": "true" }), "execution_id: "),
        (json!({ "execution_id": "$x", "command": "true" }), "execution_id: "),
        (json!({ "execution_id": "a+", "command": "true" }), "execution_id: "),
        (json!({ "execution_id": "a\nb", "command": "true" }), "execution_id: "),
        (json!({ "execution_id": long, "command": "true" }), "execution_id: "),
        (json!({ "execution_id": "r1" }), "command: missing"),
        (json!({ "execution_id": "r2", "command": 7 }), "command: expected a string, found a number"),
        (json!({ "execution_id": "r3", "command": " " }), "command: empty"),
        (json!({ "execution_id": "r4", "command": "a\0b" }), "command: contains a NUL"),
        (
            json!({ "execution_id": "r5", "command": "true", "timeout_s": "5" }),
            "timeout_s: expected a number",
        ),
        (json!({ "execution_id": "r6", "command": "true", "timeout_s": 0 }), "timeout_s: must be over 0"),
        (json!({ "execution_id": "r7", "command": "true", "timeout_s": -1 }), "timeout_s: must be over 0"),
        (json!({ "execution_id": "r8", "command": "true", "expires_at": "soon" }), "expires_at: "),
        (
            json!({ "execution_id": "r9", "command": "true", "expires_at": 17 }),
            "expires_at: expected a string",
        ),
        (json!({ "execution_id": "r10", "command": "true", "env": [] }), "env: expected an object"),
        (json!({ "execution_id": "r11", "command": "true", "env": { "A": 1 } }), "env.A: expected a string"),
        (json!({ "execution_id": "r12", "command": "true", "env": { "A=": "" } }), "env: \"A=\""),
        (json!({ "execution_id": "r13", "command": "true", "cwd": "tmp" }), "cwd: must be an absolute path"),
        (json!({ "execution_id": "r14", "command": "true", "stream": 1 }), "stream: expected true or false"),
        (json!({ "execution_id": "r15", "command": "true", "expect_reboot": "no" }), "expect_reboot: "),
        (json!({ "execution_id": "r16", "command": "true", "args": ["a"] }), "args: expected an object"),
        (json!({ "execution_id": "r17", "cancel": "yes" }), "cancel: expected true or false"),
        (json!({ "execution_id": "r18", "command": "true", "args": { "a": "b" } }), "args"),
    ];
    for (order, reason) in &table {
        story.send(order.to_string()).await;
        let end = story.end(order["execution_id"].as_str().unwrap()).await;
        assert_eq!(end["status"], "rejected", "{order}");
        assert!(end["message"].as_str().unwrap().starts_with(reason), "{order}: {end:#}");
    }
    let unanswered: [&[u8]; 9] = [
        b"",
        b"true",
        b"{",
        b"[]",
        b"\"e\"",
        b"{\"command\": \"true\"}",
        b"{\"execution_id\": 7}",
        b"{\"execution_id\": null, \"command\": \"true\"}",
        b"{\"execution_id\": \"\xff\"}",
    ];
    for payload in unanswered {
        story.send(payload).await;
    }
    story.order_with("unknown", "true", json!({ "colour": 1, "env": null, "stream": null })).await;
    assert_eq!(story.end("unknown").await["status"], "success", "what is not known is ignored");
    let status =
        wait_status(&story.home, |status| status["services"]["command"]["counters"]["unreadable"] == 9).await;
    assert_eq!(status["services"]["command"]["state"], "running");
}

#[tokio::test]
async fn what_came_too_late_is_not_run() {
    let story = Story::begin(", max_concurrent: 1").await;
    let _agent = story.online().await;
    story.order_with("late", "echo never", json!({ "expires_at": "2020-01-01T00:00:00Z" })).await;
    assert_eq!(story.end("late").await["status"], "expired");
    // Its turn comes too late.
    let soon = iot_agent::clock::Clock::new(iot_agent::clock::built(), None).now()
        + std::time::Duration::from_millis(1500);
    let soon = protocol::Timestamp::from_system_time(soon).to_string();
    story.order("before", "sleep 2.5").await;
    story.order_with("then", "echo never", json!({ "expires_at": soon })).await;
    story.status("then", "accepted").await;
    assert_eq!(story.end("then").await["status"], "expired");
    story.order_with("early", "echo now", json!({ "expires_at": "2100-01-01T00:00:00+02:00" })).await;
    assert_eq!(story.end("early").await["stdout"], "now\n");
}

#[tokio::test]
async fn a_full_queue_rejects_and_says_so_once() {
    let story = Story::begin(", max_concurrent: 2, queue: 3").await;
    let _agent = story.online().await;
    for n in 0..12 {
        story.order(&format!("e{n}"), "sleep 1; echo done").await;
    }
    let mut ends = Vec::new();
    for n in 0..12 {
        ends.push(story.end(&format!("e{n}")).await);
    }
    let done = ends.iter().filter(|end| end["stdout"] == "done\n").count();
    let busy = ends.iter().filter(|end| end["status"] == "rejected" && end["message"] == "busy").count();
    assert_eq!(done + busy, 12);
    assert!(busy >= 1 && done >= 5, "{ends:#?}");
    // Its outcome is known: it is not run when there is room.
    let rejected = ends.iter().find(|end| end["status"] == "rejected").unwrap();
    let id = rejected["execution_id"].as_str().unwrap();
    story.order(id, "echo never").await;
    story.order("last", "true").await;
    story.end("last").await;
    assert_eq!(story.ends(id).len(), 1);
}

/// The owner's last word, read again when it changes.
#[tokio::test]
async fn the_policy_decides() {
    let story = Story::with("", "policy: policy.yaml\n").await;
    let policy = |text: &str| drop(story.home.file("policy.yaml", text, 0o600));
    policy(
        "command:\n  named: {say: {run: 'echo {what}', args: {what: '[a-z ;]+'}}}\n  patterns: ['^echo [a-z]+$']\n",
    );
    let _agent = story.online().await;
    story.order("pattern", "echo abc").await;
    assert_eq!(story.end("pattern").await["stdout"], "abc\n");
    story.order_with("named", "say", json!({ "args": { "what": "a; reboot" } })).await;
    assert_eq!(story.end("named").await["stdout"], "a; reboot\n");
    for (id, order) in [
        ("other", json!({ "command": "id" })),
        ("behind", json!({ "command": "echo abc\nid" })),
        ("arg", json!({ "command": "say", "args": { "what": "$(id)" } })),
        ("no-arg", json!({ "command": "say" })),
    ] {
        story.order_with(id, order["command"].as_str().unwrap(), order.clone()).await;
        let end = story.end(id).await;
        assert_eq!((&end["status"], &end["stdout"]), (&json!("rejected"), &Value::Null), "{end:#}");
    }
    policy("command: {allow_any: true}\n");
    story.order("now", "id -u").await;
    assert_eq!(story.end("now").await["stdout"], "0\n");
    policy("command: {allow_eny: true}\n");
    story.order("broken", "id -u").await;
    assert_eq!(story.end("broken").await["status"], "rejected");
    wait_status(&story.home, |status| status["services"]["command"]["state"] == "degraded").await;
    policy("command: {allow_any: true}\n");
    story.order("mended", "id -u").await;
    assert_eq!(story.end("mended").await["stdout"], "0\n");
    wait_status(&story.home, |status| status["services"]["command"]["state"] == "running").await;
    let verified = run(&story.home, &["audit", "verify"], "").await;
    assert_eq!(verified.code, 0, "{verified:#?}");
    let shown = run(&story.home, &["audit", "show"], "").await;
    for id in ["pattern", "other", "broken"] {
        assert!(shown.out.contains(id), "{shown:#?}");
    }
}
