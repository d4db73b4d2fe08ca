//! What is to be done, and what became of it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// The longest time that is told from for ever: what is added to a moment must stay one.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// One program to run, with everything it is given. Nothing else reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The program and its arguments. A name without `/` is looked for along `PATH` of `env`.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub cwd: PathBuf,
    /// As whom: `user`, `user:group`, or numbers. With a group it has that group alone, without one all of the user's.
    pub run_as: Option<String>,
    /// After this long it is asked to end.
    pub timeout: Duration,
    /// So much later it is killed.
    pub grace: Duration,
    /// How much of each stream is kept, in bytes: half of the head, half of the tail.
    pub output_limit: u64,
    /// How often [`super::Event::Chunk`] tells of new output; absent: never.
    pub chunk_every: Option<Duration>,
    /// What it may use, with everything it starts.
    pub limits: Limits,
    /// A file of this job alone, made at the start. The outcome is found there by [`super::Executor::collect`] when
    /// the agent died before it took it.
    pub spool: PathBuf,
}

/// What a job may use in all. Whether a limit holds, [`super::Executor::containment`] says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Processes and threads at once.
    pub pids: Option<u32>,
}

/// What happens to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It runs.
    Started {
        /// The process.
        pid: u32,
    },
    /// Output since the last chunk; at least one piece has something.
    Chunk {
        /// Of its standard output.
        stdout: Piece,
        /// Of its standard error.
        stderr: Piece,
    },
    /// It has ended, and so has everything it had started.
    Ended(Report),
}

/// Output between two moments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// Its beginning.
    pub bytes: Vec<u8>,
    /// How many bytes came after that and are not in here.
    pub dropped: u64,
}

impl Piece {
    /// Whether nothing came.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.dropped == 0
    }
}

/// How a job ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The end of the program itself, whatever it had started.
    pub end: End,
    /// Its standard output.
    pub stdout: Kept,
    /// Its standard error.
    pub stderr: Kept,
    /// From its start until nothing of it was left.
    pub duration: Duration,
}

/// What is kept of a stream: all of it, or the head and the tail.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// The first bytes.
    pub head: Vec<u8>,
    /// The last bytes; they follow on the head where `dropped` is 0.
    pub tail: Vec<u8>,
    /// How many bytes were between the two.
    pub dropped: u64,
}

impl Kept {
    /// All that was kept.
    pub(crate) fn joined(&self) -> Vec<u8> {
        [self.head.as_slice(), &self.tail].concat()
    }
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// With this exit code.
    Exited(i32),
    /// By this signal.
    Signaled(i32),
    /// It was ended at its deadline.
    TimedOut,
    /// It was ended because of [`super::Running::cancel`].
    Cancelled,
    /// It was ended because the agent went away, or somebody wanted its keeper to end.
    Interrupted,
    /// Its keeper was killed; so was it then. Only the head of its output is known, and not how much followed.
    Lost,
    /// It could not be started, and why: "cannot enter /x: No such file or directory".
    Failed(String),
}
