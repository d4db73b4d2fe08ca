//! What holds a job together and within its limits: a cgroup of its own where that can be had.
//!
//! The agent decides once which kind it is ([`decide`]); the keeper of each job makes the groups ([`Cell`]), puts the
//! job in and removes them. They are named after the keeper, so that what a dead one left is known as such.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::{job::Limits, plain, tree};

mod choice;
pub use choice::Within;
pub(super) use choice::decide;

/// What a keeper is to put its job into.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    groups: Vec<Group>,
    /// Limits of each process, for want of limits of them all.
    pub(super) rlimits: bool,
}

/// Below which group to make one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    kind: Kind,
    parent: PathBuf,
}

/// The hierarchies there are: the one of v2, and three of v1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Unified,
    Pids,
    Memory,
    Freezer,
}

/// The groups of one job.
#[derive(Debug, Default)]
pub(super) struct Cell {
    groups: Vec<(Kind, PathBuf)>,
}

const PREFIX: &str = "iot-agent-";

impl Cell {
    /// Makes them, with their limits.
    ///
    /// # Errors
    /// What could not be done, as text; then nothing is left.
    pub(super) fn make(plan: &Plan, limits: &Limits) -> Result<Self, String> {
        let own = tree::process(std::process::id().cast_signed());
        let mut cell =
            own.map_or(Self { groups: Vec::new() }, |own| Self::of_keeper(plan, own.pid, own.started));
        let made = cell.groups.iter().try_for_each(|(kind, folder)| {
            fs::create_dir(folder)
                .map_err(|error| format!("cannot make {}: {}", folder.display(), plain(&error)))?;
            limit(*kind, folder, limits)
        });
        if let Err(why) = made {
            cell.try_remove();
            return Err(why);
        }
        Ok(cell)
    }

    /// Those of a keeper, which may or may not be there.
    pub(super) fn of_keeper(plan: &Plan, pid: i32, started: u64) -> Self {
        let folder = |group: &Group| group.parent.join(format!("{PREFIX}{pid}-{started}"));
        Self { groups: plan.groups.iter().map(|group| (group.kind, folder(group))).collect() }
    }

    /// Where to begin in order to be in its group of v2.
    pub(super) fn beginning(&self) -> Option<&Path> {
        self.groups.iter().find(|(kind, _)| *kind == Kind::Unified).map(|(_, folder)| folder.as_path())
    }

    /// Puts this process in: not into v2 where it has begun there. On v1 `tasks` takes one thread, and ours is all there
    /// is; unlike `cgroup.procs` it does so without a halt of the whole machine.
    pub(super) fn enter(&self, begun: bool) -> io::Result<()> {
        self.groups.iter().try_for_each(|(kind, folder)| match kind {
            Kind::Unified if begun => Ok(()),
            Kind::Unified => fs::write(folder.join("cgroup.procs"), "0"),
            Kind::Pids | Kind::Memory | Kind::Freezer => fs::write(folder.join("tasks"), "0"),
        })
    }

    /// Kills all that are in it, at once where the kernel does that, otherwise while they stand still.
    pub(super) fn kill(&self) {
        for (kind, folder) in &self.groups {
            match kind {
                // Since Linux 5.14.
                Kind::Unified if fs::write(folder.join("cgroup.kill"), "1").is_ok() => {}
                Kind::Unified => still(folder, "cgroup.freeze", ["1", "0"]),
                Kind::Freezer => still(folder, "freezer.state", ["FROZEN", "THAWED"]),
                Kind::Pids | Kind::Memory => signal_members(folder, Signal::KILL),
            }
        }
    }

    /// Removes what is empty, also groups that the job itself made within; whether nothing is left. The kernel needs a
    /// moment between the end of the last process and that.
    pub(super) fn try_remove(&mut self) -> bool {
        self.groups.retain(|(_, folder)| !remove(folder));
        self.groups.is_empty()
    }
}

/// Kills the members of a group while it is frozen.
fn still(folder: &Path, file: &str, [freeze, thaw]: [&str; 2]) {
    // Where freezing fails, whoever calls looks again and again.
    fs::write(folder.join(file), freeze).ok();
    signal_members(folder, Signal::KILL);
    fs::write(folder.join(file), thaw).ok();
}

/// Members in another pid namespace read as 0 and are none of ours; neither are we ourselves.
fn signal_members(folder: &Path, signal: Signal) {
    let own = rustix::process::getpid();
    let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).filter(|pid| *pid != own) {
        // It may have ended meanwhile.
        rustix::process::kill_process(pid, signal).ok();
    }
}

fn remove(folder: &Path) -> bool {
    let inner = fs::read_dir(folder).into_iter().flatten().flatten();
    let inner: Vec<_> = inner
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    inner.iter().all(|inner| remove(inner))
        && fs::remove_dir(folder).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true)
}

fn limit(kind: Kind, folder: &Path, limits: &Limits) -> Result<(), String> {
    let write = |file: &str, value: &str| {
        let path = folder.join(file);
        fs::write(&path, value).map_err(|error| format!("cannot write {}: {}", path.display(), plain(&error)))
    };
    let there = |file: &str| folder.join(file).exists();
    if let Some(pids) = limits.pids
        && matches!(kind, Kind::Unified | Kind::Pids)
        && there("pids.max")
    {
        write("pids.max", &pids.to_string())?;
    }
    let Some(memory) = limits.memory.map(|memory| memory.to_string()) else { return Ok(()) };
    match kind {
        Kind::Unified if there("memory.max") => {
            write("memory.max", &memory)?;
            // Without swap accounting the file is not there.
            if there("memory.swap.max") { write("memory.swap.max", "0") } else { Ok(()) }
        }
        Kind::Memory => {
            write("memory.limit_in_bytes", &memory)?;
            let with_swap = "memory.memsw.limit_in_bytes";
            if there(with_swap) { write(with_swap, &memory) } else { Ok(()) }
        }
        Kind::Unified | Kind::Pids | Kind::Freezer => Ok(()),
    }
}

/// Kills and removes what keepers left that are no more.
pub(super) fn remove_stale(plan: &Plan) {
    for group in &plan.groups {
        for entry in fs::read_dir(&group.parent).into_iter().flatten().flatten() {
            let Some((pid, started)) = entry.file_name().to_str().and_then(keeper) else { continue };
            if tree::process(pid).is_some_and(|process| process.started == started) {
                continue;
            }
            let plan = Plan { groups: vec![group.clone()], rlimits: false };
            let mut cell = Cell::of_keeper(&plan, pid, started);
            cell.kill();
            // It ends a moment later; what takes longer is removed at the next start.
            for _ in 0..50 {
                if cell.try_remove() {
                    break;
                }
                cell.kill();
                pause();
            }
        }
    }
}

/// At the start of the agent, where something was left, and only then.
#[allow(clippy::disallowed_methods, reason = "nothing else runs yet")]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(2));
}

/// Pid and start of the keeper whose group has this name.
fn keeper(name: &str) -> Option<(i32, u64)> {
    let (pid, started) = name.strip_prefix(PREFIX)?.split_once('-')?;
    Some((pid.parse().ok()?, started.parse().ok()?))
}

#[cfg(test)]
mod tests;
