//! One look at the machine: values by name, and processes by what they were asked for.

use std::collections::BTreeMap;

/// A number and what it counts: `%`, `B`, `B/s`, `1`, `1/s`, `s`, `°C`, `Hz`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Value {
    /// Always finite.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
}

/// Values by name. Kept from look to look, so that one that finds the same names allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Values {
    values: BTreeMap<String, (u64, Value)>,
    round: u64,
}

impl Values {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { values: BTreeMap::new(), round: 0 }
    }

    /// Begins a look: what is not put from here on is absent.
    pub(crate) fn begin(&mut self) {
        let last = self.round;
        // Names that are gone for good must not pile up.
        self.values.retain(|_, (round, _)| *round == last);
        self.round += 1;
    }

    /// Puts a value; one that is not a number is absent, as what cannot be known.
    pub(crate) fn put(&mut self, name: &str, unit: &'static str, value: f64) {
        if !value.is_finite() {
            return;
        }
        let entry = (self.round, Value { value, unit });
        match self.values.get_mut(name) {
            Some(known) => *known = entry,
            None => drop(self.values.insert(name.to_owned(), entry)),
        }
    }

    /// Puts a value where there is one.
    pub(crate) fn put_known(&mut self, name: &str, unit: &'static str, value: Option<f64>) {
        if let Some(value) = value {
            self.put(name, unit, value);
        }
    }

    /// Those of this look, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, Value)> {
        let round = self.round;
        self.values
            .iter()
            .filter(move |(_, (at, _))| *at == round)
            .map(|(name, (_, value))| (name.as_str(), *value))
    }

    /// One of this look.
    #[cfg(test)]
    pub(crate) fn get(&self, name: &str) -> Option<f64> {
        self.values.get(name).filter(|(round, _)| *round == self.round).map(|(_, value)| value.value)
    }
}

/// What is known of the processes of one selector; each absent where it cannot be read.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Process {
    /// How many there are; the rest is their sum. 0: none runs, and all else is absent.
    pub(crate) count: u64,
    /// Percent of one core since the last look.
    pub(crate) cpu_usage: Option<f64>,
    /// Resident bytes.
    pub(crate) memory: Option<u64>,
    /// Threads.
    pub(crate) threads: Option<u64>,
    /// Open files.
    pub(crate) fds: Option<u64>,
    /// Bytes read from and written to storage since the start of each.
    pub(crate) read_bytes: Option<u64>,
    /// See `read_bytes`.
    pub(crate) write_bytes: Option<u64>,
    /// Read and write operations (system calls) since the start of each.
    pub(crate) read_ops: Option<u64>,
    /// See `read_ops`.
    pub(crate) write_ops: Option<u64>,
    /// When the oldest began, in seconds since 1970.
    pub(crate) started: Option<f64>,
}
