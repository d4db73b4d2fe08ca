//! How each service is doing: written by services and the supervisor, read by presence, heartbeat and status.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use protocol::status::ServiceState;
use tokio::{sync::Notify, time::Instant};

/// After which a broken promise should long have been seen to.
const NEGLECT: Duration = Duration::from_secs(10);

/// One service's line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How it is doing.
    pub state: ServiceState,
    /// Why, where it is not simply running or off.
    pub detail: Option<String>,
    /// How often it was started again.
    pub restarts: u64,
    /// What it has counted since the start of the process, by name.
    pub counters: BTreeMap<&'static str, u64>,
    /// The number of its latest message.
    seq: u64,
    /// When its next sign of progress is due.
    due: Option<Instant>,
}

impl Default for Line {
    fn default() -> Self {
        let state = ServiceState::Off;
        Self { state, detail: None, restarts: 0, counters: BTreeMap::new(), seq: 0, due: None }
    }
}

/// All lines, by service.
#[derive(Debug, Default)]
pub struct Board {
    lines: Mutex<BTreeMap<&'static str, Line>>,
    promised: Notify,
}

impl Board {
    /// Every service by name with its state, as payloads carry it.
    pub fn states(&self) -> BTreeMap<String, ServiceState> {
        self.lines().iter().map(|(name, line)| ((*name).to_owned(), line.state)).collect()
    }

