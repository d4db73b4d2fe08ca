//! How busy the processors are: `/proc/stat`, `/proc/loadavg`.

use std::time::Duration;

use super::{
    counters::{Counter, Table},
    files::Root,
    name::Name,
    sample::Values,
    text::{decimal, lines, number, words},
    watched::Watched,
};

/// The first eight counters of a `cpu` line: user, nice, system, idle, iowait, irq, softirq, steal. The two of
/// guests after them are in user and nice already.
type Ticks = [u64; 8];
const IDLE: usize = 3;
const IOWAIT: usize = 4;

/// The processors' collector.
#[derive(Debug)]
pub(super) struct Cpu {
    stat: Watched,
    load: Watched,
    total: Times,
    cores: Table<Times>,
    name: Name,
}

impl Cpu {
    pub(super) fn new(root: &Root) -> Self {
        Self {
            stat: Watched::new(root, "proc/stat"),
            load: Watched::new(root, "proc/loadavg"),
            total: Times::default(),
            cores: Table::default(),
            name: Name::default(),
        }
    }

    /// Puts `cpu.*` and `load.*`; returns how busy all cores together are, in percent.
    pub(super) fn collect(&mut self, elapsed: Option<Duration>, values: &mut Values) -> Option<f64> {
        self.cores.begin();
        let usage = self.times(elapsed.is_some(), values);
        if let Some(load) = self.load.read() {
            for (name, load) in ["load.1m", "load.5m", "load.15m"].into_iter().zip(words(load)) {
                values.put_known(name, "1", decimal(load));
            }
        }
        usage
    }

    fn times(&mut self, two_looks: bool, values: &mut Values) -> Option<f64> {
        let Some(stat) = self.stat.read() else {
            self.total = Times::default();
            return None;
        };
        let mut usage = None;
        let mut cores = 0;
        for line in lines(stat) {
            let Some((name, ticks)) = parse(line) else { continue };
            if name.is_empty() {
                let shares = self.total.shares(ticks).filter(|_| two_looks);
                usage = shares.map(|shares| shares.usage());
                put(shares, values);
                continue;
            }
            cores += 1;
            let shares = self.cores.row(name, Times::default).shares(ticks).filter(|_| two_looks);
            self.name.begin("cpu.core", name);
            values.put_known(self.name.of("usage"), "%", shares.map(|shares| shares.usage()));
        }
        values.put_known("cpu.cores", "1", (cores > 0).then_some(f64::from(cores)));
        usage
    }
}

fn put(shares: Option<Shares>, values: &mut Values) {
    let Some(shares) = shares else { return };
    let [user, nice, system, idle, iowait, irq, softirq, steal] = shares.0;
    values.put("cpu.usage", "%", shares.usage());
    values.put("cpu.user", "%", user);
    values.put("cpu.nice", "%", nice);
    values.put("cpu.system", "%", system);
    values.put("cpu.idle", "%", idle);
    values.put("cpu.iowait", "%", iowait);
    values.put("cpu.irq", "%", irq + softirq);
    values.put("cpu.steal", "%", steal);
}

/// A line `cpu…` as the core's number (empty for all together) and its counters. Kernels before 2.6.11 lacked
/// the last ones, which then are 0.
fn parse(line: &[u8]) -> Option<(&[u8], Ticks)> {
    let mut words = words(line.strip_prefix(b"cpu")?);
    let name = if line.get(3) == Some(&b' ') { &b""[..] } else { words.next()? };
    name.iter().all(u8::is_ascii_digit).then_some(())?;
    let mut ticks = Ticks::default();
    let mut count = 0;
    for (tick, word) in ticks.iter_mut().zip(words) {
        *tick = number(word)?;
        count += 1;
    }
    (count > IDLE).then_some((name, ticks))
}

/// The counters of one line at the last look.
#[derive(Debug, Default)]
struct Times([Counter; 8]);

impl Times {
    /// How the time since the last look was spent. Nothing where a counter began again.
    fn shares(&mut self, ticks: Ticks) -> Option<Shares> {
        let mut spent = [Some(0); 8];
        for (at, spent) in spent.iter_mut().enumerate() {
            let first = self.0[at].is_new();
            *spent = self.0[at].step(ticks[at]);
            // The kernel's own idle and iowait step back a little at times (proc(5)): no time was spent so then.
            if (at == IDLE || at == IOWAIT) && !first {
                *spent = spent.or(Some(0));
            }
        }
        let mut all = [0; 8];
        for (known, spent) in all.iter_mut().zip(spent) {
            *known = spent?;
        }
        let total: u64 = all.iter().sum();
        (total > 0).then(|| Shares(all.map(|spent| 100.0 * spent as f64 / total as f64)))
    }
}

/// How a time was spent, in percent; together 100.
#[derive(Debug, Clone, Copy)]
struct Shares([f64; 8]);

impl Shares {
    fn usage(self) -> f64 {
        (100.0 - self.0[IDLE] - self.0[IOWAIT]).clamp(0.0, 100.0)
    }
}

#[cfg(test)]
mod tests;
