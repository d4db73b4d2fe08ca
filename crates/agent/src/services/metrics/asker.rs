//! Asks file systems for their space, on a thread that may be lost to one that does not answer.
//!
//! **Invariant:** a file system that has not answered is not asked again before it has, so that at most one
//! thread waits for each, and never more than twice [`MOST_STUCK`] in all.

use std::{
    collections::VecDeque,
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::mounts::Mount;

/// Where so many file systems hang, only those that answered when they were last asked are asked still.
const MOST_STUCK: usize = 16;
/// A thread here needs little more than a system call does.
const STACK: usize = 128 * 1024;

/// The space of a file system, in bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) total: u64,
    /// Of it, what no file takes.
    pub(super) free: u64,
    /// Of that, what ordinary users can have.
    pub(super) available: u64,
    /// 0 where it makes them as needed.
    pub(super) inodes: u64,
    pub(super) free_inodes: u64,
}

/// Asks the kernel.
pub(super) fn ask(at: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(at)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Space {
        total: bytes(stat.f_blocks),
        free: bytes(stat.f_bfree),
        available: bytes(stat.f_bavail),
        inodes: stat.f_files,
        free_inodes: stat.f_ffree,
    })
}

type Ask = dyn Fn(&Path) -> io::Result<Space> + Send + Sync;

/// See the module.
pub(super) struct Asker {
    ask: Arc<Ask>,
    deadline: Duration,
    worker: Option<Worker>,
    /// Each waits for the one file system it was last asked about.
    stuck: Vec<Worker>,
    /// Those to be asked in this look; kept for its place only.
    left: Vec<Arc<PathBuf>>,
    /// Those that answered when they were last asked.
    good: Vec<Arc<PathBuf>>,
    /// Those that last answered with an error, which is told once.
    failed: Vec<Arc<PathBuf>>,
}

