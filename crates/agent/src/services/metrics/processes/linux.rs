//! Watches the processes of a list of selectors: each look reads those that are known, by files that are kept open; new ones are looked
//! for now and then.

use std::{collections::BTreeMap, fmt, io, time::Duration};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    time::{ClockId, clock_gettime},
};

use super::{
    Selector, Wanted,
    instance::{Instance, News},
    matcher::Matcher,
    parse,
    procfs::{Proc, gone},
    seen::Seen,
    total::{Scale, Total},
};
use crate::services::metrics::{files::Root, sample::Process};

/// How often new processes are looked for.
const WALK: Duration = Duration::from_secs(10);

/// How soon after a walk one that has ended may bring about the next. A selector of short-lived ones would at each look.
const WALK_AGAIN: Duration = Duration::from_secs(2);

/// So many keep their files open: 3 each.
const KEPT: usize = 32;

/// The processes of a list of selectors.
#[derive(Debug)]
pub(crate) struct Processes {
    proc: Proc,
    matcher: Matcher,
    wanted: Wanted,
    seen: Seen,
    /// Those watched, by number.
    watched: Vec<Instance>,
    totals: Vec<Total>,
    /// When, after boot, was the last look, and the last walk.
    last: Option<Duration>,
    walked: Option<Duration>,
    /// One has ended since.
    lost: bool,
    /// Not all could be looked at, so that "none runs" is not known.
    hidden: bool,
    said_hidden: bool,
    /// When the machine was booted, in seconds since 1970.
    booted: Option<u64>,
    todo: Vec<u32>,
    buffer: Vec<u8>,
}

impl Processes {
    /// Reads nothing yet.
    pub(crate) fn new(root: &Root, selectors: Vec<Selector>, wanted: Wanted) -> Self {
        Self {
            proc: Proc::new(root),
            totals: selectors.iter().map(|selector| Total::new(selector.key())).collect(),
            matcher: Matcher::new(selectors),
            wanted,
            seen: Seen::default(),
            watched: Vec::new(),
            last: None,
            walked: None,
            lost: false,
            hidden: false,
            said_hidden: false,
            booted: None,
            todo: Vec::new(),
            buffer: Vec::with_capacity(2048),
        }
    }

    /// Takes a look; `elapsed` is the time since the last. `into` has those of the selectors then, and no others.
    pub(crate) fn collect(&mut self, elapsed: Option<Duration>, into: &mut BTreeMap<String, Process>) {
        self.collect_at(since_boot(), elapsed, into);
    }

    /// Looks at all processes anew at the next look.
    pub(crate) fn look_again(&mut self) {
        self.seen.clear();
        self.walked = None;
    }

    pub(super) fn collect_at(
        &mut self,
        now: Duration,
        elapsed: Option<Duration>,
        into: &mut BTreeMap<String, Process>,
    ) {
        if self.totals.is_empty() {
            return into.clear();
        }
        self.refresh();
        if self.walk_is_due(now) {
            self.walk(now);
        }
        let scale = Scale { elapsed, ticks: clock_ticks_per_second(), page: page_size() as u64 };
        self.sum(scale);
        self.last = Some(now);
        self.report(scale, into);
    }

    fn walk_is_due(&self, now: Duration) -> bool {
        let Some(walked) = self.walked else { return true };
        let since = now.saturating_sub(walked);
        since >= WALK || self.lost && since >= WALK_AGAIN
    }

    /// Takes the `stat` of those known.
    fn refresh(&mut self) {
        self.todo.clear();
        let mut at = 0;
        while at < self.watched.len() {
            match self.watched[at].refresh(&self.proc, &mut self.buffer) {
                News::Gone => {
                    self.drop_at(at);
                    continue;
                }
                News::Unknown(error) => {
                    self.drop_at(at);
                    self.hide(&error);
                    continue;
                }
                News::Renamed => self.todo.push(self.watched[at].pid),
                News::Same => {}
            }
            at += 1;
        }
        self.look_at_todo();
    }

    fn drop_at(&mut self, at: usize) {
        let instance = self.watched.remove(at);
        self.seen.forget(instance.pid);
        self.lost = true;
    }

