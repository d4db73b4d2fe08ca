//! The agent updated from one version of itself to another and back, again and again: under load, killed at any time, with new
//! versions among them that are broken in each of the ways there are.

use std::{
    collections::BTreeSet,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use testkit::{Process, Rng};
use tokio::{io::AsyncWriteExt as _, process::Command, task::JoinHandle, time::sleep};

use crate::{
    itself::{SPOIL, release, script, sound},
    story::{Story, until},
    support::{proof, stop, tier},
};

/// Lines of one call of `publish`.
const LINES: usize = 40;
/// Between two calls: who watches has to read it all, or the broker sends it away.
const BREATH: Duration = Duration::from_millis(20);

const BROKEN: [&str; 7] = [
    "exit 1",
    "exit 0",
    "exec sleep 1000",
    "exec AGENT \"$@\" --set mqtt.broker=mqtt://127.0.0.1:1",
    "exec AGENT \"$@\" --set services.metrics.bad=1",
    "exec /dev/null",
    SPOIL,
];

/// Publishes all the while, and knows which lines the agent has said to have.
struct Load {
    over: Arc<AtomicBool>,
    owed: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

impl Load {
    fn begin(story: &Story) -> Self {
        let (over, owed) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
        let command = story.home.command(&["publish", "load"]);
        let (program, args) = (command.get_program().to_owned(), command.get_args().map(ToOwned::to_owned));
        let (args, ended, told) = (args.collect::<Vec<_>>(), Arc::clone(&over), Arc::clone(&owed));
        let task = tokio::spawn(async move {
            let mut batch = 0;
            while !ended.load(Ordering::Relaxed) {
                batch += 1;
                let lines: Vec<String> = (0..LINES).map(|line| format!("line-{batch}-{line}")).collect();
                let mut command = Command::new(&program);
                command.args(&args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
                let mut child = command.spawn().unwrap();
                // While there is no agent it ends without having read.
                child.stdin.take().unwrap().write_all((lines.join("\n") + "\n").as_bytes()).await.ok();
                if child.wait().await.unwrap().success() {
                    told.lock().unwrap().extend(lines);
                }
                sleep(BREATH).await;
            }
        });
        Self { over, owed, task }
    }

    /// All lines that the agent has taken.
    async fn end(self) -> BTreeSet<String> {
        self.over.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        std::mem::take(&mut *self.owed.lock().unwrap())
    }
}

fn arrived(story: &Story) -> BTreeSet<String> {
    let all = story.watcher.messages().matching(|message| message.topic == "iot/d1/data/load");
    all.into_iter().filter_map(|message| Some(message.json().ok()?["data"].as_str()?.to_owned())).collect()
}

/// At some time of the update somebody is killed: the process that was started here, or the one that is the agent.
async fn strike(story: &Story, agent: &mut Process, rng: &mut Rng) -> bool {
    let what = rng.below(3);
    sleep(Duration::from_millis(rng.below(2500))).await;
    let now = story.home.status().and_then(|status| status["pid"].as_u64());
    match (what, now) {
        (1, Some(pid)) => {
            kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).ok();
        }
        (2, _) => agent.kill().await.unwrap(),
        _ => return false,
    }
    true
}

#[tokio::test]
async fn prove_itself_it_always_ends_on_a_version_that_works() {
    let seed = testkit::seed();
    let mut rng = Rng::new(seed);
    let turns = if tier() > 1 { 50 } else { 3 };
    let story = Story::begin(", health: {timeout: 4s}").await;
    let mut agent = story.online().await;
    let load = Load::begin(&story);
    let (mut good, mut bad, mut kills) = (0, 0, 0);
    for turn in 0..turns {
        let id = format!("turn-{turn}");
        let before = release(&story);
        let (version, package) = if rng.below(2) == 0 {
            let version = if before.as_deref() == Some("2.0.0") { "3.0.0" } else { "2.0.0" };
            (version.to_owned(), sound(&story, version, &["--allow-downgrade"]))
        } else {
            let version = format!("4.0.{turn}");
            let line = BROKEN[rng.below(BROKEN.len() as u64) as usize];
            (version.clone(), script(&story, &version, line, &[]))
        };
        story.ask(&id, &version, &package).await;
        kills += usize::from(strike(&story, &mut agent, &mut rng).await);
        if !agent.is_running().unwrap() {
            agent = story.home.start();
        }
        // A process that ends meanwhile is started again, as a service manager does it.
        until_ended(&story, &id, &mut agent).await;
        let ends = story.ends(&id);
        assert_eq!(ends.len(), 1, "{id}: {ends:#?}");
        if ends[0]["state"] == "success" {
            assert_eq!(release(&story), Some(version), "{id}");
            good += 1;
        } else {
            assert_eq!(release(&story), before, "{id}: {}", ends[0]);
            bad += 1;
        }
    }
    let owed = load.end().await;
    until("all has arrived", || owed.is_subset(&arrived(&story))).await;
    let (lines, lost) = (owed.len(), owed.difference(&arrived(&story)).count());
    if agent.is_running().unwrap() {
        stop(&mut agent, "after the last turn").await;
    }
    proof(
        "agent-turns",
        &format!(
            "wanted={turns}-turns,0-lost turns={turns} good={good} gone-back={bad} kills={kills} lines={lines} lost={lost} seed={seed}"
        ),
    );
}

async fn until_ended(story: &Story, id: &str, agent: &mut Process) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let answers = || story.home.status().is_some_and(|status| status["connection"]["state"] == "connected");
    while story.ends(id).is_empty() || !answers() {
        let late = tokio::time::Instant::now() > deadline;
        if late {
            let folder = story.home.path().join("state/agent");
            let read = |name| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            panic!(
                "{id}: {:?}: {:?}: {:?} leads to {:?}: {} {} {:#?}",
                story.states(id),
                story.home.status(),
                agent.pid(),
                release(story),
                read("trial.json"),
                read("current/iot-agent"),
                agent.stderr.all()
            );
        }
        if !agent.is_running().unwrap() {
            *agent = story.home.start();
        }
        sleep(Duration::from_millis(50)).await;
    }
}
