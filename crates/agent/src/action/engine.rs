//! Takes orders from the broker and sees each to its one end: decode, authorise, write down, acknowledge, run, write
//! down how it ended, tell.
//!
//! It goes by turns. A turn takes whatever has come up (messages, ends, wishes to cancel), decides what is to be done,
//! has all of it written and synced at once, and only then does it. So one sync serves many orders, and no two things
//! happen at the same time.
//!
//! **Invariant:** nothing is acknowledged, begun or told before it is written; but for an end that cannot be written for
//! longer than [`PATIENCE`], and what is refused since it cannot be written.

mod item;
mod mail;
mod queue;
mod settle;
#[cfg(test)]
mod tests;
mod turn;

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use protocol::Timestamp;
use serde_json::value::{RawValue, to_raw_value};
use tokio::{
    sync::{mpsc, oneshot},
    task::{self, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    Action, Decoded, End, Hold, Order, Step,
    audit::{Decision, Note},
    journal::{self, Journal, Kept, Line},
};
use crate::{
    log::chain,
    mqtt::{Inbound, Inbox},
    outbox::{Counts, Disk, Folder, apart},
    service::Context,
};
use item::{Effect, Item, Running, Unwritten};
use mail::Mail;
use queue::{Queue, Waiting};

/// Most messages in a turn.
const BATCH: usize = 64;
/// How soon what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long an end that cannot be written is kept back: told before, and the machine dies, another would be told later.
const PATIENCE: Duration = Duration::from_secs(4);
/// How many ends that cannot be written are remembered.
const UNWRITTEN: usize = 1024;
/// Bytes of orders that wait, in memory and on disk.
const WAITING: usize = 4 << 20;
/// How long it is put off to note what has been told: with more of it, or with what is written anyway.
const NOTE: Duration = Duration::from_millis(10);
/// When the service ends, what it had begun has so long to be ended and told.
const ENDING: Duration = Duration::from_millis(1500);
/// And so long until the outbox has it.
const TELLING: Duration = Duration::from_millis(250);

/// A journal, until another engine takes it over.
pub(super) type Slot = Arc<Mutex<Option<Journal>>>;

/// How one has ended, and what is done once that is written.
type Done<A> = (<A as Action>::Outcome, Hold);

/// Finds the disk of the journal.
type Find = Box<dyn Fn(&Context) -> io::Result<Arc<dyn Disk>> + Send + Sync>;

/// How many at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// So many run.
    pub(crate) running: usize,
    /// So many more wait.
    pub(crate) waiting: usize,
}

/// A wish that came by the control socket: to cancel this id. What came of it is said.
#[derive(Debug)]
pub(crate) struct Cancel {
    pub(crate) id: String,
    pub(crate) answer: oneshot::Sender<Result<&'static str, String>>,
}

/// Sees orders to their end.
pub(crate) struct Engine<A: Action> {
    action: Arc<A>,
    ctx: Context,
    cancels: mpsc::Receiver<Cancel>,
    /// Orders that come by another way than the broker.
    orders: Option<mpsc::Receiver<Order<A::Request>>>,
    limits: Limits,
    /// Where the journal is.
    disk: Find,
    /// None until it can be read.
    journal: Option<Slot>,
    waiting: Queue<A>,
    running: JoinSet<Option<Done<A>>>,
    runs: HashMap<task::Id, Running<A>>,
    unwritten: VecDeque<Unwritten<A>>,
    /// Ends that the outbox is taking.
    telling: JoinSet<String>,
    told: Vec<String>,
    /// When it is noted, at the latest, that they have been told.
    note_told: Option<Instant>,
    /// When to try again what could not be written.
    retry: Option<Instant>,
}

impl<A: Action> Engine<A> {
    /// That has begun nothing yet; for the wishes in `cancels`.
    pub(crate) fn new(action: A, ctx: Context, cancels: mpsc::Receiver<Cancel>, limits: Limits) -> Self {
        Self {
            action: Arc::new(action),
            ctx,
            cancels,
            orders: None,
            limits,
            disk: Box::new(folder),
            journal: None,
            waiting: Queue::default(),
            running: JoinSet::new(),
            runs: HashMap::new(),
            unwritten: VecDeque::new(),
            telling: JoinSet::new(),
            told: Vec::new(),
            note_told: None,
            retry: None,
        }
    }

