//! Deciding: what each message, end and wish to cancel comes to. Nothing is written or done here.

use super::*;

/// What a turn has come to so far.
pub(super) struct Batch<A: Action> {
    items: Vec<Item<A>>,
    /// How many more may be begun.
    free: usize,
}

impl<A: Action> Default for Batch<A> {
    fn default() -> Self {
        Self { items: Vec::new(), free: 0 }
    }
}

impl<A: Action> Batch<A> {
    fn lines(&self) -> impl Iterator<Item = &Line> {
        self.items.iter().filter_map(|item| item.line.as_ref())
    }

    /// Something is to be written about it.
    fn knows(&self, id: &str) -> bool {
        self.lines().any(|line| line.id() == id)
    }

    /// The id that this one was given, if it came without one before.
    fn unnamed(&self, wanted: &RawValue) -> Option<String> {
        self.lines().find_map(|line| match line {
            Line::Accepted { id, unnamed: true, request, .. } if request.get() == wanted.get() => {
                Some(id.clone())
            }
            _ => None,
        })
    }

    /// How many are going to wait, and their bytes.
    fn to_wait(&self) -> (usize, usize) {
        let sizes = self.items.iter().filter_map(|item| match &item.effect {
            Effect::Wait(order) => Some(order.size),
            _ => None,
        });
        sizes.fold((0, 0), |(number, bytes), size| (number + 1, bytes + size))
    }
}

impl<A: Action> Engine<A> {
    /// A turn: what has come, and what else is there by now.
    pub(super) async fn turn(&mut self, messages: Vec<Inbound>, mut ended: Vec<Item<A>>) {
        while let Some(joined) = self.running.try_join_next_with_id() {
            ended.extend(self.joined(joined));
        }
        while let Some(stored) = self.telling.try_join_next() {
            self.told.extend(stored);
        }
        let mut batch = Batch { items: ended, free: self.limits.running.saturating_sub(self.runs.len()) };
        self.begin_waiting(&mut batch);
        for message in messages {
            let decoded = self.action.decode(&message);
            if matches!(&decoded, Decoded::Cancel { id } if batch.knows(id)) {
                // It has to be begun, or to wait, before it can be cancelled.
                self.settle(std::mem::take(&mut batch.items)).await;
            }
            let item = self.take(decoded, message.dup, &mut batch);
            batch.items.push(Item { message: Some(message), ..item });
        }
        self.settle(batch.items).await;
    }

    /// An order that nobody has to acknowledge.
    pub(super) async fn take_own(&mut self, order: Order<A::Request>) {
        let mut batch =
            Batch { items: Vec::new(), free: self.limits.running.saturating_sub(self.runs.len()) };
        self.begin_waiting(&mut batch);
        let item = self.take(Decoded::Order(order), false, &mut batch);
        batch.items.push(item);
        self.settle(batch.items).await;
    }

    /// Those whose turn it is; or is no more.
    fn begin_waiting(&mut self, batch: &mut Batch<A>) {
        while batch.free > 0
            && let Some(order) = self.waiting.pop_front()
        {
            if self.expired(order.expires_at) {
                let outcome = self.action.ending(Some(&order.request), End::Expired);
                batch.items.push(self.ended(order.id, outcome));
                continue;
            }
            batch.free -= 1;
            let line = Some(Line::Started { id: order.id.clone() });
            let effect = Effect::Start { order, new: false };
            batch.items.push(Item { line, effect, ..Item::nothing() });
        }
    }

    fn expired(&self, expires_at: Option<Timestamp>) -> bool {
        expires_at.is_some_and(|at| at <= self.ctx.now())
    }

    /// A message.
    fn take(&mut self, decoded: Decoded<A::Request>, dup: bool, batch: &mut Batch<A>) -> Item<A> {
        match decoded {
            Decoded::Unreadable { reason } => {
                let count = self.ctx.count("unreadable");
                warn!(count, reason, "an order that cannot be read, nor answered");
                Item::nothing()
            }
            Decoded::Invalid { id, keep: false, reason } => {
                let outcome = self.action.ending(None, End::Rejected(reason.clone()));
                let note = Some(self.note(&id, Decision::Refused, None, reason));
                Item { note, effect: Effect::Answer { id, outcome }, ..Item::nothing() }
            }
            Decoded::Cancel { id } => self.cancel(id, Some(batch)).0,
            Decoded::Invalid { id, reason, .. } => match self.known(&id, batch) {
                true => Item::again(id),
                false => self.refuse(id, None, None, reason),
            },
            Decoded::Order(order) => self.order(order, dup, batch),
        }
    }

