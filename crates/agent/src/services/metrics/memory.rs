//! How full the memory is: `/proc/meminfo`, and the cgroup that this program is in.

use super::{
    cgroup::Cgroup,
    files::Root,
    sample::Values,
    text::{lines, number, percent, words},
    watched::Watched,
};

/// The memory's collector.
#[derive(Debug)]
pub(super) struct Memory {
    meminfo: Watched,
    cgroup: Cgroup,
}

impl Memory {
    pub(super) fn new(root: &Root) -> Self {
        Self { meminfo: Watched::new(root, "proc/meminfo"), cgroup: Cgroup::new(root) }
    }

    /// Puts `memory.*` and `swap.*`; returns how much of the memory is used, in percent.
    pub(super) fn collect(&mut self, values: &mut Values) -> Option<f64> {
        let info = self.meminfo.read().map(parse).unwrap_or_default();
        let used = put(&info, values);
        self.cgroup.collect(info.total, values);
        used
    }
}

fn put(info: &Info, values: &mut Values) -> Option<f64> {
    let known = |value: Option<u64>| value.map(|value| value as f64);
    values.put_known("memory.total", "B", known(info.total));
    values.put_known("memory.available", "B", known(info.available()));
    values.put_known("swap.total", "B", known(info.swap_total));
    if let (Some(total), Some(free)) = (info.swap_total, info.swap_free) {
        let used = total.saturating_sub(free);
        values.put("swap.used_bytes", "B", used as f64);
        values.put_known("swap.used", "%", percent(used, total));
    }
    let total = info.total?;
    let used = percent(total.saturating_sub(info.available()?), total);
    values.put_known("memory.used", "%", used);
    used
}

/// Those of `/proc/meminfo` that matter, in bytes.
#[derive(Debug, Default, PartialEq)]
struct Info {
    total: Option<u64>,
    available: Option<u64>,
    free: Option<u64>,
    buffers: Option<u64>,
    cached: Option<u64>,
    swap_total: Option<u64>,
    swap_free: Option<u64>,
}

impl Info {
    /// What a new program could have. Kernels before 3.14 do not tell; what is free or given back at once is near.
    fn available(&self) -> Option<u64> {
        self.available.or_else(|| self.free?.checked_add(self.buffers?)?.checked_add(self.cached?))
    }
}

fn parse(text: &[u8]) -> Info {
    let mut info = Info::default();
    for line in lines(text) {
        let mut words = words(line);
        let place = match words.next() {
            Some(b"MemTotal:") => &mut info.total,
            Some(b"MemAvailable:") => &mut info.available,
            Some(b"MemFree:") => &mut info.free,
            Some(b"Buffers:") => &mut info.buffers,
            Some(b"Cached:") => &mut info.cached,
            Some(b"SwapTotal:") => &mut info.swap_total,
            Some(b"SwapFree:") => &mut info.swap_free,
            _ => continue,
        };
        *place = words.next().and_then(number).and_then(|kibibytes| kibibytes.checked_mul(1024));
    }
    info
}

#[cfg(test)]
mod tests;
