//! `iot-agent location`: where the device is.

use std::{fmt::Write as _, time::Duration};

use anyhow::anyhow;
use clap::Subcommand;
use protocol::location::Place;
use serde_json::Value;

use super::{From, block_on, print, report, section};
use crate::{
    clock::{self, Clock},
    services::location::{self, Asked, Asking},
};

#[derive(Debug, Subcommand)]
pub(super) enum Location {
    /// Wait for one fix as the daemon would, and print it; needs neither daemon nor broker
    #[command(after_help = "\
Exit codes: 0 a fix, 1 none, with the reason.
Examples:
  iot-agent location once                       a value a line
  iot-agent location once --source gps --json   as it would be sent, less device_id, timestamp and seq")]
    Once {
        #[command(flatten)]
        from: From,
        /// Ask this source only: gps, gpsd, google or fixed
        #[arg(long)]
        source: Option<Asked>,
        /// How many seconds to wait for a fix
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout: u32,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

impl Location {
    /// Tells on stderr what is waited for.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let Self::Once { from, source, timeout, json } = self;
        let section = section(from, "location")?;
        let clock = Clock::new(clock::built(), None);
        let asking = Asking { source, patience: Duration::from_secs(timeout.into()) };
        let place = block_on(location::once(&section, &asking, &clock, |why| report(&anyhow!("{why}"))))?;
        let value = serde_json::to_value(&place)?;
        print(&if json { format!("{value:#}\n") } else { render(&place, &value) })
    }
}

/// One value a line.
fn render(place: &Place, value: &Value) -> String {
    let units = [
        ("latitude", "degrees"),
        ("longitude", "degrees"),
        ("accuracy", "m"),
        ("altitude", "m"),
        ("speed", "m/s"),
        ("heading", "degrees"),
        ("satellites", ""),
        ("hdop", ""),
        ("fix_age_s", "s"),
    ];
    let mut text = format!("{:10}  {}\n", "source", place.source);
    for (name, unit) in units {
        if let Some(value) = value.get(name) {
            let line = format!("{name:10}  {value} {unit}");
            // To a string: it cannot fail.
            writeln!(text, "{}", line.trim_end()).unwrap_or_default();
        }
    }
    text
}
