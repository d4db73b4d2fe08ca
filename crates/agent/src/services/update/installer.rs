//! The process that changes the software of this device: this program again, with one order, one thread, no network.
//!
//! It does one step of an update, says on one line of standard output how it went, and ends. Killed at any system call it
//! leaves the old version in use or the new one, whole, and the same step may be done again. What is in use changes by one
//! rename of a link; before it everything that the link will lead to is on the disk.
//!
//! It trusts nobody with what it installs: signature, hashes and versions are looked at here, on the bytes that are
//! unpacked, read once from one descriptor. Decision 14.

mod base;
mod error;
mod judge;
mod module;
mod order;
mod same;
mod source;
mod switch;
mod target;
mod tree;
mod unpack;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use error::{Error, Result};
pub(crate) use module::usable as usable_module;
pub(crate) use order::{Full, Installed, Kind, Order, Report, Scripts, Unpack, Unpacked};
use target::Target;
pub(crate) use target::link;

use crate::log::chain;

/// The hidden subcommand that makes this program an installer.
pub(crate) const COMMAND: &str = "installer";

/// Does what it is told, and reports: exit code 0, or 1 where it could not.
pub(crate) fn main(order: Option<OsString>) -> ExitCode {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    // Nobody would hear the report, and the next one may have begun.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).ok();
    let done = read(order).and_then(run);
    let code = if done.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let report = done.unwrap_or_else(|error| Report::Error {
        lasting: !matches!(error, Error::Disk { .. }),
        reason: chain(&error),
    });
    if say(&report).is_err() { ExitCode::FAILURE } else { code }
}

fn read(order: Option<OsString>) -> Result<Order> {
    let text = order.unwrap_or_default();
    serde_json::from_slice(text.as_encoded_bytes()).map_err(Error::Order)
}

fn run(order: Order) -> Result<Report> {
    match order {
        Order::Unpack(order) => {
            return match unpack::run(&order) {
                Err(Error::NeedsFull(full)) => Ok(Report::NeedsFull(*full)),
                done => done.map(Box::new).map(Report::Unpacked),
            };
        }
        Order::Switch { target, version, staged } => switch::forth(&target, &version, &staged)?,
        Order::Back { target, version, previous } => switch::back(&target, &version, previous.as_deref())?,
        Order::Clean { target, keep, previous } => switch::clean(&target, keep, previous.as_deref())?,
    }
    Ok(Report::Done)
}

/// Makes the link of a software's folder lead there, or nowhere, in one step: for the launcher, where no installer is at work.
///
/// # Errors
/// The disk does not let it.
pub(crate) fn lead(folder: &Path, to: Option<&str>) -> anyhow::Result<()> {
    let target = Target::peek(folder)?;
    Ok(to.map_or_else(|| target.lead_nowhere(), |to| target.lead(to))?)
}

fn say(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_string(report)?;
    line.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(line.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests;
