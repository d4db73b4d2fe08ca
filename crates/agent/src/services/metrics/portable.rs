//! The machine where there is no `/proc`: macOS and BSD, by the library `sysinfo`. The tests build it on Linux too,
//! where it is held against our own eyes.

use std::{
    ffi::OsStr,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use sysinfo::{
    DiskRefreshKind, Disks, Networks, Pid, ProcessRefreshKind, ProcessesToUpdate, System as Library,
};

use super::{
    counters::{Counter, Table},
    files::Root,
    glob::Choice,
    mounts::Mount,
    name::Name,
    sample::Values,
    system::{Summary, Wanted},
    text::percent,
};

/// The collector of all but the space of file systems.
#[derive(Debug)]
pub(super) struct Portable {
    wanted: Wanted,
    library: Option<Library>,
    networks: Option<Networks>,
    interfaces: Table<[Counter; 4]>,
    name: Name,
}

impl Portable {
    pub(super) fn new(wanted: Wanted) -> Self {
        let networks = wanted.network.then(|| known("the network", Networks::new())).flatten();
        Self {
            wanted,
            library: known("the machine", Library::new()),
            networks,
            interfaces: Table::default(),
            name: Name::default(),
        }
    }

    /// Puts what the table in the docs says of these systems; `disk` of the summary is not known here.
    pub(super) fn collect(&mut self, elapsed: Option<Duration>, values: &mut Values) -> Summary {
        self.host(values);
        let network = self.network(elapsed, values);
        let Some(library) = &mut self.library else { return Summary { network, ..Summary::default() } };
        let cpu_usage = if self.wanted.cpu { cpu(library, elapsed, &mut self.name, values) } else { None };
        let memory = if self.wanted.memory { memory(library, values) } else { None };
        if self.wanted.own {
            own(library, values);
        }
        Summary { cpu_usage, memory, disk: None, network }
    }

    /// The clock cannot be asked here whether it is kept right.
    fn host(&self, values: &mut Values) {
        let uptime = known("the uptime", Library::uptime()).filter(|seconds| *seconds > 0);
        let booted = known("the time of the boot", Library::boot_time()).filter(|seconds| *seconds > 0);
        values.put_known("host.uptime", "s", uptime.map(|seconds| seconds as f64));
        values.put_known("host.boot_time", "s", booted.map(|seconds| seconds as f64));
    }

    fn network(&mut self, elapsed: Option<Duration>, values: &mut Values) -> Option<u64> {
        self.interfaces.begin();
        let networks = self.networks.as_mut()?;
        networks.refresh(true);
        let mut received = None;
        for (interface, data) in networks.iter() {
            let interface = interface.as_encoded_bytes();
            if !self.wanted.interfaces.takes(interface, is_real(interface)) {
                continue;
            }
            received = Some(received.unwrap_or(0_u64).saturating_add(data.total_received()));
            let totals = [
                ("rx_bytes", "B", data.total_received()),
                ("rx_packets", "1", data.total_packets_received()),
                ("tx_bytes", "B", data.total_transmitted()),
                ("tx_packets", "1", data.total_packets_transmitted()),
                ("rx_errors", "1", data.total_errors_on_received()),
                ("tx_errors", "1", data.total_errors_on_transmitted()),
            ];
            self.name.begin("net", interface);
            for (end, unit, total) in totals {
                values.put(self.name.of(end), unit, total as f64);
            }
            let counters = self.interfaces.row(interface, Default::default);
            for (at, (end, unit)) in RATES.iter().enumerate() {
                values.put_known(self.name.of(end), unit, counters[at].rate(totals[at].2, elapsed));
            }
        }
        received
    }
}

/// Of the first of the totals.
const RATES: [(&str, &str); 4] =
    [("rx_rate", "B/s"), ("rx_packet_rate", "1/s"), ("tx_rate", "B/s"), ("tx_packet_rate", "1/s")];

/// What these systems call interfaces that no device of their own moves packets for: their names are a kind and a
/// number. (`ppp` is a modem's.)
const UNREAL: &[&str] = &[
    "lo", "anpi", "ap", "awdl", "bridge", "carp", "enc", "epair", "faith", "feth", "fwip", "gif", "gre",
    "ipfw", "ipsec", "lagg", "llw", "pflog", "pfsync", "plip", "stf", "tap", "tun", "usbus", "utun",
    "vether", "vlan", "vxlan", "wg",
];

fn is_real(interface: &[u8]) -> bool {
    let end = interface.iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |last| last + 1);
    !UNREAL.iter().any(|kind| kind.as_bytes() == &interface[..end])
}

fn known<T, E: std::fmt::Display>(what: &str, answer: Result<T, E>) -> Option<T> {
    answer
        .inspect_err(|error| tracing::debug!(what, %error, "the system does not tell, so it is absent"))
        .ok()
}

