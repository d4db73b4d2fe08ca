//! U2 once more, of a whole device: its state and its software on one disk, and the power cut at any moment of an update.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use testkit::{Process, Rng, powercut::PowerCut, process::Signal};
use tokio::time::sleep;

use crate::{
    cuts,
    lives::Turns,
    support::{SOON, proof, tier},
};

#[test]
fn prove_u2_the_power_cut_at_any_moment_leaves_one_version_and_one_end() {
    let seed = testkit::seed();
    let name = "power::prove_u2_the_power_cut_at_any_moment_leaves_one_version_and_one_end";
    let tell = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tell(seed))
    };
    if let Some(figures) = cuts::apart(name, seed, tell) {
        proof("U2-agent", &format!("wanted=100%-old-or-new,one-end {figures} mixed=0 seed={seed}"));
    }
}

/// The device's folder, on a disk whose power can be cut.
pub(crate) struct Device<'a> {
    home: &'a Path,
    disk: PowerCut,
}

impl<'a> Device<'a> {
    pub(crate) fn new(home: &'a Path) -> Self {
        let device = Self { home, disk: PowerCut::new(192).unwrap() };
        let files = home.join(".");
        run(Command::new("cp").arg("-a").arg(files).arg(device.disk.path())).unwrap();
        run(Command::new("sync").arg("-f").arg(device.disk.path())).unwrap();
        device.appear();
        device
    }

    fn appear(&self) {
        run(Command::new("mount").arg("--bind").arg(self.disk.path()).arg(self.home)).unwrap();
    }

    /// No power for the disk, nor for the agent: it has no time to say what it sees of that.
    pub(crate) async fn cut(&self, agent: &mut Process) {
        agent.signal(Signal::STOP).unwrap();
        self.disk.cut().unwrap();
        agent.kill().await.unwrap();
        let deadline = Instant::now() + SOON;
        // What the agent has started ends as well, and has files open until then.
        while let Err(why) = run(Command::new("umount").arg(self.home)) {
            assert!(Instant::now() < deadline, "{why}");
            sleep(Duration::from_millis(50)).await;
        }
        self.disk.restore().unwrap();
        self.appear();
    }
}

impl Drop for Device<'_> {
    fn drop(&mut self) {
        run(Command::new("umount").arg("--lazy").arg(self.home)).ok();
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = || format!("{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    if done.status.success() { Ok(()) } else { Err(said()) }
}

async fn tell(seed: u64) -> String {
    let (mut rng, rounds) = (Rng::new(seed), if tier() > 1 { 100 } else { 8 });
    let turns = Turns::new().await;
    let device = Device::new(turns.story.home.path());
    let mut agent = turns.story.online().await;
    let began = Instant::now();
    turns.ask("first", 0).await;
    assert_eq!(turns.story.end("first").await["state"], "success");
    let whole = began.elapsed();
    let (mut ends, mut before, mut midst) = (std::collections::BTreeMap::<String, usize>::new(), Some(0), 0);
    for round in 0..rounds {
        let (id, next) = (format!("u{round}"), before.map_or(0, |number| 1 - number));
        turns.ask(&id, next).await;
        sleep(rng.between(Duration::ZERO, whole)).await;
        midst += usize::from(turns.story.ends(&id).is_empty());
        device.cut(&mut agent).await;
        let now = turns.in_use();
        assert!(now == before || now == Some(next), "{id}: {now:?} after {before:?}");
        agent = turns.story.online().await;
        let end = turns.story.end(&id).await;
        let wanted = if end["state"] == "success" { Some(next) } else { before };
        assert_eq!(turns.in_use(), wanted, "{id}: {end:#}");
        *ends.entry(end["state"].as_str().unwrap().to_owned()).or_default() += 1;
        before = wanted;
    }
    assert!(midst > 0, "each was over before the cut");
    for id in (0..rounds).map(|round| format!("u{round}")) {
        let found = turns.story.ends(&id);
        assert_eq!(found.len(), 1, "{id}: {found:#?}");
    }
    format!("cuts={rounds} in_the_midst={midst} ends={ends:?}").replace(": ", ":").replace(", ", ",")
}
