//! How important a message is.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// What goes first, and what stays when there is no room for all. The earlier, the more important.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Records of remote actions.
    Audit,
    /// What became of commands, updates and tunnels.
    #[value(alias("update"), alias("ssh"))]
    Command,
    /// Events.
    Event,
    /// Where the device is.
    Location,
    /// Metrics, and what `iot-agent publish` sends.
    #[value(alias("data"), alias("publish"))]
    Metrics,
}

impl Class {
    /// The most important first.
    pub const ALL: [Self; 5] = [Self::Audit, Self::Command, Self::Event, Self::Location, Self::Metrics];

    /// The class of what this service sends.
    pub fn of_service(name: &str) -> Self {
        match name {
            "command" | "update" | "ssh" => Self::Command,
            "location" => Self::Location,
            _ => Self::Metrics,
        }
    }

    /// As in file names, `--class` and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::Command => "command",
            Self::Event => "event",
            Self::Location => "location",
            Self::Metrics => "metrics",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
