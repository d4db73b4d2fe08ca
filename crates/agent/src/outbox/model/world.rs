//! An outbox on a faulty disk, and what is known of every message that was ever pushed into it.

macro_rules! ensure {
    ($holds:expr, $($said:tt)*) => { if !$holds { return Err(format!($($said)*)); } };
}

mod checks;

use std::{collections::HashMap, io, sync::Arc};

use testkit::Rng;

use super::{
    super::{Class, Draft, Fate, Key, Outbox, Plan, Qos, Record, Stats, Tally, faulty::Faulty},
    Op, clock,
};

/// Messages are told apart by their first byte.
const MOST: usize = 250;
const PAGE: u64 = 4096;
/// A topic of all classes. Each of these has its own file, so that of what was never said to be on disk a later number
/// may be there and an earlier one not.
const SHARED: &str = "iot/d1/shared";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not settled; `stored` once it was said, or seen by a later process, to be on disk.
    Waiting { stored: bool },
    /// Settled; noted once it was written down on a well disk.
    Settled { noted: bool },
    /// Dropped or damaged, and counted; after it was on disk, or before.
    Gone { stored: bool, noted: bool },
    /// Died with its process before it was said to be on disk; perhaps said to be in memory only.
    Lost { in_memory: bool },
}

struct Message {
    class: Class,
    record: Record,
    seq: u64,
    state: State,
    /// Of the life it was pushed in.
    tally: Option<Arc<Tally>>,
    /// Its process said that it is on disk, or it was seen there after a power cut: it stays.
    promised: bool,
    taken: bool,
    refused: bool,
}

/// What there is.
pub(super) struct World {
    pub(super) disk: Arc<Faulty>,
    outbox: Option<Outbox>,
    cap: u64,
    /// After a power cut files may be back that had been removed, until the next commit.
    limit: u64,
    messages: Vec<Message>,
    writing: Option<(Plan, Option<io::Result<()>>)>,
    taken: Vec<(Key, usize)>,
    /// Which message had this number when it was taken from disk.
    handed: HashMap<(String, u64), usize>,
    /// As of the last look.
    stats: [Stats; Class::ALL.len()],
    /// Dropped by an earlier process that could not write it down.
    uncounted: [i64; Class::ALL.len()],
    /// Something could not be read since the disk was last well.
    unreadable: bool,
    pub(super) lives: usize,
    pub(super) sent: usize,
}

type Checked = Result<(), String>;

fn record(id: usize, class: Class, topic: u8, size: usize) -> Record {
    let mut payload = vec![0xa5; size];
    if !id.is_multiple_of(3) {
        Rng::new(id as u64).fill(&mut payload);
    }
    payload[0] = id as u8;
    let qos = if id.is_multiple_of(5) { Qos::ExactlyOnce } else { Qos::AtLeastOnce };
    let topic = if topic == 2 { SHARED.to_owned() } else { format!("iot/d1/{class}/{topic}") };
    Record { topic, payload, qos, retain: id.is_multiple_of(7) }
}

impl World {
    pub(super) fn new(seed: u64, cap: u64) -> Self {
        let disk = Faulty::new(seed);
        let outbox = Outbox::open(disk.clone(), cap, clock());
        Self {
            disk,
            outbox: Some(outbox),
            cap,
            limit: cap,
            messages: Vec::new(),
            writing: None,
            taken: Vec::new(),
            handed: HashMap::new(),
            stats: Default::default(),
            uncounted: Default::default(),
            unreadable: false,
            lives: 1,
            sent: 0,
        }
    }

    fn outbox(&mut self) -> &mut Outbox {
        self.outbox.as_mut().expect("one is open between two steps")
    }

    /// Does it, and looks whether everything holds.
    pub(super) fn step(&mut self, op: Op) -> Checked {
        match op {
            Op::Push { class, topic, size } => self.push(Class::ALL[class], topic, size)?,
            Op::Plan => self.plan()?,
            Op::Execute => self.execute(),
            Op::Committed => self.committed(),
            Op::Commit => {
                self.plan()?;
                self.execute();
                self.committed();
            }
            Op::Take(class) => _ = self.take(Class::ALL[class])?,
            Op::Settle { which, refused } => self.settle(which, refused)?,
            Op::Note => self.note(),
            Op::Purge(class) => self.purge(Class::ALL[class])?,
            Op::Kill => self.die(false)?,
            Op::Cut => self.die(true)?,
            Op::Fail(after, fault) => self.disk.fail(after, fault),
            Op::Fill(pages) => self.disk.set_budget(self.disk.size() + pages * PAGE),
            Op::ReadOnly => self.disk.set_read_only(true),
            Op::Heal => self.disk.heal(),
        }
        self.look()
    }

