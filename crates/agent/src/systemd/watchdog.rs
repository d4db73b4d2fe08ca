//! A thread that asks the runtime now and then whether it still moves, and ends the process when it does not.
//!
//! The runtime needs no timer for it: it is woken by the question. From the moment it stops moving, at most two
//! periods and a bit pass until the process is aborted, so that whoever started it can start it again.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::Notifier;

/// How often the runtime is asked, unless systemd wants to hear more often: two silences and the respite are less
/// than 30 s.
const PERIOD: Duration = Duration::from_secs(10);

/// However impatient systemd is, the watchdog itself must not be a load.
const SHORTEST: Duration = Duration::from_millis(100);

/// What a runtime that did not answer gets on top, in tenths of the period: a disk may be slow once.
const RESPITE: u32 = 8;

/// How long the last words may take: what holds the runtime may hold the log too.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The watchdog, at work until dropped.
#[derive(Debug)]
pub struct Watchdog {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    answering: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    asked: AtomicU64,
    answered: AtomicU64,
    question: Notify,
    stuck: Mutex<Option<String>>,
    stop: Mutex<bool>,
    stopped: Condvar,
}

impl Watchdog {
    /// Starts it on the current runtime. `stuck` is called on the runtime for each question and names what is
    /// beyond repair, if anything is; that counts as no answer. While all is well, systemd is told so.
    pub fn start(
        notifier: Notifier,
        stuck: impl Fn() -> Option<String> + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let period = notifier.watchdog.map_or(PERIOD, |time| (time / 2).clamp(SHORTEST, PERIOD));
        let watched = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("watchdog".into())
            .stack_size(256 << 10)
            .spawn(move || watch(&watched, &notifier, period))?;
        let asked = Arc::clone(&shared);
        let answering = tokio::spawn(async move {
            loop {
                asked.question.notified().await;
                asked.answer(stuck());
            }
        });
        Ok(Self { shared, thread: Some(thread), answering: answering.abort_handle() })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.answering.abort();
        *lock(&self.shared.stop) = true;
        self.shared.stopped.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the watchdog had died");
        }
    }
}

impl Shared {
    fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.question.notify_one();
    }

    fn answer(&self, stuck: Option<String>) {
        if stuck.is_none() {
            self.answered.store(self.asked.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        *lock(&self.stuck) = stuck;
    }

    fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed) == self.asked.load(Ordering::Relaxed)
    }

    /// Whether the watchdog was stopped within this time.
    fn stops_within(&self, time: Duration) -> bool {
        let waited = self.stopped.wait_timeout_while(lock(&self.stop), time, |stop| !*stop);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Single values: a panic elsewhere cannot have left them half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn watch(shared: &Shared, notifier: &Notifier, period: Duration) {
    loop {
        shared.ask();
        if shared.stops_within(period) {
            return;
        }
        if !shared.is_answered() {
            say(|| tracing::warn!("the agent does not move: giving it some more time"));
            if shared.stops_within(period * RESPITE / 10) {
                return;
            }
        }
        if !shared.is_answered() {
            let stuck = lock(&shared.stuck).take();
            say(move || tracing::error!(stuck, "the agent does not move any more: aborting"));
            std::process::abort();
        }
        notifier.alive();
    }
}

/// Says it from another thread, and goes on even if nobody takes it.
fn say(words: impl FnOnce() + Send + 'static) {
    let (said, wait) = mpsc::channel();
    let speaker = thread::Builder::new().spawn(move || {
        words();
        // The watchdog may have gone on by now.
        said.send(()).ok();
    });
    if speaker.is_ok() {
        wait.recv_timeout(LAST_WORDS).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn stopping_it_does_not_take_a_period() {
        let started = Instant::now();
        for _ in 0..3 {
            drop(Watchdog::start(Notifier::default(), || None).unwrap());
        }
        assert!(started.elapsed() < PERIOD / 2, "{:?}", started.elapsed());
    }

    #[test]
    fn the_worst_case_is_within_thirty_seconds() {
        assert!(PERIOD * 2 + PERIOD * RESPITE / 10 + 2 * LAST_WORDS <= Duration::from_secs(30));
    }

    #[test]
    fn only_a_runtime_without_stuck_services_has_answered() {
        let shared = Shared::default();
        shared.ask();
        assert!(!shared.is_answered());
        shared.answer(Some("metrics".into()));
        assert!(!shared.is_answered());
        shared.answer(None);
        assert!(shared.is_answered());
        shared.ask();
        assert!(!shared.is_answered());
    }
}
