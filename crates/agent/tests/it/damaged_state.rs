//! E7: every state file of a real agent, cut off at each length, and the agent started again on what is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
};

use serde_json::Value;
use testkit::{Mosquitto, Rng, client::Message, seed};
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::support::{
    Home, SOON,
    backend::{Backend, home, id},
    proof, stop, tier, wait_status,
};

const DEVICE: &str = "d1";
/// Brokers, and agents, at a time: each has a client id of its own, or two agents would fight over the session.
const WORKERS: usize = 4;
/// Lengths of each file with every test run, besides the extremes.
const SAMPLE: u64 = 5;

/// Each regular file below a folder: its path there and its content.
type Files = BTreeMap<PathBuf, Vec<u8>>;

fn files(root: &Path, folder: &Path, found: &mut Files) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(root, &path, found);
        } else {
            found.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
}

/// Lines on disk that the broker does not have, by class.
const WAITING: [(&str, &str); 2] =
    [("metrics", "\"m1\"\n\"m2\"\n\"m3\"\n\"m4\"\n\"m5\"\n"), ("event", "\"e1\"\n\"e2\"\n")];

async fn publish(home: &Home, class: &str, lines: &str) {
    let mut command = Command::from(home.command(&["publish", "room", "--class", class]));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).await.unwrap();
    let output = timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What an agent leaves that has enrolled and run, and is killed with messages on disk.
async fn state_of_a_run() -> Files {
    let mut broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker);
    let mut agent = home.start();
    backend.enrol(DEVICE).await;
    backend.watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    broker.kill().await.unwrap();
    wait_status(&home, |status| status["connection"]["error"].is_string()).await;
    for (class, lines) in WAITING {
        publish(&home, class, lines).await;
    }
    agent.kill().await.unwrap();
    let mut found = Files::new();
    let state = home.path().join("state");
    files(&state, &state, &mut found);
    // Only where something keeps the clock right does an agent write this down.
    found.entry("clock.json".into()).or_insert_with(|| {
        let floor = b"{\n  \"time\": \"2026-11-22T12:00:00.000Z\",\n  \"version\": 1\n}\n";
        floor.to_vec()
    });
    found
}

/// What is done to one file.
#[derive(Debug, Clone)]
struct Cut {
    file: PathBuf,
    length: usize,
}

fn cuts(files: &Files, rng: &mut Rng) -> Vec<Cut> {
    let mut cuts = Vec::new();
    for (file, content) in files {
        let all = content.len();
        let mut lengths: Vec<usize> = if tier() > 1 {
            (0..all).collect()
        } else {
            let chance = (0..SAMPLE).map(|_| usize::try_from(rng.below(all as u64)).unwrap());
            [0, 1, all / 2, all.saturating_sub(2), all.saturating_sub(1)].into_iter().chain(chance).collect()
        };
        lengths.sort_unstable();
        lengths.dedup();
        cuts.extend(lengths.into_iter().map(|length| Cut { file: file.clone(), length }));
    }
    cuts
}