impl Asker {
    /// `deadline` is for each file system.
    pub(super) fn new(
        deadline: Duration,
        ask: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static,
    ) -> Self {
        Self {
            ask: Arc::new(ask),
            deadline,
            worker: None,
            stuck: Vec::new(),
            left: Vec::new(),
            good: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Gives `each` the space of those that answer in time, and of those whose late answer came since the last
    /// look. However many hang, two of them at most are waited for: who was not asked then is asked next time.
    pub(super) fn collect(&mut self, mounts: &[Mount], mut each: impl FnMut(&Mount, &Space)) {
        self.failed.retain(|at| mounts.iter().any(|mount| mount.at == *at));
        self.good.retain(|at| mounts.iter().any(|mount| mount.at == *at));
        while let Some(at) = self.stuck.iter().position(Worker::is_idle) {
            let back = self.stuck.swap_remove(at);
            let mount = back.turn().answers.last().map(|(at, _)| at.display().to_string());
            tracing::info!(mount, "the file system answers again");
            self.take(&back, mounts, &mut each);
        }
        let stuck = &self.stuck;
        self.left.clear();
        let free = mounts.iter().filter(|mount| !stuck.iter().any(|worker| worker.waits_for(&mount.at)));
        self.left.extend(free.map(|mount| mount.at.clone()));
        let end = Instant::now() + 2 * self.deadline;
        while Instant::now() < end && self.stuck.len() < 2 * MOST_STUCK {
            if self.stuck.len() >= MOST_STUCK {
                self.left.retain(|at| self.good.contains(at));
            }
            if self.left.is_empty() {
                return;
            }
            let Some(worker) = self.worker.take().or_else(|| Worker::start(&self.ask)) else { return };
            worker.ask(&mut self.left, self.deadline);
            self.take(&worker, mounts, &mut each);
            if worker.is_idle() {
                self.worker = Some(worker);
            } else {
                self.good.retain(|at| !worker.waits_for(at));
                self.stuck.push(worker);
            }
        }
    }

    /// Takes the answers of a worker.
    fn take(&mut self, worker: &Worker, mounts: &[Mount], each: &mut impl FnMut(&Mount, &Space)) {
        for (at, answer) in worker.turn().answers.drain(..) {
            if !self.good.contains(&at) {
                self.good.push(at.clone());
            }
            let space = self.told_once(&at, answer);
            let mount = mounts.iter().find(|mount| mount.at == at);
            if let (Some(mount), Some(space)) = (mount, space) {
                each(mount, &space);
            }
        }
    }

    /// The space; an error is logged where the last answer was none.
    fn told_once(&mut self, at: &Arc<PathBuf>, answer: io::Result<Space>) -> Option<Space> {
        if answer.is_ok() {
            self.failed.retain(|other| other != at);
        } else if !self.failed.contains(at) {
            self.failed.push(at.clone());
            let error = answer.as_ref().err().map(tracing::field::display);
            tracing::warn!(mount = %at.display(), error, "cannot ask the file system for its space");
        }
        answer.ok()
    }

    /// How many threads there are.
    #[cfg(test)]
    pub(super) fn threads(&self) -> usize {
        self.stuck.len() + usize::from(self.worker.is_some())
    }
}

/// A thread that asks one after the other. Ends, once it can, when dropped.
struct Worker(Arc<Desk>);

#[derive(Default)]
struct Desk {
    turn: Mutex<Turn>,
    changed: Condvar,
}

#[derive(Default)]
struct Turn {
    /// The first is being asked.
    asked: VecDeque<Arc<PathBuf>>,
    answers: Vec<(Arc<PathBuf>, io::Result<Space>)>,
    over: bool,
}

impl Worker {
    fn start(ask: &Arc<Ask>) -> Option<Self> {
        let (desk, ask) = (Arc::new(Desk::default()), ask.clone());
        let worker = Self(desk.clone());
        let thread = thread::Builder::new().name("statvfs".to_owned()).stack_size(STACK);
        match thread.spawn(move || desk.work(&*ask)) {
            Ok(_) => Some(worker),
            Err(error) => {
                tracing::warn!(%error, "cannot start a thread, so file systems are not asked this time");
                None
            }
        }
    }

    /// Has it ask `left`, and waits. Where one does not answer before the deadline, that one stays with this
    /// worker, and those after it are left.
    fn ask(&self, left: &mut Vec<Arc<PathBuf>>, deadline: Duration) {
        let mut turn = self.turn();
        turn.asked.extend(left.drain(..));
        self.0.changed.notify_all();
        while !turn.asked.is_empty() {
            let before = turn.answers.len();
            let waited = self.0.changed.wait_timeout_while(turn, deadline, |turn| !turn.asked.is_empty());
            turn = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !turn.asked.is_empty() && turn.answers.len() == before {
                left.extend(turn.asked.drain(1..));
                let mount = turn.asked[0].display().to_string();
                tracing::warn!(mount, "a file system does not answer, so it is left out until it does");
                return;
            }
        }
    }

    fn waits_for(&self, at: &Arc<PathBuf>) -> bool {
        self.turn().asked.contains(at)
    }

    fn is_idle(&self) -> bool {
        self.turn().asked.is_empty()
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.0.turn()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.turn().over = true;
        self.0.changed.notify_all();
    }
}

impl Desk {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self, ask: &Ask) {
        let mut turn = self.turn();
        loop {
            let idle = |turn: &mut Turn| turn.asked.is_empty() && !turn.over;
            turn = self.changed.wait_while(turn, idle).unwrap_or_else(PoisonError::into_inner);
            let Some(at) = turn.asked.front().filter(|_| !turn.over).cloned() else { return };
            drop(turn);
            let answer = ask(&at);
            turn = self.turn();
            turn.asked.pop_front();
            turn.answers.push((at, answer));
            if turn.asked.is_empty() {
                self.changed.notify_all();
            }
        }
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asker").field("stuck", &self.stuck.len()).finish_non_exhaustive()
    }
}
