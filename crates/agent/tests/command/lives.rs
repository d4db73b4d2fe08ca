//! A command's life, from the order to its end.

use serde_json::{Value, json};

use crate::{
    story::{FINAL, Story},
    support::{command::run, wait_status},
};

fn statuses(said: &[Value]) -> Vec<&str> {
    said.iter().map(|said| said["status"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_command_is_accepted_run_and_ended_once() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    story.order("e1", "echo out; echo err >&2").await;
    let end = story.end("e1").await;
    assert_eq!(
        (&end["status"], &end["exit_code"], &end["stdout"], &end["stderr"]),
        (&json!("success"), &json!(0), &json!("out\n"), &json!("err\n")),
        "{end:#}"
    );
    assert_eq!((&end["device_id"], &end["stdout_dropped"]), (&json!("d1"), &Value::Null));
    assert!(end["duration_ms"].is_u64() && end["timestamp"].as_str().unwrap().ends_with('Z'), "{end:#}");
    let said = story.said("e1");
    assert_eq!(statuses(&said), ["accepted", "in_progress", "success"]);
    assert_eq!(said.iter().map(|said| said["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3]);
    // A known id is answered, whatever comes with it, and nothing runs.
    let marker = story.file("again");
    story.order("e1", &format!("touch {}", marker.display())).await;
    story.order("e2", "exit 3").await;
    story.end("e2").await;
    assert_eq!(story.ends("e1").len(), 1);
    assert_eq!(statuses(&story.said("e1")).iter().filter(|status| FINAL.contains(status)).count(), 2);
    assert!(!marker.exists());
    let end = &story.ends("e2")[0];
    assert_eq!((&end["status"], &end["exit_code"]), (&json!("failed"), &json!(3)));
}

#[tokio::test]
async fn each_kind_of_end() {
    let story = Story::begin(", max_execution_time: 2s").await;
    let _agent = story.online().await;
    story.order("signal", "kill -9 $$").await;
    story.order_with("slow", "echo begun; sleep 60", json!({ "timeout_s": 0.3 })).await;
    story.order("slower", "trap '' TERM; (setsid sleep 60 &) ; sleep 61").await;
    story.order_with("nowhere", "pwd", json!({ "cwd": "/nowhere" })).await;
    let end = story.end("signal").await;
    assert_eq!(
        (&end["status"], &end["signal"], &end["exit_code"]),
        (&json!("failed"), &json!(9), &Value::Null)
    );
    let end = story.end("slow").await;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("timed_out"), &json!("begun\n")));
    assert!(end["duration_ms"].as_u64().unwrap() < 2000, "{end:#}");
    let end = story.end("slower").await;
    assert_eq!(end["status"], "timed_out");
    assert!((2000..8000).contains(&end["duration_ms"].as_u64().unwrap()), "{end:#}");
    let end = story.end("nowhere").await;
    assert_eq!(end["status"], "failed");
    assert!(end["message"].as_str().unwrap().contains("/nowhere"), "{end:#}");
}

#[tokio::test]
async fn what_runs_or_waits_can_be_cancelled() {
    let story = Story::begin(", max_concurrent: 1").await;
    let _agent = story.online().await;
    story.order("runs", "echo begun; sleep 60").await;
    story.order("waits", "echo never").await;
    story.order("locally", "echo never").await;
    story.status("locally", "accepted").await;
    story.cancel("waits").await;
    let end = story.end("waits").await;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("cancelled"), &Value::Null), "{end:#}");
    let cancelled = run(&story.home, &["command", "cancel", "locally"], "").await;
    cancelled.assert(0, "locally: cancelled before it began\n");
    run(&story.home, &["command", "cancel", "nobody"], "").await.assert_said("no order nobody is known");
    story.cancel("runs").await;
    let end = story.end("runs").await;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("cancelled"), &json!("begun\n")), "{end:#}");
    assert_eq!(story.end("locally").await["status"], "cancelled");
    story.cancel("unheard").await;
    let end = story.end("unheard").await;
    assert_eq!(end["status"], "rejected");
    story.order("unheard", "echo never").await;
    story.order("last", "true").await;
    story.end("last").await;
    assert_eq!(
        story.ends("unheard"),
        [{
            let mut end = end;
            end.as_object_mut().unwrap().remove("seq");
            end
        }]
    );
}

