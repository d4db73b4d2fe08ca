//! Counters that the kernel keeps since boot, and what they make in a second.

use std::time::Duration;

/// No counter moves this far between two looks (64 PiB): where one seems to, it was set anew or misread.
const ABSURD: u64 = 1 << 56;

/// One counter, as it stood at the last look.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counter(Option<u64>);

impl Counter {
    /// Whether it was not read before.
    pub(super) fn is_new(self) -> bool {
        self.0.is_none()
    }

    /// By how much it went on since the last look. Nothing at the first, and nothing where it went back: a
    /// counter that wrapped looks like one that began again, and either guess could be far off.
    pub(super) fn step(&mut self, now: u64) -> Option<u64> {
        let last = self.0.replace(now)?;
        now.checked_sub(last).filter(|step| *step < ABSURD)
    }

    /// The same for a second, where it is known how long the last look is ago.
    pub(super) fn rate(&mut self, now: u64, elapsed: Option<Duration>) -> Option<f64> {
        let step = self.step(now)?;
        let seconds = elapsed?.as_secs_f64();
        (seconds > 0.0).then(|| step as f64 / seconds)
    }
}

/// What is kept about things that come and go (disks, interfaces), by name. One that a look did not find is
/// forgotten, so that its next rate is not of the time before.
#[derive(Debug)]
pub(super) struct Table<T> {
    rows: Vec<Row<T>>,
    round: u64,
    /// Where the next one is expected: the kernel lists them in the same order each time.
    next: usize,
}

#[derive(Debug)]
struct Row<T> {
    name: Vec<u8>,
    seen: u64,
    kept: T,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), round: 0, next: 0 }
    }
}

impl<T> Table<T> {
    /// Begins a look.
    pub(super) fn begin(&mut self) {
        let last = self.round;
        self.rows.retain(|row| row.seen == last);
        self.round += 1;
        self.next = 0;
    }

    /// What is kept about the one of this name; made where it is new.
    pub(super) fn row(&mut self, name: &[u8], make: impl FnOnce() -> T) -> &mut T {
        let count = self.rows.len();
        let found = (0..count).map(|step| (self.next + step) % count).find(|at| self.rows[*at].name == name);
        let at = found.unwrap_or_else(|| {
            self.rows.push(Row { name: name.to_owned(), seen: 0, kept: make() });
            count
        });
        self.next = at + 1;
        self.rows[at].seen = self.round;
        &mut self.rows[at].kept
    }

    /// Those that this look has found so far.
    pub(super) fn found(&mut self) -> impl Iterator<Item = (&[u8], &mut T)> {
        let round = self.round;
        self.rows.iter_mut().filter(move |row| row.seen == round).map(|row| (&row.name[..], &mut row.kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Option<Duration> = Some(Duration::from_secs(1));

    #[test]
    fn a_rate_needs_two_looks_and_the_time_between() {
        let mut counter = Counter::default();
        assert_eq!(counter.rate(1000, SECOND), None);
        assert_eq!(counter.rate(1500, Some(Duration::from_millis(250))), Some(2000.0));
        assert_eq!(counter.rate(1600, None), None, "after a suspension");
        assert_eq!(counter.rate(1700, Some(Duration::ZERO)), None);
        assert_eq!(counter.rate(1700, SECOND), Some(0.0));
    }

    #[test]
    fn a_counter_that_wraps_or_begins_again_yields_nothing_for_that_round() {
        let mut counter = Counter::default();
        for (now, rate) in [
            (u64::from(u32::MAX), None),
            (10, None),
            (20, Some(10.0)),
            (u64::MAX, None),
            (0, None),
            (7, Some(7.0)),
        ] {
            assert_eq!(counter.rate(now, SECOND), rate, "at {now}");
        }
    }

    #[test]
    fn what_was_away_for_a_look_is_new() {
        let mut table: Table<u8> = Table::default();
        for (names, made) in [("ab", 2), ("ba", 0), ("a", 0), ("", 0), ("ab", 2), ("cab", 1)] {
            table.begin();
            let mut count = 0;
            for name in names.bytes() {
                table.row(&[name], || {
                    count += 1;
                    name
                });
            }
            assert_eq!(count, made, "{names}");
            assert_eq!(table.found().count(), names.len());
            assert!(table.found().all(|(name, kept)| name == [*kept]));
        }
    }
}
