//! Agents that end while a module is at work, with and without its keeper; and U1 of a whole update of this kind.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use testkit::{Process, Rng, inject::attach};
use tokio::time::{Instant, sleep};

use super::module::{AFTER, BEFORE, Module};
use crate::{
    commands::after_reboots,
    steps::{Sample, injections},
    support::{SOON, proof, strace::detach, tier},
};

/// Much longer than an update takes.
const PATIENCE: Duration = Duration::from_secs(3);

/// What comes before each in the table.
const INSTALL: &[&str] =
    &["ArtifactInstall", "NeedsArtifactReboot", "ArtifactReboot", "ArtifactVerifyReboot"];
const BACK: &[&str] = &["ArtifactRollback", "ArtifactRollbackReboot", "ArtifactVerifyRollbackReboot"];

/// Where the agent was ended, what was failing then, what it is asked for after the files were taken, and how it ends.
fn cases() -> Vec<(&'static str, &'static str, Vec<&'static str>, &'static str)> {
    let install = ["ArtifactInstall", "ArtifactRollback", "NeedsArtifactReboot", BACK[1], BACK[2]];
    let well = [INSTALL, &["ArtifactCommit", "Cleanup"]].concat();
    let twice = |verb: &'static str| {
        let mut all = [INSTALL, BACK, AFTER].concat();
        let at = all.iter().position(|known| *known == verb).unwrap();
        all.insert(at, verb);
        all
    };
    vec![
        ("SupportsRollback", "", [&["SupportsRollback"][..], &well].concat(), "success"),
        ("ArtifactInstall", "", [&install[..], AFTER].concat(), "rolled_back"),
        (
            "NeedsArtifactReboot",
            "",
            [&["ArtifactInstall", "NeedsArtifactReboot"][..], &INSTALL[1..], &["ArtifactCommit", "Cleanup"]]
                .concat(),
            "success",
        ),
        ("ArtifactReboot", "", well.clone(), "success"),
        (
            "ArtifactVerifyReboot",
            "",
            [INSTALL, &["ArtifactVerifyReboot", "ArtifactCommit", "Cleanup"]].concat(),
            "success",
        ),
        ("ArtifactCommit", "", [INSTALL, &["ArtifactCommit"], BACK, AFTER].concat(), "rolled_back"),
        ("ArtifactRollback", "ArtifactVerifyReboot", twice("ArtifactRollback"), "rolled_back"),
        ("ArtifactRollbackReboot", "ArtifactVerifyReboot", [INSTALL, BACK, AFTER].concat(), "rolled_back"),
        (
            "ArtifactVerifyRollbackReboot",
            "ArtifactVerifyReboot",
            twice("ArtifactVerifyRollbackReboot"),
            "rolled_back",
        ),
        ("ArtifactFailure", "ArtifactVerifyReboot", twice("ArtifactFailure"), "rolled_back"),
        ("Cleanup", "", [&well[..], &["Cleanup"]].concat(), "success"),
    ]
}

/// What ends while the module is at work.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    Agent,
    /// And the keeper of the module.
    Both,
    /// And the machine: the next agent finds another boot id.
    Machine,
}

async fn each(ends: Ends) {
    let module = Module::begin("").await;
    module.says("NeedsArtifactReboot", "Yes");
    module.says("SupportsRollback", "Yes");
    let pid = module.story.home.path().join("state/pid");
    let keeper = if ends == Ends::Agent { "" } else { "$PPID" };
    let deadly = format!("kill -9 $(cat {}) {keeper}; sleep 600", pid.display());
    let mut before = None;
    for (at, (verb, failing, wanted, state)) in cases().into_iter().enumerate() {
        let mut agent = module.story.online().await;
        module.forget();
        if !failing.is_empty() {
            module.does(failing, "exit 3");
        }
        module.does(verb, &deadly);
        let (id, version) = (format!("u{at}"), format!("1.{at}.0"));
        module.ask(&id, &version).await;
        agent.wait_exit(SOON).await.unwrap();
        let mut agent = match ends {
            Ends::Machine => after_reboots(&module.story, 1).await,
            _ => module.story.online().await,
        };
        let end = module.end(&id).await;
        assert_eq!(end["state"], state, "{verb}: {end} {:?}", module.asked());
        assert_eq!(module.asked()[BEFORE..], *wanted, "{verb}: {end}");
        if state == "success" {
            before = Some(version);
        }
        assert_eq!(module.installed(), before, "{verb}");
        assert_eq!(module.story.ends(&id).len(), 1, "{verb}");
        agent.kill().await.unwrap();
    }
}

#[tokio::test]
async fn an_agent_that_ends_at_any_verb_leaves_the_next_one_where_mender_would_be() {
    each(Ends::Agent).await;
}

#[tokio::test]
async fn so_does_one_that_ends_together_with_the_keeper_of_the_module() {
    each(Ends::Both).await;
}

#[tokio::test]
async fn so_does_a_machine_that_goes_down_at_any_verb() {
    each(Ends::Machine).await;
}