    /// As [`Self::step`], and where the disk has crashed, goes on after a kill or a power cut.
    pub(super) fn step_over_a_crash(&mut self, op: Op, cut: bool) -> Checked {
        self.step(op)?;
        if self.disk.is_crashed() { self.step(if cut { Op::Cut } else { Op::Kill }) } else { Ok(()) }
    }

    fn push(&mut self, class: Class, topic: u8, size: usize) -> Checked {
        let id = self.messages.len();
        if id == MOST {
            return Ok(());
        }
        let Record { topic, payload, qos, retain } = record(id, class, topic, size);
        let tally = Arc::new(Tally::default());
        let has_room = self.outbox().has_room(topic.len() + size);
        let mut numbers = Vec::new();
        let mut make = |seq| {
            numbers.push(seq);
            payload.clone()
        };
        let draft = Draft { class, topic: topic.clone(), qos, retain, payload: &mut make };
        self.outbox().push(draft, Some(&tally));
        ensure!(numbers.len() <= 1, "made twice: {numbers:?}");
        let seq = numbers.first().copied().unwrap_or(0);
        let state = State::Waiting { stored: false };
        let record = Record { topic, payload, qos, retain };
        self.messages.push(Message {
            class,
            record,
            seq,
            state,
            tally: Some(tally),
            promised: false,
            taken: false,
            refused: false,
        });
        let gone = self.look_for_gone()?;
        let too_large = size as u64 > self.cap / 5;
        ensure!(gone.is_empty() || too_large || !has_room, "there was room, and {gone:?} were dropped");
        Ok(())
    }

    fn plan(&mut self) -> Checked {
        if self.writing.is_some() {
            return Ok(());
        }
        let first = Class::ALL.into_iter().find(|class| {
            self.waiting(*class).any(|id| self.messages[id].state == State::Waiting { stored: false })
        });
        self.writing = self.outbox().plan().map(|plan| (plan, None));
        let gone = self.look_for_gone()?;
        self.check_order_of_drops(&gone, first)
    }

    fn waiting(&self, class: Class) -> impl Iterator<Item = usize> {
        let waits =
            move |message: &Message| message.class == class && matches!(message.state, State::Waiting { .. });
        (0..).zip(&self.messages).filter(move |(_, message)| waits(message)).map(|(id, _)| id)
    }

    fn execute(&mut self) {
        if let Some((plan, result @ None)) = &mut self.writing {
            *result = Some(plan.execute(&*self.disk));
        }
    }

    fn committed(&mut self) {
        if let Some((plan, Some(result))) = self.writing.take_if(|(_, result)| result.is_some()) {
            if result.is_ok() {
                self.disk.forget_peak();
                self.limit = self.cap;
            }
            self.outbox().committed(plan, result);
        }
    }

    fn take(&mut self, class: Class) -> Result<Option<usize>, String> {
        let well = self.disk.is_well();
        let taken = self.outbox().take(class);
        self.look()?;
        let Some((key, record)) = taken else {
            let left = self.waiting(class).find(|id| {
                let message = &self.messages[*id];
                !message.taken && message.state == State::Waiting { stored: true }
            });
            ensure!(left.is_none() || !well || self.unreadable, "{left:?} of {class} is not given out");
            return Ok(None);
        };
        let id = self.identify(class, &record)?;
        let (before, message) = self.messages.split_at_mut(id);
        let message = &mut message[0];
        ensure!(!message.taken, "{id} was given out twice");
        ensure!(
            matches!(message.state, State::Waiting { .. }),
            "{id} was given out, but is {:?}",
            message.state
        );
        message.taken = true;
        match &key {
            Key::Disk { class: of, .. } => {
                ensure!(*of == class, "{id} is of {class}, not {of}");
                let stored = State::Waiting { stored: true };
                ensure!(message.state == stored, "{id} was given out before it was on disk");
                let older = before.iter().position(|m| m.class == class && !m.taken && m.state == stored);
                ensure!(older.is_none(), "{id} was given out before {older:?}");
                let first = *self.handed.entry((record.topic, message.seq)).or_insert(id);
                ensure!(first == id, "number {} was of {first}, and is of {id}", message.seq);
            }
            Key::Memory { class: of, .. } => {
                ensure!(*of == class, "{id} is of {class}, not {of}");
                ensure!(self.outbox().degraded().is_some(), "{id} was given out from memory, on a well disk");
            }
        }
        self.taken.push((key, id));
        Ok(Some(id))
    }

