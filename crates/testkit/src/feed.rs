//! A growing list that a task fills and a test waits on: lines of a process, messages of a watcher, DNS queries.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Shared by clone; keeps everything it was given, with one reading position for [`Feed::next`].
#[derive(Debug)]
pub struct Feed<T> {
    state: Arc<Mutex<State<T>>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    /// Where `next` goes on.
    position: usize,
    closed: bool,
}

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Self { state: Arc::clone(&self.state), changed: self.changed.clone() }
    }
}

impl<T> Default for Feed<T> {
    fn default() -> Self {
        let state = State { items: Vec::new(), position: 0, closed: false };
        Self { state: Arc::new(Mutex::new(state)), changed: watch::Sender::new(()) }
    }
}

impl<T: Clone + Debug> Feed<T> {
    /// Adds an item and wakes who waits.
    pub fn push(&self, item: T) {
        self.lock().items.push(item);
        self.changed.send_replace(());
    }

    /// Says that nothing more will come: waiting then ends at once.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.send_replace(());
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<T> {
        self.lock().items.clone()
    }

    /// Those so far that match; the others are not copied.
    pub fn matching(&self, matching: impl Fn(&T) -> bool) -> Vec<T> {
        self.lock().items.iter().filter(|item| matching(item)).cloned().collect()
    }

    /// How many items so far match.
    pub fn count(&self, matching: impl Fn(&T) -> bool) -> usize {
        self.lock().items.iter().filter(|item| matching(item)).count()
    }

    /// Moves the reading position to the end, so that `next` only sees what comes from now on.
    pub fn skip_to_end(&self) {
        let mut state = self.lock();
        state.position = state.items.len();
    }

    /// The next item after the one last returned that matches; those before it are passed over (not forgotten:
    /// [`Feed::all`] has them).
    ///
    /// # Errors
    /// When none comes within `timeout` or before the feed is closed; the error lists the last items seen. The
    /// reading position then stays where it was.
    pub async fn next(&self, matching: impl Fn(&T) -> bool, timeout: Duration) -> anyhow::Result<T> {
        let start = self.lock().position;
        let (index, item) = self.wait(start, matching, timeout).await?;
        self.lock().position = index + 1;
        Ok(item)
    }

    /// The first item of all that matches, whether already returned or not; does not move the reading position.
    ///
    /// # Errors
    /// As [`Feed::next`].
    pub async fn find(&self, matching: impl Fn(&T) -> bool, timeout: Duration) -> anyhow::Result<T> {
        self.wait(0, matching, timeout).await.map(|(_, item)| item)
    }

    async fn wait(
        &self,
        start: usize,
        matching: impl Fn(&T) -> bool,
        timeout: Duration,
    ) -> anyhow::Result<(usize, T)> {
        let mut changed = self.changed.subscribe();
        let mut looked_at = start;
        let search = async {
            loop {
                changed.borrow_and_update();
                {
                    let state = self.lock();
                    let fresh = state.items.iter().enumerate().skip(looked_at);
                    if let Some((index, item)) = fresh.into_iter().find(|(_, item)| matching(item)) {
                        return Some((index, item.clone()));
                    }
                    looked_at = state.items.len();
                    if state.closed {
                        return None;
                    }
                }
                if changed.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(timeout, search).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) => anyhow::bail!("the feed ended without a match; last items: {:#?}", self.tail(start)),
            Err(_) => {
                anyhow::bail!("nothing matched within {timeout:?}; last items: {:#?}", self.tail(start))
            }
        }
    }

    fn tail(&self, start: usize) -> Vec<T> {
        const SHOWN: usize = 30;
        let state = self.lock();
        let from = start.max(state.items.len().saturating_sub(SHOWN));
        state.items[from.min(state.items.len())..].to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
