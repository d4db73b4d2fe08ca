//! What the agent asks of the allocator for each sample, and what it keeps: it runs in a process that counts, which is this
//! benchmark once more.

use std::{
    alloc::System,
    env,
    fs::File,
    io::{self, Read, Write},
    os::fd::AsFd,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use iot_agent::{agent, config::Sources};
use rustix::process::{Signal, getpid, kill_process};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use testkit::Mosquitto;
use tokio::time::{sleep, timeout};

use crate::sent::sent;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const CHILD: &str = "IOT_AGENT_BENCH_COUNTED";
const PATIENCE: Duration = Duration::from_secs(60);
/// From the arrival of a sample until all that comes with it has been done: before the next is taken.
const AFTERWARDS: Duration = Duration::from_millis(400);
/// Samples counted, after the second.
const SAMPLES: usize = 60;

/// Of the samples after the second.
pub(crate) struct Counted {
    /// Allocations for each, those that make one larger included.
    pub(crate) allocations: f64,
    /// Bytes held after the last, beyond those after the second.
    pub(crate) growth: f64,
}

/// Of an agent with this configuration, whose samples come to this topic.
pub(crate) async fn count(broker: &Mosquitto, config: &Path, topic: &str) -> Counted {
    let mut agent = Agent::start(config);
    wait(broker, topic, 2).await;
    let (calls, bytes) = agent.asked();
    wait(broker, topic, 2 + SAMPLES).await;
    let (calls_then, bytes_then) = agent.asked();
    let samples = sent(broker, topic, 0).messages - 2;
    agent.end();
    Counted { allocations: (calls_then - calls) as f64 / samples as f64, growth: (bytes_then - bytes) as f64 }
}

async fn wait(broker: &Mosquitto, topic: &str, samples: usize) {
    let arrived = async {
        while sent(broker, topic, 0).messages < samples {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE + Duration::from_secs(2) * SAMPLES as u32, arrived).await.expect("samples arrive");
    sleep(AFTERWARDS).await;
}

/// It, in its process.
struct Agent {
    child: Child,
    ask: ChildStdin,
    answers: ChildStdout,
}

impl Agent {
    fn start(config: &Path) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(CHILD, config).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let (ask, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, ask, answers }
    }

    /// What it has asked of the allocator so far: how often, and bytes that it has not given back.
    fn asked(&mut self) -> (i64, i64) {
        self.ask.write_all(b"?").unwrap();
        let mut answer = [0; 16];
        self.answers.read_exact(&mut answer).unwrap();
        let number = |half: &[u8]| i64::from_ne_bytes(half.try_into().unwrap());
        (number(&answer[..8]), number(&answer[8..]))
    }

    /// It ends with its input.
    fn end(mut self) {
        drop(self.ask);
        assert!(self.child.wait().unwrap().success());
    }
}

/// Whether this process is the one that counts.
pub(crate) fn is_child() -> bool {
    env::var_os(CHILD).is_some()
}

/// Runs the agent, beside an onlooker.
pub(crate) fn child() -> ExitCode {
    let file = env::var_os(CHILD).unwrap().into();
    thread::spawn(|| {
        answer().unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(agent::run(Sources { file, sets: vec![], env: vec![] })).unwrap();
    ExitCode::SUCCESS
}

/// Says what has been asked of the allocator, of which it asks nothing itself.
fn answer() -> io::Result<()> {
    let mut questions = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut answers = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut question = [0];
    while questions.read(&mut question)? > 0 {
        let stats = ALLOCATOR.stats();
        let calls = stats.allocations + stats.reallocations;
        let held = stats.bytes_allocated.wrapping_sub(stats.bytes_deallocated);
        answers.write_all(&(calls as i64).to_ne_bytes())?;
        answers.write_all(&(held as i64).to_ne_bytes())?;
    }
    Ok(())
}
