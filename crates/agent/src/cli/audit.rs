//! `iot-agent audit`: what was asked of this device and what came of it, read from the disk.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use protocol::audit::Record;

use super::{From, daemon, print};
use crate::{
    action::audit::{self, Log, Verifier},
    agent,
    outbox::{Disk, Folder},
    status::printable,
};

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// List what was asked, refused and done, the oldest first
    #[command(after_help = "\
Examples:
  iot-agent audit show            number, time, action, decision, id, rule and detail
  iot-agent audit show --id c-42  what became of one
  iot-agent audit show --json     the records as they are sent, one a line")]
    Show(Show),
    /// Check that no record was changed, left out or put in; exit 1 names the first that does not fit
    #[command(after_help = "\
Examples:
  iot-agent audit verify               what is on this device
  iot-agent audit verify stored.jsonl  what a backend has kept of one device, a record a line, as it was sent
  iot-agent audit verify -             the same from standard input")]
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// Only those of this command, tunnel or update
    #[arg(long)]
    id: Option<String>,
    /// Print the records themselves, one a line, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    from: From,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// Records instead of those on this device, one a line; `-` is standard input
    file: Option<PathBuf>,
    #[command(flatten)]
    from: From,
}

impl Audit {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Show(show) => show.run(),
            Self::Verify(verify) => verify.run(),
        }
    }
}

/// The log of the daemon; none where there never was one.
fn log(from: From) -> anyhow::Result<Option<Arc<dyn Disk>>> {
    let folder = agent::audit_folder(&daemon(&from.sources())?);
    match folder.metadata() {
        Ok(_) => Ok(Some(Arc::new(Folder::new(folder)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("look at {}", folder.display())),
    }
}

impl Show {
    fn run(self) -> anyhow::Result<()> {
        let Some(disk) = log(self.from)? else { return Ok(()) };
        for line in Log::read(disk).context("read the audit log")?.records {
            // One of a later version has to be shown by that.
            let Ok(record) = serde_json::from_str::<Record>(&line) else { continue };
            if self.id.as_ref().is_some_and(|id| *id != record.id) {
                continue;
            }
            print(&if self.json { format!("{line}\n") } else { row(&record) })?;
        }
        Ok(())
    }
}

fn row(record: &Record) -> String {
    let Record { seq, timestamp, decision, .. } = record;
    let [action, id, detail] = [&record.action, &record.id, &record.detail].map(|text| printable(text));
    let rule = record.rule.as_ref().map(|rule| format!("  [{}]", printable(rule))).unwrap_or_default();
    format!("{seq:>6}  {timestamp}  {action:<7}  {decision:<7}  {id}{rule}  {detail}\n")
}

impl Verify {
    fn run(self) -> anyhow::Result<()> {
        let verifier = match self.file {
            None => on_disk(self.from)?,
            Some(file) if file == Path::new("-") => exported(io::stdin().lock())?,
            Some(file) => {
                let opened = File::open(&file).with_context(|| format!("open {}", file.display()))?;
                exported(BufReader::new(opened))?
            }
        };
        print(&format!("{}\n", verifier.summary()))
    }
}

fn on_disk(from: From) -> anyhow::Result<Verifier> {
    let Some(disk) = log(from)? else { return Ok(Verifier::default()) };
    let (verifier, fault) = audit::verify(&disk).context("read the audit log")?;
    match fault {
        Some(fault) => bail!("not whole, {} records before it are: {fault}", verifier.records()),
        None => Ok(verifier),
    }
}

fn exported(mut lines: impl BufRead) -> anyhow::Result<Verifier> {
    let (mut verifier, mut line, mut number) = (Verifier::default(), Vec::new(), 0_u64);
    while lines.read_until(b'\n', &mut line).context("read the records")? > 0 {
        number += 1;
        let record = line.trim_ascii();
        if !record.is_empty()
            && let Err(fault) = verifier.take(record)
        {
            let fault = printable(&fault);
            bail!("not whole, {} records before it are: line {number}: {fault}", verifier.records());
        }
        line.clear();
    }
    Ok(verifier)
}
