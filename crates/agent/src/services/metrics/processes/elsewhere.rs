//! Programs where there is no `/proc`: macOS and BSD, by the library `sysinfo`. The tests build it on Linux too.

use std::{collections::BTreeMap, ffi::OsStr, fs, path::Path, time::Duration};

use sysinfo::{ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System as Library, UpdateKind};

use super::{Selector, Wanted, selector::By};
use crate::services::metrics::{files::Root, sample::Process};

/// The processes of a list of selectors.
#[derive(Debug)]
pub(crate) struct Processes {
    selectors: Vec<Selector>,
    wanted: Wanted,
    library: Option<Library>,
}

impl Processes {
    /// Looks at nothing yet; says once which of them cannot be found here.
    pub(crate) fn new(_: &Root, selectors: Vec<Selector>, wanted: Wanted) -> Self {
        if selectors.iter().any(|selector| matches!(selector.by, By::Unit { .. })) {
            tracing::warn!("there is no systemd here, so nothing is said of units");
        }
        let library = Library::new();
        let library =
            library.inspect_err(|error| tracing::warn!(%error, "processes cannot be watched here")).ok();
        Self { selectors, wanted, library }
    }

    /// Takes a look. `into` has those of the selectors then, and no others; none where nothing is known.
    pub(crate) fn collect(&mut self, elapsed: Option<Duration>, into: &mut BTreeMap<String, Process>) {
        into.clear();
        let Some(library) = self.library.as_mut().filter(|_| !self.selectors.is_empty()) else { return };
        library.refresh_processes_specifics(ProcessesToUpdate::All, true, what(self.wanted));
        for selector in &self.selectors {
            let Some(finder) = Finder::new(&selector.by) else { continue };
            let found = library.processes().values().filter(|process| {
                !matches!(process.status(), ProcessStatus::Zombie | ProcessStatus::Dead)
                    && finder.finds(process)
            });
            let mut sum = Process::default();
            found.for_each(|process| add(&mut sum, process, self.wanted, elapsed));
            into.insert(selector.key().to_owned(), sum);
        }
    }

    /// Each look finds all of them.
    pub(crate) fn look_again(&mut self) {}
}

fn what(wanted: Wanted) -> ProcessRefreshKind {
    let mut what = ProcessRefreshKind::nothing().without_tasks();
    if wanted.cpu {
        what = what.with_cpu();
    }
    if wanted.memory {
        what = what.with_memory();
    }
    if wanted.io {
        what = what.with_disk_usage();
    }
    what.with_cmd(UpdateKind::OnlyIfNotSet).with_exe(UpdateKind::OnlyIfNotSet)
}

/// What one selector looks for.
enum Finder<'a> {
    By(&'a By),
    Pid(Option<u32>),
}

impl<'a> Finder<'a> {
    /// Nothing where it cannot be known.
    fn new(by: &'a By) -> Option<Self> {
        match by {
            By::Unit { .. } => None,
            By::PidFile(path) => Some(Self::Pid(pid(path))),
            by => Some(Self::By(by)),
        }
    }

    fn finds(&self, process: &sysinfo::Process) -> bool {
        let file = process.exe().and_then(Path::file_name);
        let named = |fits: &dyn Fn(&[u8]) -> bool| {
            fits(process.name().as_encoded_bytes()) || file.is_some_and(|file| fits(file.as_encoded_bytes()))
        };
        match self {
            Self::Pid(pid) => *pid == Some(process.pid().as_u32()),
            Self::By(By::Name(wanted)) => named(&|name| name == wanted.as_bytes()),
            Self::By(By::Glob { glob, .. }) => named(&|name| glob.matches(name)),
            Self::By(By::Cmdline(pattern)) => {
                let arguments = process.cmd().join(OsStr::new(" "));
                !arguments.is_empty() && pattern.found_in(&arguments.to_string_lossy())
            }
            Self::By(By::PidFile(_) | By::Unit { .. }) => false,
        }
    }
}

/// The number that a pid file begins with.
fn pid(path: &Path) -> Option<u32> {
    // Not a pipe, which might never end.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok().filter(|pid| *pid > 0)
}

fn add(sum: &mut Process, process: &sysinfo::Process, wanted: Wanted, elapsed: Option<Duration>) {
    let first = sum.count == 0;
    // A sum of some of them would be wrong: where one is not known, the sum is not.
    let add = |sum: &mut Option<u64>, more: Option<u64>| {
        let so_far = if first { Some(0) } else { *sum };
        *sum = so_far.zip(more).map(|(sum, more)| sum.saturating_add(more));
    };
    let disk = wanted.io.then(|| process.disk_usage());
    add(&mut sum.memory, wanted.memory.then(|| process.memory()));
    add(&mut sum.read_bytes, disk.map(|disk| disk.total_read_bytes));
    add(&mut sum.write_bytes, disk.map(|disk| disk.total_written_bytes));
    add(&mut sum.fds, process.open_files().map(|count| count as u64));
    if elapsed.is_some() && wanted.cpu {
        sum.cpu_usage = Some(sum.cpu_usage.unwrap_or(0.0) + f64::from(process.cpu_usage()).max(0.0));
    }
    let started = process.start_time() as f64;
    sum.started = Some(sum.started.map_or(started, |oldest| oldest.min(started)));
    sum.count += 1;
}

#[cfg(test)]
#[path = "elsewhere_tests.rs"]
mod tests;
