//! What the disks do: `/proc/diskstats`.

use std::time::Duration;

use super::{
    counters::{Counter, Table},
    files::Root,
    glob::Choice,
    name::Name,
    sample::Values,
    text::{lines, number, words},
    watched::Watched,
};

/// A sector of `/proc/diskstats`, whatever the disk's own are.
const SECTOR: u64 = 512;

/// The disks' collector.
#[derive(Debug)]
pub(super) struct Disks {
    root: Root,
    stats: Watched,
    choice: Choice,
    disks: Table<Disk>,
    name: Name,
}

#[derive(Debug)]
struct Disk {
    wanted: bool,
    counters: [Counter; 4],
}

impl Disks {
    pub(super) fn new(root: &Root, choice: Choice) -> Self {
        let stats = Watched::new(root, "proc/diskstats");
        Self { root: root.clone(), stats, choice, disks: Table::default(), name: Name::default() }
    }

    /// Puts `disk.NAME.*`.
    pub(super) fn collect(&mut self, elapsed: Option<Duration>, values: &mut Values) {
        self.disks.begin();
        let Some(stats) = self.stats.read() else { return };
        for line in lines(stats) {
            let Some((name, counts)) = parse(line) else { continue };
            let (root, choice) = (&self.root, &self.choice);
            let disk = self.disks.row(name, || Disk {
                wanted: choice.takes(name, is_whole(root, name)),
                counters: Default::default(),
            });
            if disk.wanted {
                self.name.begin("disk", name);
                put(&mut self.name, (counts, &mut disk.counters), elapsed, values);
            }
        }
    }
}

/// Whether it is a disk that holds its own data: it has a device behind it. A partition is not in `/sys/block`;
/// loop, ram, zram, and what is laid over disks (dm, md) have no device.
fn is_whole(root: &Root, name: &[u8]) -> bool {
    // In /sys, '/' of a name (cciss/c0d0) is '!'.
    let name = String::from_utf8_lossy(name).replace('/', "!");
    root.path(&format!("sys/block/{name}/device")).symlink_metadata().is_ok()
}

const TOTALS: [(&str, &str); 4] =
    [("read_bytes", "B"), ("write_bytes", "B"), ("read_ops", "1"), ("write_ops", "1")];
const RATES: [(&str, &str); 4] =
    [("read_rate", "B/s"), ("write_rate", "B/s"), ("read_ops_rate", "1/s"), ("write_ops_rate", "1/s")];

fn put(
    name: &mut Name,
    (counts, counters): ([u64; 4], &mut [Counter; 4]),
    elapsed: Option<Duration>,
    values: &mut Values,
) {
    for at in 0..4 {
        values.put(name.of(TOTALS[at].0), TOTALS[at].1, counts[at] as f64);
        let rate = counters[at].rate(counts[at], elapsed);
        values.put_known(name.of(RATES[at].0), RATES[at].1, rate);
    }
}

/// `MAJOR MINOR NAME READS MERGED SECTORS MS WRITES MERGED SECTORS …` as the name and bytes read, bytes written,
/// reads and writes. A line of a partition of kernels before 2.6.25 is shorter, and none.
fn parse(line: &[u8]) -> Option<(&[u8], [u64; 4])> {
    let mut words = words(line).skip(2);
    let name = words.next()?;
    let mut counts = [0; 7];
    for count in &mut counts {
        *count = number(words.next()?)?;
    }
    let [reads, _, read, _, writes, _, written] = counts;
    Some((name, [read.checked_mul(SECTOR)?, written.checked_mul(SECTOR)?, reads, writes]))
}

#[cfg(test)]
mod tests;
