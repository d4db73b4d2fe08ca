//! `iot-agent command`: what was sent to this device to be run, and what became of it.

use std::{fmt::Write as _, sync::Arc};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use protocol::command::Report;
use serde_json::{Map, Value, json};

use super::{From, daemon, print};
use crate::{
    action::journal::{self, Record},
    agent, control,
    outbox::Folder,
    service::Service,
    services::command::{self, Asked, Ended},
    status::printable,
};

/// Whose journal it is.
const SERVICE: &str = <command::Command as Service>::NAME;
/// How much of a command fits beside the rest.
const PREVIEW: usize = 60;
/// How many are listed where nothing is said.
const LIMIT: usize = 50;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the latest commands, the newest last; read from the journal, so no daemon is needed
    #[command(after_help = "\
Examples:
  iot-agent command list               id, when it came, how far it is, and the command
  iot-agent command list --limit 1000 --json")]
    List(List),
    /// Show all that is known of a command: what was asked, how it ended, what it wrote
    Show {
        /// Its execution_id
        id: String,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        from: From,
    },
    /// End a command that waits or runs; its status is `cancelled`
    Cancel {
        /// Its execution_id
        id: String,
        #[command(flatten)]
        from: From,
    },
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// At most so many, the latest
    #[arg(long, value_name = "N", default_value_t = LIMIT)]
    limit: usize,
    /// Print JSON, one object a line, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    from: From,
}

impl Command {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List(list) => list.run(),
            Self::Show { id, json, from } => {
                let Some(record) = records(from)?.into_iter().rfind(|record| record.id == id) else {
                    bail!("no command {id} is known here");
                };
                print(&if json { format!("{:#}\n", object(&record, true)) } else { show(&record) })
            }
            Self::Cancel { id, from } => {
                let socket = agent::socket(&daemon(&from.sources())?);
                let request = control::Command::Cancel { service: SERVICE.to_owned(), id: id.clone() };
                let said = control::ask(&socket, &request)?;
                print(&format!("{id}: {}\n", said.as_str().unwrap_or_default()))
            }
        }
    }
}

impl List {
    fn run(self) -> anyhow::Result<()> {
        let records = records(self.from)?;
        let latest = &records[records.len().saturating_sub(self.limit)..];
        let lines = latest.iter().map(|record| match self.json {
            true => format!("{}\n", object(record, false)),
            false => line(record),
        });
        print(&lines.collect::<String>())
    }
}

fn records(from: From) -> anyhow::Result<Vec<Record>> {
    let folder = daemon(&from.sources())?.state.join(SERVICE).join(journal::FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let read = journal::read(Arc::new(Folder::new(folder.clone())));
    read.with_context(|| format!("read the journal in {}", folder.display()))
}

fn asked(record: &Record) -> Option<Asked> {
    serde_json::from_str(record.request.as_ref()?.get()).ok()
}

fn report(record: &Record) -> Option<Report> {
    let (_, outcome) = record.ended.as_ref()?;
    serde_json::from_str(outcome.get()).ok().map(|Ended { report, .. }| report)
}

fn status(record: &Record) -> String {
    match report(record) {
        Some(report) => command::name(report.status),
        None if record.ended.is_some() => "unknown".to_owned(),
        None if record.started => "in_progress".to_owned(),
        None => "accepted".to_owned(),
    }
}

fn line(record: &Record) -> String {
    let when = record.accepted.or(record.ended.as_ref().map(|(at, _)| *at));
    let when = when.map(|when| when.to_string()).unwrap_or_default();
    let command = asked(record).map(|asked| printable(&asked.wanted.command)).unwrap_or_default();
    let command: String = command.chars().take(PREVIEW).collect();
    format!("{:<36}  {when:<24}  {:<11}  {command}\n", printable(&record.id), status(record))
}

/// One order for programs; with what it wrote, or without.
fn object(record: &Record, whole: bool) -> Value {
    let mut object = Map::new();
    object.insert("execution_id".to_owned(), json!(record.id));
    object.insert("status".to_owned(), json!(status(record)));
    if let Some(at) = record.accepted {
        object.insert("accepted_at".to_owned(), json!(at));
    }
    if let Some((at, _)) = record.ended {
        object.insert("ended_at".to_owned(), json!(at));
    }
    if let Some(Value::Object(request)) =
        record.request.as_ref().and_then(|text| serde_json::from_str(text.get()).ok())
    {
        object.extend(request);
    }
    if let Some(Value::Object(report)) = report(record).and_then(|report| serde_json::to_value(report).ok()) {
        let output = |key: &str| matches!(key, "stdout" | "stderr");
        object.extend(report.into_iter().filter(|(key, _)| key != "timestamp" && (whole || !output(key))));
    }
    Value::Object(object)
}

/// One order for people.
fn show(record: &Record) -> String {
    let object = object(record, true);
    let mut text = String::new();
    let is_output = |key: &str| matches!(key, "stdout" | "stderr");
    let fields = object.as_object().into_iter().flatten();
    for (key, value) in fields.filter(|(key, _)| !is_output(key)) {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        writeln!(text, "{key:<16}{}", printable(&value)).unwrap_or_default();
    }
    for stream in ["stdout", "stderr"] {
        let output = object[stream].as_str().unwrap_or_default();
        if !output.is_empty() {
            writeln!(text, "{stream}:").unwrap_or_default();
        }
        for written in output.lines() {
            writeln!(text, "  {}", printable(written)).unwrap_or_default();
        }
    }
    text
}
