//! What the processes of one selector use together.

use std::{fmt, io, time::Duration};

use super::instance::{Instance, Usage};
use crate::services::metrics::sample::Process;

/// A shorter time between two looks is too short for times that come in ticks of 10 ms.
const SHORTEST: Duration = Duration::from_millis(100);

/// What may be refused apart from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Memory = 0,
    Io = 1,
    Fds = 2,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Io => "io",
            Self::Fds => "open files",
        })
    }
}

/// What is the same for all.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    /// Since the last look.
    pub(super) elapsed: Option<Duration>,
    /// Ticks in a second.
    pub(super) ticks: u64,
    /// Bytes in a page.
    pub(super) page: u64,
}

impl Scale {
    /// Percent of one core that these ticks are.
    fn percent(&self, ticks: u64) -> Option<f64> {
        let elapsed = self.elapsed.filter(|elapsed| *elapsed >= SHORTEST)?;
        Some(100.0 * ticks as f64 / self.ticks as f64 / elapsed.as_secs_f64())
    }
}

/// The sum so far.
#[derive(Debug)]
pub(super) struct Total {
    key: String,
    sum: Process,
    /// The parts whose refusal has been logged.
    said: [bool; 3],
    /// Ticks after boot at which the oldest began.
    start: u64,
}

impl Total {
    /// Of the selector that is called so.
    pub(super) fn new(key: &str) -> Self {
        Self { key: key.to_owned(), sum: Process::default(), said: [false; 3], start: 0 }
    }

    /// What the report calls it.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// Nothing yet.
    pub(super) fn begin(&mut self) {
        self.sum = Process::default();
    }

    /// Adds one; `ticks` are its own since the last look, where they are known.
    pub(super) fn add(&mut self, instance: &Instance, ticks: Option<u64>, usage: &Usage, scale: Scale) {
        let first = self.sum.count == 0;
        // A sum of some of them would be wrong: where one is not known, the sum is not.
        let add = |sum: &mut Option<u64>, more: Option<u64>| {
            let so_far = if first { Some(0) } else { *sum };
            *sum = so_far.zip(more).map(|(sum, more)| sum.saturating_add(more));
        };
        let pages = self.part(Part::Memory, usage.pages.as_ref());
        let io = self.part(Part::Io, usage.io.as_ref());
        let fds = self.part(Part::Fds, Some(&usage.fds));
        let sum = &mut self.sum;
        add(&mut sum.memory, pages.map(|pages| pages.saturating_mul(scale.page)));
        add(&mut sum.read_bytes, io.map(|io| io.read_bytes));
        add(&mut sum.write_bytes, io.map(|io| io.write_bytes));
        add(&mut sum.read_ops, io.map(|io| io.reads));
        add(&mut sum.write_ops, io.map(|io| io.writes));
        add(&mut sum.fds, fds);
        add(&mut sum.threads, Some(instance.stat.threads));
        // But one that has only just been found must not hide what the others do.
        if let Some(percent) = ticks.and_then(|ticks| scale.percent(ticks)) {
            sum.cpu_usage = Some(sum.cpu_usage.unwrap_or(0.0) + percent);
        }
        let start = instance.stat.start;
        self.start = if first { start } else { self.start.min(start) };
        sum.count += 1;
    }

    fn part<T: Copy>(&mut self, part: Part, value: Option<&io::Result<T>>) -> Option<T> {
        match value? {
            Ok(value) => Some(*value),
            Err(error) => {
                if !std::mem::replace(&mut self.said[part as usize], true) {
                    tracing::warn!(process = self.key, %part, %error, "part of a process cannot be read");
                }
                None
            }
        }
    }

    /// The sum; `booted` is when the machine was, in seconds since 1970.
    pub(super) fn process(&self, scale: Scale, booted: Option<u64>) -> Process {
        let started = |booted: u64| booted as f64 + self.start as f64 / scale.ticks as f64;
        let started = booted.filter(|_| self.sum.count > 0).map(started);
        Process { started, ..self.sum.clone() }
    }
}