    /// Looks for new ones.
    fn walk(&mut self, now: Duration) {
        self.walked = Some(now);
        self.lost = false;
        self.hidden = false;
        self.todo.clear();
        // Whom a pid file named before may still run when it names another.
        let by_file = self.watched.iter().filter(|instance| self.matcher.by_pid_file(&instance.matches));
        self.todo.extend(by_file.map(|instance| instance.pid));
        self.matcher.read_pid_files(&self.proc, &mut self.todo);
        if self.matcher.must_walk()
            && let Err(error) = self.seen.walk(&mut self.proc, now, &mut self.todo)
        {
            self.hide(&error);
        }
        if self.proc.real() && !self.proc.exists(1) {
            self.hide(&"/proc is mounted with hidepid");
        }
        self.look_at_todo();
        self.read_boot_time();
    }

    fn look_at_todo(&mut self) {
        let mut todo = std::mem::take(&mut self.todo);
        todo.sort_unstable();
        todo.dedup();
        for &pid in &todo {
            if let Err(error) = self.look(pid)
                && !gone(&error)
            {
                // It may be one of those.
                self.seen.forget(pid);
                self.hide(&error);
            }
        }
        self.todo = todo;
    }

    /// Looks what this one is, and watches it if it is one of those.
    fn look(&mut self, pid: u32) -> io::Result<()> {
        let place = self.watched.binary_search_by_key(&pid, |instance| instance.pid);
        let found = self.matcher.find(&self.proc, pid).inspect_err(|_| {
            if let Ok(at) = place {
                self.watched.remove(at);
            }
        })?;
        match place {
            Ok(at) if found.is_empty() => drop(self.watched.remove(at)),
            Ok(at) => found.clone_into(&mut self.watched[at].matches),
            Err(_) if found.is_empty() => {}
            Err(at) => {
                let kept = self.watched.iter().filter(|instance| instance.kept()).count();
                let keep = self.proc.real() && kept < KEPT;
                let mut instance = Instance::new(&self.proc, pid, keep, &mut self.buffer)?;
                found.clone_into(&mut instance.matches);
                // What it did before it was known counts only where all of it was since the last look.
                let since = self.last.is_some_and(|last| instance.stat.start >= ticks(last));
                instance.before = since.then_some(0);
                self.watched.insert(at, instance);
            }
        }
        Ok(())
    }

    /// Notes that not all can be looked at.
    fn hide(&mut self, error: &dyn fmt::Display) {
        self.hidden = true;
        if !std::mem::replace(&mut self.said_hidden, true) {
            tracing::warn!(%error, "not all processes can be looked at: nothing is said of those not found");
        }
    }

    /// In seconds since 1970, as the kernel has it: it moves when the clock is set, and may then and now round to the next.
    fn read_boot_time(&mut self) {
        let mut text = Vec::new();
        let booted = self.proc.read_plain("stat", &mut text).ok().and_then(|()| parse::boot_time(&text));
        let near = |(a, b): (u64, u64)| a.abs_diff(b) <= 1;
        if !self.booted.zip(booted).is_some_and(near) {
            self.booted = booted;
        }
    }

    fn sum(&mut self, scale: Scale) {
        self.totals.iter_mut().for_each(Total::begin);
        let mut at = 0;
        while at < self.watched.len() {
            let instance = &mut self.watched[at];
            let Ok(usage) = instance.usage(&mut self.proc, self.wanted, &mut self.buffer) else {
                self.drop_at(at);
                continue;
            };
            let now = instance.stat.ticks;
            let ticks = instance.before.replace(now).and_then(|before| now.checked_sub(before));
            let ticks = ticks.filter(|_| self.wanted.cpu);
            for &index in &instance.matches {
                self.totals[usize::from(index)].add(instance, ticks, &usage, scale);
            }
            at += 1;
        }
    }

    /// Where all is as it was, this asks for no memory.
    fn report(&self, scale: Scale, into: &mut BTreeMap<String, Process>) {
        for (index, total) in (0..).zip(&self.totals) {
            let (key, process) = (total.key(), total.process(scale, self.booted));
            if process.count == 0 && (self.hidden || self.matcher.unread(index)) {
                into.remove(key);
            } else if let Some(known) = into.get_mut(key) {
                *known = process;
            } else {
                into.insert(key.to_owned(), process);
            }
        }
        if into.len() > self.totals.len() {
            into.retain(|key, _| self.totals.iter().any(|total| total.key() == key));
        }
    }
}

/// Sleep of the machine counts: so do the starts of processes.
fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

fn ticks(time: Duration) -> u64 {
    let ticks = time.as_nanos() * u128::from(clock_ticks_per_second()) / 1_000_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
