//! Which version of this program runs: the one that was installed, or one that came by an update and lies in the state
//! folder.
//!
//! ```text
//! run ─ launcher ┬ no update ─────────── the agent, in this process
//!                ├ confirmed ──── exec ─ the agent of the update
//!                └ on trial ──── spawn ─ the agent of the update, watched: confirmed, or back
//! ```
//!
//! `iot-agent run` is the launcher first, whichever version it is. What it needs to know is in two small files and a
//! link in `<state>/agent`. A version on trial runs beside it, as its child, and ends with it; only when that has proved
//! itself is the service manager told that it is the main process now. Without a service manager that can be told, the
//! launcher stays, and passes signals on. Decision 16.

mod starts;
mod trial;
mod watch;

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use rustix::process::{Pid, getppid};

use crate::{
    config::{self, Sources},
    executor::own_program,
    services::update::installer::lead,
};
pub(crate) use starts::settle;
pub(crate) use trial::{Of, Phase, Trial};
use watch::Seen;

/// The folder, in the state folder, for versions of this program.
pub(crate) const FOLDER: &str = "agent";
/// What this program is called in a package, and in a version's folder.
pub(crate) const PROGRAM: &str = "iot-agent";
/// The link to the version that is in use.
const CURRENT: &str = "current";
/// Tells a process which version of an update it is.
const RELEASE: &str = "IOT_AGENT_RELEASE";
/// Tells a process who watches it.
const WATCHER: &str = "IOT_AGENT_WATCHER";
/// Tells a process which version was installed.
const BASE: &str = "IOT_AGENT_BASE";
/// The exit code by which a watched process asks its watcher to look anew at which version is to run (`EX_TEMPFAIL`).
const AGAIN: u8 = 75;

/// What this process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Life {
    /// The version in the state folder that it runs from; none for the one that was installed.
    pub(crate) release: Option<String>,
    /// Who watches it.
    watcher: Option<Pid>,
}

/// Tells somebody what went wrong.
pub(crate) type Reporter = fn(&anyhow::Error);

/// What is to be done after the launcher.
#[derive(Debug)]
pub(crate) enum Next {
    /// This process is the agent.
    Run,
    /// This process is done.
    Exit(ExitCode),
}

impl Life {
    /// As whoever started it says.
    pub(crate) fn of_this_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|text| !text.is_empty());
        let watcher = text(WATCHER).and_then(|pid| Pid::from_raw(pid.parse().ok()?));
        // A number of long ago may be somebody else's.
        Self { release: text(RELEASE), watcher: watcher.filter(|pid| getppid() == Some(*pid)) }
    }

    /// From now on it outlives whoever watches it, if the service manager can be told who it is.
    pub(crate) fn outlive(&self) {
        #[cfg(target_os = "linux")]
        if self.watcher.is_some() && is_managed() {
            rustix::process::set_parent_process_death_signal(None).ok();
        }
    }
}

/// Whether there is a service manager that can be told which process is the main one.
fn is_managed() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Sees to it that the right version runs. Returns in the process that is to be the agent, or when all is over; `report`
/// is for what went wrong on the way.
///
/// # Errors
/// A watcher cannot be started.
pub(crate) fn begin(sources: &Sources, report: Reporter) -> anyhow::Result<Next> {
    if Life::of_this_process().release.is_some() {
        return Ok(Next::Run);
    }
    let folder = config::state_folder(sources).join(FOLDER);
    loop {
        let Some(link) = current(&folder) else { return Ok(Next::Run) };
        let trial = Trial::read(&folder).filter(|trial| trial.link() == link);
        let failed = match trial {
            Some(mut trial) if trial.phase == Phase::Trial => match watch::run(&folder, &mut trial)? {
                Seen::Exit(code) => return Ok(Next::Exit(code)),
                Seen::Again => {
                    report(&told(exec(&program(&folder, &link)), "start", &link));
                    return Ok(Next::Run);
                }
                Seen::Failed(why) => {
                    report(&anyhow::anyhow!("version {} goes back: {why}", trial.release));
                    trial.fail(why);
                    if let Err(error) = trial.write(&folder) {
                        report(&told(error, "write down what became of", &link));
                    }
                    trial
                }
            },
            Some(trial) if trial.phase == Phase::Failed => trial,
            trial => {
                if !is_outdated(&folder, trial.as_ref(), report) {
                    launch(&folder, &link, trial.as_ref(), report);
                }
                return Ok(Next::Run);
            }
        };
        if let Err(error) = lead(&folder, failed.previous.as_deref()) {
            // What it led to before can be run all the same.
            report(&error.context(format!("cannot take back the link to {link}")));
            if let Some(release) = failed.release_before() {
                report(&told(exec_as(&failed.before(&folder), release), "start", release));
            }
            return Ok(Next::Run);
        }
    }
}

