//! Which selectors a process is one of: reads of it what these need, and no more.

use std::io;

use super::{
    Selector,
    parse::{base_names, in_unit, pid},
    procfs::{Proc, read_file},
    selector::By,
};

/// A longer name is cut to this by the kernel.
const NAME: usize = 15;

/// The selectors, and what was last read for them.
#[derive(Debug)]
pub(super) struct Matcher {
    selectors: Vec<Selector>,
    /// Whether any goes by name, by arguments, by unit.
    names: bool,
    arguments: bool,
    units: bool,
    /// What the pid files said at the last walk: selector and process.
    named: Vec<(u16, u32)>,
    /// The selectors whose pid file is there and could not be read.
    unread: Vec<u16>,
    said_unread: bool,
    name: Vec<u8>,
    line: Vec<u8>,
    cgroup: Vec<u8>,
    found: Vec<u16>,
}

impl Matcher {
    pub(super) fn new(selectors: Vec<Selector>) -> Self {
        let any = |kind: fn(&By) -> bool| selectors.iter().any(|selector| kind(&selector.by));
        Self {
            names: any(|by| matches!(by, By::Name(_) | By::Glob { .. })),
            arguments: any(|by| matches!(by, By::Cmdline(_))),
            units: any(|by| matches!(by, By::Unit { .. })),
            selectors,
            named: Vec::new(),
            unread: Vec::new(),
            said_unread: false,
            name: Vec::new(),
            line: Vec::new(),
            cgroup: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Whether all processes must be looked at; pid files name theirs.
    pub(super) fn must_walk(&self) -> bool {
        self.names || self.arguments || self.units
    }

    /// Whether one of these selectors is by pid file.
    pub(super) fn by_pid_file(&self, matches: &[u16]) -> bool {
        matches.iter().any(|&index| matches!(self.selectors[usize::from(index)].by, By::PidFile(_)))
    }

    /// Whether it is not known whom the pid file of this selector names.
    pub(super) fn unread(&self, index: u16) -> bool {
        self.unread.contains(&index)
    }

    /// Reads the pid files, and puts whom they name into `todo`. One that is not there, or empty, names none.
    pub(super) fn read_pid_files(&mut self, proc: &Proc, todo: &mut Vec<u32>) {
        self.named.clear();
        self.unread.clear();
        for (index, selector) in (0..).zip(&self.selectors) {
            let By::PidFile(path) = &selector.by else { continue };
            match read_file(&proc.outside(path), &mut self.line) {
                Ok(()) => {
                    if let Some(pid) = pid(&self.line) {
                        self.named.push((index, pid));
                        todo.push(pid);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.unread.push(index);
                    if !std::mem::replace(&mut self.said_unread, true) {
                        tracing::warn!(pid_file = %path.display(), %error, "a pid file cannot be read");
                    }
                }
            }
        }
    }

    /// The indexes of the selectors that this process is one of.
    ///
    /// # Errors
    /// When it is gone, or nothing of it may be read.
    pub(super) fn find(&mut self, proc: &Proc, pid: u32) -> io::Result<&[u16]> {
        self.found.clear();
        self.name.clear();
        self.line.clear();
        self.cgroup.clear();
        if self.names {
            proc.read(pid, "comm", &mut self.name)?;
            self.name.pop_if(|last| *last == b'\n');
        }
        if self.arguments {
            proc.read(pid, "cmdline", &mut self.line)?;
        }
        if self.units {
            proc.read(pid, "cgroup", &mut self.cgroup)?;
        }
        self.match_names(proc, pid);
        self.match_others(pid);
        self.found.sort_unstable();
        Ok(&self.found)
    }

    fn match_names(&mut self, proc: &Proc, pid: u32) {
        if !self.names {
            return;
        }
        // Read when the first selector needs it: few names are as long as that.
        let mut executable: Option<Vec<u8>> = None;
        for (index, selector) in (0..).zip(&self.selectors) {
            let matches = |name: &[u8]| match &selector.by {
                By::Name(wanted) => wanted.as_bytes() == name,
                By::Glob { glob, .. } => glob.matches(name),
                _ => false,
            };
            let maybe_longer = match &selector.by {
                By::Name(wanted) => wanted.len() > NAME && wanted.as_bytes().starts_with(&self.name),
                By::Glob { .. } => true,
                _ => false,
            };
            let mut found = matches(&self.name);
            if !found && maybe_longer && self.name.len() == NAME {
                if executable.is_none() {
                    // Another user's may be refused; the arguments are open to all.
                    executable = Some(proc.link(pid, "exe").unwrap_or_default());
                    if !self.arguments && proc.read(pid, "cmdline", &mut self.line).is_err() {
                        self.line.clear();
                    }
                }
                let executable = executable.as_deref().unwrap_or_default();
                found = base_names(executable, &self.line)
                    .any(|name| name.starts_with(&self.name) && matches(name));
            }
            if found {
                self.found.push(index);
            }
        }
    }

    fn match_others(&mut self, pid: u32) {
        let arguments = joined(&mut self.line);
        let arguments = String::from_utf8_lossy(arguments);
        for (index, selector) in (0..).zip(&self.selectors) {
            let found = match &selector.by {
                By::Name(_) | By::Glob { .. } => false,
                // What the kernel runs for itself has none, and is not meant by a pattern that takes anything.
                By::Cmdline(pattern) => !arguments.is_empty() && pattern.found_in(&arguments),
                By::PidFile(_) => self.named.contains(&(index, pid)),
                By::Unit { full, .. } => in_unit(&self.cgroup, full.as_bytes()),
            };
            if found {
                self.found.push(index);
            }
        }
    }
}

/// Arguments with spaces between them.
fn joined(line: &mut [u8]) -> &[u8] {
    for byte in line.iter_mut().filter(|byte| **byte == 0) {
        *byte = b' ';
    }
    line.trim_ascii_end()
}
