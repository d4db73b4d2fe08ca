//! `iot-agent outbox`: what waits to be sent, and what never will be.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::Value;

use super::{From, daemon, print};
use crate::{
    agent,
    config::Paths,
    control::{self, Command},
    desk::Item,
    outbox::{Class, REFUSED},
    status::printable,
};

/// How much of a payload fits beside the rest.
const PREVIEW: usize = 60;

#[derive(Debug, Subcommand)]
pub(super) enum Outbox {
    /// List what waits, the most important class first, the oldest of each first
    #[command(after_help = "\
Examples:
  iot-agent outbox ls                       class, place, topic, bytes, seq and the beginning of each message
  iot-agent outbox ls --class event --json  one JSON object a line
  iot-agent outbox ls --refused             what the broker will never take, and why")]
    Ls(Ls),
    /// Count what waits, by class, and what was sent, dropped, refused or damaged since the outbox was made
    Stats {
        #[command(flatten)]
        from: From,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Forget what waits, unsent
    #[command(after_help = "\
Examples:
  iot-agent outbox purge --class metrics    asks first
  iot-agent outbox purge --yes              all that waits
  iot-agent outbox purge --refused --yes    only what was set aside")]
    Purge(Purge),
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    /// Only this class
    #[arg(long, value_enum)]
    class: Option<Class>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Print JSON, one object a line, for programs
    #[arg(long)]
    json: bool,
    /// Instead, what was set aside because the broker will never take it
    #[arg(long)]
    refused: bool,
    #[command(flatten)]
    from: From,
}

#[derive(Debug, Args)]
pub(super) struct Purge {
    /// Only this class; may be repeated
    #[arg(long, value_enum)]
    class: Vec<Class>,
    /// What was set aside; what waits only where a class is named too
    #[arg(long)]
    refused: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    from: From,
}

impl Outbox {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Ls(ls) => ls.run(),
            Self::Stats { from, json } => {
                let stats = ask(&daemon(&from.sources())?, &Command::OutboxStats)?;
                print(&if json { format!("{stats:#}\n") } else { table(&stats) })
            }
            Self::Purge(purge) => purge.run(),
        }
    }
}

fn ask(paths: &Paths, command: &Command) -> anyhow::Result<Value> {
    Ok(control::ask(&agent::socket(paths), command)?)
}

impl Ls {
    fn run(self) -> anyhow::Result<()> {
        let paths = daemon(&self.from.clone().sources())?;
        let left = self.limit.unwrap_or(usize::MAX);
        if self.refused {
            return self.list_refused(&agent::outbox_folder(&paths), left);
        }
        let mut left = left;
        for class in Class::ALL.into_iter().filter(|class| self.class.is_none_or(|wanted| wanted == *class)) {
            let mut from = 0;
            while left > 0 {
                let page = ask(&paths, &Command::OutboxList { class, from })?;
                let items: Vec<Item> = serde_json::from_value(page).context("read the agent's reply")?;
                let Some(last) = items.last() else { break };
                from = last.index + 1;
                let shown = items.iter().take(left).map(|item| self.show(item));
                print(&shown.collect::<anyhow::Result<String>>()?)?;
                left = left.saturating_sub(items.len());
            }
        }
        Ok(())
    }

    fn show(&self, item: &Item) -> anyhow::Result<String> {
        Ok(if self.json { format!("{}\n", serde_json::to_string(item)?) } else { line(item) })
    }

    /// From the files themselves: they are there also when the daemon is not.
    fn list_refused(&self, folder: &Path, mut left: usize) -> anyhow::Result<()> {
        for path in REFUSED.map(|name| folder.join(name)) {
            let file = match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.with_context(|| format!("open {}", path.display()))?,
            };
            for line in BufReader::new(file).split(b'\n') {
                let line = line.with_context(|| format!("read {}", path.display()))?;
                // One that is being written, or was damaged.
                let Ok(refused) = serde_json::from_slice::<Refused>(&line) else { continue };
                if self.class.is_some_and(|class| refused.class != class.name()) {
                    continue;
                }
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                let exact = || format!("{}\n", String::from_utf8_lossy(&line));
                print(&if self.json { exact() } else { refused.line() })?;
            }
        }
        Ok(())
    }
}

/// A message that was set aside, as far as it is shown.
#[derive(Deserialize)]
struct Refused {
    time: String,
    class: String,
    topic: String,
    reason: String,
    bytes: u64,
}

impl Refused {
    fn line(&self) -> String {
        let Self { bytes, .. } = self;
        let [time, topic, reason] = [&self.time, &self.topic, &self.reason].map(|text| printable(text));
        format!("{time}  {topic}  {bytes} bytes  {reason}\n")
    }
}

fn line(item: &Item) -> String {
    let seq = item.seq.map_or("-".to_owned(), |seq| seq.to_string());
    let shown = &item.payload[..item.payload.floor_char_boundary(PREVIEW)];
    let more = if shown.len() < item.payload.len() || item.cut { "…" } else { "" };
    let Item { class, index, topic, bytes, .. } = item;
    let (topic, shown) = (printable(topic), printable(shown));
    format!("{class:<9}{index:>9}  {topic}  {bytes} bytes  seq {seq}  {shown}{more}\n")
}

fn table(stats: &Value) -> String {
    const COLUMNS: [&str; 6] = ["messages", "bytes", "sent", "dropped", "refused", "damaged"];
    let row = |name: &str, of: &Value| {
        let cells = COLUMNS.map(|column| format!("{:>12}", of[column].as_u64().unwrap_or(0)));
        format!("{name:<10}{}\n", cells.concat())
    };
    let mut out = format!("{:<10}{}\n", "", COLUMNS.map(|column| format!("{column:>12}")).concat());
    for class in Class::ALL {
        out += &row(class.name(), &stats["classes"][class.name()]);
    }
    out += &row("all", stats);
    out += &format!("at most {} bytes on disk\n", stats["max_size"]);
    if let Some(why) = stats["degraded"].as_str() {
        out += &format!("in memory, not on disk: {}\n", printable(why));
    }
    out
}

impl Purge {
    fn run(self) -> anyhow::Result<()> {
        let paths = daemon(&self.from.clone().sources())?;
        if !self.yes && !self.confirmed(&ask(&paths, &Command::OutboxStats)?)? {
            bail!("nothing purged");
        }
        let classes = self.classes().to_vec();
        let purged = ask(&paths, &Command::OutboxPurge { classes, refused: self.refused })?;
        print(&format!(
            "{} messages purged, {} of those set aside removed\n",
            purged["messages"], purged["refused"]
        ))
    }

    fn classes(&self) -> &[Class] {
        if self.class.is_empty() && !self.refused { &Class::ALL } else { &self.class }
    }

    fn confirmed(&self, stats: &Value) -> anyhow::Result<bool> {
        if !io::stdin().is_terminal() {
            bail!("this forgets messages for good; say so with --yes");
        }
        let waiting = |class: &Class| stats["classes"][class.name()]["messages"].as_u64().unwrap_or(0);
        let waiting: u64 = self.classes().iter().map(waiting).sum();
        let also = if self.refused { " and what was set aside" } else { "" };
        let mut answer = String::new();
        // The question is not what the command prints.
        write!(io::stderr(), "Forget {waiting} waiting messages{also}? [y/N] ")?;
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}