#[tokio::test]
async fn output_is_kept_from_both_ends_and_is_text() {
    let story = Story::begin(", output_size_limit: 1000").await;
    let _agent = story.online().await;
    story.order("long", "printf 'ä%.0s' $(seq 3000); printf e >&2").await;
    story.order("binary", "printf 'a\\377b\\000c'").await;
    let end = story.end("long").await;
    let (text, dropped) = (end["stdout"].as_str().unwrap(), end["stdout_dropped"].as_u64().unwrap());
    assert_eq!(text.len() as u64 + dropped, 6000, "{end:#}");
    assert!(text.len() <= 1000 && text.len() >= 996 && text.chars().all(|c| c == 'ä'));
    assert_eq!(
        (&end["stderr"], &end["stderr_dropped"], &end["lossy"]),
        (&json!("e"), &Value::Null, &Value::Null)
    );
    let end = story.end("binary").await;
    assert_eq!((&end["stdout"], &end["lossy"]), (&json!("a\u{fffd}b\u{0}c"), &json!(true)));
}

/// The broker says what it takes: the end arrives all the same.
#[tokio::test]
async fn output_is_cut_to_what_the_broker_takes() {
    let mut story = Story::begin("").await;
    story.broker = testkit::Mosquitto::builder().line("max_packet_size 20000").start().await.unwrap();
    story.watcher = testkit::Watcher::start(&story.broker, "iot/d1/#").await.unwrap();
    story.home = crate::support::Home::new(&format!("mqtt://127.0.0.1:{}", story.broker.port()))
        .device("d1")
        .yaml(&crate::story::services(""));
    let _agent = story.online().await;
    story.order("long", "head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2").await;
    let end = story.end("long").await;
    for stream in ["stdout", "stderr"] {
        let dropped = end[format!("{stream}_dropped")].as_u64().unwrap();
        assert_eq!(end[stream].as_str().unwrap().len() as u64 + dropped, 60_000);
        assert!(dropped < 59_000);
    }
}

#[tokio::test]
async fn output_is_sent_while_it_runs_where_that_is_asked_for() {
    let story = Story::begin(", stream_interval: 100ms").await;
    let _agent = story.online().await;
    story
        .order_with(
            "e1",
            "for i in 1 2 3 4 5; do echo $i; sleep 0.3; done; echo e >&2",
            json!({ "stream": true }),
        )
        .await;
    let end = story.end("e1").await;
    assert_eq!(end["stdout"], "1\n2\n3\n4\n5\n", "the end has it all");
    let said = story.said("e1");
    let chunks: Vec<&Value> = said.iter().filter(|said| said["chunk"].is_u64()).collect();
    assert!(chunks.len() >= 3, "{said:#?}");
    assert!(
        chunks
            .iter()
            .zip(0..)
            .all(|(chunk, number)| chunk["chunk"] == number && chunk["status"] == "in_progress")
    );
    let text: String = chunks.iter().filter_map(|chunk| chunk["stdout"].as_str()).collect();
    assert!("1\n2\n3\n4\n5\n".starts_with(&text) && text.len() >= 6, "{text:?}");
}

/// Nothing that was sent while it ran is missing at its end.
#[tokio::test]
async fn what_is_sent_while_it_runs_is_whole() {
    let story = Story::begin(", stream_interval: 100ms").await;
    let _agent = story.online().await;
    story
        .order_with("e1", "printf 'a\\303'; sleep 0.5; printf 'b\\303'; sleep 0.5", json!({ "stream": true }))
        .await;
    story.end("e1").await;
    let chunks = story.said("e1").into_iter().filter(|said| said["chunk"].is_u64());
    let text: String = chunks.filter_map(|chunk| chunk["stdout"].as_str().map(str::to_owned)).collect();
    assert_eq!(text, "a\u{fffd}b\u{fffd}");
}

