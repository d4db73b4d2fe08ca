//! From the keeper to the program: everything between fork and exec.

use std::{
    convert::Infallible,
    fs,
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{Command, Stdio},
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

/// A program that runs, and the ends of its pipes.
pub(super) struct Launched {
    pub(super) pid: Pid,
    pub(super) stdout: PipeReader,
    pub(super) stderr: PipeReader,
}

/// Where the kernel's OOM killer looks first: a job goes before the agent does.
const OOM_SCORE: &str = "500";

/// Starts the program of `job` in `cell`.
///
/// # Errors
/// Why it could not be started, as text for whoever asked for it.
pub(super) fn launch(job: &Job, plan: &Plan, cell: &Cell) -> Result<Launched, String> {
    let program = job.argv.first().ok_or("no program is named")?;
    let account = job.run_as.as_deref().map(Account::find).transpose()?;
    let pipe = || io::pipe().map_err(|error| format!("cannot make a pipe: {}", plain(&error)));
    let ((stdout, out), (stderr, err), (mut trouble, mut complain)) = (pipe()?, pipe()?, pipe()?);
    let (forked, begun) = fork(cell).map_err(|error| format!("cannot make a process: {}", plain(&error)))?;
    let Some(pid) = forked else {
        let entry = Entry { job, rlimits: plan.rlimits.then_some(&job.limits), account, cell, begun };
        let Err(why) = entry.become_it(program, out, err);
        // Where even this fails, there is an exit code.
        complain.write_all(why.as_bytes()).ok();
        sys::exit_now(127);
    };
    drop((complain, out, err));
    // Ends with exec, which closes the other end, or with the reason why there was none.
    let mut why = String::new();
    match trouble.read_to_string(&mut why) {
        Ok(0) => Ok(Launched { pid, stdout, stderr }),
        Ok(_) => Err(why),
        Err(error) => Err(plain(&error)),
    }
}

/// Whether the copy begins in its group of v2: where the kernel cannot do that, it enters later.
fn fork(cell: &Cell) -> io::Result<(Option<Pid>, bool)> {
    if let Some(folder) = cell.beginning() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let forked = rustix::fs::open(folder, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|folder| sys::fork(Some(folder.as_fd())));
        if let Ok(forked) = forked {
            return Ok((forked, true));
        }
    }
    Ok((sys::fork(None)?, false))
}

/// What the copy needs to become the program.
struct Entry<'a> {
    job: &'a Job,
    account: Option<Account>,
    rlimits: Option<&'a Limits>,
    cell: &'a Cell,
    begun: bool,
}

impl Entry<'_> {
    /// Returns only with the reason why not.
    fn become_it(&self, program: &str, out: PipeWriter, err: PipeWriter) -> Result<Infallible, String> {
        let job = self.job;
        let cannot = |what: String| move |error: io::Error| format!("cannot {what}: {}", plain(&error));
        let session = || cannot("make a session for it".into());
        sys::forget_signals().map_err(session())?;
        rustix::process::setsid().map_err(io::Error::from).map_err(session())?;
        rustix::process::umask(Mode::from_raw_mode(0o077));
        // Not there on other systems; refused where it is higher already.
        fs::write("/proc/self/oom_score_adj", OOM_SCORE).ok();
        self.cell.enter(self.begun).map_err(cannot("enter its cgroup".into()))?;
        self.limit().map_err(cannot("limit it".into()))?;
        let own = self.own_folder();
        if let Some(account) = &self.account {
            let name = job.run_as.as_deref().unwrap_or_default();
            become_account(account).map_err(cannot(format!("become {name}")))?;
        }
        self.enter(own).map_err(cannot(format!("enter {}", job.cwd.display())))?;
        let mut command = Command::new(program);
        command.args(&job.argv[1..]).env_clear().envs(&job.env);
        command.stdin(Stdio::null()).stdout(OwnedFd::from(out)).stderr(OwnedFd::from(err));
        Err(cannot(format!("run {}", shown(program)))(command.exec()))
    }

    /// The working directory, where it belongs to the account: those above it may be closed to that, as the state folder
    /// is, in which a command has its own.
    fn own_folder(&self) -> Option<OwnedFd> {
        let account = self.account.as_ref()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&self.job.cwd, flags, Mode::empty()).ok()?;
        (rustix::fs::fstat(&folder).ok()?.st_uid == account.user).then_some(folder)
    }

    fn enter(&self, own: Option<OwnedFd>) -> io::Result<()> {
        match (std::env::set_current_dir(&self.job.cwd), own) {
            (Err(error), Some(own)) if error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(rustix::process::fchdir(own)?)
            }
            (entered, _) => entered,
        }
    }

    fn limit(&self) -> io::Result<()> {
        let set = |resource, value| {
            // It cannot be raised above what we have ourselves.
            let ours = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let value = Some(ours.min(value));
            setrlimit(resource, Rlimit { current: value, maximum: value })
        };
        set(Resource::Core, 0)?;
        let Some(limits) = self.rlimits else { return Ok(()) };
        limits.pids.map_or(Ok(()), |pids| set(Resource::Nproc, pids.into()))?;
        limits.memory.map_or(Ok(()), |memory| set(Resource::Data, memory))?;
        Ok(())
    }
}

/// A name may be a command line of 128 KiB.
fn shown(program: &str) -> String {
    program.chars().take(200).collect()
}

/// Who is that already needs no right to become it.
fn become_account(account: &Account) -> io::Result<()> {
    let is = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    if is == (account.user, account.group) && account.user != 0 {
        return Ok(());
    }
    sys::become_user(account.user, account.group, &account.groups)
}
