//! Writing what was decided, and then doing it; and what is done while it cannot be written.

use super::*;

impl<A: Action> Engine<A> {
    /// Writes, then does.
    pub(super) async fn settle(&mut self, mut items: Vec<Item<A>>) {
        let notes: Vec<Note> = items.iter_mut().filter_map(|item| item.note.take()).collect();
        let lines: Vec<Line> = items.iter_mut().filter_map(|item| item.line.take()).collect();
        match self.write(notes, lines).await {
            Ok(()) => {
                for item in items {
                    self.perform(item).await;
                }
            }
            Err(error) => {
                let why = format!("the journal cannot be written: {}", chain(&*error));
                // The last one first: they keep their order where they wait again.
                items.into_iter().rev().for_each(|item| self.undo(item, &why));
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
        let synced = !lines.is_empty();
        lines.extend(self.told.iter().map(|id| Line::Told { id: id.clone() }));
        if lines.is_empty() {
            return Ok(());
        }
        let write = move || {
            let mut journal = lock(&journal);
            let journal = journal.as_mut().ok_or_else(taken_over)?;
            if synced { journal.commit(lines) } else { journal.note(&lines) }
        };
        apart(write).await?;
        self.told.clear();
        Ok(())
    }

    async fn perform(&mut self, item: Item<A>) {
        item.hold.into_iter().for_each(|release| release());
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
            Effect::Answer { id, outcome } => drop(self.action.tell(&id, Step::Ended(&outcome))),
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
            Effect::End { id, outcome } => {
                let accepted = self.with_journal(|journal| journal.state(&id)).flatten().is_some();
                if item.message.is_some() && !accepted {
                    self.refused(id, outcome);
                } else {
                    let (since, hold) = (Instant::now(), item.hold);
                    self.keep(Unwritten { id, outcome, since, told: false, hold });
                }
            }
            Effect::Answer { id, outcome } => drop(self.action.tell(&id, Step::Ended(&outcome))),
            Effect::Nothing | Effect::Again { .. } => {}
        }
        if let Some(message) = item.message {
            message.ack();
        }
    }

    /// Refused and told so, since nothing can be written; written when it can be.
    fn refused(&mut self, id: String, outcome: A::Outcome) {
        drop(self.action.tell(&id, Step::Ended(&outcome)));
        self.keep(Unwritten { id, outcome, since: Instant::now(), told: true, hold: None });
    }

    fn keep(&mut self, unwritten: Unwritten<A>) {
        if self.unwritten.len() >= UNWRITTEN
            && let Some(told) = self.unwritten.iter().position(|unwritten| unwritten.told)
        {
            self.unwritten.remove(told);
        }
        self.unwritten.push_back(unwritten);
    }

    /// Tries again what could not be written.
    pub(super) async fn again(&mut self) {
        self.retry = None;
        if self.journal.is_none() {
            self.open().await;
            if self.journal.is_none() {
                return;
            }
            self.reconcile();
        }
        let end = |Unwritten { id, outcome, told, .. }: &Unwritten<A>| self.end_of(id, outcome, *told);
        let lines = self.unwritten.iter().map(end).collect();
        let summary = |unwritten: &Unwritten<A>| {
            self.note(&unwritten.id, Decision::Done, None, self.action.summary(&unwritten.outcome))
        };
        let notes = self.unwritten.iter().map(summary).collect();
        match self.write(notes, lines).await {
            Ok(()) => {
                for Unwritten { id, outcome, told, hold, .. } in std::mem::take(&mut self.unwritten) {
                    hold.into_iter().for_each(|release| release());
                    if !told {
                        self.tell_end(&id, &outcome);
                    }
                }
                self.turn(Vec::new(), Vec::new()).await;
                // Where there was nothing to write, only what waits has tried it.
                if self.retry.is_none() {
                    info!("the journal can be written again");
                    self.action.ready(&self.ctx);
                }
            }
            Err(error) => {
                self.tell_overdue();
                self.trouble("written", &*error);
            }
        }
    }

    /// What was refused while nobody knew what had been asked before: what waited is not begun any more, and what was
    /// begun or has ended stays so.
    fn reconcile(&mut self) {
        for unwritten in std::mem::take(&mut self.unwritten) {
            let waited = self.waiting.remove(&unwritten.id).is_some();
            if waited || self.with_journal(|journal| journal.state(&unwritten.id)).flatten().is_none() {
                self.unwritten.push_back(unwritten);
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

    pub(super) fn trouble(&mut self, what: &str, error: &(dyn std::error::Error + 'static)) {
        self.ctx.degraded(format!("the journal cannot be {what}, so nothing is done: {}", chain(error)));
        // Not later for whatever fails meanwhile.
        self.retry.get_or_insert(Instant::now() + AGAIN);
    }

    pub(super) fn tell_end(&mut self, id: &str, outcome: &A::Outcome) {
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
        let read = move || lock(&journal).as_ref().ok_or_else(taken_over)?.outcome(&asked);
        match apart(read).await? {
            Some(outcome) => Ok(serde_json::from_str(outcome.get())?),
            None => Err(io::Error::other("it is not in the journal")),
        }
    }
}
