//! Updates that the owner's command installs.

use std::{fs, time::Duration};

use testkit::inject::attach;
use tokio::time::{Instant, sleep};

use crate::{
    story::{Story, sha256},
    support::{proof, stop, strace::detach, tier, wait_status},
};

/// Much longer than an update takes.
const PATIENCE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn the_command_gets_what_was_verified_and_is_tried_again() {
    let story = Story::begin(
        ", max_retry_attempts: 2, update_command: 'echo \"$IOT_UPDATE_ATTEMPT $(cat a/b) $IOT_UPDATE_PATH\" >> {home}/ran; \
         test -e {home}/good'",
    )
    .await;
    let more = ["--kind", "command", "--name", "os"];
    let package = story.builder.package("5.0.0", &[("a/b", "payload")], &more);
    let _agent = story.online().await;
    let end = story.update("u1", "5.0.0", &package).await;
    assert_eq!(end["state"], "failed", "{end}");
    assert_eq!(end["error"], "update_command ended with exit code 1");
    assert_eq!(end["attempt"], 3);
    let ran = fs::read_to_string(story.home.path().join("ran")).unwrap();
    let begins: Vec<&str> = ran.lines().map(|line| &line[..9]).collect();
    assert_eq!(begins, ["1 payload", "2 payload", "3 payload"]);
    assert!(ran.contains("/state/update/"), "{ran}");

    fs::write(story.home.path().join("good"), "").unwrap();
    assert_eq!(story.update("u2", "5.0.0", &package).await["state"], "success");
    assert_eq!(story.states("u2").last().unwrap(), "success");
    // It is installed: nothing is done for it again.
    let ran = fs::read(story.home.path().join("ran")).unwrap();
    assert_eq!(story.update("u3", "5.0.0", &package).await["state"], "success");
    assert_eq!(fs::read(story.home.path().join("ran")).unwrap(), ran);
}

#[tokio::test]
async fn a_plain_file_needs_a_signature_that_says_what_it_is() {
    let story =
        Story::begin(", hardware_id: board-1, update_command: [cp, /dev/null, '{home}/installed']").await;
    let file = story.builder.write("fw.bin", "firmware", 0o644);
    let _agent = story.online().await;
    let comment = |name: &str, version: &str, hardware: &str, more: &str| {
        format!("name={name} version={version} hardware={hardware} sha256={}{more}", sha256(b"firmware"))
    };
    for (id, comment, state, said) in [
        ("good", comment("fw", "2.0.0", "board-1", ""), "success", ""),
        ("same", comment("fw", "2.0.0", "", ""), "success", ""),
        ("other", comment("fw", "3.0.0", "", ""), "failed", "version"),
        ("board", comment("fw", "2.0.0", "board-2", ""), "failed", "board-2"),
        ("none", String::new(), "failed", "trusted comment"),
    ] {
        let mut request = story.request(id, "2.0.0", &file).await;
        request["signature"] = story.builder.sign(&file, &comment).into();
        story.send(request.to_string()).await;
        let end = story.end(id).await;
        assert_eq!(end["state"], state, "{id}: {end}");
        assert!(end["error"].as_str().unwrap_or_default().contains(said), "{id}: {end}");
    }
    let end = story.update("bare", "2.0.0", &file).await;
    assert_eq!(end["state"], "failed", "{end}");
    assert!(end["error"].as_str().unwrap().contains("allow_unsigned"), "{end}");
}

#[tokio::test]
async fn unsigned_files_are_taken_where_the_owner_says_so() {
    let story = Story::begin(
        ", trusted_keys: [], allow_unsigned: true, update_command: 'cp \"$IOT_UPDATE_PATH\" {home}/installed'",
    )
    .await;
    let file = story.builder.write("fw.bin", "firmware", 0o644);
    let package = story.builder.package("1.0.0", &[], &["--kind", "command"]);
    let _agent = story.online().await;
    assert_eq!(story.update("u1", "2.0.0", &file).await["state"], "success");
    assert_eq!(fs::read(story.home.path().join("installed")).unwrap(), b"firmware");
    // A package is never taken unsigned, nor signed by nobody's key.
    let end = story.update("u2", "1.0.0", &package).await;
    assert_eq!(end["state"], "failed", "{end}");
    assert_eq!(fs::read(story.home.path().join("installed")).unwrap(), b"firmware");
}

#[tokio::test]
async fn a_command_that_is_cut_off_is_run_again_and_one_that_ended_is_not() {
    let story = Story::begin(
        ", update_command: 'echo $IOT_UPDATE_ATTEMPT >> {home}/ran; while [ -e {home}/hold ]; do sleep 0.05; done', \
         health: {timeout: 20s}",
    )
    .await;
    let package = story.builder.package("1.0.0", &[], &["--kind", "command"]);
    let hold = story.home.path().join("hold");
    fs::write(&hold, "").unwrap();
    let mut agent = story.online().await;
    story.ask("u1", "1.0.0", &package).await;
    let ran = || fs::read_to_string(story.home.path().join("ran")).unwrap_or_default();
    crate::story::until("it runs", || ran() == "1\n").await;
    agent.kill().await.unwrap();
    let mut agent = story.online().await;
    crate::story::until("it runs again", || ran() == "1\n2\n").await;
    fs::remove_file(&hold).unwrap();
    let end = story.end("u1").await;
    assert_eq!((&end["state"], ran().as_str()), (&"success".into(), "1\n2\n"), "{end}");
    agent.kill().await.unwrap();
    let _agent = story.online().await;
    assert_eq!((story.ends("u1").len(), ran().as_str()), (1, "1\n2\n"));
}

/// The daemon on a machine that was restarted, as far as it can see.
async fn after_a_reboot(story: &Story) -> testkit::Process {
    after_reboots(story, 1).await
}