/// The folder as it was, but for one file.
fn lay_out(home: &Home, files: &Files, cut: &Cut) {
    for (file, content) in files {
        let path = home.path().join("state").join(file);
        let folder = path.parent().unwrap();
        fs::create_dir_all(folder).unwrap();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        let kept = if *file == cut.file { &content[..cut.length] } else { content };
        fs::write(&path, kept).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// The lines whose records are whole in what is left: a record ends with its payload.
fn kept_lines(files: &Files, cut: &Cut) -> BTreeSet<String> {
    let lines = WAITING.iter().flat_map(|(_, lines)| lines.lines());
    let logs = || files.iter().filter(|(file, _)| file.starts_with("outbox"));
    let holds = |end: &str| {
        logs().any(|(file, content)| {
            let left = if *file == cut.file { &content[..cut.length] } else { content };
            left.windows(end.len()).any(|bytes| bytes == end.as_bytes())
        })
    };
    lines.filter(|line| holds(&format!("\"data\":{line}}}"))).map(str::to_owned).collect()
}

/// Waits until all of them have come, and sees that none has come that was not there.
async fn come(backend: &Backend, began: Instant, lines: &BTreeSet<String>, cut: &Cut) {
    let ours = |message: &Message| message.topic == "iot/d1/data/room" && message.at >= began;
    let line = |message: &Message| message.json().unwrap()["data"].to_string();
    let come = Mutex::new(BTreeSet::new());
    if !lines.is_empty() {
        let complete = |message: &Message| {
            if ours(message) {
                come.lock().unwrap().insert(line(message));
            }
            come.lock().unwrap().is_superset(lines)
        };
        let all = backend.watcher.messages().find(complete, SOON).await;
        all.unwrap_or_else(|_| panic!("{cut:?}: {lines:?} were on disk, {:?} came", come.lock().unwrap()));
    }
    let all: BTreeSet<_> = backend.watcher.all().iter().filter(|message| ours(message)).map(line).collect();
    assert!(all.is_subset(lines), "{cut:?}: {lines:?} were on disk, {all:?} came");
}

fn client_id(identity: &[u8]) -> String {
    let identity: Value = serde_json::from_slice(identity).unwrap();
    identity["client_id"].as_str().unwrap().to_owned()
}

/// It lives, connects and says who it is; what the cut has not reached is as it was.
async fn survives(broker: &Mosquitto, backend: &Backend, files: &Files, cut: &Cut) {
    let home = home(broker);
    lay_out(&home, files, cut);
    let damaged = |name: &str| {
        let left = &files[Path::new(name)][..cut.length.min(files[Path::new(name)].len())];
        cut.file == Path::new(name) && serde_json::from_slice::<Value>(left).is_err()
    };
    backend.watcher.messages().skip_to_end();
    let began = Instant::now();
    let mut agent = home.start();
    let before = client_id(&files[Path::new("identity.json")]);
    if damaged("device.json") {
        let request = backend.request().await;
        assert_eq!(request.client_id.as_str(), before, "{cut:?}: it asks as who it was");
        backend.answer(&request, id(DEVICE)).await;
    }
    let birth = backend
        .watcher
        .next(|message| message.topic == "iot/d1/status" && message.text().contains("\"online\""), SOON);
    birth.await.unwrap_or_else(|error| panic!("{cut:?}: {error:#}: {:#?}", agent.stderr.all()));
    come(backend, began, &kept_lines(files, cut), cut).await;
    assert!(agent.is_running().unwrap(), "{cut:?}");
    stop(&mut agent, &format!("{cut:?}")).await;
    let log = agent.stderr.all();
    assert!(!log.iter().any(|line| line.contains("panicked")), "{cut:?}: {log:#?}");

    let now = client_id(&fs::read(home.path().join("state/identity.json")).unwrap());
    assert_eq!(now == before, !damaged("identity.json"), "{cut:?}: {before} became {now}");
    let set_aside = log.iter().any(|line| line.contains("set a file aside"));
    let judged = ["identity.json", "device.json", "clock.json"].into_iter().any(damaged);
    assert_eq!(set_aside, judged, "{cut:?}: a damaged file is reported, and no other: {log:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prove_e7_a_state_file_cut_off_at_any_length_stops_nothing() {
    let start = seed();
    let files = Arc::new(state_of_a_run().await);
    for name in ["identity.json", "device.json", "clock.json", "pid"] {
        assert!(files.contains_key(Path::new(name)), "{name} is missing among {:?}", files.keys());
    }
    let cuts = cuts(&files, &mut Rng::new(start));
    let count = cuts.len();
    assert!(count >= 4 * files.len() && files.keys().any(|file| file.starts_with("outbox")));
    let cuts = Arc::new(Mutex::new(cuts));
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        let (files, cuts) = (Arc::clone(&files), Arc::clone(&cuts));
        workers.spawn(async move {
            let broker = Mosquitto::plain().await.unwrap();
            let backend = Backend::start(&broker).await;
            loop {
                let next = cuts.lock().unwrap().pop();
                let Some(cut) = next else { return };
                survives(&broker, &backend, &files, &cut).await;
            }
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker.unwrap();
    }
    let files = files.len();
    proof(
        "E7",
        &format!(
            "wanted=0-panics,0-crash-loops files={files} cuts={count} panics=0 crash_loops=0 seed={start}"
        ),
    );
}