    /// Whether this id has been seen, be it in this turn.
    fn known(&self, id: &str, batch: &Batch<A>) -> bool {
        batch.knows(id)
            || self.unwritten.iter().any(|unwritten| unwritten.id == id)
            || self.with_journal(|journal| journal.state(id)).flatten().is_some()
    }

    fn order(&mut self, order: Order<A::Request>, dup: bool, batch: &mut Batch<A>) -> Item<A> {
        let Order { id, expires_at, request } = order;
        let written = to_raw_value(&request).expect("a request makes JSON");
        let unnamed = id.is_none();
        let id = id.unwrap_or_else(|| self.name(&written, dup, batch));
        if self.known(&id, batch) {
            return Item::again(id);
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
        let starts = batch.free > 0;
        let size = written.get().len();
        let (number, bytes) = batch.to_wait();
        let full = self.waiting.len() + number >= self.limits.waiting;
        if !starts && (full || self.waiting.bytes() + bytes + size > WAITING) {
            return self.refuse(id, Some(&request), None, self.action.busy());
        }
        batch.free -= usize::from(starts);
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
        Item { line: Some(line), note: Some(note), effect, ..Item::nothing() }
    }

    /// The id of an order that has none: another each time, but for a copy of one that the broker sends again since it
    /// never saw it acknowledged; or, where the action says so, of one that has not ended, or not long ago.
    fn name(&self, request: &RawValue, dup: bool, batch: &Batch<A>) -> String {
        let stands = |ended: Option<Timestamp>| match A::STANDS {
            None => dup,
            Some(after) => ended.is_none_or(|at| apart_by(at, self.ctx.now()) < after),
        };
        let written = || {
            self.with_journal(|journal| {
                let (id, ended) = journal.unnamed(request.get())?;
                stands(ended).then(|| id.to_owned())
            })
        };
        let copied = batch.unnamed(request).filter(|_| stands(None)).or_else(|| written().flatten());
        copied.unwrap_or_else(|| {
            let id = self.action.name(request);
            if self.known(&id, batch) { crate::action::new_id() } else { id }
        })
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
    pub(super) fn cancel(
        &mut self,
        id: String,
        batch: Option<&Batch<A>>,
    ) -> (Item<A>, Result<&'static str, String>) {
        let note = |engine: &Self, said: &str| {
            Some(engine.note(&id, Decision::Asked, None, format!("cancel: {said}")))
        };
        if let Some(running) = self.runs.values().find(|running| running.id == id) {
            running.cancel.cancel();
            let note = note(self, "it runs");
            return (Item { note, ..Item::nothing() }, Ok("is being cancelled"));
        }
        if let Some(order) = self.waiting.remove(&id) {
            let outcome = self.action.ending(Some(&order.request), End::Cancelled);
            let note = note(self, "it waits");
            return (Item { note, ..self.ended(id, outcome) }, Ok("cancelled before it began"));
        }
        if self.known(&id, batch.unwrap_or(&Batch::default())) {
            return (Item::again(id), Ok("has ended already"));
        }
        if batch.is_none() {
            // A slip of a finger on this machine must not spoil an id.
            return (Item::nothing(), Err(format!("no {} {id} is known here", A::NOUN)));
        }
        let reason = self.action.unknown();
        (self.refuse(id, None, None, reason.clone()), Err(reason))
    }

    pub(super) fn note(&self, id: &str, decision: Decision, rule: Option<String>, detail: String) -> Note {
        Note { action: self.ctx.name, id: id.to_owned(), decision, rule, detail }
    }

    pub(super) fn ended(&self, id: String, outcome: A::Outcome) -> Item<A> {
        let line = self.end_of(&id, &outcome, false);
        let note = Some(self.note(&id, Decision::Done, None, self.action.summary(&outcome)));
        Item { line: Some(line), note, effect: Effect::End { id, outcome }, hold: None, message: None }
    }

    pub(super) fn end_of(&self, id: &str, outcome: &A::Outcome, told: bool) -> Line {
        let outcome = to_raw_value(outcome).expect("an outcome makes JSON");
        Line::Ended { id: id.to_owned(), n: 0, at: self.ctx.now(), outcome, brief: false, told }
    }
}

/// How far apart two times are: the clock may have been set back meanwhile.
fn apart_by(one: Timestamp, other: Timestamp) -> Duration {
    let (one, other) = (one.to_system_time(), other.to_system_time());
    one.duration_since(other).unwrap_or_else(|error| error.duration())
}
