//! Named programs: which processes they are, and what those use.
//!
//! **Invariant:** arguments of a process are only held against a pattern; they are never sent and never logged.

mod selector;

#[cfg(target_os = "linux")]
mod instance;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
mod matcher;
#[cfg(target_os = "linux")]
mod parse;
#[cfg(target_os = "linux")]
mod procfs;
#[cfg(target_os = "linux")]
mod seen;
#[cfg(target_os = "linux")]
mod total;

#[cfg(any(test, not(target_os = "linux")))]
mod elsewhere;

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::Processes;
#[cfg(target_os = "linux")]
#[allow(unused_imports, reason = "the service is yet to come")]
pub(crate) use linux::Processes;
#[allow(unused_imports, reason = "the service is yet to come")]
pub(crate) use selector::{Selector, Selectors};

/// What is wanted of each, beside how many there are, threads, open files and when the first began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `cpu_usage`.
    pub(crate) cpu: bool,
    /// `memory`.
    pub(crate) memory: bool,
    /// Bytes and operations read and written.
    pub(crate) io: bool,
}
