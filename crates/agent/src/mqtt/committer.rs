//! Writes what the outbox wants written, one commit after the other: what comes in meanwhile goes into the next one
//! together. Beside it, what others than the driver may do with the outbox.

use std::{io, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::{AROUND, Mqtt, Qos, Shared};
use crate::outbox::{Disk, Draft, Outbox, Plan, Tally, apart};

/// How soon a disk that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// The task that writes the outbox.
#[derive(Debug)]
pub struct Committer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    degraded: bool,
    unreadable: bool,
}

impl Committer {
    pub(super) fn new(shared: Arc<Shared>, disk: Arc<dyn Disk>) -> Self {
        Self { shared, disk, degraded: false, unreadable: false }
    }

    /// Runs until [`Mqtt::close`].
    pub async fn run(mut self) {
        loop {
            let (plan, closing) = {
                let mut state = self.shared.state();
                (state.queue.outbox().and_then(Outbox::plan), state.closing)
            };
            let worked = plan.is_some();
            if let Some(plan) = plan {
                self.commit(plan).await;
            }
            (self.degraded, self.unreadable) = self.troubles();
            // Closing, a broken disk is not waited for.
            if closing && (!worked || self.degraded) {
                return;
            }
            self.wait(worked).await;
        }
    }

    /// Whether the disk cannot be written, or read.
    fn troubles(&self) -> (bool, bool) {
        let of = |outbox: &mut Outbox| (outbox.degraded().is_some(), outbox.is_unreadable());
        self.shared.state().queue.outbox().map(of).unwrap_or_default()
    }

    /// Until there may be something to write, or it is time to try the disk again.
    async fn wait(&self, worked: bool) {
        if self.degraded || (self.unreadable && !worked) {
            let closed = async {
                while !self.shared.state().closing {
                    self.shared.dirty.notified().await;
                }
            };
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = closed => {}
            }
            // What could not be read is the driver's to read.
            self.shared.wake.notify_one();
        } else if !worked {
            self.shared.dirty.notified().await;
        }
    }

    async fn commit(&self, plan: Plan) {
        let disk = Arc::clone(&self.disk);
        let written = apart(move || {
            let result = plan.execute(&*disk);
            (plan, result)
        });
        let (plan, result) = written.await;
        self.committed(plan, result);
    }

    fn committed(&self, plan: Plan, result: io::Result<()>) {
        if let Some(outbox) = self.shared.state().queue.outbox() {
            outbox.committed(plan, result);
        }
        self.shared.wake.notify_one();
        self.shared.freed.notify_waiters();
    }
}

impl Shared {
    /// Puts a message into the outbox; tells where there is none.
    pub(super) fn push(&self, push: impl FnOnce(&mut Outbox)) -> bool {
        let pushed = self.state().queue.outbox().map(push).is_some();
        if pushed {
            self.dirty.notify_one();
            // Where it cannot be written it may be sent at once.
            self.wake.notify_one();
        }
        pushed
    }
}

impl Mqtt {
    /// Gives a message to the outbox, where it has a number; `tally` counts what becomes of it. Its payload is made at
    /// once, and must not need this handle. False, and nothing is done, where there is no outbox.
    pub fn store(&self, draft: Draft<'_>, tally: Option<&Arc<Tally>>) -> bool {
        let qos = draft.qos.max(Qos::AtLeastOnce);
        self.shared.push(|outbox| outbox.push(Draft { qos, ..draft }, tally))
    }

    /// What is durable waits on disk.
    pub fn is_durable(&self) -> bool {
        self.shared.state().queue.outbox().is_some()
    }

    /// Looks at the outbox; none where there is no outbox. `look` must not need this handle.
    pub fn with_outbox<T>(&self, look: impl FnOnce(&Outbox) -> T) -> Option<T> {
        self.shared.state().queue.outbox().map(|outbox| look(outbox))
    }

    /// Changes the outbox, and wakes whom that concerns; as [`Mqtt::with_outbox`].
    pub fn change_outbox<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> Option<T> {
        let changed = self.shared.state().queue.outbox().map(change);
        self.shared.dirty.notify_one();
        self.shared.freed.notify_waiters();
        changed
    }

    /// Waits until a message of so many bytes (topic and payload) has room without anything being dropped.
    pub async fn room(&self, size: usize) {
        loop {
            let freed = self.shared.freed.notified();
            if self.shared.state().queue.outbox().is_none_or(|outbox| outbox.has_room(size)) {
                return;
            }
            freed.await;
        }
    }

    /// Bytes that topic and payload of a message may have: what the broker of the latest connection and the outbox take.
    pub fn largest(&self) -> usize {
        let mut state = self.shared.state();
        let broker = state.largest.map_or(usize::MAX, |largest| largest as usize).saturating_sub(AROUND);
        state.queue.outbox().map_or(broker, |outbox| outbox.largest_message().min(broker))
    }

    /// Ends the [`Committer`] once everything has been written.
    pub fn close(&self) {
        self.shared.state().closing = true;
        self.shared.dirty.notify_one();
    }
}
