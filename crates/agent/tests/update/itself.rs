//! Updates of the agent itself: it ends on a version that works, whatever the new one does.

mod killed;

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::Process;

use crate::{
    story::{Story, until},
    support::{SOON, proof, stop},
};

const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");
/// Damages all that it finds of its predecessor, and ends.
pub(crate) const SPOIL: &str = "cd \"$(dirname \"$0\")/../../..\" && for file in update/*.json agent/*.json clock.json; do echo '}' > $file; done; \
                 for file in update/journal/*; do test -f $file && head -c 40 /dev/urandom >> $file; done; exit 3";
const QUICK: &str = ", health: {timeout: 3s}";

/// A package of an agent that is a script.
pub(crate) fn script(story: &Story, version: &str, line: &str, more: &[&str]) -> PathBuf {
    let text = format!("#!/bin/sh\n{line}\n").replace("AGENT", AGENT);
    let more = [&["--kind", "agent", "--name", "iot-agent"], more].concat();
    story.builder.package(version, &[("iot-agent", &text)], &more)
}

/// One that works.
pub(crate) fn sound(story: &Story, version: &str, more: &[&str]) -> PathBuf {
    script(story, version, "exec AGENT \"$@\"", more)
}

pub(crate) fn release(story: &Story) -> Option<String> {
    let link = fs::read_link(story.home.path().join("state/agent/current")).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

/// What was told of this device's presence.
fn presence(story: &Story) -> Vec<Value> {
    let all = story.watcher.messages().matching(|message| message.topic == "iot/d1/status");
    all.into_iter().filter_map(|message| message.json().ok()).collect()
}

fn runs(story: &Story) -> Vec<String> {
    let mut runs: Vec<String> = presence(story)
        .iter()
        .filter(|said| said["state"] == "online")
        .map(|said| said["run_id"].as_str().unwrap().to_owned())
        .collect();
    runs.dedup();
    runs
}

/// For how long the device was said to be offline at most, in milliseconds.
fn longest_absence(story: &Story) -> u128 {
    let said = presence(story);
    let at = |said: &Value| {
        let text = said["timestamp"].as_str().unwrap();
        text.parse::<protocol::Timestamp>().unwrap().to_system_time()
    };
    let gaps = said.windows(2).filter(|pair| pair[0]["state"] == "offline" && pair[1]["state"] == "online");
    gaps.map(|pair| at(&pair[1]).duration_since(at(&pair[0])).unwrap().as_millis()).max().unwrap()
}

/// The agent of the run that was last seen.
fn pid_of(story: &Story) -> u32 {
    story.home.status().unwrap()["pid"].as_u64().unwrap().try_into().unwrap()
}

#[tokio::test]
async fn the_new_version_proves_itself_beside_the_old_one() {
    let story = Story::begin(QUICK).await;
    let mut agent = story.online().await;
    // The program itself, without what only debuggers read.
    let program = story.builder.path("build-9.0.0/iot-agent");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    story.builder.run("strip", &["-o", program.to_str().unwrap(), AGENT]);
    let create = ["package", "create", "build-9.0.0", "-o", "a.pkg", "--version", "9.0.0", "--level", "1"];
    story.builder.run(AGENT, &[&create[..], &["--kind", "agent", "--name", "iot-agent"]].concat());
    story.builder.run(AGENT, &["package", "sign", "a.pkg", "--key", "release.key", "--level", "1"]);
    let end = story.update("u1", "9.0.0", &story.builder.path("a.pkg")).await;
    assert_eq!(end["state"], "success", "{end}");
    assert_eq!(release(&story).as_deref(), Some("9.0.0"));
    assert_eq!(runs(&story).len(), 2, "one connection each: {:#?}", presence(&story));
    assert_ne!(pid_of(&story), agent.pid());
    assert!(agent.is_running().unwrap(), "who started it has a process that lives");

    let end = story.update("u2", "9.1.0", &sound(&story, "9.1.0", &[])).await;
    assert_eq!(end["state"], "success", "{end}");
    assert_eq!((release(&story).as_deref(), runs(&story).len()), (Some("9.1.0"), 3));
    let longest = longest_absence(&story);
    assert!(longest <= 2000, "offline for {longest} ms");
    proof("agent-downtime", &format!("wanted=2000-ms longest={longest}-ms"));
    // The same again is the same, and needs nothing; another is refused.
    let again = sound(&story, "9.1.0", &["--created", "2026-01-01T00:00:00Z"]);
    assert_eq!(story.update("u3", "9.1.0", &again).await["state"], "success");
    let other = script(&story, "9.1.0", "exec  AGENT \"$@\"", &[]);
    assert_eq!(story.update("other", "9.1.0", &other).await["state"], "failed");
    assert_eq!((release(&story).as_deref(), runs(&story).len()), (Some("9.1.0"), 3));

    let back = story.home.command(&["update", "rollback"]).output().unwrap();
    assert!(back.status.success(), "{back:?}");
    assert_eq!(release(&story).as_deref(), Some("9.0.0"));
    until("it is online again", || runs(&story).len() == 4).await;
    // Whoever started it can end it.
    stop(&mut agent, "after updates").await;
    until("it is offline", || presence(&story).last().is_some_and(|said| said["state"] == "offline")).await;
    // And start it again.
    let mut agent = story.online().await;
    until("it is online once more", || runs(&story).len() == 5).await;
    assert_eq!(story.update("u4", "9.2.0", &sound(&story, "9.2.0", &[])).await["state"], "success");
    stop(&mut agent, "after the last").await;
}

#[tokio::test]
async fn one_that_does_not_work_goes_back() {
    let story = Story::begin(QUICK).await;
    let mut agent = story.online().await;
    let elf = {
        let mut bytes = fs::read(AGENT).unwrap()[..4096].to_vec();
        bytes[18..20].copy_from_slice(&[0xf3, 0]);
        bytes
    };
    let foreign = {
        story.builder.write("build-3.0.0/iot-agent", elf, 0o755);
        let create = ["package", "create", "build-3.0.0", "-o", "elf.pkg", "--version", "3.0.0"];
        story.builder.run(AGENT, &[&create[..], &["--kind", "agent", "--name", "iot-agent"]].concat());
        story.builder.run(AGENT, &["package", "sign", "elf.pkg", "--key", "release.key"]);
        story.builder.path("elf.pkg")
    };
    let end = story.update("elf", "3.0.0", &foreign).await;
    assert_eq!((end["state"].as_str(), runs(&story).len()), (Some("failed"), 1), "{end}");
    assert!(end["error"].as_str().unwrap().contains("for another machine"), "{end}");

    let mut number = 0;
    for (line, said) in [
        ("exit 1", "started 3 times: it ended with exit code 1"),
        ("exit 0", "started 3 times: it ended with exit code 0"),
        ("exit 78", "it ended with exit code 78"),
        ("kill -SEGV $$", "it was ended by signal 11"),
        ("exec sleep 1000", "has not proved itself within 3 s"),
        (
            "exec AGENT \"$@\" --set mqtt.broker=mqtt://127.0.0.1:1",
            "although the broker's port can be reached",
        ),
        ("exec AGENT \"$@\" --set services.metrics.bad=1", "it ended with exit code 78"),
        (SPOIL, "it ended with exit code 3"),
    ] {
        number += 1;
        let (id, version) = (format!("bad{number}"), format!("2.0.{number}"));
        let (before, old) = (runs(&story).len(), release(&story));
        let end = story.update(&id, &version, &script(&story, &version, line, &[])).await;
        assert_eq!(end["state"], "rolled_back", "{line}: {end}");
        assert!(end["error"].as_str().unwrap().contains(said), "{line}: {end}");
        assert_eq!(release(&story), old, "{line}");
        assert!(runs(&story).len() > before, "{line}: {:?}", runs(&story));
        assert_eq!(story.ends(&id).len(), 1, "{line}: {:?}", story.ends(&id));
    }
    // The last good one is one of an update now.
    assert_eq!(story.update("good", "2.1.0", &sound(&story, "2.1.0", &[])).await["state"], "success");
    let end = story.update("bad", "2.2.0", &script(&story, "2.2.0", "exit 1", &[])).await;
    assert_eq!((end["state"].as_str(), release(&story).as_deref()), (Some("rolled_back"), Some("2.1.0")));
    stop(&mut agent, "after bad versions").await;
}

/// What a service manager hears.
fn heard(socket: &UnixDatagram) -> Vec<String> {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        said.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
    }
    said
}

