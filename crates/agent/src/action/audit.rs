//! The record of remote actions, kept here and sent up: what was asked, refused and done, each chained to the one before
//! by its hash.
//!
//! It is on disk before [`Audit::note`] returns, and an action whose record cannot be written is not begun. Never in
//! here: what a command has written.

use std::{
    io, mem,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use protocol::{
    DeviceId, Timestamp,
    audit::{self, Record},
};
use tokio::{
    runtime::Handle,
    sync::{oneshot, watch},
    task,
};
use tracing::{error, info};

pub(crate) use protocol::audit::Decision;

use crate::{
    clock::Clock,
    identity::Device,
    mqtt::{Mqtt, Qos},
    outbox::{Class, Counts, Disk, Draft, Tally},
};
use book::Book;

mod book;
#[cfg(test)]
mod tests;
mod verify;

pub(crate) use verify::{Log, Verifier, verify};

/// The longest detail, in bytes; what is longer is cut.
const LONGEST_DETAIL: usize = 1024;
/// The longest id and the longest rule.
const LONGEST_NAME: usize = 256;
/// Most records that are written at once.
const BATCH: usize = 256;

/// Something to be recorded.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    /// `command`, `ssh` or `update`.
    pub(crate) action: &'static str,
    /// Which one.
    pub(crate) id: String,
    /// What came of it.
    pub(crate) decision: Decision,
    /// The owner's rule by which.
    pub(crate) rule: Option<String>,
    /// In words, up to 1 KiB.
    pub(crate) detail: String,
}

/// Why nothing was recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Error {
    /// The device has no id yet.
    #[error("there is no audit before the device is enrolled")]
    NotEnrolled,
    /// The disk.
    #[error("the audit log cannot be written")]
    Log(#[source] Arc<io::Error>),
    /// The agent ends.
    #[error("the audit has ended")]
    Ended,
}

/// The audit of this device; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Audit {
    shared: Arc<Shared>,
}

/// Notes and whom to tell that they are on disk.
type Waiting = (Vec<Note>, oneshot::Sender<Result<(), Error>>);

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    clock: Clock,
    prefix: String,
    device: watch::Receiver<Option<Device>>,
    mqtt: OnceLock<Mqtt>,
    queue: Mutex<Queue>,
    /// Held only by the one thread that writes.
    desk: Mutex<Desk>,
}

/// What is to be done, by one thread at a time.
#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    /// There is something to do besides.
    kicked: bool,
    /// Somebody does it.
    busy: bool,
}

#[derive(Debug, Default)]
struct Desk {
    /// Opened when it is needed first, and tried again until it can be.
    book: Option<Book>,
    /// Records that the outbox was given, by the number of the last, until it has them on disk.
    flights: Vec<(u64, Arc<Tally>)>,
    /// A task waits for the first of them.
    watched: bool,
    /// The log is known to be unusable.
    failed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Audit {
    /// The log on `disk`, of the device that `device` tells, for topics that begin with `prefix`. Reads nothing yet.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        clock: Clock,
        prefix: &str,
        device: watch::Receiver<Option<Device>>,
    ) -> Self {
        let shared = Shared {
            disk,
            clock,
            prefix: prefix.to_owned(),
            device,
            mqtt: OnceLock::new(),
            queue: Mutex::default(),
            desk: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sends records through `mqtt` from now on.
    pub(crate) fn attach(&self, mqtt: &Mqtt) {
        // Once in the life of a process.
        self.shared.mqtt.get_or_init(|| mqtt.clone());
    }

    /// Hands to the outbox what an earlier process had no time to. Needs the runtime.
    pub(crate) fn resume(&self) {
        self.shared.kick();
    }

    /// Records `notes` in this order; returns when they are on disk. Those of several callers are written together.
    ///
    /// # Errors
    /// None of them was recorded, and what they are about must not be done.
    pub(crate) async fn note(&self, notes: Vec<Note>) -> Result<(), Error> {
        if notes.is_empty() {
            return Ok(());
        }
        let (done, written) = oneshot::channel();
        lock(&self.shared.queue).waiting.push((notes, done));
        self.shared.kick();
        written.await.unwrap_or(Err(Error::Ended))
    }
}

/// Whatever ends the one who writes, another can begin.
struct Busy<'a>(&'a Shared);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.0.queue).busy = false;
    }
}

impl Shared {
    /// Sees to it that somebody does what there is to do.
    fn kick(self: &Arc<Self>) {
        let mut queue = lock(&self.queue);
        queue.kicked = true;
        if !mem::replace(&mut queue.busy, true) {
            let shared = Arc::clone(self);
            drop(queue);
            task::spawn_blocking(move || shared.work());
        }
    }

    fn work(self: Arc<Self>) {
        let busy = Busy(&self);
        loop {
            let batch = {
                let mut queue = lock(&self.queue);
                if queue.waiting.is_empty() && !queue.kicked {
                    // Under the same lock: who comes after it finds nobody busy.
                    queue.busy = false;
                    mem::forget(busy);
                    return;
                }
                queue.kicked = false;
                take(&mut queue.waiting)
            };
            let (notes, tell): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
            let written = self.write(&notes.concat());
            for done in tell {
                // Who does not wait any more does not want to know.
                done.send(written.clone()).ok();
            }
        }
    }

