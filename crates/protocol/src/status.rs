//! Presence: whether a device is there, since when, and what it runs. Sent at each connection, and as the will.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DeviceId, Timestamp};

/// The only `schema` there is.
pub const SCHEMA: u32 = 1;

/// The payload of `{prefix}/{device_id}/status`.
///
/// A reader compares `run_id`, then arrival: a late will of an earlier run says nothing about a new one, and
/// timestamps come from clocks that may be wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Who.
    pub device_id: DeviceId,
    /// There or not.
    pub state: State,
    /// Why it is offline; absent while online.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When this was written; in a will, when its connection was opened.
    pub timestamp: Timestamp,
    /// The kernel's id of this boot.
    pub boot_id: String,
    /// The id of the agent's process.
    pub run_id: String,
    /// The agent's version.
    pub agent_version: String,
    /// The operating system, as Rust names it: `linux`.
    pub os: String,
    /// The processor's architecture, as Rust names it: `aarch64`.
    pub arch: String,
    /// The public key with which this device opens tunnels, in OpenSSH's one-line form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<String>,
    /// Each service by name.
    pub services: BTreeMap<String, ServiceState>,
    /// The version of this payload, [`SCHEMA`].
    pub schema: u32,
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Connected.
    Online,
    /// Not connected.
    Offline,
}

/// Why a device is offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The agent was stopped and said so.
    Shutdown,
    /// The broker lost it and published its will.
    ConnectionLost,
}

/// How a service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// At work.
    Running,
    /// At work, with a limit that its log names.
    Degraded,
    /// Failed; waiting to be started again.
    Restarting,
    /// Not enabled.
    Off,
}