    /// The same, also for orders of this machine's own.
    pub(crate) fn with_orders(self, orders: mpsc::Receiver<Order<A::Request>>) -> Self {
        Self { orders: Some(orders), ..self }
    }

    /// Works on the orders in `inbox` until the service is to end.
    ///
    /// # Errors
    /// When there is no driver any more.
    pub(crate) async fn run(mut self, inbox: Inbox) -> anyhow::Result<()> {
        let mut mail = Mail::new(inbox);
        mail.take_during(self.open()).await;
        // What only waits is woken by nothing else.
        mail.take_during(self.turn(Vec::new(), Vec::new())).await;
        let shutdown = self.ctx.shutdown.clone();
        while !shutdown.is_cancelled() {
            tokio::select! {
                message = mail.recv() => {
                    let message = message.context("the MQTT driver is gone")?;
                    let messages = mail.batch(vec![message]);
                    mail.take_during(self.turn(messages, Vec::new())).await;
                }
                Some(joined) = self.running.join_next_with_id() => {
                    let (messages, ended) = (mail.batch(Vec::new()), self.joined(joined));
                    mail.take_during(self.turn(messages, ended.into_iter().collect())).await;
                }
                Some(stored) = self.telling.join_next() => {
                    self.told.extend(stored);
                    self.note_told.get_or_insert_with(|| Instant::now() + NOTE);
                }
                () = until(self.note_told) => {
                    let messages = mail.batch(Vec::new());
                    mail.take_during(self.turn(messages, Vec::new())).await;
                }
                Some(Cancel { id, answer }) = self.cancels.recv() => {
                    let item = self.cancel(id, None);
                    let said = match &item {
                        (_, Err(reason)) => Err(reason.clone()),
                        (_, Ok(said)) => Ok(*said),
                    };
                    mail.take_during(self.settle(vec![item.0])).await;
                    // Whoever asked may be gone.
                    drop(answer.send(said));
                }
                Some(order) = next(&mut self.orders) => mail.take_during(self.take_own(order)).await,
                () = until(self.retry) => mail.take_during(self.again()).await,
                () = shutdown.cancelled() => {}
            }
        }
        self.stop().await;
        Ok(())
    }

    /// Reads the journal and takes up what is there.
    async fn open(&mut self) {
        match self.try_open().await {
            Ok(()) => {
                self.retry = None;
                self.action.ready(&self.ctx);
            }
            Err(error) => self.trouble("read", &error),
        }
    }

    async fn try_open(&mut self) -> io::Result<()> {
        let disk = (self.disk)(&self.ctx)?;
        let slot = Slot::default();
        let before = self.ctx.shared.actions.take_over(self.ctx.name, &slot);
        let place = Arc::clone(&slot);
        let opened = apart(move || {
            // An engine that was left behind may be waiting for the disk: it writes no more after this.
            before.into_iter().for_each(|before| *lock(&before) = None);
            let journal = Journal::open(disk, Kept::default(), A::brief)?;
            let unfinished = journal.unfinished()?;
            *lock(&place) = Some(journal);
            Ok::<_, io::Error>(unfinished)
        });
        let (open, untold) = opened.await?;
        self.journal = Some(slot);
        let mut lost = Vec::new();
        for (id, outcome) in untold {
            if let Ok(outcome) = serde_json::from_str(outcome.get()) {
                self.tell_end(&id, &outcome);
            }
        }
        for open in open {
            let request: Option<A::Request> = serde_json::from_str(open.request.get()).ok();
            match request {
                Some(request) if !open.started => {
                    let size = open.request.get().len();
                    let (id, expires_at) = (open.id, open.expires_at);
                    self.waiting.push_back(Waiting { id, expires_at, request, size });
                }
                Some(request) => {
                    let rebooted = open.boot_id != self.ctx.identity().boot_id();
                    self.recover(open.id, request, rebooted);
                }
                // A later version's, or damaged.
                None => lost.push(self.ended(open.id, self.action.ending(None, End::Interrupted))),
            }
        }
        self.settle(lost).await;
        Ok(())
    }

