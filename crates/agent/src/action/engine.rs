//! Takes orders from the broker and sees each to its one end: decode, authorise, write down, acknowledge, run, write
//! down how it ended, tell.
//!
//! It goes by turns. A turn takes whatever has come up (messages, ends, wishes to cancel), decides what is to be done,
//! has all of it written and synced at once, and only then does it. So one sync serves many orders, and no two things
//! happen at the same time.
//!
//! **Invariant:** nothing is acknowledged, begun or told before it is written; but for an end that cannot be written for
//! longer than [`PATIENCE`], and what is refused since it cannot be written.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, Mutex, PoisonError},
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
    Action, Decoded, End, Order, Step,
    audit::{Decision, Note},
    journal::{Journal, Kept, Line},
};
use crate::{
    log::chain,
    mqtt::{Inbound, Inbox},
    outbox::{Counts, Folder},
    service::Context,
};
use mail::Mail;

mod mail;

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
/// How long it is put off to note what has been told: with more of them, or with what is written anyway.
const NOTE: Duration = Duration::from_millis(10);
/// When the service ends, what it had begun has so long to be ended and told.
const ENDING: Duration = Duration::from_millis(1500);
/// And so long until the outbox has it.
const TELLING: Duration = Duration::from_millis(250);

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

/// One that waits for its turn to run.
struct Waiting<A: Action> {
    id: String,
    expires_at: Option<Timestamp>,
    request: A::Request,
    size: usize,
}

/// Those that wait, in order.
struct Queue<A: Action> {
    orders: VecDeque<Waiting<A>>,
    bytes: usize,
}

impl<A: Action> Queue<A> {
    fn push_back(&mut self, order: Waiting<A>) {
        self.bytes += order.size;
        self.orders.push_back(order);
    }

    fn push_front(&mut self, order: Waiting<A>) {
        self.bytes += order.size;
        self.orders.push_front(order);
    }

    fn pop_front(&mut self) -> Option<Waiting<A>> {
        let order = self.orders.pop_front()?;
        self.bytes -= order.size;
        Some(order)
    }

    fn remove(&mut self, id: &str) -> Option<Waiting<A>> {
        let order = self.orders.remove(self.orders.iter().position(|order| order.id == id)?)?;
        self.bytes -= order.size;
        Some(order)
    }

    fn find(&self, id: &str) -> Option<&Waiting<A>> {
        self.orders.iter().find(|order| order.id == id)
    }
}

/// One that runs.
struct Running<A: Action> {
    id: String,
    request: A::Request,
    cancel: CancellationToken,
}

/// An end that could not be written yet.
struct Unwritten<A: Action> {
    id: String,
    outcome: A::Outcome,
    since: Instant,
    told: bool,
}

/// What is to be done, and what has to be written before.
struct Item<A: Action> {
    line: Option<Line>,
    note: Option<Note>,
    effect: Effect<A>,
    /// Whose acknowledgement waits for it.
    message: Option<Inbound>,
}

/// What is done once it is written.
enum Effect<A: Action> {
    Nothing,
    /// It waits for a place.
    Wait(Waiting<A>),
    /// It runs; a new one is told to be accepted first.
    Start {
        order: Waiting<A>,
        new: bool,
    },
    /// It has ended.
    End {
        id: String,
        outcome: A::Outcome,
    },
    /// What is known is told again.
    Again {
        id: String,
    },
}

/// What room there is for new ones in this turn.
struct Room {
    /// So many more may run.
    free: usize,
    /// So many of it are to wait.
    waits: usize,
}

/// Sees orders to their end.
pub(crate) struct Engine<A: Action> {
    action: Arc<A>,
    ctx: Context,
    limits: Limits,
    /// None until it can be read.
    journal: Option<Arc<Mutex<Journal>>>,
    waiting: Queue<A>,
    running: JoinSet<Option<A::Outcome>>,
    runs: HashMap<task::Id, Running<A>>,
    unwritten: VecDeque<Unwritten<A>>,
    /// Ends that the outbox is taking.
    telling: JoinSet<String>,
    /// Ends that it has, and when that is noted at the latest.
    told: Vec<String>,
    note_told: Option<Instant>,
    /// When to try again what could not be written.
    retry: Option<Instant>,
}

