//! What must hold of a world.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::super::{Class, Stats},
    Checked, MOST, SHARED, State, World,
};

impl World {
    /// The least important goes first, and of that the oldest, for what is at least as important.
    pub(super) fn check_order_of_drops(&self, gone: &[usize], first: Option<Class>) -> Checked {
        for id in gone.iter().filter(|id| !self.unreadable && !self.messages[**id].refused) {
            let class = self.messages[*id].class;
            ensure!(first.is_some_and(|first| first <= class), "{id} of {class} was dropped for {first:?}");
            let stays = |class, than: usize| {
                self.waiting(class)
                    .find(|id| *id < than && self.messages[*id].state == State::Waiting { stored: true })
            };
            let less = Class::ALL.into_iter().filter(|less| *less > class).find_map(|less| stays(less, MOST));
            ensure!(less.is_none(), "{id} was dropped before {less:?}, which is less important");
            let older = stays(class, *id);
            ensure!(older.is_none(), "{id} was dropped before {older:?}, which is older");
        }
        Ok(())
    }

    /// What is there at the beginning of a life, and what should be.
    pub(super) fn compare(&mut self, class: Class, cut: bool) -> Checked {
        let listed = self.outbox().list(class, 0, usize::MAX).map_err(|error| error.to_string())?;
        let (mut there, mut back): (Vec<usize>, _) = (Vec::new(), 0);
        for (_, record) in &listed {
            let id = self.identify(class, record)?;
            ensure!(there.last().is_none_or(|last| *last < id), "{id} is there after {there:?}");
            there.push(id);
        }
        for (id, message) in
            self.messages.iter_mut().enumerate().filter(|(_, message)| message.class == class)
        {
            let in_memory = message.tally.take().is_some_and(|tally| tally.counts().in_memory == 1);
            (message.taken, message.refused) = (false, false);
            let is_there = there.contains(&id);
            message.state = match message.state {
                State::Waiting { .. } if !is_there && message.promised => {
                    return Err(format!("{id} of {class} is lost"));
                }
                State::Waiting { .. } if !is_there => State::Lost { in_memory },
                // A power cut may undo the removal of a file whose writing had failed.
                State::Lost { .. } if is_there && !cut => return Err(format!("{id} was lost, and is back")),
                state @ (State::Settled { noted: true } | State::Gone { noted: true, .. })
                    if is_there && !cut =>
                {
                    return Err(format!("{id} is back, though it is {state:?}"));
                }
                state if !is_there => state,
                state => {
                    // A failed commit left it on disk, and it was dropped from memory.
                    back += i64::from(matches!(state, State::Gone { stored: false, .. }));
                    State::Waiting { stored: true }
                }
            };
            message.promised |= cut && is_there;
        }
        let is = self.outbox().stats(class);
        ensure!(is.messages == there.len() as u64, "{is:?}, but there are {there:?}");
        // Each that is gone is counted once, but for those that were never on disk and died uncounted.
        let count = |which: fn(&State) -> bool| {
            self.messages.iter().filter(|m| m.class == class && which(&m.state)).count() as i64
        };
        let counted = (is.dropped + is.damaged) as i64 + self.uncounted[class as usize];
        let kept = |state: &_| matches!(state, State::Gone { stored, noted } if *stored || *noted);
        let (least, most) = (count(kept), count(|state| matches!(state, State::Gone { .. })));
        // What was dropped, arrived all the same and is not noted for good, is still counted as dropped.
        let arrived = count(if cut {
            |state| matches!(state, State::Settled { .. })
        } else {
            |state| matches!(state, State::Settled { noted: false })
        });
        ensure!(counted <= most + back + arrived, "{class}: {is:?}, but only {most} are gone");
        ensure!(cut || counted >= least, "{class}: {is:?}, but {least} are gone");
        self.uncounted[class as usize] += most - counted;
        self.stats[class as usize] = is;
        Ok(())
    }

