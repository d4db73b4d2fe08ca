//! What the files of `/proc/PID` say. Bytes in, for a name may hold anything; never a panic.

use crate::services::metrics::text::{lines, number, words};

/// From `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    /// Ended, and not yet waited for. (A first thread that ended before the others looks alike but for their number.)
    pub(super) zombie: bool,
    /// Ticks on a processor, in user and system mode.
    pub(super) ticks: u64,
    /// Threads.
    pub(super) threads: u64,
    /// Ticks from boot to its start.
    pub(super) start: u64,
}

/// The name, as the kernel escapes it there, and the rest. The name may hold spaces and parentheses: it ends at the last.
pub(super) fn stat(text: &[u8]) -> Option<(&[u8], Stat)> {
    let open = text.iter().position(|&byte| byte == b'(')?;
    let close = text.iter().rposition(|&byte| byte == b')')?;
    let name = text.get(open + 1..close)?;
    let mut fields = words(&text[close + 1..]);
    let state = fields.next()?;
    // As numbered in proc(5), the state being field 3: utime 14, stime 15, num_threads 20, starttime 22.
    let ticks = number(fields.nth(10)?)?.checked_add(number(fields.next()?)?)?;
    let threads = number(fields.nth(4)?)?;
    let start = number(fields.nth(1)?)?;
    let zombie = matches!(state, b"Z" | b"X" | b"x") && threads <= 1;
    Some((name, Stat { zombie, ticks, threads, start }))
}

/// Resident pages, from `/proc/PID/statm`; the field of that name in `stat` is off by what each processor has not yet added.
pub(super) fn resident(text: &[u8]) -> Option<u64> {
    number(words(text).nth(1)?)
}

/// From `/proc/PID/io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Io {
    /// Bytes that came from storage.
    pub(super) read_bytes: u64,
    /// Bytes that went, or will go, to storage.
    pub(super) write_bytes: u64,
    /// System calls that read.
    pub(super) reads: u64,
    /// System calls that wrote.
    pub(super) writes: u64,
}

/// All four, or nothing.
pub(super) fn io(text: &[u8]) -> Option<Io> {
    let field = |name: &[u8]| {
        let line = lines(text).find_map(|line| line.strip_prefix(name))?;
        number(words(line).next()?)
    };
    Some(Io {
        read_bytes: field(b"read_bytes:")?,
        write_bytes: field(b"write_bytes:")?,
        reads: field(b"syscr:")?,
        writes: field(b"syscw:")?,
    })
}

/// Whether `/proc/PID/cgroup` says that it belongs to a unit of systemd: its cgroup is the unit's or below it, as that of a
/// service that makes cgroups of its own (systemd-udevd, container engines).
pub(super) fn in_unit(text: &[u8], unit: &[u8]) -> bool {
    lines(text).any(|line| {
        let mut parts = line.splitn(3, |&byte| byte == b':');
        let (_, hierarchy, path) = (parts.next(), parts.next(), parts.next());
        // That of version 2 has no name; in version 1, and with both, systemd has one for itself.
        let systemd = matches!(hierarchy, Some(b"" | b"name=systemd"));
        systemd && path.is_some_and(|path| path.split(|&byte| byte == b'/').any(|part| part == unit))
    })
}

/// When the machine was booted, in seconds since 1970, from `/proc/stat`.
pub(super) fn boot_time(text: &[u8]) -> Option<u64> {
    number(lines(text).find_map(|line| line.strip_prefix(b"btime "))?)
}

/// The process that a pid file names: the number it begins with. What follows on further lines is the daemon's own.
pub(super) fn pid(text: &[u8]) -> Option<u32> {
    let first = words(lines(text).next()?).next()?;
    u32::try_from(number(first)?).ok().filter(|&pid| pid > 0)
}

/// The base names of a program: of its executable, and of the first three arguments. The first is the name it was called by; of a script,
/// that is the interpreter, followed by at most one option and the script.
pub(super) fn base_names<'a>(executable: &'a [u8], arguments: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    // The kernel says so where a package was upgraded below it.
    let executable = executable.strip_suffix(b" (deleted)").unwrap_or(executable);
    let arguments = arguments.split(|&byte| byte == 0).take(3);
    std::iter::once(executable).chain(arguments).map(base_name)
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests;
