//! Which processes there are, and which of them descend from which. Linux's `/proc`; elsewhere none are seen.

use std::{collections::BTreeSet, fs};

use rustix::process::{Pid, Signal};

/// One process, as `/proc/<pid>/stat` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) zombie: bool,
    pub(super) parent: i32,
    pub(super) session: i32,
    /// When it started, in ticks since boot: with the pid it names one process for ever.
    pub(super) started: u64,
}

/// All that can be seen now.
pub(super) fn processes() -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// One of them.
pub(super) fn process(pid: i32) -> Option<Process> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// `1234 (any bytes) S 1 …`: the name may hold brackets and spaces. State is the first field after it.
fn parse(stat: &[u8]) -> Option<Process> {
    let text = String::from_utf8_lossy(stat);
    let (before, after) = text.rsplit_once(')')?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse().ok();
    Some(Process {
        pid: before.split_once(' ')?.0.parse().ok()?,
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: number(1)?,
        session: number(3)?,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// Those that descend from one of `roots`, without these.
pub(super) fn below(roots: &[i32], all: &[Process]) -> Vec<Process> {
    let mut known: BTreeSet<i32> = roots.iter().copied().collect();
    let mut found = Vec::new();
    loop {
        let before = found.len();
        for process in all {
            if known.contains(&process.parent) && known.insert(process.pid) {
                found.push(*process);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Sends a signal to each that lives.
pub(super) fn signal(processes: &[Process], signal: Signal) {
    for process in processes.iter().filter(|process| !process.zombie) {
        if let Some(pid) = Pid::from_raw(process.pid) {
            // It may have ended meanwhile, or be another user's: who calls looks again.
            rustix::process::kill_process(pid, signal).ok();
        }
    }
}

/// Kills all that `find` finds. Where there are many, they are stopped first, until no new one is seen: what forks
/// faster than it can be killed cannot fork while it stands still.
pub(super) fn kill(mut find: impl FnMut() -> Vec<Process>) {
    const MANY: usize = 16;
    const PASSES: usize = 100;
    let mut found = find();
    let mut stopped = BTreeSet::new();
    for _ in 0..PASSES {
        if found.len() < MANY {
            break;
        }
        let new: Vec<Process> =
            found.iter().copied().filter(|process| stopped.insert((process.pid, process.started))).collect();
        if new.is_empty() {
            break;
        }
        signal(&new, Signal::STOP);
        found = find();
    }
    signal(&found, Signal::KILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pid: i32, parent: i32) -> Process {
        Process { pid, zombie: false, parent, session: 1, started: 0 }
    }

    #[test]
    fn a_name_of_brackets_and_spaces_is_no_obstacle() {
        let stat = b"77 (a) S 1 \xff(b) ) Z 5 6 7 0 -1 1 2 3 4 5 6 7 8 9 20 0 1 0 987654 1 1\n";
        let seen = parse(stat).unwrap();
        assert_eq!(seen, Process { pid: 77, zombie: true, parent: 5, session: 7, started: 987_654 });
        assert_eq!(parse(b"77 (a"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn descendants_are_found_in_any_order_and_loops_end() {
        let all = [at(5, 4), at(3, 2), at(4, 3), at(2, 1), at(9, 8), at(8, 9), at(1, 0)];
        let mut found: Vec<i32> = below(&[2], &all).iter().map(|process| process.pid).collect();
        found.sort_unstable();
        assert_eq!(found, [3, 4, 5]);
        assert!(below(&[7], &all).is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_among_them() {
        let own = std::process::id().cast_signed();
        assert!(processes().iter().any(|process| process.pid == own && !process.zombie));
    }
}