    /// Every line, for `status`.
    pub fn all(&self) -> BTreeMap<&'static str, Line> {
        self.lines().clone()
    }

    /// These services exist; those never started are off.
    pub(crate) fn expect(&self, names: impl Iterator<Item = &'static str>) {
        names.for_each(|name| self.set(name, ServiceState::Off, None));
    }

    /// Sets a service's state; told in the log where it changes.
    pub(crate) fn set(&self, name: &'static str, state: ServiceState, detail: Option<String>) {
        let mut lines = self.lines();
        let line = lines.entry(name).or_default();
        let changed = line.state != state || line.detail != detail;
        if !changed {
            return;
        }
        line.restarts += u64::from(state == ServiceState::Restarting);
        line.state = state;
        line.detail = detail.clone();
        if matches!(state, ServiceState::Off | ServiceState::Restarting) {
            line.due = None;
        }
        drop(lines);
        match (state, detail) {
            (ServiceState::Degraded, Some(why)) => tracing::warn!(service = name, why, "degraded"),
            (ServiceState::Running, _) => tracing::debug!(service = name, "running"),
            _ => {}
        }
    }

    /// One more of `what`; the sum so far.
    pub(crate) fn count(&self, name: &'static str, what: &'static str) -> u64 {
        let mut lines = self.lines();
        let sum = lines.entry(name).or_default().counters.entry(what).or_default();
        *sum += 1;
        *sum
    }

    /// The number of a service's next message: from 1 in each run of the process, however often the service starts.
    pub(crate) fn next_seq(&self, name: &'static str) -> u64 {
        let mut lines = self.lines();
        let seq = &mut lines.entry(name).or_default().seq;
        *seq += 1;
        *seq
    }

    /// The next sign of progress is due `within`, or no longer at all.
    pub(crate) fn promise(&self, name: &'static str, within: Option<Duration>) {
        if let Some(line) = self.lines().get_mut(name) {
            let due = within.map(|within| Instant::now() + within);
            let sooner = due.is_some_and(|due| line.due.is_none_or(|before| due < before));
            line.due = due;
            // A later date needs no wake-up: whoever waits finds it when the earlier one comes.
            if sooner {
                self.promised.notify_one();
            }
        }
    }

    /// Waits until a service has broken its promise and names it.
    pub(crate) async fn overdue(&self) -> &'static str {
        loop {
            let next = self.lines().iter().filter_map(|(name, line)| Some((line.due?, *name))).min();
            match next {
                Some((due, name)) if due <= Instant::now() => {
                    self.promise(name, None);
                    return name;
                }
                Some((due, _)) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(due) => {}
                        () = self.promised.notified() => {}
                    }
                }
                None => self.promised.notified().await,
            }
        }
    }

    /// A service that broke its promise a while ago, and nobody has seen to it: whoever should hangs as well.
    pub(crate) fn neglected(&self) -> Option<&'static str> {
        let long_ago = |line: &Line| line.due.is_some_and(|due| due + NEGLECT <= Instant::now());
        self.lines().iter().find(|(_, line)| long_ago(line)).map(|(name, _)| *name)
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<&'static str, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_broken_promise_is_overdue() {
        let board = Board::default();
        board.set("a", ServiceState::Running, None);
        board.set("b", ServiceState::Running, None);
        board.promise("a", Some(Duration::from_secs(5)));
        board.promise("b", Some(Duration::from_secs(3)));
        board.promise("b", None);
        let began = Instant::now();
        assert_eq!(board.overdue().await, "a");
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        let again = tokio::time::timeout(Duration::from_secs(3600), board.overdue()).await;
        assert!(again.is_err(), "told once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_promise_that_is_seen_to_is_not_neglected() {
        let board = Board::default();
        board.set("a", ServiceState::Running, None);
        board.promise("a", Some(Duration::from_secs(5)));
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        pass(14).await;
        assert_eq!(board.neglected(), None);
        pass(1).await;
        assert_eq!(board.neglected(), Some("a"));
        assert_eq!(board.overdue().await, "a");
        assert_eq!(board.neglected(), None);
    }

    /// A promise of one that is off, or waits to be started again, binds nobody.
    #[tokio::test(start_paused = true)]
    async fn a_promise_ends_with_its_service() {
        let board = Board::default();
        for state in [ServiceState::Off, ServiceState::Restarting] {
            board.set("a", ServiceState::Running, None);
            board.promise("a", Some(Duration::from_secs(5)));
            board.set("a", state, None);
            assert!(tokio::time::timeout(Duration::from_secs(3600), board.overdue()).await.is_err());
            assert_eq!(board.neglected(), None);
        }
    }

    /// One made while somebody already waits for a later one.
    #[tokio::test(start_paused = true)]
    async fn an_earlier_promise_of_another_is_noticed() {
        let board = std::sync::Arc::new(Board::default());
        for name in ["a", "b"] {
            board.set(name, ServiceState::Running, None);
        }
        board.promise("a", Some(Duration::from_secs(60)));
        let waiting = tokio::spawn({
            let board = std::sync::Arc::clone(&board);
            async move { (board.overdue().await, Instant::now()) }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let made = Instant::now();
        board.promise("b", Some(Duration::from_secs(3)));
        let (name, at) = waiting.await.unwrap();
        assert_eq!((name, at - made), ("b", Duration::from_secs(3)));
    }

    /// A service that paused for long and then has something to do.
    #[tokio::test(start_paused = true)]
    async fn an_earlier_promise_of_the_same_is_noticed() {
        let board = Board::default();
        board.set("a", ServiceState::Running, None);
        board.promise("a", Some(Duration::from_secs(300)));
        let began = Instant::now();
        let sooner = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            board.promise("a", Some(Duration::from_secs(3)));
        };
        assert_eq!(tokio::join!(board.overdue(), sooner).0, "a");
        assert_eq!(began.elapsed(), Duration::from_secs(4));
    }

    #[test]
    fn states_and_restarts_are_counted() {
        let board = Board::default();
        board.set("a", ServiceState::Running, None);
        board.set("a", ServiceState::Restarting, Some("why".into()));
        board.set("a", ServiceState::Running, None);
        board.count("a", "ignored");
        assert_eq!(board.count("a", "ignored"), 2);
        let line = &board.all()["a"];
        assert_eq!((line.state, line.restarts), (ServiceState::Running, 1));
        assert_eq!(line.counters, BTreeMap::from([("ignored", 2)]));
    }
}