#[tokio::test]
async fn a_service_manager_is_told_who_is_the_agent_now() {
    let story = Story::begin(QUICK).await;
    let socket = UnixDatagram::bind(story.home.path().join("notify")).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut command = story.home.command(&["run"]);
    command.env("NOTIFY_SOCKET", story.home.path().join("notify")).env("WATCHDOG_USEC", "2000000");
    let mut agent = Process::run(command.into()).unwrap();
    until("it is online", || runs(&story).len() == 1).await;
    heard(&socket);
    assert_eq!(story.update("u1", "2.0.0", &sound(&story, "2.0.0", &[])).await["state"], "success");
    let status = agent.wait_exit(SOON).await.unwrap();
    assert!(status.success(), "{status:?}");
    let said = heard(&socket);
    let new = pid_of(&story);
    let at = |wanted: &str| {
        said.iter().position(|line| line.starts_with(wanted)).unwrap_or_else(|| panic!("{wanted}: {said:?}"))
    };
    assert!(at("RELOADING=1") < at("READY=1") && at("READY=1") < at(&format!("MAINPID={new}")), "{said:?}");
    assert!(!said.iter().any(|line| line == "STOPPING=1"), "{said:?}");
    // It lives without the old one, and feeds the watchdog by itself.
    heard(&socket);
    until("the watchdog is fed", || heard(&socket).iter().any(|line| line == "WATCHDOG=1")).await;
    kill_process(Pid::from_raw(new.cast_signed()).unwrap(), Signal::TERM).unwrap();
    until("it is gone", || !Path::new(&format!("/proc/{new}")).exists()).await;
    until("it is offline", || presence(&story).last().is_some_and(|said| said["state"] == "offline")).await;
}