impl<A: Action> Engine<A> {
    /// That has begun nothing yet.
    pub(crate) fn new(action: A, ctx: Context, limits: Limits) -> Self {
        Self {
            action: Arc::new(action),
            ctx,
            limits,
            journal: None,
            waiting: Queue { orders: VecDeque::new(), bytes: 0 },
            running: JoinSet::new(),
            runs: HashMap::new(),
            unwritten: VecDeque::new(),
            telling: JoinSet::new(),
            told: Vec::new(),
            note_told: None,
            retry: None,
        }
    }

    /// Works on the orders in `inbox` and the wishes in `cancels` until the service is to end.
    ///
    /// # Errors
    /// When there is no driver any more.
    pub(crate) async fn run(
        mut self,
        inbox: Inbox,
        mut cancels: mpsc::Receiver<Cancel>,
    ) -> anyhow::Result<()> {
        let mut mail = Mail::new(inbox);
        mail.take_during(self.open()).await;
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
                Some(Cancel { id, answer }) = cancels.recv() => {
                    let item = self.cancel(id, None);
                    let said = match &item {
                        (_, Err(reason)) => Err(reason.clone()),
                        (_, Ok(said)) => Ok(*said),
                    };
                    mail.take_during(self.settle(vec![item.0])).await;
                    // Whoever asked may be gone.
                    drop(answer.send(said));
                }
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
        let folder = self.ctx.folder().map_err(io::Error::other)?.path().join("journal");
        let opened = blocking(move || {
            let journal = Journal::open(Arc::new(Folder::new(folder)), Kept::default(), A::brief)?;
            let unfinished = journal.unfinished()?;
            let outcomes = unfinished.1.into_iter().map(|id| {
                let outcome = journal.outcome(&id)?;
                Ok((id, outcome))
            });
            let outcomes: io::Result<Vec<_>> = outcomes.collect();
            Ok((unfinished.0, outcomes?, journal))
        });
        let (open, untold, journal) = opened.await?;
        let damage = journal.damage();
        if damage.lines > 0 {
            warn!(lines = damage.lines, "the journal is damaged: these are lost");
        }
        self.journal = Some(Arc::new(Mutex::new(journal)));
        let mut lost = Vec::new();
        for (id, outcome) in untold {
            if let Some(outcome) = outcome.and_then(|outcome| serde_json::from_str(outcome.get()).ok()) {
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

    /// A turn: what has come, and what else is there by now.
    async fn turn(&mut self, messages: Vec<Inbound>, mut ended: Vec<(String, A::Outcome)>) {
        while let Some(joined) = self.running.try_join_next_with_id() {
            ended.extend(self.joined(joined));
        }
        while let Some(stored) = self.telling.try_join_next() {
            self.told.extend(stored);
        }
        let mut items: Vec<Item<A>> =
            ended.into_iter().map(|(id, outcome)| self.ended(id, outcome)).collect();
        let mut room = Room { free: self.limits.running.saturating_sub(self.runs.len()), waits: 0 };
        self.begin_waiting(&mut room.free, &mut items);
        let mut new: Vec<String> = Vec::new();
        for message in messages {
            let item = self.take(message, &mut room, &mut new);
            items.push(item);
        }
        self.settle(items).await;
    }

    /// Those whose turn it is; or is no more.
    fn begin_waiting(&mut self, free: &mut usize, items: &mut Vec<Item<A>>) {
        while *free > 0
            && let Some(order) = self.waiting.pop_front()
        {
            if self.expired(order.expires_at) {
                let outcome = self.action.ending(Some(&order.request), End::Expired);
                items.push(self.ended(order.id, outcome));
                continue;
            }
            *free -= 1;
            let line = Some(Line::Started { id: order.id.clone() });
            let effect = Effect::Start { order, new: false };
            items.push(Item { line, note: None, effect, message: None });
        }
    }

    fn expired(&self, expires_at: Option<Timestamp>) -> bool {
        expires_at.is_some_and(|at| at <= self.ctx.now())
    }

    /// A message.
    fn take(&mut self, message: Inbound, room: &mut Room, new: &mut Vec<String>) -> Item<A> {
        let item = match self.action.decode(&message) {
            Decoded::Unreadable { reason } => {
                let count = self.ctx.count("unreadable");
                warn!(count, reason, "an order that cannot be read, nor answered");
                Item { line: None, note: None, effect: Effect::Nothing, message: None }
            }
            Decoded::Invalid { id, keep: false, reason } => {
                let outcome = self.action.ending(None, End::Rejected(reason.clone()));
                let note = Some(self.note(&id, Decision::Refused, None, reason));
                Item { line: None, note, effect: Effect::End { id, outcome }, message: None }
            }
            Decoded::Cancel { id } => self.cancel(id, Some(new)).0,
            Decoded::Invalid { id, reason, .. } => match self.known(&id, new) {
                true => again(id),
                false => self.refuse(id, None, None, reason),
            },
            Decoded::Order(order) => self.order(order, message.dup, room, new),
        };
        if let Some(Line::Accepted { id, .. } | Line::Ended { id, .. }) = &item.line {
            new.push(id.clone());
        }
        Item { message: Some(message), ..item }
    }

    /// Whether this id has been seen, be it in this turn.
    fn known(&self, id: &str, new: &[String]) -> bool {
        new.iter().any(|known| known == id)
            || self.unwritten.iter().any(|unwritten| unwritten.id == id)
            || self.with_journal(|journal| journal.state(id)).flatten().is_some()
    }

    fn order(&mut self, order: Order<A::Request>, dup: bool, room: &mut Room, new: &[String]) -> Item<A> {
        let Order { id, expires_at, request } = order;
        let written = to_raw_value(&request).expect("a request makes JSON");
        let unnamed = id.is_none();
        let id = id.unwrap_or_else(|| self.name(&written, dup));
        if self.known(&id, new) {
            return again(id);
        }
        if self.expired(expires_at) {
            let outcome = self.action.ending(Some(&request), End::Expired);
            let note = self.note(&id, Decision::Refused, None, "expired".to_owned());
            return Item { note: Some(note), ..self.ended(id, outcome) };
        }
        let rule = match self.action.authorise(&id, &request) {
            Ok(rule) => rule,
            Err(refusal) => return self.refuse(id, Some(&request), refusal.rule, refusal.reason),
        };
        let starts = room.free > 0;
        let size = written.get().len();
        let full = self.waiting.orders.len() + room.waits >= self.limits.waiting;
        if !starts && (full || self.waiting.bytes + size > WAITING) {
            return self.refuse(id, Some(&request), None, "busy".to_owned());
        }
        room.free -= usize::from(starts);
        room.waits += usize::from(!starts);
        let line = Line::Accepted {
            id: id.clone(),
            n: 0,
            at: self.ctx.now(),
            boot_id: self.ctx.identity().boot_id().to_owned(),
            unnamed,
            started: starts,
            expires_at,
            request: written,
        };
        let note = self.note(&id, Decision::Asked, rule, self.action.detail(&request));
        let order = Waiting { id, expires_at, request, size };
        let effect = if starts { Effect::Start { order, new: true } } else { Effect::Wait(order) };
        Item { line: Some(line), note: Some(note), effect, message: None }
    }

    /// The id of an order that has none: another each time, but for a copy of the last one that the broker sends again
    /// since it never saw it acknowledged.
    fn name(&self, request: &RawValue, dup: bool) -> String {
        let same = |journal: &Journal| {
            let last = journal.unnamed().filter(|last| dup && last.request == request.get());
            last.map(|last| last.id.clone())
        };
        self.with_journal(same).flatten().unwrap_or_else(super::new_id)
    }

    fn refuse(
        &self,
        id: String,
        request: Option<&A::Request>,
        rule: Option<String>,
        reason: String,
    ) -> Item<A> {
        let outcome = self.action.ending(request, End::Rejected(reason.clone()));
        let note = self.note(&id, Decision::Refused, rule, reason);
        Item { note: Some(note), ..self.ended(id, outcome) }
    }

    /// A wish to end one before its time, and what is said to it.
    fn cancel(&mut self, id: String, new: Option<&[String]>) -> (Item<A>, Result<&'static str, String>) {
        let note = |engine: &Self, said: &str| {
            Some(engine.note(&id, Decision::Asked, None, format!("cancel: {said}")))
        };
        if let Some(running) = self.runs.values().find(|running| running.id == id) {
            running.cancel.cancel();
            let note = note(self, "it runs");
            return (
                Item { line: None, note, effect: Effect::Nothing, message: None },
                Ok("is being cancelled"),
            );
        }
        if let Some(order) = self.waiting.remove(&id) {
            let outcome = self.action.ending(Some(&order.request), End::Cancelled);
            let note = note(self, "it waits");
            return (Item { note, ..self.ended(id, outcome) }, Ok("cancelled before it began"));
        }
        if self.known(&id, new.unwrap_or_default()) {
            return (again(id), Ok("has ended already"));
        }
        if new.is_none() {
            // A slip of a finger on this machine must not spoil an id.
            let item = Item { line: None, note: None, effect: Effect::Nothing, message: None };
            return (item, Err(format!("no order {id} is known here")));
        }
        let reason =
            "not known here, so there is nothing to cancel; and it will not be run any more".to_owned();
        (self.refuse(id, None, None, reason.clone()), Err(reason))
    }

    fn note(&self, id: &str, decision: Decision, rule: Option<String>, detail: String) -> Note {
        Note { action: self.ctx.name, id: id.to_owned(), decision, rule, detail }
    }

    fn ended(&self, id: String, outcome: A::Outcome) -> Item<A> {
        let line = Line::Ended {
            id: id.clone(),
            n: 0,
            at: self.ctx.now(),
            outcome: to_raw_value(&outcome).expect("an outcome makes JSON"),
            brief: false,
            told: false,
        };
        let note = Some(self.note(&id, Decision::Done, None, self.action.summary(&outcome)));
        Item { line: Some(line), note, effect: Effect::End { id, outcome }, message: None }
    }

    /// Writes, then does.
    async fn settle(&mut self, mut items: Vec<Item<A>>) {
        let notes: Vec<Note> = items.iter_mut().filter_map(|item| item.note.take()).collect();
        let lines: Vec<Line> = items.iter_mut().filter_map(|item| item.line.take()).collect();
        let synced = !lines.is_empty();
        match self.write(notes, lines).await {
            Ok(()) => {
                for item in items {
                    self.perform(item).await;
                }
                if synced && self.retry.is_some() {
                    // So can what could not be written before.
                    self.retry = Some(Instant::now());
                }
            }
            Err(error) => {
                let why = format!("the journal cannot be written: {}", chain(&*error));
                items.into_iter().for_each(|item| self.undo(item, &why));
                self.trouble("written", &*error);
            }
        }
    }

    async fn write(
        &mut self,
        notes: Vec<Note>,
        mut lines: Vec<Line>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        self.note_told = None;
        let Some(journal) = self.journal.clone() else {
            return Err("it could not be read".into());
        };
        if !notes.is_empty() {
            self.ctx.shared.actions.audit.note(notes).await?;
        }
        let told = std::mem::take(&mut self.told).into_iter().map(|id| Line::Told { id });
        let synced = !lines.is_empty();
        lines.extend(told);
        if lines.is_empty() {
            return Ok(());
        }
        let now = self.ctx.shared.clock.synchronised().then(|| self.ctx.now());
        let write = move || {
            let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            if synced { journal.commit(lines, now) } else { journal.note(&lines) }
        };
        Ok(blocking(write).await?)
    }

    async fn perform(&mut self, item: Item<A>) {
        match item.effect {
            Effect::Nothing => {}
            Effect::Wait(waiting) => {
                drop(self.action.tell(&waiting.id, Step::Accepted(&waiting.request)));
                self.waiting.push_back(waiting);
            }
            Effect::Start { order: Waiting { id, request, .. }, new } => {
                if new {
                    drop(self.action.tell(&id, Step::Accepted(&request)));
                }
                drop(self.action.tell(&id, Step::Begun(&request)));
                self.start(id, request);
            }
            Effect::End { id, outcome } => self.tell_end(&id, &outcome),
            Effect::Again { id } => self.tell_again(&id).await,
        }
        if let Some(message) = item.message {
            message.ack();
        }
    }

    /// It could not be written: nothing new is begun, and what has ended is kept until it can be.
    fn undo(&mut self, item: Item<A>, why: &str) {
        match item.effect {
            Effect::Start { order, new: false } => self.waiting.push_front(order),
            Effect::Start { order, .. } | Effect::Wait(order) => {
                let outcome = self.action.ending(Some(&order.request), End::Rejected(why.to_owned()));
                self.refused(order.id, outcome);
            }
            Effect::End { id, outcome } if item.message.is_some() => self.refused(id, outcome),
            Effect::End { id, outcome } => {
                self.keep(Unwritten { id, outcome, since: Instant::now(), told: false });
            }
            Effect::Nothing | Effect::Again { .. } => {}
        }
        if let Some(message) = item.message {
            message.ack();
        }
    }

    /// Refused and told so, since nothing can be written; written when it can be.
    fn refused(&mut self, id: String, outcome: A::Outcome) {
        drop(self.action.tell(&id, Step::Ended(&outcome)));
        self.keep(Unwritten { id, outcome, since: Instant::now(), told: true });
    }

    fn keep(&mut self, unwritten: Unwritten<A>) {
        if self.unwritten.len() >= UNWRITTEN {
            self.unwritten.pop_front();
        }
        self.unwritten.push_back(unwritten);
    }

    /// Tries again what could not be written.
    async fn again(&mut self) {
        self.retry = None;
        if self.journal.is_none() {
            self.open().await;
            if self.journal.is_none() {
                return;
            }
        }
        let lines: Vec<Line> = self
            .unwritten
            .iter()
            .map(|Unwritten { id, outcome, told, .. }| Line::Ended {
                id: id.clone(),
                n: 0,
                at: self.ctx.now(),
                outcome: to_raw_value(outcome).expect("an outcome makes JSON"),
                brief: false,
                told: *told,
            })
            .collect();
        let summary = |unwritten: &Unwritten<A>| {
            self.note(&unwritten.id, Decision::Done, None, self.action.summary(&unwritten.outcome))
        };
        let notes = self.unwritten.iter().map(summary).collect();
        match self.write(notes, lines).await {
            Ok(()) => {
                for Unwritten { id, outcome, told, .. } in std::mem::take(&mut self.unwritten) {
                    if !told {
                        self.tell_end(&id, &outcome);
                    }
                }
                info!("the journal can be written again");
                self.action.ready(&self.ctx);
                self.turn(Vec::new(), Vec::new()).await;
            }
            Err(error) => {
                self.tell_overdue();
                self.trouble("written", &*error);
            }
        }
    }

    /// Ends that have been kept back for too long.
    fn tell_overdue(&mut self) {
        for unwritten in &mut self.unwritten {
            if !unwritten.told && unwritten.since.elapsed() >= PATIENCE {
                unwritten.told = true;
                drop(self.action.tell(&unwritten.id, Step::Ended(&unwritten.outcome)));
            }
        }
    }

    fn trouble(&mut self, what: &str, error: &(dyn std::error::Error + 'static)) {
        self.ctx.degraded(format!("the journal cannot be {what}, so nothing is done: {}", chain(error)));
        self.retry = Some(Instant::now() + AGAIN);
    }

    fn tell_end(&mut self, id: &str, outcome: &A::Outcome) {
        let tally = self.action.tell(id, Step::Ended(outcome));
        let id = id.to_owned();
        self.telling.spawn(async move {
            if let Some(tally) = tally {
                tally.wait(is_safe).await;
            }
            id
        });
    }

    /// A known id came again: what is known is told.
    async fn tell_again(&mut self, id: &str) {
        if let Some(unwritten) = self.unwritten.iter().find(|unwritten| unwritten.id == id) {
            if unwritten.told {
                drop(self.action.tell(id, Step::Ended(&unwritten.outcome)));
            }
            return;
        }
        let waits = self.waiting.find(id);
        let runs = self.runs.values().find(|running| running.id == id);
        if let Some(waiting) = waits {
            drop(self.action.tell(id, Step::Accepted(&waiting.request)));
        } else if let Some(running) = runs {
            drop(self.action.tell(id, Step::Begun(&running.request)));
        } else {
            match self.outcome(id).await {
                Ok(outcome) => drop(self.action.tell(id, Step::Ended(&outcome))),
                Err(error) => warn!(id, error = %error, "how it ended cannot be told again"),
            }
        }
    }

    async fn outcome(&self, id: &str) -> io::Result<A::Outcome> {
        let journal = self.journal.clone().ok_or_else(|| io::Error::other("there is no journal"))?;
        let asked = id.to_owned();
        let read = move || journal.lock().unwrap_or_else(PoisonError::into_inner).outcome(&asked);
        match blocking(read).await? {
            Some(outcome) => Ok(serde_json::from_str(outcome.get())?),
            None => Err(io::Error::other("it is not in the journal")),
        }
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
        let task = self.running.spawn(async move { action.recover(&asked.0, asked.1, Some(rebooted)).await });
        self.runs.insert(task.id(), Running { id, request, cancel: CancellationToken::new() });
    }

    /// What has ended, and how; none where it stays open.
    fn joined(
        &mut self,
        joined: Result<(task::Id, Option<A::Outcome>), JoinError>,
    ) -> Option<(String, A::Outcome)> {
        let (task, outcome) = match joined {
            Ok((task, outcome)) => (task, outcome?),
            Err(error) => {
                error!(error = %error, "running an order failed within the agent");
                (error.id(), self.action.ending(None, End::Interrupted))
            }
        };
        let running = self.runs.remove(&task)?;
        Some((running.id, outcome))
    }

    /// The service ends: what runs is ended, and told.
    async fn stop(&mut self) {
        self.running.abort_all();
        while self.running.join_next().await.is_some() {}
        let mut ending = JoinSet::new();
        for Running { id, request, .. } in std::mem::take(&mut self.runs).into_values() {
            let action = Arc::clone(&self.action);
            ending.spawn(async move {
                let outcome = action.recover(&id, request, None).await;
                outcome.map(|outcome| (id, outcome))
            });
        }
        let by = Instant::now() + ENDING;
        let mut items = Vec::new();
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
        let journal = self.journal.as_ref()?;
        Some(look(&journal.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn again<A: Action>(id: String) -> Item<A> {
    Item { line: None, note: None, effect: Effect::Again { id }, message: None }
}

/// It need not be told again by the next process.
fn is_safe(counts: &Counts) -> bool {
    counts.on_disk + counts.acknowledged + counts.failed + counts.dropped > 0
}

/// Until then, or for ever.
async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Does what waits for the disk on another thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(io::Error::other(error)),
        },
    }
}