/// After so many.
pub(crate) async fn after_reboots(story: &Story, times: usize) -> testkit::Process {
    after_reboots_with(story, times, &[]).await
}

/// And with more in its environment.
pub(crate) async fn after_reboots_with(
    story: &Story,
    times: usize,
    env: &[(&str, &str)],
) -> testkit::Process {
    let boot_id = format!("{}1111111-2222-4333-8444-555555555555\n", times);
    let boot_id = story.home.file(&format!("boot_id-{times}"), &boot_id, 0o644);
    let start = format!(
        "mount --bind {} /proc/sys/kernel/random/boot_id && exec {} run --config {}",
        boot_id.display(),
        env!("CARGO_BIN_EXE_iot-agent"),
        story.home.write().display()
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", &start]).envs(env.iter().copied());
    let agent = testkit::Process::run(command.into()).unwrap();
    wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
    agent
}

#[tokio::test]
async fn one_that_needs_a_restart_of_the_machine_proves_itself_after_it() {
    let story = Story::begin(
        ", update_command: 'echo ran >> {home}/ran; exit 194', \
         health: {command: 'test $(cat /proc/sys/kernel/random/boot_id) = 11111111-2222-4333-8444-555555555555', timeout: 20s}",
    )
    .await;
    let package = story.builder.package("1.0.0", &[], &["--kind", "command"]);
    let mut agent = story.online().await;
    story.ask("u1", "1.0.0", &package).await;
    story.wait("u1", |state| state == "rebooting").await;
    stop(&mut agent, "rebooting").await;
    // Only the agent was restarted: it goes on to wait.
    let mut agent = story.online().await;
    story.hears("u1", "rebooting", 2).await;
    stop(&mut agent, "rebooting").await;
    assert_eq!(story.ends("u1").len(), 0);
    let _agent = after_a_reboot(&story).await;
    assert_eq!(story.end("u1").await["state"], "success", "{:?}", story.states("u1"));
    assert_eq!(fs::read_to_string(story.home.path().join("ran")).unwrap(), "ran\n");
}

/// A power cut looks the same as a restart of its own: success is not said of what was only begun.
#[tokio::test]
async fn one_that_went_down_with_the_machine_is_run_again() {
    let story = Story::begin(
        ", update_command: 'echo $IOT_UPDATE_ATTEMPT >> {home}/ran; test $IOT_UPDATE_ATTEMPT = 2 || sleep 60', \
         health: {command: 'true', timeout: 20s}",
    )
    .await;
    let package = story.builder.package("1.0.0", &[], &["--kind", "command"]);
    let mut agent = story.online().await;
    story.ask("u1", "1.0.0", &package).await;
    let ran = || fs::read_to_string(story.home.path().join("ran")).unwrap_or_default();
    crate::story::until("it runs", || ran() == "1\n").await;
    stop(&mut agent, "the machine goes down").await;
    let _agent = after_a_reboot(&story).await;
    assert_eq!(story.end("u1").await["state"], "success");
    assert_eq!(ran(), "1\n2\n");
}

#[tokio::test]
async fn a_machine_that_is_not_restarted_is_told() {
    let story = Story::begin(", update_command: 'exit 194', health: {timeout: 1s}").await;
    let package = story.builder.package("1.0.0", &[], &["--kind", "command"]);
    let _agent = story.online().await;
    let end = story.update("u1", "1.0.0", &package).await;
    assert_eq!(
        (&end["state"], &end["error"]),
        (
            &"failed".into(),
            &"the machine was not restarted within 1 s; what update_command has done cannot be taken back here".into()
        )
    );
}

/// What the agent dies of, and of each the n-th: around the writing down of a state, and of what a job has left.
const CALLS: [&str; 8] = ["rename", "renameat", "unlink", "fsync", "sendto", "shutdown", "flock", "clone3"];

/// However the agent ends: what is said to have succeeded was done, and by the command, not by what ran before it.
#[tokio::test]
async fn prove_u1_a_command_that_is_said_to_have_succeeded_has_run() {
    let nth = if tier() > 1 { 40 } else { 3 };
    let story = Story::begin(", update_command: 'echo $IOT_UPDATE_VERSION >> {home}/ran'").await;
    let more = ["--kind", "command"];
    let mut agent = story.online().await;
    let (mut points, mut deaths) = (0, 0);
    for call in CALLS {
        for n in 1..=nth {
            // Late ones are around the end of the installer and the begin of the command.
            let n = n * if tier() > 1 { 1 } else { 4 };
            let version = format!("1.0.{points}");
            let package = story.builder.package(&version, &[], &more);
            let request = story.request(&version, &version, &package).await;
            let strace = attach(agent.pid(), &format!("{call}:signal=SIGKILL:when={n}")).await.unwrap();
            story.send(request.to_string()).await;
            let deadline = Instant::now() + PATIENCE;
            while agent.is_running().unwrap() && story.ends(&version).is_empty() && Instant::now() < deadline
            {
                sleep(Duration::from_millis(20)).await;
            }
            points += 1;
            if !detach(strace, &mut agent, &story.home).await {
                deaths += 1;
                agent = story.online().await;
            }
            let end = story.end(&version).await;
            let ran = fs::read_to_string(story.home.path().join("ran")).unwrap_or_default();
            let ran = ran.lines().any(|line| line == version);
            assert!(end["state"] != "success" || ran, "{call} {n}: {end:#}");
            assert_eq!(story.ends(&version).len(), 1, "{call} {n}");
        }
    }
    proof("U1-command", &format!("wanted=no-false-success,one-end points={points} deaths={deaths} false=0"));
    assert!(deaths > 0, "nothing was ever killed");
}