    /// Which message this is; it must be one, in every byte.
    fn identify(&self, class: Class, record: &Record) -> Result<usize, String> {
        let id = record.payload.first().map(|id| usize::from(*id));
        match id.and_then(|id| self.messages.get(id).map(|message| (id, message))) {
            Some((id, message)) if message.record == *record && message.class == class => Ok(id),
            _ => Err(format!("never pushed: {class}, {}, {} bytes", record.topic, record.payload.len())),
        }
    }

    fn settle(&mut self, which: usize, refused: bool) -> Checked {
        if self.taken.is_empty() {
            return Ok(());
        }
        let (key, id) = self.taken.swap_remove(which % self.taken.len());
        let class = self.messages[id].class;
        let message = &mut self.messages[id];
        let was_gone = matches!(message.state, State::Gone { .. });
        self.sent += 1;
        if refused {
            message.refused = true;
            let fate = Fate::Refused { record: message.record.clone(), reason: "too large".to_owned() };
            self.outbox().settle(key, fate);
            return self.look_for_gone().map(drop);
        }
        message.state = State::Settled { noted: false };
        let was = self.stats[class as usize];
        self.outbox().settle(key, Fate::Sent);
        let is = self.outbox().stats(class);
        // What was dropped on its way, and arrived, was not dropped.
        let (messages, dropped) = if was_gone { (0, 1) } else { (1, 0) };
        ensure!(
            (is.messages, is.dropped, is.refused)
                == (was.messages - messages, was.dropped - dropped, was.refused),
            "{id} was sent, gone before: {was_gone}: {was:?} became {is:?}",
        );
        self.stats[class as usize] = is;
        let counts = self.messages[id].tally.as_ref().map(|tally| tally.counts()).filter(|_| !was_gone);
        ensure!(
            counts.is_none_or(|counts| (counts.acknowledged, counts.failed, counts.dropped) == (1, 0, 0)),
            "{id} was sent: {counts:?}"
        );
        Ok(())
    }

    fn note(&mut self) {
        let well = self.disk.is_well();
        self.outbox().note();
        if !well {
            return;
        }
        for message in &mut self.messages {
            // Of what was sent from memory nothing is noted but the count.
            let on_disk = message.promised || message.tally.is_none();
            if let State::Settled { noted } | State::Gone { noted, stored: true } = &mut message.state {
                *noted = on_disk;
            }
        }
    }

    fn purge(&mut self, class: Class) -> Checked {
        let said = self.outbox().purge(&[class]);
        let gone = self.look_for_gone()?;
        ensure!(said == gone.len() as u64, "{said} purged, but gone are {gone:?}");
        let in_flight = |id: &usize| self.messages[*id].taken;
        let left = self.waiting(class).find(|id| !gone.contains(id) && !in_flight(id));
        ensure!(left.is_none() || self.writing.is_some(), "{left:?} was not purged");
        Ok(())
    }

    /// The process ends, or the machine, and the next one begins.
    fn die(&mut self, cut: bool) -> Checked {
        (self.outbox, self.writing) = (None, None);
        self.taken.clear();
        if cut {
            self.disk.cut()
        } else {
            self.disk.kill()
        }
        if cut {
            self.limit = self.cap.max(self.disk.size());
        }
        self.unreadable = false;
        self.lives += 1;
        self.outbox = Some(Outbox::open(self.disk.clone(), self.cap, clock()));
        let degraded = self.outbox().degraded().map(str::to_owned);
        ensure!(degraded.is_none(), "degraded on a well disk: {degraded:?}");
        for class in Class::ALL {
            self.compare(class, cut)?;
        }
        self.check_numbers()
    }

    /// On a well disk all that waits is given out, and nothing is left.
    pub(super) fn drain(&mut self) -> Checked {
        if self.disk.is_crashed() {
            self.step(Op::Kill)?;
        }
        self.step(Op::Heal)?;
        for _ in 0..20 {
            self.step(Op::Commit)?;
            self.step(Op::Committed)?;
        }
        let degraded = self.outbox().degraded().map(str::to_owned);
        ensure!(degraded.is_none(), "degraded on a well disk: {degraded:?}");
        while !self.taken.is_empty() {
            self.settle(0, false)?;
        }
        for class in Class::ALL {
            while self.take(class)?.is_some() {
                self.settle(0, false)?;
            }
        }
        let left: Vec<usize> = Class::ALL.into_iter().flat_map(|class| self.waiting(class)).collect();
        ensure!(left.is_empty(), "{left:?} are never given out");
        self.step(Op::Note)?;
        self.step(Op::Commit)?;
        self.step(Op::Kill)?;
        let total = self.outbox().total();
        ensure!((total.messages, total.bytes) == (0, 0), "after all: {total:?}");
        Ok(())
    }
}