#[tokio::test]
async fn a_trial_that_is_cut_off_is_gone_on_with() {
    let story = Story::begin(", health: {timeout: 20s, command: 'test -e {home}/well'}").await;
    let mut agent = story.online().await;
    story.ask("u1", "2.0.0", &sound(&story, "2.0.0", &[])).await;
    story.hears("u1", "confirming", 1).await;
    let new = pid_of(&story);
    assert_ne!(new, agent.pid());
    agent.kill().await.unwrap();
    until("the new one ends with the old one", || !Path::new(&format!("/proc/{new}")).exists()).await;
    fs::write(story.home.path().join("well"), "").unwrap();
    let mut agent = story.online().await;
    assert_eq!(story.end("u1").await["state"], "success");
    assert_eq!(release(&story).as_deref(), Some("2.0.0"));
    stop(&mut agent, "after a trial").await;
    assert_eq!(story.ends("u1").len(), 1);
}

/// It damages what it finds, ends whoever watches it, and so comes before that can put it right.
#[tokio::test]
async fn one_that_ends_its_watcher_is_not_started_for_ever() {
    let story = Story::begin(QUICK).await;
    let mut agent = story.online().await;
    assert_eq!(story.update("u1", "2.0.0", &sound(&story, "2.0.0", &[])).await["state"], "success");
    let line = SPOIL.replace("exit 3", "kill -KILL $PPID");
    story.ask("u2", "3.0.0", &script(&story, "3.0.0", &line, &[])).await;
    let mut starts = 0;
    while story.ends("u2").is_empty() || story.home.status().is_none() {
        if !agent.is_running().unwrap() {
            starts += 1;
            assert!(starts < 10, "{:?}", story.said("u2"));
            agent = story.home.start();
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let end = story.end("u2").await;
    assert_eq!(
        (end["state"].as_str(), release(&story).as_deref()),
        (Some("rolled_back"), Some("2.0.0")),
        "{end}"
    );
    stop(&mut agent, "after all").await;

    // Nothing at all is known of it any more, and it damages the count as well.
    let folder = story.home.path().join("state/agent");
    for name in ["trial.json", "trial.copy"] {
        fs::write(folder.join(name), "}").unwrap();
    }
    fs::write(folder.join("versions/2.0.0/iot-agent"), format!("#!/bin/sh\n{SPOIL}\n")).unwrap();
    let mut agent = story.home.start();
    until("it has ended", || !agent.is_running().unwrap()).await;
    let mut agent = story.online().await;
    assert_eq!(agent.pid(), pid_of(&story), "the one that was installed");
    stop(&mut agent, "at the end").await;
}

/// Nothing but its trial knows of it any more, and it is over: nobody hears of it again.
#[tokio::test]
async fn an_update_that_is_over_is_not_gone_on_with() {
    let story = Story::begin(QUICK).await;
    let mut agent = story.online().await;
    assert_eq!(story.update("u1", "2.0.0", &sound(&story, "2.0.0", &[])).await["state"], "success");
    assert_eq!(story.update("u2", "1.0.0", &story.package("1.0.0", &[], &[])).await["state"], "success");
    stop(&mut agent, "between updates").await;
    fs::remove_file(story.home.path().join("state/update/history.json")).unwrap();
    let said = story.said("u1").len();
    let mut agent = story.online().await;
    assert_eq!(story.update("u3", "1.1.0", &story.package("1.1.0", &[], &[])).await["state"], "success");
    assert_eq!(story.said("u1").len(), said, "{:?}", story.said("u1"));
    stop(&mut agent, "after all").await;
}