    fn start(&mut self, id: String, request: A::Request) {
        let cancel = CancellationToken::new();
        let run = Arc::clone(&self.action).run(id.clone(), request.clone(), cancel.clone());
        let task = self.running.spawn(async move { Some(run.await) });
        self.runs.insert(task.id(), Running { id, request, cancel });
    }

    /// What an earlier process had begun.
    fn recover(&mut self, id: String, request: A::Request, rebooted: bool) {
        let (action, asked) = (Arc::clone(&self.action), (id.clone(), request.clone()));
        let task = self.running.spawn(async move {
            let outcome = action.recover(&asked.0, asked.1, Some(rebooted)).await?;
            Some((outcome, None))
        });
        self.runs.insert(task.id(), Running { id, request, cancel: CancellationToken::new() });
    }

    /// What has ended, and how; none where it stays open.
    fn joined(&mut self, joined: Result<(task::Id, Option<Done<A>>), JoinError>) -> Option<Item<A>> {
        match joined {
            Ok((task, outcome)) => {
                let (outcome, hold) = outcome?;
                let Running { id, .. } = self.runs.remove(&task)?;
                Some(Item { hold, ..self.ended(id, outcome) })
            }
            Err(error) if error.is_cancelled() => None,
            Err(error) => {
                error!(error = %error, "running an order failed within the agent");
                let Running { id, request, .. } = self.runs.remove(&error.id())?;
                Some(self.ended(id, self.action.ending(Some(&request), End::Interrupted)))
            }
        }
    }

    /// The service ends: what runs is ended, and told.
    async fn stop(&mut self) {
        self.running.abort_all();
        let mut items = Vec::new();
        while let Some(joined) = self.running.join_next_with_id().await {
            // It had ended already.
            items.extend(self.joined(joined));
        }
        let mut ending = JoinSet::new();
        for Running { id, request, .. } in std::mem::take(&mut self.runs).into_values() {
            let action = Arc::clone(&self.action);
            ending.spawn(async move {
                let outcome = action.recover(&id, request, None).await;
                outcome.map(|outcome| (id, outcome))
            });
        }
        let by = Instant::now() + ENDING;
        while let Ok(Some(ended)) = tokio::time::timeout_at(by, ending.join_next()).await {
            if let Ok(Some((id, outcome))) = ended {
                items.push(self.ended(id, outcome));
            }
        }
        self.settle(items).await;
        let telling = async {
            while let Some(stored) = self.telling.join_next().await {
                self.told.extend(stored);
            }
        };
        // What is not known to be told is told again by the next process.
        drop(timeout(TELLING, telling).await);
        self.settle(Vec::new()).await;
    }

    fn with_journal<T>(&self, look: impl FnOnce(&Journal) -> T) -> Option<T> {
        Some(look(lock(self.journal.as_ref()?).as_ref()?))
    }
}

fn folder(ctx: &Context) -> io::Result<Arc<dyn Disk>> {
    let folder = ctx.folder().map_err(io::Error::other)?.path().join(journal::FOLDER);
    Ok(Arc::new(Folder::new(folder)))
}

fn lock(slot: &Mutex<Option<Journal>>) -> MutexGuard<'_, Option<Journal>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

fn taken_over() -> io::Error {
    io::Error::other("another life of this service has taken it over")
}

/// It need not be told again by the next process.
fn is_safe(counts: &Counts) -> bool {
    counts.on_disk + counts.acknowledged + counts.failed + counts.dropped > 0
}

/// The next order of this machine's own.
async fn next<T>(orders: &mut Option<mpsc::Receiver<T>>) -> Option<T> {
    match orders {
        Some(orders) => orders.recv().await,
        None => None,
    }
}

/// Until then, or for ever.
async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
