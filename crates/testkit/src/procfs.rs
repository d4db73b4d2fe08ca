//! What Linux's `/proc` tells about a process: memory, threads, descriptors, processor time, listening sockets.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

/// What a process uses at one moment. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Resident set size.
    pub rss: u64,
    /// Proportional set size: shared pages count by how many share them.
    pub pss: u64,
    /// The largest resident set size so far.
    pub peak_rss: u64,
    /// Threads.
    pub threads: usize,
    /// Open file descriptors.
    pub fds: usize,
    /// Processor time of the whole process, ended threads included, in user and system mode; its grain is one tick.
    pub cpu_ticks: u64,
    /// Processor time of the threads that live, to the nanosecond.
    pub cpu: Duration,
    /// How often the threads that live slept and were woken (voluntary context switches).
    pub wakeups: u64,
}

/// Reads the usage of a process.
///
/// # Errors
/// When it has ended, or is another user's.
pub fn usage(pid: u32) -> anyhow::Result<Usage> {
    let status = read(pid, "status")?;
    let tasks = entries(pid, "task")?;
    let mut cpu = Duration::ZERO;
    let mut wakeups = 0;
    for task in &tasks {
        // A thread may end between the listing and here.
        cpu += run_time(task).unwrap_or_default();
        wakeups += fs::read_to_string(task.join("status"))
            .ok()
            .and_then(|text| field(&text, "voluntary_ctxt_switches:"))
            .unwrap_or(0);
    }
    let kib =
        |text: &str, name| field(text, name).map(|kib| kib * 1024).with_context(|| format!("find {name}"));
    Ok(Usage {
        rss: kib(&status, "VmRSS:")?,
        pss: kib(&read(pid, "smaps_rollup")?, "Pss:")?,
        peak_rss: kib(&status, "VmHWM:")?,
        threads: tasks.len(),
        fds: entries(pid, "fd")?.len(),
        cpu_ticks: cpu_ticks(pid)?,
        cpu,
        wakeups,
    })
}

/// The addresses on which a process listens for TCP connections.
///
/// # Errors
/// As [`usage`].
pub fn listening_tcp(pid: u32) -> anyhow::Result<Vec<SocketAddr>> {
    let own: HashSet<String> = entries(pid, "fd")?
        .iter()
        .filter_map(|fd| fs::read_link(fd).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let mut found = Vec::new();
    for table in ["net/tcp", "net/tcp6"] {
        // No IPv6, no table.
        let text = fs::read_to_string(path(pid, table)).unwrap_or_default();
        for line in text.lines().skip(1) {
            let columns: Vec<&str> = line.split_whitespace().collect();
            // Of the columns, 1 is the local address, 3 the state (0A: LISTEN), 9 the socket's inode.
            if columns.len() > 9 && columns[3] == "0A" && own.contains(columns[9]) {
                found.push(address(columns[1]).with_context(|| format!("read {line:?}"))?);
            }
        }
    }
    Ok(found)
}

/// The arguments of a process, the program's name first.
///
/// # Errors
/// As [`usage`].
pub fn arguments(pid: u32) -> anyhow::Result<Vec<String>> {
    Ok(strings(&read(pid, "cmdline")?))
}

/// The environment it was started with, as `NAME=value`.
///
/// # Errors
/// As [`usage`].
pub fn environment(pid: u32) -> anyhow::Result<Vec<String>> {
    Ok(strings(&read(pid, "environ")?))
}

/// The processes whose parent it is.
///
/// # Errors
/// As [`usage`].
pub fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for task in entries(pid, "task")? {
        let text = fs::read_to_string(task.join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
    }
    Ok(found)
}

fn path(pid: u32, name: &str) -> PathBuf {
    Path::new("/proc").join(pid.to_string()).join(name)
}

fn read(pid: u32, name: &str) -> anyhow::Result<String> {
    let path = path(pid, name);
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn entries(pid: u32, name: &str) -> anyhow::Result<Vec<PathBuf>> {
    let path = path(pid, name);
    let listed = fs::read_dir(&path).with_context(|| format!("list {}", path.display()))?;
    Ok(listed.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

fn strings(text: &str) -> Vec<String> {
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The program's name, in brackets, may hold anything; utime and stime are the 12th and 13th field after it.
fn cpu_ticks(pid: u32) -> anyhow::Result<u64> {
    let text = read(pid, "stat")?;
    let after = text.rsplit_once(')').map(|(_, after)| after).context("find the name in stat")?;
    let times: Vec<u64> = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    anyhow::ensure!(times.len() == 2, "no times in {text:?}");
    Ok(times.iter().sum())
}

/// The first field of `schedstat`: nanoseconds on a processor.
fn run_time(task: &Path) -> Option<Duration> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// `0100007F:1F90`: the address in groups of 32 bits, each in the machine's byte order; the port plain.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let groups: Vec<[u8; 4]> = (0..address.len() / 8)
        .filter_map(|n| u32::from_str_radix(&address[8 * n..8 * (n + 1)], 16).ok())
        .map(u32::to_ne_bytes)
        .collect();
    let bytes = groups.concat();
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}