fn cpu(
    library: &mut Library,
    elapsed: Option<Duration>,
    name: &mut Name,
    values: &mut Values,
) -> Option<f64> {
    library.refresh_cpu_usage();
    if let Some(load) = known("the load", Library::load_average()) {
        for (name, load) in [("load.1m", load.one), ("load.5m", load.five), ("load.15m", load.fifteen)] {
            values.put(name, "1", load);
        }
    }
    let cores = library.cpus();
    values.put_known("cpu.cores", "1", (!cores.is_empty()).then_some(cores.len() as f64));
    // What the first look says is since the boot, or nothing.
    elapsed?;
    let share = |usage: f32| f64::from(usage).clamp(0.0, 100.0);
    for (number, core) in cores.iter().enumerate() {
        name.begin("cpu.core", number.to_string().as_bytes());
        values.put(name.of("usage"), "%", share(core.usage()));
    }
    let usage =
        (!cores.is_empty()).then(|| share(library.global_cpu_usage())).filter(|usage| usage.is_finite());
    values.put_known("cpu.usage", "%", usage);
    usage
}

fn memory(library: &mut Library, values: &mut Values) -> Option<f64> {
    library.refresh_memory();
    let (total, available) = (library.total_memory(), library.available_memory());
    let (swap, swapped) = (library.total_swap(), library.used_swap());
    values.put("swap.total", "B", swap as f64);
    values.put("swap.used_bytes", "B", swapped as f64);
    values.put_known("swap.used", "%", percent(swapped.min(swap), swap));
    let used = percent(total.saturating_sub(available), total)?;
    values.put("memory.total", "B", total as f64);
    values.put("memory.available", "B", available as f64);
    values.put("memory.used", "%", used);
    Some(used)
}

fn own(library: &mut Library, values: &mut Values) {
    let pid = Pid::from_u32(std::process::id());
    let what = ProcessRefreshKind::nothing().with_memory().without_tasks();
    library.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, what);
    let process = library.process(pid);
    values.put_known("agent.memory", "B", process.map(|process| process.memory() as f64));
    let fds = process.and_then(sysinfo::Process::open_files);
    values.put_known("agent.fds", "1", fds.map(|count| count as f64));
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        values.put("agent.tasks", "1", runtime.metrics().num_alive_tasks() as f64);
    }
}

/// How long it may take to list what is mounted.
const DEADLINE: Duration = Duration::from_millis(200);

/// What is mounted where. BSD asks every file system for that, so that one which hangs holds up the list: it is made
/// on a thread of its own, at most one, and until it is there the list of before holds.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    listing: Option<Receiver<Vec<(Mount, bool)>>>,
    mounts: Vec<(Mount, bool)>,
}

impl Mounted {
    pub(super) fn new(_: &Root) -> Self {
        Self::default()
    }

    /// Those wanted; "/" in any case.
    pub(super) fn choose(&mut self, choice: &Choice, mounts: &mut Vec<Mount>) {
        self.list();
        let root = Mount { at: std::sync::Arc::new("/".into()), wanted: choice.takes(b"/", true) };
        mounts.clear();
        mounts.push(root);
        for (mount, real) in &self.mounts {
            let at = mount.at.as_os_str().as_encoded_bytes();
            if at != b"/" && choice.takes(at, *real) {
                mounts.push(mount.clone());
            }
        }
    }

    fn list(&mut self) {
        let listing = match self.listing.take() {
            Some(listing) => listing,
            None => {
                let (tell, listing) = channel();
                let thread = thread::Builder::new().name("mounts".to_owned());
                // Whom it tells may be gone by then.
                let spawned = thread.spawn(move || tell.send(mounts()).unwrap_or_default());
                if let Err(error) = spawned {
                    return tracing::warn!(%error, "cannot start a thread, so new mounts are not looked for");
                }
                listing
            }
        };
        match listing.recv_timeout(DEADLINE) {
            Ok(mounts) => self.mounts = mounts,
            Err(RecvTimeoutError::Timeout) => self.listing = Some(listing),
            Err(RecvTimeoutError::Disconnected) => tracing::debug!("what is mounted could not be listed"),
        }
    }
}

/// Each mount, and whether it is of a kind that counts where nothing was chosen.
fn mounts() -> Vec<(Mount, bool)> {
    let Some(disks) =
        known("what is mounted", Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing()))
    else {
        return Vec::new();
    };
    let mount = |disk: &sysinfo::Disk| {
        let at = std::sync::Arc::new(disk.mount_point().to_owned());
        (Mount { at, wanted: true }, holds_files(disk.file_system()))
    };
    disks.iter().map(mount).collect()
}

fn holds_files(kind: &OsStr) -> bool {
    const MADE_UP: &[&str] = &[
        "autofs",
        "cd9660",
        "devfs",
        "fdescfs",
        "kernfs",
        "linprocfs",
        "linsysfs",
        "nullfs",
        "procfs",
        "ptyfs",
        "tmpfs",
        "udf",
        "unionfs",
    ];
    !MADE_UP.iter().any(|made_up| kind == *made_up)
}

#[cfg(test)]
mod tests;