/// Whether a package manager, or whoever else, has installed a later version since the one in the state folder came: then
/// that is forgotten.
fn is_outdated(folder: &Path, trial: Option<&Trial>, report: Reporter) -> bool {
    let (own, base) = (env!("CARGO_PKG_VERSION"), trial.and_then(|trial| trial.base.as_deref()));
    let parse = |text| semver::Version::parse(text).ok();
    let (Some(own), Some(base)) = (parse(own), base.and_then(parse)) else { return false };
    // Only what was installed may say so, not a version of an update that became the launcher.
    if std::env::var_os(BASE).is_some() || own <= base {
        return false;
    }
    report(&anyhow::anyhow!(
        "version {own} was installed since the latest update of the agent, and is used instead"
    ));
    lead(folder, None).is_ok()
}

/// Becomes the version that the link names. Returns where that cannot be started, or was too often in vain.
fn launch(folder: &Path, link: &str, trial: Option<&Trial>, report: Reporter) {
    let release = link.rsplit('/').next().unwrap_or(link);
    if starts::begin(folder, release) {
        report(&told(exec_as(&program(folder, link), release), "start", link));
    } else {
        report(&anyhow::anyhow!(
            "version {release} has ended too often before it got anywhere: it is not started"
        ));
    }
    if let Some((trial, before)) = trial.and_then(|trial| Some((trial, trial.release_before()?))) {
        report(&told(exec_as(&trial.before(folder), before), "start", before));
    }
}

/// What the link says, if there is one.
pub(crate) fn current(folder: &Path) -> Option<String> {
    std::fs::read_link(folder.join(CURRENT)).ok()?.into_os_string().into_string().ok()
}

/// The program in the folder of a version.
fn program(folder: &Path, link: &str) -> PathBuf {
    folder.join(link).join(PROGRAM)
}

/// This process, which is the agent and has ended all it did, makes way for the version that is to run now.
pub(crate) fn hand_over(sources: &Sources) -> anyhow::Result<ExitCode> {
    let life = Life::of_this_process();
    if life.watcher.is_some() {
        return Ok(ExitCode::from(AGAIN));
    }
    let folder = config::state_folder(sources).join(FOLDER);
    let failed = Trial::read(&folder)
        .filter(|trial| trial.phase == Phase::Failed && Some(&trial.release) == life.release.as_ref());
    // One that has failed is not to judge what comes after it.
    let launcher = failed.map_or_else(own_program, |trial| trial.before(&folder));
    Err(anyhow::Error::new(exec(&launcher)).context(format!("become {}", launcher.display())))
}

/// Becomes the launcher that is in this program. Returns only where that cannot be done.
fn exec(program: &Path) -> io::Error {
    command(program).exec()
}

/// Becomes the agent that is in this program, as a version of the state folder.
fn exec_as(program: &Path, release: &str) -> io::Error {
    agent(program, release).exec()
}

/// The agent that is in this program, as a version of the state folder.
fn agent(program: &Path, release: &str) -> Command {
    let mut command = command(program);
    command.env(RELEASE, release).env(BASE, base());
    command
}

/// The version that was installed, and began all this.
pub(super) fn base() -> String {
    std::env::var(BASE).unwrap_or_else(|_| env!("CARGO_PKG_VERSION").to_owned())
}

/// With the arguments of this process, and nothing in its environment that is true of this process only.
fn command(program: &Path) -> Command {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| OsString::from(PROGRAM));
    let mut command = Command::new(program);
    command.arg0(name).args(args).env_remove(RELEASE).env_remove(WATCHER);
    command
}

/// What could not be done.
fn told(error: io::Error, what: &str, with: &str) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("cannot {what} {with}"))
}
