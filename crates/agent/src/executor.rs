//! The only module that starts processes: jobs, each in the care of a keeper.
//!
//! ```text
//! agent ── socket, frames ── keeper (this program again, `executor`) ── pipes ── the program and all it starts
//! ```
//!
//! A keeper is a process of its own so that the job is ended, and its outcome kept, also when the agent dies; and so that
//! nothing of the agent, neither its memory nor its descriptors, is near what others have asked to run. `keeper.rs` is
//! that process, `launch.rs` the step to the program, `contain.rs` the cgroups, `tree.rs` who descends from whom,
//! `output.rs` what is kept, `frame.rs` what is said on the socket, `spool.rs` what is left when nobody listens. The agent's side is here and in `running.rs`.

use std::{
    fs::File,
    io,
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

mod account;
mod contain;
pub(crate) mod frame;
mod job;
mod keeper;
mod launch;
mod line;
mod os;
mod output;
mod running;
mod spool;
mod tree;

pub use account::{Login, login};
#[doc(hidden)]
pub use contain::Within;
pub use job::{End, Event, Job, Kept, Limits, Piece, Report};
pub use running::Running;

use contain::Plan;
use frame::{Frame, Order};

/// The hidden subcommand that makes this program a keeper.
pub const COMMAND: &str = "executor";

/// How long [`Executor::collect`] waits: a keeper whose agent is gone needs half a second of grace, five to see that
/// something does not die, and one for the output.
const COLLECT: Duration = Duration::from_secs(8);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(10);

/// Is a keeper, until its job is done.
///
/// # Errors
/// When this process was not started by an agent.
pub fn keep() -> anyhow::Result<()> {
    keeper::run()
}

/// Starts jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Executor(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    plan: Plan,
    containment: String,
}

impl Executor {
    /// Looks at what can hold jobs on this machine and removes what dead keepers have left there. From now on this
    /// process takes in the orphans of what it started.
    ///
    /// A short look at the disk at the start of a service, and no network.
    pub fn new(run_as: Option<&str>) -> Self {
        Self::with(own_program(), run_as, Within::Best)
    }

    /// With another program as the keeper, and another way to hold jobs than the best: for tests.
    #[doc(hidden)]
    pub fn with(program: PathBuf, run_as: Option<&str>, within: Within) -> Self {
        os::reap_orphans();
        let (plan, containment) = contain::decide(run_as, within);
        contain::remove_stale(&plan);
        Self(Arc::new(Inner { program, plan, containment }))
    }

    /// What holds a job together and within its limits, in words: "cgroup v2: pids, memory".
    pub fn containment(&self) -> &str {
        &self.0.containment
    }

    /// Whether there is such an account.
    ///
    /// # Errors
    /// Why not.
    pub fn check_account(run_as: &str) -> Result<(), String> {
        account::Account::find(run_as).map(drop)
    }

    /// Starts a job. To be called within a tokio runtime; it takes as long as starting a process does.
    ///
    /// What is wrong with the job itself is told as [`End::Failed`].
    ///
    /// # Errors
    /// When no keeper could be started or the spool file not be made. Nothing has run then.
    pub fn start(&self, job: &Job) -> io::Result<Running> {
        if job.spool.to_str().is_none() || job.cwd.to_str().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path is no UTF-8"));
        }
        let order = Frame::Order(Box::new(Order { job: job.clone(), plan: self.0.plan.clone() })).encode();
        if order.len() > frame::MAX_ORDER {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the command is too long"));
        }
        let spool = spool::make(&job.spool)?;
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&self.0.program);
        command.arg0("iot-agent").arg(COMMAND).env_clear();
        command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs))).stdout(spool).stderr(Stdio::null());
        let running = Running::spawn(&mut command, ours, job, self.0.plan.clone());
        // Ours of the spool, and of the keeper's end.
        drop(command);
        if running.is_err() {
            // Empty, and nobody knows of it.
            std::fs::remove_file(&job.spool).ok();
        }
        let mut running = running?;
        running.send(&order);
        Ok(running)
    }

    /// The outcome of a job whose agent was gone when it ended: waits for its keeper, at most some seconds, and removes
    /// the file. [`End::Lost`] with the heads of the output, where the keeper was killed too; `None` where nothing is
    /// left at all: no such job was started, or it was killed before it had said anything, or the disk was full.
    pub async fn collect(spool: &Path) -> Option<Report> {
        let file = File::open(spool).ok()?;
        let until = tokio::time::Instant::now() + COLLECT;
        while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
            && tokio::time::Instant::now() < until
        {
            tokio::time::sleep(LOOK).await;
        }
        let report = spool::read(file);
        // What cannot be removed is made anew by the next job of that name.
        std::fs::remove_file(spool).ok();
        report
    }
}

/// This very program, also after an update has put another in its place.
pub(crate) fn own_program() -> PathBuf {
    let link = Path::new("/proc/self/exe");
    if link.exists() {
        link.to_owned()
    } else {
        std::env::current_exe().unwrap_or_else(|_| "iot-agent".into())
    }
}

/// What the system said, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error ").next().unwrap_or_default().to_owned()
}
