//! Whatever dies: at most one effect, exactly one end.

use std::time::Duration;

use serde_json::json;

use crate::{
    story::Story,
    support::{command::run, stop, wait_status},
};

#[tokio::test]
async fn what_ran_when_the_agent_died_is_interrupted_with_its_output() {
    let story = Story::begin(", max_concurrent: 1").await;
    let mut agent = story.online().await;
    let effect = story.file("effect");
    story.order("runs", &format!("echo before; echo x >> {}; sleep 60", effect.display())).await;
    story.lines("effect", 1).await;
    story.order("waits", "echo later").await;
    story.status("waits", "accepted").await;
    agent.kill().await.unwrap();
    let _agent = story.online().await;
    let end = story.end("runs").await;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("interrupted"), &json!("before\n")), "{end:#}");
    assert_eq!(story.end("waits").await["stdout"], "later\n", "it had not begun");
    story.order("runs", "echo again").await;
    story.order("last", "true").await;
    story.end("last").await;
    assert_eq!((story.ends("runs").len(), story.count("effect")), (1, 1));
}

#[tokio::test]
async fn a_stop_ends_what_runs_and_tells_it() {
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    story.order("runs", "trap '' TERM; echo before; sleep 60").await;
    story.status("runs", "in_progress").await;
    // Until it has written.
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop(&mut agent, "a command runs").await;
    let end = story.end("runs").await;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("interrupted"), &json!("before\n")), "{end:#}");
    let _agent = story.online().await;
    story.order("last", "true").await;
    story.end("last").await;
    assert_eq!(story.said("runs").iter().filter(|said| said["status"] == "interrupted").count(), 1);
}

/// It kills the one that watches over it, or the agent itself.
#[tokio::test]
async fn a_command_that_kills_its_parents_is_reported() {
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    story.order("parent", "echo before; sleep 0.5; kill -9 $PPID; sleep 60").await;
    let end = story.end("parent").await;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("interrupted"), &json!("before\n")), "{end:#}");
    let kill = format!("echo before; sleep 0.5; kill -9 {}; sleep 60", agent.pid());
    story.order("agent", &kill).await;
    agent.wait_exit(Duration::from_secs(10)).await.unwrap();
    let _agent = story.online().await;
    let end = story.end("agent").await;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("interrupted"), &json!("before\n")), "{end:#}");
    assert_eq!(story.ends("agent").len(), 1);
}

/// `reboot` does not loop: it has succeeded when the machine comes up again.
#[tokio::test]
async fn a_restart_of_the_machine_is_told_by_its_boot_id() {
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    for (id, command) in [("reboots", "echo x >> effect; sleep 60"), ("exits", "true")] {
        let folder = story.home.path().display().to_string();
        story.order_with(id, command, json!({ "expect_reboot": true, "cwd": folder })).await;
        story.status(id, "in_progress").await;
    }
    story.order("plain", "sleep 60").await;
    story.status("plain", "in_progress").await;
    story.lines("effect", 1).await;
    stop(&mut agent, "the machine goes down").await;
    assert_eq!(story.end("plain").await["status"], "interrupted");
    assert_eq!((story.ends("reboots").len(), story.ends("exits").len()), (0, 0));
    // Another boot, as far as the agent can see: in a mount namespace of its own.
    let boot_id = story.home.file("boot_id", "11111111-2222-4333-8444-555555555555\n", 0o644);
    let mut command = std::process::Command::new("unshare");
    let start = format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id && exec {} run --config {}",
        boot_id.display(),
        env!("CARGO_BIN_EXE_iot-agent"),
        story.home.write().display()
    );
    command.args(["-m", "sh", "-c", &start]);
    let _agent = testkit::Process::run(command.into()).unwrap();
    wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
    for id in ["reboots", "exits"] {
        assert_eq!(story.end(id).await["status"], "success");
        assert_eq!(story.ends(id).len(), 1);
    }
    assert_eq!(story.count("effect"), 1);
}