    /// No number is missing below one that is there, but of what met its end.
    pub(super) fn check_numbers(&self) -> Checked {
        let mut highest: HashMap<&str, u64> = HashMap::new();
        for message in self
            .messages
            .iter()
            .filter(|m| m.state == State::Waiting { stored: true } && m.record.topic != SHARED)
        {
            let highest = highest.entry(&message.record.topic).or_default();
            *highest = message.seq.max(*highest);
        }
        for (topic, highest) in highest {
            for seq in 1..=highest {
                let mut had = self.messages.iter().filter(|m| m.record.topic == topic && m.seq == seq);
                ensure!(
                    had.any(|m| m.state != State::Lost { in_memory: false }),
                    "{topic}: number {seq} is missing below {highest}"
                );
            }
        }
        Ok(())
    }

    /// Whether everything holds.
    pub(super) fn look(&mut self) -> Checked {
        let peak = self.disk.peak();
        ensure!(peak <= self.limit, "{peak} bytes on disk, of {} at most", self.limit);
        self.unreadable |= self.disk.is_unreadable();
        self.look_for_gone().map(drop)
    }

    /// Which messages have been dropped, or found damaged, since the last look; all of them must be counted.
    pub(super) fn look_for_gone(&mut self) -> Result<Vec<usize>, String> {
        let now = Class::ALL.map(|class| self.outbox().stats(class));
        let mut gone = Vec::new();
        for class in Class::ALL {
            let (was, is) = (self.stats[class as usize], now[class as usize]);
            ensure!(is.damaged == was.damaged || self.unreadable, "damaged on a well disk: {is:?}");
            let ended = |stats: Stats| (stats.dropped + stats.damaged + stats.refused) as i64;
            let counted = ended(is) - ended(was);
            let listed = if is == was { None } else { Some(self.listed(class)?) };
            let before = gone.len();
            for (id, message) in self.messages.iter_mut().enumerate().filter(|(_, m)| m.class == class) {
                let State::Waiting { stored } = &mut message.state else { continue };
                let is_gone = match &message.tally {
                    Some(tally) => {
                        let counts = tally.counts();
                        ensure!(counts.taken == 1, "{id}: {counts:?}");
                        ensure!(!*stored || counts.on_disk == 1, "{id} was on disk: {counts:?}");
                        ensure!(counts.on_disk + counts.in_memory + counts.dropped <= 1, "{id}: {counts:?}");
                        *stored |= counts.on_disk == 1;
                        message.promised |= *stored;
                        counts.dropped + counts.failed > 0
                    }
                    None => listed.as_ref().is_some_and(|listed| !listed.contains(&id)),
                };
                if is_gone {
                    message.state = State::Gone { stored: *stored, noted: false };
                    gone.push(id);
                }
            }
            let found = (gone.len() - before) as i64;
            ensure!(counted == found, "{counted} of {class} counted, but gone are {:?}", &gone[before..]);
            // Also those that were dropped while they were on their way.
            let refused = self.messages.iter_mut().filter(|m| m.class == class && m.refused);
            let mut refused = refused.filter(|m| matches!(m.state, State::Gone { .. }));
            for _ in was.refused..is.refused {
                let Some(message) = refused.next() else {
                    return Err(format!("refused? {was:?} became {is:?}"));
                };
                message.state = State::Settled { noted: false };
            }
            let waiting = self.waiting(class).count() as u64;
            ensure!(is.messages == waiting, "{waiting} of {class} wait, but {is:?}");
        }
        self.stats = now;
        Ok(gone)
    }

    pub(super) fn listed(&mut self, class: Class) -> Result<Vec<usize>, String> {
        let disk = Arc::clone(&self.disk);
        let listed = disk.while_well(|| self.outbox().list(class, 0, usize::MAX));
        let listed = listed.map_err(|error| error.to_string())?;
        listed.iter().map(|(_, record)| self.identify(class, record)).collect()
    }
}
