//! The heartbeat: a device is alive, and how its services and its outbox are.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::status::ServiceState;
use crate::{DeviceId, Timestamp};

/// The payload of `{prefix}/{device_id}/heartbeat` (`iot-heartbeat` in the IOT-Cloud layout).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who.
    pub device_id: DeviceId,
    /// When.
    pub timestamp: Timestamp,
    /// Always `"1"`.
    pub status: Alive,
    /// Counts from 1 within `run_id`, a durable one through restarts; a gap is a heartbeat that was not sent.
    pub seq: u64,
    /// The id of the agent's process.
    pub run_id: String,
    /// How long the agent has been running, in seconds.
    pub uptime_s: u64,
    /// Each service by name.
    pub services: BTreeMap<String, ServiceState>,
    /// Open tunnels.
    pub tunnels: u32,
    /// What waits to be sent.
    pub outbox: Outbox,
}

/// What waits in a device's outbox, and what it had to let go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Outbox {
    /// Messages waiting.
    pub messages: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// Messages dropped so far because it was full.
    pub dropped: u64,
    /// Why messages wait in memory, where a crash loses them, instead of on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
}

/// The heartbeat's `status`: written as `"1"`, which is all that older backends read; any text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Alive;

impl Serialize for Alive {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("1")
    }
}

impl<'de> Deserialize<'de> for Alive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Alive, D::Error> {
        String::deserialize(deserializer).map(|_| Alive)
    }
}