/// Nothing can be written: nothing is run, heartbeats go on, and it works again by itself.
#[tokio::test]
async fn without_a_journal_nothing_is_run() {
    let story = Story::begin("").await;
    // A full disk under the whole state folder.
    let state = story.home.path().join("state");
    let mut command = std::process::Command::new("unshare");
    let start = format!(
        "cp -a {state} {state}.kept && mount -t tmpfs -o size=1m,mode=700 none {state} && cp -a {state}.kept/. {state}/ \
         && exec {} run --config {}",
        env!("CARGO_BIN_EXE_iot-agent"),
        story.home.write().display(),
        state = state.display(),
    );
    command.args(["-m", "sh", "-c", &start]);
    let agent = testkit::Process::run(command.into()).unwrap();
    wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
    story.order("before", "echo well").await;
    assert_eq!(story.end("before").await["stdout"], "well\n");
    let inside = format!("/proc/{}/root{}/ballast", agent.pid(), state.display());
    let full = std::fs::write(&inside, vec![1; 2 << 20]);
    assert!(full.is_err(), "the disk is not full");
    // Longer than what is left of a block.
    story.order("refused", &format!("echo x # {}", "x".repeat(8000))).await;
    let end = story.end("refused").await;
    assert_eq!(end["status"], "rejected", "{end:#}");
    assert!(end["message"].as_str().unwrap().contains("journal"), "{end:#}");
    wait_status(&story.home, |status| status["services"]["command"]["state"] == "degraded").await;
    story.watcher.messages().skip_to_end();
    story.watcher.next_on("iot/d1/heartbeat", crate::support::SOON).await.unwrap();
    story.order("refused", "echo again").await;
    std::fs::remove_file(&inside).unwrap();
    wait_status(&story.home, |status| status["services"]["command"]["state"] == "running").await;
    story.order("after", "echo well again").await;
    assert_eq!(story.end("after").await["stdout"], "well again\n");
    story.order("refused", "echo again").await;
    story.order("last", "true").await;
    story.end("last").await;
    assert_eq!(story.ends("refused").len(), 1);
}

/// A damaged journal never stops the agent.
#[tokio::test]
async fn a_damaged_journal_costs_what_is_damaged() {
    let story = Story::begin("").await;
    let mut agent = story.online().await;
    for id in ["a", "b", "c"] {
        story.order(id, "true").await;
        story.end(id).await;
    }
    stop(&mut agent, "idle").await;
    let folder = story.home.path().join("state/command/journal");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 40].fill(0);
    std::fs::write(&file, bytes).unwrap();
    let _agent = story.online().await;
    story.order("d", "echo d").await;
    assert_eq!(story.end("d").await["stdout"], "d\n");
    let list = run(&story.home, &["command", "list"], "").await;
    assert!(list.out.contains("\nd ") && list.out.starts_with("a "), "{list:#?}");
}

/// The next life knows how it ended before it can ask the broker what it takes.
#[tokio::test]
async fn an_end_after_a_crash_is_cut_to_what_the_broker_takes() {
    let mut story = Story::begin("").await;
    story.broker = testkit::Mosquitto::builder().line("max_packet_size 20000").start().await.unwrap();
    story.home = crate::support::Home::new(&format!("mqtt://127.0.0.1:{}", story.broker.port()))
        .device("d1")
        .yaml(&crate::story::services(""));
    let mut agent = story.online().await;
    let written = story.file("written");
    story.order("long", &format!("head -c 60000 /dev/zero; echo >{}; sleep 60", written.display())).await;
    story.lines("written", 1).await;
    story.broker.stop().await.unwrap();
    agent.kill().await.unwrap();
    let _agent = story.home.start();
    wait_status(&story.home, |status| status["connection"]["state"] == "waiting").await;
    story.broker.start().await.unwrap();
    story.watcher = testkit::Watcher::start(&story.broker, "iot/d1/#").await.unwrap();
    // A copy is told to whoever was not there yet.
    wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
    story.order("long", "true").await;
    let end = story.end("long").await;
    assert_eq!(end["status"], "interrupted");
    let dropped = end["stdout_dropped"].as_u64().unwrap();
    assert_eq!(end["stdout"].as_str().unwrap().len() as u64 + dropped, 60_000);
}
