//! The owner's last word on every remote action: a file that says what is allowed, read again when it changes.
//!
//! Without a file the services' own keys decide. With one, what it does not allow is refused; and while it is missing,
//! broken or writable by everybody, everything is, whatever it said before.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use crate::config::{self, Stamp};
use rules::Rules;
pub(crate) use target::{Allowed, Target};

mod rules;
mod target;
mod template;
#[cfg(test)]
mod tests;

/// For so long a file that has just been written is read again each time: its time stamp need not tell two writes
/// apart, on some file systems for two seconds.
const SETTLES: Duration = Duration::from_secs(3);

/// The rule where there is no policy.
const NO_POLICY: &str = "no policy";

/// What an owner's policy says of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict<T> {
    /// It may be done.
    Allowed {
        /// The rule that allows it, as its place in the policy file.
        rule: Option<String>,
        /// What exactly.
        what: T,
    },
    /// It must not.
    Refused {
        /// The rule that would have had to allow it, where there is one.
        rule: Option<String>,
        /// Why.
        reason: String,
    },
}

impl<T> Verdict<T> {
    fn allowed(rule: impl Into<String>, what: T) -> Self {
        Self::Allowed { rule: Some(rule.into()), what }
    }

    fn refused(reason: impl Into<String>) -> Self {
        Self::Refused { rule: None, reason: reason.into() }
    }
}

/// What to start: `sh -c SCRIPT sh ARGS…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The owner's text, or an allowed command's.
    pub(crate) script: String,
    /// What the script knows as `$1` and so on. Never a part of its text.
    pub(crate) args: Vec<String>,
}

/// The policy; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    file: Option<Arc<Watched>>,
}

#[derive(Debug)]
struct Watched {
    path: PathBuf,
    state: Mutex<State>,
}

/// What was found the last time.
#[derive(Debug)]
struct State {
    /// Of what was read. None where it has to be read again.
    stamp: Option<Stamp>,
    /// When a file with that stamp was first read.
    since: Instant,
    /// It was read once more after that long, so that it is what the stamp stands for.
    settled: bool,
    rules: Result<Arc<Rules>, String>,
    /// What of it is in the log: which file, and what is wrong with it.
    told: Option<(Option<Stamp>, Option<String>)>,
}

impl Policy {
    /// The policy in `file`, which is read when it is asked for.
    pub(crate) fn new(file: Option<PathBuf>) -> Self {
        let watched = |path| {
            let state = State {
                stamp: None,
                since: Instant::now(),
                settled: false,
                rules: Err("it was not read yet".to_owned()),
                told: None,
            };
            Arc::new(Watched { path, state: Mutex::new(state) })
        };
        Self { file: file.map(watched) }
    }

    /// Whether there is a file at all. Without one everything is allowed.
    pub(crate) fn is_set(&self) -> bool {
        self.file.is_some()
    }

    /// Reads a policy; what its author should know of it.
    ///
    /// # Errors
    /// All that is wrong with it, each with its place.
    pub(crate) fn check(file: &Path) -> Result<Vec<String>, config::Error> {
        Ok(read(file)?.notices())
    }

    /// Whether `command` may be run, with `args` where it is the name of one.
    pub(crate) fn command(&self, command: &str, args: Option<&BTreeMap<String, String>>) -> Verdict<Run> {
        self.judge(
            |rules| rules.command(command, args),
            || match args {
                Some(_) => Verdict::refused(
                    "args go with the name of a command in the policy, and there is no policy",
                ),
                None => Verdict::allowed(NO_POLICY, Run { script: command.to_owned(), args: Vec::new() }),
            },
        )
    }

    /// Whether a tunnel may lead to `target`, `host:port`.
    pub(crate) fn ssh(&self, target: &str) -> Verdict<()> {
        self.judge(|rules| rules.ssh(target), || Verdict::allowed(NO_POLICY, ()))
    }

    /// Whether an update may be installed.
    pub(crate) fn update(&self) -> Verdict<()> {
        self.judge(Rules::update, || Verdict::allowed(NO_POLICY, ()))
    }

    /// Why everything is refused, when that is so since the file cannot be used.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.file.as_ref()?.rules().err()
    }

    fn judge<T>(
        &self,
        judge: impl FnOnce(&Rules) -> Verdict<T>,
        without: impl FnOnce() -> Verdict<T>,
    ) -> Verdict<T> {
        match self.file.as_ref().map(|file| file.rules()) {
            None => without(),
            Some(Ok(rules)) => judge(&rules),
            Some(Err(why)) => Verdict::refused(format!("the policy cannot be used: {why}")),
        }
    }
}

impl Watched {
    /// What the file says now, or why nothing can be known of that.
    fn rules(&self) -> Result<Arc<Rules>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Before it is read: what changes meanwhile is found the next time.
        let stamp = Stamp::of(&self.path).ok();
        if stamp != state.stamp || stamp.is_none() {
            (state.stamp, state.since, state.settled) = (stamp, Instant::now(), false);
        } else if state.settled {
            return state.rules.clone();
        }
        let aged = state.since.elapsed() >= SETTLES;
        // A reason is kept as one line.
        let read = read(&self.path).map_err(|error| error.to_string().replace('\n', "; "));
        state.settled = aged && stamp.is_some();
        state.rules = read.map(Arc::new);
        state.tell(&self.path);
        state.rules.clone()
    }
}

impl State {
    /// Once for each change.
    fn tell(&mut self, path: &Path) {
        let news = Some((self.stamp, self.rules.as_ref().err().cloned()));
        if self.told == news {
            return;
        }
        match &self.rules {
            Err(why) => error!(error = why, "the policy cannot be used: every remote action is refused"),
            Ok(rules) => {
                info!(policy = %path.display(), "policy read");
                for notice in rules.notices() {
                    warn!("{}: {notice}", path.display());
                }
            }
        }
        self.told = news;
    }
}

/// # Errors
/// Those of [`Policy::check`].
fn read(path: &Path) -> Result<Rules, config::Error> {
    config::yaml(path, |found: &fs::Metadata| {
        if found.mode() & 0o002 == 0 {
            return Ok(());
        }
        Err(format!("everybody may write to it (mode {:04o}); chmod o-w it", found.mode() & 0o7777))
    })
}
