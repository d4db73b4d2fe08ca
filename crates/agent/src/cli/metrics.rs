//! `iot-agent metrics`: what the machine and its programs are doing.

use std::fmt::Write as _;

use anyhow::anyhow;
use clap::Subcommand;
use serde_json::{Map, Value};

use super::{From, block_on, print, report, section};
use crate::{
    clock::{self, Clock},
    services::metrics,
    status::printable,
};

#[derive(Debug, Subcommand)]
pub(super) enum Metrics {
    /// Take a sample as the daemon would, and print it; needs neither daemon nor broker
    #[command(after_help = "\
Examples:
  iot-agent metrics once           a value a line: name, number, unit
  iot-agent metrics once --json    as it would be sent, less device_id and seq")]
    Once {
        #[command(flatten)]
        from: From,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

impl Metrics {
    /// Takes a second: rates need two looks.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self::Once { from, json } = self;
        let section = section(from, "metrics")?;
        let seen = block_on(metrics::once(&section, &Clock::new(clock::built(), None)))?;
        for late in &seen.late {
            report(&anyhow!("{late}: no answer in time"));
        }
        print(&if json { format!("{:#}\n", seen.sample) } else { render(&seen.sample) })
    }
}

/// One value a line.
fn render(sample: &Value) -> String {
    let map = |key: &str| sample[key].as_object().cloned().unwrap_or_default();
    let mut lines: Vec<(String, String)> = Vec::new();
    for (name, unit) in [("cpu_usage", "%"), ("memory", "%"), ("disk", "%"), ("network", "B")] {
        if let Some(value) = sample.get(name) {
            lines.push((name.to_owned(), format!("{value} {unit}")));
        }
    }
    let metrics: Map<String, Value> = map("metrics");
    lines.extend(metrics.iter().map(|(name, metric)| {
        (name.clone(), format!("{} {}", metric["value"], metric["unit"].as_str().unwrap_or_default()))
    }));
    for (process, values) in &map("processes") {
        for (name, value) in values.as_object().into_iter().flatten() {
            lines.push((format!("processes.{process}.{name}"), format!("{value} {}", unit(name))));
        }
    }
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in lines {
        let value = value.strip_suffix(" 1").unwrap_or(&value).trim_end();
        // To a string: it cannot fail.
        writeln!(text, "{:width$}  {}", printable(&name), printable(value)).unwrap_or_default();
    }
    text
}

fn unit(of_process: &str) -> &'static str {
    match of_process {
        "cpu_usage" => "%",
        "memory" | "read_bytes" | "write_bytes" => "B",
        "started" => "s",
        _ => "",
    }
}
