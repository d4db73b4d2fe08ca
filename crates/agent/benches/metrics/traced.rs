//! System calls of a running agent, all threads, counted by strace.

use std::{collections::BTreeMap, process::Command, time::Duration};

use testkit::{Mosquitto, Process, process::Signal};
use tokio::time::timeout;

use crate::sent::{now, sent};

const PATIENCE: Duration = Duration::from_secs(120);
/// Looks, of which three find new processes.
const LOOKS: usize = 30;

/// System calls a look, and the most frequent of them.
pub(crate) async fn calls(broker: &Mosquitto, agent: &Process, topic: &'static str) -> (f64, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("counts");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-S", "calls", "-p", &agent.pid().to_string(), "-o"]).arg(&file);
    let mut strace = Process::run(strace.into()).unwrap();
    strace.wait_line("attached", PATIENCE).await.unwrap();
    let skip = now(broker);
    let looked = async {
        while sent(broker, topic, skip).messages < LOOKS {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, looked).await.expect("it looks on while it is traced");
    strace.signal(Signal::INT).unwrap();
    strace.wait_exit(PATIENCE).await.unwrap();
    let counts = counts(&std::fs::read_to_string(file).unwrap());
    let looks = sent(broker, topic, skip).messages as f64;
    let all: f64 = counts.values().sum();
    let mut most: Vec<_> = counts.into_iter().collect();
    most.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let most: Vec<_> =
        most.iter().take(8).map(|(name, calls)| format!("{name} {:.1}", calls / looks)).collect();
    (all / looks, most.join(", "))
}

/// `% time  seconds  usecs/call  calls  [errors]  syscall`, between two lines of dashes.
fn counts(text: &str) -> BTreeMap<String, f64> {
    let rows = text.lines().skip_while(|line| !line.starts_with("---")).skip(1);
    let rows = rows.take_while(|line| !line.starts_with("---"));
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[words.len() - 1].to_owned(), words[3].parse().unwrap())
    };
    let counts: BTreeMap<_, _> = rows.map(row).collect();
    assert!(counts.contains_key("pread64"), "not what strace writes: {text}");
    counts
}
