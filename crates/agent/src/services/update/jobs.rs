//! What is run for an update: the installer, which is this program again, and the owner's and the package's programs.
//! Each is a job of `executor/`, one after the other.

use std::{
    collections::BTreeMap,
    io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::installer::{self, Order, Report};
use crate::{
    executor::{End, Event, Executor, Job, Limits, Report as Ended, Running, own_program},
    log::chain,
};

/// What a job has left to end by itself once it was asked to.
const GRACE: Duration = Duration::from_secs(2);
/// The longest that unpacking may take.
const INSTALLER: Duration = Duration::from_secs(6 * 3600);
/// Bytes of output that are kept.
const OUTPUT: u64 = 16 << 10;
/// Bytes of output that stand in a reason.
const SHOWN: usize = 300;
/// Where a job leaves how it ended, should this process die: the owner's command apart from all else.
const JOB: &str = "job";
const OWNERS: &str = "command";
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The longest that an update module may take for one thing: as Mender has it, so what has the time there has it here.
const MODULE: Duration = Duration::from_secs(4 * 3600);

/// How a program ended, if it did not with 0.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// With this exit code.
    pub(super) code: Option<i32>,
    /// In words, with the end of what it said.
    pub(super) why: String,
}

/// Runs one job at a time.
#[derive(Debug)]
pub(super) struct Jobs {
    executor: Executor,
    folder: PathBuf,
    /// The job that has ended, until what came of it is written down: should this process die before that, its keeper leaves
    /// it to the next one.
    ended: Mutex<Option<Running>>,
}

/// What the installer could not do.
#[derive(Debug)]
pub(super) struct Refused {
    /// Why, in its own words.
    pub(super) why: String,
    /// Another try comes to the same.
    pub(super) lasting: bool,
}

impl Jobs {
    /// In a folder of the service's own.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { executor: Executor::new(None), folder, ended: Mutex::default() }
    }

    /// Waits for what an earlier process has left running: its keeper is ending it, if it had not ended. How the owner's
    /// command ended; of nothing else that is of interest, and nothing else must be taken for it.
    pub(super) async fn left(&self) -> Option<Result<(), Fault>> {
        drop(Executor::collect(&self.folder.join(JOB)).await);
        Executor::collect(&self.folder.join(OWNERS)).await.as_ref().map(result)
    }

    /// What came of the latest job is written down.
    pub(super) fn release(&self) {
        drop(self.ended.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Has the installer do one thing.
    ///
    /// # Errors
    /// Why it could not.
    pub(super) async fn install(&self, order: &Order) -> Result<Report, Refused> {
        let for_now = |why: String| Refused { why, lasting: false };
        let order = serde_json::to_string(order).map_err(|error| for_now(error.to_string()))?;
        let argv = vec![own_program().to_string_lossy().into_owned(), installer::COMMAND.to_owned(), order];
        let job = self.job(argv, &BTreeMap::new(), PathBuf::from("/"), INSTALLER);
        let ended = self.carry_out(job).await.map_err(for_now)?;
        let line = ended.stdout.joined();
        match serde_json::from_slice(&line) {
            Ok(Report::Error { reason, lasting }) => Err(Refused { why: reason, lasting }),
            Ok(report) => Ok(report),
            Err(_) => Err(for_now(format!("the installer {}", describe(&ended).why))),
        }
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// How it failed.
    pub(super) async fn run(
        &self,
        argv: Vec<String>,
        env: &BTreeMap<String, String>,
        cwd: PathBuf,
        timeout: Duration,
    ) -> Result<(), Fault> {
        self.end_of(self.job(argv, env, cwd, timeout)).await
    }

    /// The same for the owner's command: how it ended is known to the next process, too.
    ///
    /// # Errors
    /// How it failed.
    pub(super) async fn run_owners(
        &self,
        argv: Vec<String>,
        env: &BTreeMap<String, String>,
        cwd: PathBuf,
        timeout: Duration,
    ) -> Result<(), Fault> {
        let job = Job { spool: self.folder.join(OWNERS), ..self.job(argv, env, cwd, timeout) };
        self.end_of(job).await
    }

    /// Runs an update module: what it said. How it ended is known to the next process by the name of the file that it is left
    /// in.
    ///
    /// # Errors
    /// How it failed.
    pub(super) async fn run_left(
        &self,
        spool: &str,
        argv: Vec<String>,
        env: &BTreeMap<String, String>,
        cwd: PathBuf,
    ) -> Result<String, Fault> {
        let job = Job { spool: self.folder.join(spool), ..self.job(argv, env, cwd, MODULE) };
        let ended = self.carry_out(job).await.map_err(|why| Fault { code: None, why })?;
        said(&ended)
    }

    /// Waits for what an earlier process has left running by this name: how it ended.
    pub(super) async fn left_in(&self, spool: &str) -> Option<Result<String, Fault>> {
        Executor::collect(&self.folder.join(spool)).await.as_ref().map(said)
    }

    async fn end_of(&self, job: Job) -> Result<(), Fault> {
        let ended = self.carry_out(job).await.map_err(|why| Fault { code: None, why })?;
        result(&ended)
    }

    fn job(&self, argv: Vec<String>, env: &BTreeMap<String, String>, cwd: PathBuf, timeout: Duration) -> Job {
        let mut whole =
            BTreeMap::from([("PATH".to_owned(), PATH.to_owned()), ("LANG".to_owned(), "C.UTF-8".to_owned())]);
        whole.extend(env.clone());
        Job {
            argv,
            env: whole,
            cwd,
            run_as: None,
            timeout,
            grace: GRACE,
            output_limit: OUTPUT,
            chunk_every: None,
            limits: Limits::default(),
            spool: self.folder.join(JOB),
        }
    }

    async fn carry_out(&self, job: Job) -> Result<Ended, String> {
        let failed = |error: io::Error| format!("cannot be started: {}", chain(&error));
        self.release();
        crate::store::make_folder(&self.folder).map_err(failed)?;
        let mut running = self.executor.start(&job).map_err(failed)?;
        loop {
            if let Event::Ended(ended) = running.next().await {
                *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
                return Ok(ended);
            }
        }
    }
}

fn result(ended: &Ended) -> Result<(), Fault> {
    if ended.end == End::Exited(0) { Ok(()) } else { Err(describe(ended)) }
}

/// What it said, if it ended well.
fn said(ended: &Ended) -> Result<String, Fault> {
    result(ended)?;
    Ok(String::from_utf8_lossy(&ended.stdout.joined()).into_owned())
}

fn describe(Ended { end, stdout, stderr, duration }: &Ended) -> Fault {
    let (code, what) = match end {
        End::Exited(code) => (Some(*code), format!("ended with exit code {code}")),
        End::Signaled(signal) => (None, format!("was ended by signal {signal}")),
        End::TimedOut => (None, format!("did not end within {} s", duration.as_secs())),
        End::Cancelled | End::Interrupted | End::Lost => (None, "was interrupted".to_owned()),
        End::Failed(why) => (None, format!("could not be run: {why}")),
    };
    let said =
        [stderr, stdout].into_iter().map(|kept| String::from_utf8_lossy(&kept.joined()).trim().to_owned());
    let said = said.into_iter().find(|text| !text.is_empty());
    let why = match said {
        Some(said) => {
            format!("{what}: {}", &said[said.ceil_char_boundary(said.len().saturating_sub(SHOWN))..])
        }
        None => what,
    };
    Fault { code, why }
}