    fn write(self: &Arc<Self>, notes: &[Note]) -> Result<(), Error> {
        let device = self.device.borrow().as_ref().map(|device| device.device_id.clone());
        let mut desk = lock(&self.desk);
        let written = match device {
            Some(device) => self.record(&mut desk, &device, notes),
            None if notes.is_empty() => return Ok(()),
            None => return Err(Error::NotEnrolled),
        };
        match &written {
            Err(error) if !desk.failed => {
                error!(error = %error, "the audit log cannot be written: remote actions are refused");
            }
            Ok(()) if desk.failed => info!("the audit log can be written again"),
            _ => {}
        }
        desk.failed = written.is_err();
        self.hand_over(&mut desk);
        self.watch(&mut desk);
        written.map_err(|error| Error::Log(Arc::new(error)))
    }

    fn record(&self, desk: &mut Desk, device: &DeviceId, notes: &[Note]) -> io::Result<()> {
        let book = match &mut desk.book {
            Some(book) => book,
            none => none.insert(Book::open(Arc::clone(&self.disk))?),
        };
        let stored = desk.flights.iter().take_while(|(_, tally)| is_stored(&tally.counts())).count();
        if let Some((last, _)) = desk.flights.drain(..stored).next_back() {
            book.stored(last);
        }
        let timestamp = Timestamp::from_system_time(self.clock.now());
        let make = |note: &Note, seq, prev: &str| Record {
            device_id: device.clone(),
            timestamp,
            seq,
            prev: prev.to_owned(),
            action: note.action.to_owned(),
            id: cut(&note.id, LONGEST_NAME),
            decision: note.decision,
            rule: note.rule.as_deref().map(|rule| cut(rule, LONGEST_NAME)),
            detail: cut(&note.detail, LONGEST_DETAIL),
        };
        book.append(notes, make)
    }

    /// To the outbox, whatever it does not have yet.
    fn hand_over(&self, desk: &mut Desk) {
        let (Some(book), Some(mqtt)) = (&mut desk.book, self.mqtt.get()) else { return };
        let tally = Arc::new(Tally::default());
        let mut last = None;
        while let Some((seq, record)) = book.to_send() {
            let Ok(Record { device_id, .. }) = serde_json::from_str(record) else {
                // It was read as one before.
                book.sent(seq);
                continue;
            };
            let draft = Draft {
                class: Class::Audit,
                topic: audit::topic(&self.prefix, &device_id),
                qos: Qos::AtLeastOnce,
                retain: false,
                // Numbered by itself: as it is on disk here.
                payload: &mut |_| record.as_bytes().to_vec(),
            };
            if !mqtt.store(draft, Some(&tally)) {
                break;
            }
            book.sent(seq);
            last = Some(seq);
        }
        desk.flights.extend(last.map(|last| (last, tally)));
    }

    /// Comes back when the outbox has what it was given.
    fn watch(self: &Arc<Self>, desk: &mut Desk) {
        let Some((_, tally)) = desk.flights.first().filter(|_| !desk.watched) else { return };
        desk.watched = true;
        let (shared, tally) = (Arc::clone(self), Arc::clone(tally));
        Handle::current().spawn(async move {
            tally.wait(is_stored).await;
            // Nobody holds it for longer than it takes to write.
            task::spawn_blocking(move || {
                lock(&shared.desk).watched = false;
                shared.kick();
            });
        });
    }
}

/// As many as are written at once, and at least one.
fn take(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    let mut records = 0;
    let fit = |(notes, _): &&Waiting| {
        records += notes.len();
        records <= BATCH
    };
    let count = waiting.iter().take_while(fit).count().max(1).min(waiting.len());
    waiting.drain(..count).collect()
}

/// The outbox has them on disk, or there is nothing more to be had from it.
fn is_stored(counts: &Counts) -> bool {
    counts.taken == counts.on_disk + counts.dropped || counts.is_settled()
}

/// Adds a record to the log on `disk`.
///
/// # Errors
/// Those of the disk, or there is no number left for it.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzzed(disk: Arc<dyn Disk>) -> io::Result<String> {
    let mut book = Book::open(disk)?;
    let detail = String::new();
    let note =
        Note { action: "command", id: "new".to_owned(), decision: Decision::Asked, rule: None, detail };
    let make = |note: &Note, seq, prev: &str| Record {
        device_id: "d1".parse().expect("an id"),
        timestamp: Timestamp::from_millis(0).expect("a time"),
        seq,
        prev: prev.to_owned(),
        action: note.action.to_owned(),
        id: note.id.clone(),
        decision: note.decision,
        rule: None,
        detail: note.detail.clone(),
    };
    book.append(&[note], make)?;
    let mut last = String::new();
    while let Some((seq, record)) = book.to_send() {
        record.clone_into(&mut last);
        book.sent(seq);
    }
    Ok(last)
}

fn cut(text: &str, longest: usize) -> String {
    text[..text.floor_char_boundary(longest)].to_owned()
}
