//! The machine as a whole: since when it runs, whether its clock is right, how many processes it has.

use std::{fs, os::unix::fs::MetadataExt};

use super::{
    files::Root,
    sample::Values,
    text::{decimal, lines, number, words},
    watched::Watched,
};
use crate::clock::Clock;

/// After so many looks the folders of `/proc` are counted anew, which is a walk: a module may have added one.
const COUNT_EVERY: u32 = 1000;

/// The host's collector.
#[derive(Debug)]
pub(super) struct Host {
    root: Root,
    clock: Clock,
    uptime: Watched,
    stat: Watched,
    /// Links of `/proc` that are no processes.
    folders: Option<u64>,
    looks: u32,
}

impl Host {
    pub(super) fn new(root: &Root, clock: Clock) -> Self {
        Self {
            root: root.clone(),
            clock,
            uptime: Watched::new(root, "proc/uptime"),
            stat: Watched::new(root, "proc/stat"),
            folders: None,
            looks: 0,
        }
    }

    /// Puts `host.*`.
    pub(super) fn collect(&mut self, values: &mut Values) {
        let uptime = self.uptime.read().and_then(|text| decimal(words(text).next()?));
        values.put_known("host.uptime", "s", uptime);
        // Asked each time, as it moves when the clock is set right.
        let boot = self.stat.read().and_then(boot_time);
        values.put_known("host.boot_time", "s", boot.map(|seconds| seconds as f64));
        values.put("host.clock_synchronised", "1", f64::from(u8::from(self.clock.synchronised())));
        values.put_known("host.processes", "1", self.processes().map(|count| count as f64));
    }

    /// The kernel counts its processes as links of `/proc`, beside the folders there: one system call, where a
    /// walk through all of them is the dearest part of many a monitor.
    fn processes(&mut self) -> Option<u64> {
        let links = |root: &Root| fs::metadata(root.path("proc")).ok().map(|proc| proc.nlink());
        if self.looks.is_multiple_of(COUNT_EVERY) {
            self.folders = folders(&self.root);
        }
        self.looks = self.looks.wrapping_add(1);
        links(&self.root)?.checked_sub(self.folders?).filter(|count| *count > 0)
    }
}

/// Of `/proc`: its folders that are no process, and the two links that every folder has.
fn folders(root: &Root) -> Option<u64> {
    let mut count = 2;
    for entry in fs::read_dir(root.path("proc")).ok()? {
        let entry = entry.ok()?;
        let process = number(entry.file_name().as_encoded_bytes()).is_some();
        count += u64::from(!process && entry.file_type().ok()?.is_dir());
    }
    Some(count)
}

/// `btime SECONDS`, since 1970.
fn boot_time(stat: &[u8]) -> Option<u64> {
    number(lines(stat).find_map(|line| line.strip_prefix(b"btime "))?)
}

#[cfg(test)]
mod tests;
