//! U1 of bundles: the agent and all it starts killed in the midst, before the machine is restarted and after.

use std::{collections::BTreeMap, time::Duration};

use testkit::{Process, Rng, inject::attach};
use tokio::time::{Instant, sleep};

use super::machine::Machine;
use crate::{
    steps::{Sample, injections},
    support::{proof, strace::detach},
};

/// Longer than an update takes, with all its restarts.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent and its installer die of, and of each the n-th.
const CALLS: [&str; 13] = [
    "openat", "write", "fsync", "mkdir", "rename", "renameat", "unlinkat", "flock", "sendto", "recvfrom",
    "clone3", "vfork", "execve",
];

/// Of these each fails once, so many a time.
const FAILING: [&str; 7] = ["openat", "write", "fsync", "mkdir", "rename", "renameat", "unlinkat"];

#[tokio::test]
async fn prove_u1_whatever_is_killed_while_rauc_installs_there_is_one_version_and_one_end() {
    let figures = hurt(&CALLS, &["signal=SIGKILL"], 77).await;
    proof("U1-rauc", &format!("wanted=100%-old-or-new,one-end {figures}"));
}

#[tokio::test]
async fn prove_u3_whatever_the_disk_refuses_while_rauc_installs_there_is_no_false_success() {
    let figures = hurt(&FAILING, &["error=ENOSPC", "error=EIO", "error=EROFS"], 62).await;
    proof("U3-rauc", &format!("wanted=0-false-success,one-end {figures}"));
}

/// When the agent is hurt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Until the machine is restarted.
    Installing,
    /// From then on.
    Confirming,
    /// While the new version, which is ill, is gone back from.
    Back,
}

/// One update after the other, with these calls hurt in these ways in each of the three times, one of so many in the small
/// proof.
async fn hurt(calls: &[&str], ways: &[&str], every: u64) -> String {
    let seed = testkit::seed();
    let mut sample = Sample::one_of(every, &mut Rng::new(seed));
    let mut machine = Machine::begin("2s", "").await;
    let mut agent = machine.run().await;
    let mut before = machine.version();
    let (mut points, mut deaths, mut ends) = (0, 0, BTreeMap::<String, usize>::new());
    let nth: &[usize] = if ways.len() > 1 { &[1, 3, 8] } else { &[1, 2, 3, 5, 8, 13, 21, 34] };
    let times = [When::Installing, When::Confirming, When::Back];
    let all = injections(calls, ways, nth).into_iter();
    for (inject, when) in all.flat_map(|inject| times.map(|when| (inject.clone(), when))) {
        if !sample.takes() {
            continue;
        }
        points += 1;
        let (id, next) = (format!("u{points}"), format!("1.{points}.0"));
        let at = format!("{inject}, {when:?}");
        deaths += machine.ask_while(&mut agent, (&id, &next), &inject, when).await;
        let end = machine.story.end(&id).await;
        if end["state"] == "failed" && machine.state("primary") != machine.booted() {
            // The machine could not be restarted: whoever does so has the old version.
            agent = machine.reboot(&mut agent).await;
        }
        let runs = machine.version();
        assert!(end["state"] != "success" || when != When::Back, "{at}: {end}");
        let wanted = if end["state"] == "success" { &next } else { &before };
        assert_eq!(runs, *wanted, "{at}: {end}");
        assert_eq!(machine.story.ends(&id).len(), 1, "{at}");
        // Nothing that the boot loader does later changes that.
        assert_eq!(machine.state("primary"), machine.booted(), "{at}: {end}");
        *ends.entry(end["state"].as_str().unwrap().to_owned()).or_default() += 1;
        before = runs;
    }
    let ends = format!("{ends:?}").replace(", ", ",").replace(": ", ":");
    format!("points={points} deaths={deaths} ends={ends} mixed=0 seed={seed}")
}

impl Machine {
    /// Asks for a version and restarts the machine when that is wanted, while that happens to the agent; how often it died.
    async fn ask_while(
        &mut self,
        agent: &mut Process,
        (id, version): (&str, &str),
        inject: &str,
        when: When,
    ) -> usize {
        let bundle = self.bundle(version, "board");
        let request = self.story.request(id, version, &bundle).await;
        let (mut strace, mut restarts, mut deaths) = (None, 0, 0);
        let deadline = Instant::now() + PATIENCE;
        if when == When::Installing {
            strace = Some(attach(agent.pid(), inject).await.unwrap());
        }
        self.story.send(request.to_string()).await;
        while self.story.ends(id).is_empty() {
            assert!(Instant::now() < deadline, "{id}, {inject}: {:?}", self.story.said(id));
            if self.is_going_down() {
                drop(strace.take());
                restarts += 1;
                let hurts = restarts == 1 && when != When::Installing;
                if hurts {
                    // It does not come to its end before it is followed.
                    self.make_ill();
                } else if restarts == 2 && when == When::Back {
                    self.make_well();
                }
                *agent = self.reboot(agent).await;
                if hurts {
                    strace = Some(attach(agent.pid(), inject).await.unwrap());
                }
                if hurts && when == When::Confirming {
                    self.make_well();
                }
            }
            if !agent.is_running().unwrap() {
                deaths += 1;
                drop(strace.take());
                *agent = self.again().await;
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.be_well();
        if let Some(strace) = strace.take()
            && !detach(strace, agent, &self.story.home).await
        {
            deaths += 1;
            *agent = self.again().await;
        }
        deaths
    }
}