/// The files lie there still: they are taken from the beginning, after a cleanup.
#[tokio::test]
async fn files_that_were_being_taken_are_taken_again() {
    let module = Module::begin("").await;
    let pid = module.story.home.path().join("state/pid");
    module.does("Download", &format!("kill -9 $(cat {}); sleep 600", pid.display()));
    let mut agent = module.story.online().await;
    module.ask("u1", "1.0.0").await;
    agent.wait_exit(SOON).await.unwrap();
    let _agent = module.story.online().await;
    let end = module.end("u1").await;
    assert_eq!(end["state"], "success", "{end}");
    let asked = module.asked();
    assert_eq!(asked[..3], ["ProvidePayloadFileSizes", "Download", "Cleanup"]);
    assert_eq!(asked[3..6], ["ProvidePayloadFileSizes", "Download", "SupportsRollback"]);
    assert_eq!(module.installed().as_deref(), Some("1.0.0"));
}

/// The outcome of a verb that had ended when the agent did is known: the keeper has kept it.
#[tokio::test]
async fn what_had_ended_is_not_asked_for_again() {
    let module = Module::begin("").await;
    let pid = module.story.home.path().join("state/pid");
    let pid = pid.display();
    // The keeper asks it to end, and it does so well.
    module.does(
        "ArtifactInstall",
        &format!(
            "trap 'cp files/version {{home}}/installed; exit 0' TERM; kill -9 $(cat {pid}); sleep 600 & wait"
        )
        .replace("{home}", module.story.home.path().to_str().unwrap()),
    );
    let mut agent = module.story.online().await;
    module.ask("u1", "1.0.0").await;
    agent.wait_exit(SOON).await.unwrap();
    let _agent = module.story.online().await;
    let end = module.end("u1").await;
    let installs = module.asked().iter().filter(|verb| *verb == "ArtifactInstall").count();
    assert_eq!(installs, 1, "{end}");
    assert!(module.asked().last().is_some_and(|verb| verb == "Cleanup"), "{:?}", module.asked());
}

/// What the agent, its keeper, the installer and the module die of, and of each the n-th.
const CALLS: [&str; 14] = [
    "openat", "write", "fsync", "mkdir", "mknodat", "rename", "renameat", "unlinkat", "flock", "sendto",
    "recvfrom", "clone3", "vfork", "execve",
];

/// Of these each fails once, so many a time.
const FAILING: [&str; 8] = ["openat", "write", "fsync", "mkdir", "mknodat", "rename", "renameat", "unlinkat"];

#[tokio::test]
async fn prove_u1_whatever_is_killed_while_a_module_installs_there_is_one_version_and_one_end() {
    let figures = hurt(&CALLS, &["signal=SIGKILL"], 6).await;
    proof("U1-module", &format!("wanted=100%-old-or-new,one-end {figures}"));
}

#[tokio::test]
async fn prove_u3_whatever_the_disk_refuses_while_a_module_installs_there_is_no_false_success() {
    let figures = hurt(&FAILING, &["error=ENOSPC", "error=EIO", "error=EROFS"], 8).await;
    proof("U3-module", &format!("wanted=0-false-success,one-end {figures}"));
}

/// One update after the other, with these calls hurt in these ways, one of so many in the small proof.
async fn hurt(calls: &[&str], ways: &[&str], every: u64) -> String {
    let seed = testkit::seed();
    let mut sample = Sample::one_of(every, &mut Rng::new(seed));
    let nth: &[usize] = if tier() > 1 { &[1, 2, 3, 5, 8, 13, 21, 34] } else { &[1, 3, 6, 12] };
    let module = Module::begin("").await;
    module.says("SupportsRollback", "Yes");
    let mut agent = module.story.online().await;
    assert_eq!(module.update("first", "0.1.0").await["state"], "success");
    let mut before = Some("0.1.0".to_owned());
    let (mut points, mut deaths, mut ends) = (0, 0, BTreeMap::<String, usize>::new());
    for inject in injections(calls, ways, nth) {
        if !sample.takes() {
            continue;
        }
        points += 1;
        let (id, version) = (format!("u{points}"), format!("1.{points}.0"));
        let (end, died) = hurt_at(&module, &mut agent, &id, (&version, &inject)).await;
        deaths += usize::from(died);
        let (installed, next) = (module.installed(), Some(version));
        let asked = module.asked();
        match end["state"].as_str().unwrap() {
            "success" => assert_eq!(installed, next, "{inject}: {end} {asked:?}"),
            "rolled_back" => assert_eq!(installed, before, "{inject}: {end} {asked:?}"),
            // The module itself was hurt on its way back, or before it began.
            _ => assert!(installed == before || installed == next, "{inject}: {end} {asked:?}"),
        }
        *ends.entry(end["state"].as_str().unwrap().to_owned()).or_default() += 1;
        assert_eq!(module.story.ends(&id).len(), 1, "{inject}");
        before = installed;
    }
    let ends = format!("{ends:?}").replace(", ", ",").replace(": ", ":");
    format!("points={points} deaths={deaths} ends={ends} mixed=0 seed={seed}")
}

/// Asks for a version while that happens to the agent and all it starts: how it ended, and whether the agent died.
async fn hurt_at(
    module: &Module,
    agent: &mut Process,
    id: &str,
    (version, inject): (&str, &str),
) -> (Value, bool) {
    let request = module.story.request(id, version, &module.package(version, &[])).await;
    module.forget();
    let strace = attach(agent.pid(), inject).await.unwrap();
    module.story.send(request.to_string()).await;
    let deadline = Instant::now() + PATIENCE;
    while agent.is_running().unwrap() && module.story.ends(id).is_empty() && Instant::now() < deadline {
        sleep(Duration::from_millis(20)).await;
    }
    let died = !detach(strace, agent, &module.story.home).await;
    if died {
        *agent = module.story.online().await;
    }
    (module.story.end(id).await, died)
}