#[tokio::test]
async fn a_command_has_surroundings_of_its_own() {
    let story = Story::begin(", env: [MINE, FROM_AGENT]").await;
    let mut command = story.home.command(&["run"]);
    command.env("FROM_AGENT", "yes").env("SECRET", "no");
    let _agent = testkit::Process::run(command.into()).unwrap();
    wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
    story
        .order_with("env", "env; ls /proc/self/fd | wc -l; umask; pwd", json!({ "env": { "MINE": "a b" } }))
        .await;
    let end = story.end("env").await;
    let out = end["stdout"].as_str().unwrap();
    for wanted in ["MINE=a b\n", "FROM_AGENT=yes\n", "HOME=/root\n", "PATH=/usr/local/sbin:"] {
        assert!(out.contains(wanted), "{wanted:?} in {out}");
    }
    assert!(!out.contains("SECRET") && !out.contains("IOT_"), "{out}");
    let tail: Vec<&str> = out.lines().rev().take(3).collect();
    // 0, 1, 2, and the folder that `ls` reads.
    assert_eq!((tail[2], tail[1]), ("4", "0077"), "{out}");
    let folder = std::path::Path::new(tail[0]);
    assert!(folder.starts_with(story.home.path()) && !folder.exists(), "{out}");
    story.order_with("forbidden", "env", json!({ "env": { "LD_PRELOAD": "x" } })).await;
    let end = story.end("forbidden").await;
    assert_eq!(end["status"], "rejected");
    assert!(end["message"].as_str().unwrap().contains("LD_PRELOAD"), "{end:#}");
}

/// Of the state folder, in which it works, another user sees only that one folder.
#[tokio::test]
async fn a_command_may_run_as_somebody_else() {
    let story = Story::begin(", run_as: nobody").await;
    let _agent = story.online().await;
    story.order("e1", "id -un; echo x >mine && cat mine; pwd; ls ..").await;
    let end = story.end("e1").await;
    let out: Vec<&str> = end["stdout"].as_str().unwrap_or_default().lines().collect();
    assert_eq!(out[..2], ["nobody", "x"], "{end:#}");
    let folder = std::path::Path::new(out[2]);
    assert!(folder.starts_with(story.home.path()) && !folder.exists(), "{end:#}");
    assert_eq!(end["exit_code"], 2, "{end:#}");
    story.order_with("e2", "true", json!({ "cwd": "/root" })).await;
    assert!(story.end("e2").await["message"].as_str().unwrap().contains("cannot enter /root"));
}

#[tokio::test]
async fn the_journal_can_be_looked_at() {
    let story = Story::begin("").await;
    run(&story.home, &["command", "list"], "").await.assert(0, "");
    let mut agent = story.online().await;
    story.order("e1", "echo hello; exit 4").await;
    story.end("e1").await;
    story.order("e2", "sleep 60").await;
    story.status("e2", "in_progress").await;
    let list = run(&story.home, &["command", "list"], "").await;
    let lines: Vec<&str> = list.out.lines().collect();
    assert!(
        lines[0].starts_with("e1 ") && lines[0].ends_with("failed       echo hello; exit 4"),
        "{list:#?}"
    );
    assert!(lines[1].contains(" in_progress  sleep 60"), "{list:#?}");
    agent.kill().await.unwrap();
    let shown = run(&story.home, &["command", "show", "e1", "--json"], "").await;
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!((&shown["exit_code"], &shown["stdout"]), (&json!(4), &json!("hello\n")), "{shown:#}");
    assert_eq!((&shown["command"], &shown["status"]), (&json!("echo hello; exit 4"), &json!("failed")));
    let shown = run(&story.home, &["command", "show", "e1"], "").await;
    assert!(shown.out.contains("stdout:\n  hello\n"), "{shown:#?}");
    run(&story.home, &["command", "show", "e3"], "").await.assert_said("no command e3 is known here");
}
