//! From the keeper to the program: everything between fork and exec.

use std::{
    ffi::CString,
    io::{self, PipeReader, Read as _},
    path::PathBuf,
    process::{ChildStderr, ChildStdout, Command, Stdio},
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Resource, Rlimit, setrlimit},
};

use super::{
    account::Account,
    contain::{Cell, Plan},
    job::{Job, Limits},
    plain,
};
use crate::sys;

/// A program that runs.
pub(super) struct Launched {
    pub(super) pid: Pid,
    pub(super) stdout: ChildStdout,
    pub(super) stderr: ChildStderr,
}

/// Where the kernel's OOM killer looks first: a job goes before the agent does.
const OOM_SCORE: &[u8] = b"500";

/// What the child does, in this order; the number of one that fails tells which it was.
#[derive(Clone, Copy)]
enum Step {
    Session = 1,
    Contain,
    Limit,
    Account,
    Folder,
}

/// Starts the program of `job` in `cell`.
///
/// # Errors
/// Why it could not be started, as text for whoever asked for it.
pub(super) fn launch(job: &Job, plan: &Plan, cell: &Cell) -> Result<Launched, String> {
    let program = job.argv.first().ok_or("no program is named")?;
    let account = job.run_as.as_deref().map(Account::find).transpose()?;
    let (failed_at, failing) = io::pipe().map_err(|error| plain(&error))?;
    let mut command = Command::new(program);
    command.args(&job.argv[1..]).env_clear().envs(&job.env);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let entry = Entry {
        doors: cell.doors(),
        account,
        rlimits: plan.rlimits.then(|| job.limits.clone()),
        cwd: job.cwd.clone(),
    };
    sys::before_exec(&mut command, move || {
        entry.enter().map_err(|(step, error)| {
            // Without it the text below is less exact, no more.
            rustix::io::write(&failing, &[step as u8]).ok();
            error
        })
    });
    let spawned = command.spawn();
    // Closes our copy of `failing`.
    drop(command);
    let mut child = spawned.map_err(|error| why(job, program, failed_at, &error))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    match (pid, child.stdout.take(), child.stderr.take()) {
        (Some(pid), Some(stdout), Some(stderr)) => Ok(Launched { pid, stdout, stderr }),
        _ => Err("it has no process id or no pipes".into()),
    }
}

fn why(job: &Job, program: &str, mut failed_at: PipeReader, error: &io::Error) -> String {
    let mut step = [0];
    let step = failed_at.read(&mut step).map_or(0, |read| if read == 1 { step[0] } else { 0 });
    let what = match step {
        step if step == Step::Session as u8 => "cannot make a session for it".into(),
        step if step == Step::Contain as u8 => "cannot enter its cgroup".into(),
        step if step == Step::Limit as u8 => "cannot limit it".into(),
        step if step == Step::Account as u8 => {
            format!("cannot become {}", job.run_as.as_deref().unwrap_or_default())
        }
        step if step == Step::Folder as u8 => format!("cannot enter {}", job.cwd.display()),
        _ => format!("cannot run {program}"),
    };
    format!("{what}: {}", plain(error))
}

/// What the child needs for its steps.
struct Entry {
    doors: Vec<CString>,
    account: Option<Account>,
    rlimits: Option<Limits>,
    cwd: PathBuf,
}

impl Entry {
    fn enter(&self) -> Result<(), (Step, io::Error)> {
        let at = |step| move |error: io::Error| (step, error);
        sys::forget_signals().map_err(at(Step::Session))?;
        rustix::process::setsid().map_err(io::Error::from).map_err(at(Step::Session))?;
        rustix::process::umask(Mode::from_raw_mode(0o077));
        // Not there on other systems; refused where it is higher already.
        write(c"/proc/self/oom_score_adj", OOM_SCORE).ok();
        self.doors.iter().try_for_each(|door| write(door, b"0")).map_err(at(Step::Contain))?;
        self.limit().map_err(at(Step::Limit))?;
        let Some(account) = &self.account else {
            return std::env::set_current_dir(&self.cwd).map_err(at(Step::Folder));
        };
        // What it lies in may be closed to that account, as the agent's state is; the folder itself must not be.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&self.cwd, flags, Mode::empty());
        become_account(account).map_err(at(Step::Account))?;
        match folder {
            Ok(folder) => rustix::process::fchdir(folder).map_err(io::Error::from),
            // Whoever is not root may enter what it may not read.
            Err(_) => std::env::set_current_dir(&self.cwd),
        }
        .map_err(at(Step::Folder))
    }

    fn limit(&self) -> io::Result<()> {
        let set = |resource, value| {
            // It cannot be raised above what we have ourselves.
            let ours = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let value = Some(ours.min(value));
            setrlimit(resource, Rlimit { current: value, maximum: value })
        };
        set(Resource::Core, 0)?;
        let Some(limits) = &self.rlimits else { return Ok(()) };
        limits.pids.map_or(Ok(()), |pids| set(Resource::Nproc, pids.into()))?;
        limits.memory.map_or(Ok(()), |memory| set(Resource::Data, memory))?;
        Ok(())
    }
}

fn write(path: &std::ffi::CStr, bytes: &[u8]) -> io::Result<()> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(file, bytes)?;
    Ok(())
}

/// Who is that already needs no right to become it.
fn become_account(account: &Account) -> io::Result<()> {
    let is = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    if is == (account.user, account.group) && account.user != 0 {
        return Ok(());
    }
    sys::become_user(account.user, account.group, &account.groups)
}
