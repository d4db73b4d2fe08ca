//! U1 once more, of the whole agent: whatever of it is killed in the midst of an update, the old version is in use or the
//! new one, and the update has one end, which says which.

use std::{fs, path::PathBuf, time::Duration};

use testkit::{Process, Rng, inject::attach};
use tokio::time::{Instant, sleep};

use crate::{
    bench::content,
    steps::Sample,
    story::Story,
    support::{proof, strace::detach, tier},
};

/// Much longer than an update takes.
const PATIENCE: Duration = Duration::from_secs(3);
pub(crate) const CALLS: [&str; 22] = [
    "openat",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "fchmod",
    "mkdirat",
    "mkdir",
    "renameat",
    "rename",
    "symlinkat",
    "unlinkat",
    "unlink",
    "umask",
    "flock",
    "sendto",
    "recvfrom",
    "clone3",
    "vfork",
    "execve",
    "socketpair",
    "prctl",
];

/// A device, and two versions of its software that take turns.
pub(crate) struct Turns {
    pub(crate) story: Story,
    packages: [PathBuf; 2],
}

const VERSIONS: [&str; 2] = ["1.0.0", "2.0.0"];

impl Turns {
    pub(crate) async fn new() -> Self {
        let story = Story::begin("").await;
        let packages = VERSIONS.map(|version| {
            let files = content(version);
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
            story.package(version, &files, &["--allow-downgrade"])
        });
        Self { story, packages }
    }

    /// Which of the two is in use; each of its files has been looked at.
    pub(crate) fn in_use(&self) -> Option<usize> {
        let version = self.story.version()?;
        for (path, text) in content(&version) {
            let found = fs::read_to_string(self.story.target().join("current").join(path));
            assert_eq!(found.unwrap_or_else(|error| panic!("{path}: {error}")), text, "{path} of {version}");
        }
        VERSIONS.iter().position(|known| *known == version)
    }

    pub(crate) async fn ask(&self, id: &str, number: usize) {
        self.story.ask(id, VERSIONS[number], &self.packages[number]).await;
    }

    /// Asks for the version that is not in use, with that happening to the agent. Whether the agent itself died.
    async fn turn(&self, agent: &mut Process, id: &str, inject: &str) -> bool {
        let before = self.in_use();
        let next = before.map_or(0, |number| 1 - number);
        let strace = attach(agent.pid(), inject).await.unwrap();
        self.ask(id, next).await;
        // Until it has ended, or the agent has; or for a while, since what goes back is tried until nobody kills it any more.
        let deadline = Instant::now() + PATIENCE;
        while agent.is_running().unwrap() && self.story.ends(id).is_empty() && Instant::now() < deadline {
            let now = self.in_use();
            assert!(now == before || now == Some(next), "{id}: {now:?} after {before:?}");
            sleep(Duration::from_millis(20)).await;
        }
        let died = !detach(strace, agent, &self.story.home).await;
        let now = self.in_use();
        assert!(now == before || now == Some(next), "{id}: {now:?} after {before:?}");
        if died {
            *agent = self.story.online().await;
        }
        let end = self.story.end(id).await;
        let wanted = if end["state"] == "success" { Some(next) } else { before };
        assert_eq!(self.in_use(), wanted, "{id}: {end:#}");
        died
    }
}

#[tokio::test]
async fn prove_u1_whatever_is_killed_of_the_agent_there_is_one_version_and_one_end() {
    let seed = testkit::seed();
    let mut rng = Rng::new(seed);
    let mut sample = Sample::one_of(8, &mut rng);
    let turns = Turns::new().await;
    let mut agent = turns.story.online().await;
    turns.ask("first", 0).await;
    assert_eq!(turns.story.end("first").await["state"], "success");
    let (mut points, mut deaths) = (Vec::new(), 0);
    let nth: &[usize] = if tier() > 1 { &[1, 2, 3, 5, 8, 13, 21, 34] } else { &[1, 2, 4, 9] };
    for call in CALLS {
        for n in nth {
            if sample.takes() {
                let id = format!("{call}-{n}");
                let inject = format!("{call}:signal=SIGKILL:when={n}");
                deaths += usize::from(turns.turn(&mut agent, &id, &inject).await);
                points.push(id);
            }
        }
    }
    // Nothing more comes of those before.
    turns.ask("last", 0).await;
    turns.story.end("last").await;
    let mut ends = std::collections::BTreeMap::<String, usize>::new();
    for id in &points {
        let found = turns.story.ends(id);
        assert_eq!(found.len(), 1, "{id}: {found:#?}");
        *ends.entry(found[0]["state"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let points = points.len();
    proof(
        "U1-agent",
        &format!(
            "wanted=100%-old-or-new,one-end points={points} deaths={deaths} ends={ends:?} mixed=0 seed={seed}"
        )
        .replace(", ", ",")
        .replace(": ", ":"),
    );
}
