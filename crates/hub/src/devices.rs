//! What `iot-hub devices` prints: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::Write;

use protocol::status::{Reason, ServiceState, State};
use protocol::{ClientId, DeviceId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::fleet::{Beat, Seen};
use crate::store::Enrolment;

/// One device: an element of the array that `iot-hub devices --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its id.
    pub device_id: DeviceId,
    /// Under which it enrolled; absent for one that enrolled elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<ClientId>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_name: Option<String>,
    /// Its organisation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org_id: Option<String>,
    /// What its owner wrote down about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Map<String, Value>>,
    /// When it got its id here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolled_at: Option<Timestamp>,
    /// There or not; absent for one that never said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why it is offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Since when, by the hub's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The kernel's id of its boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The id of its agent's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Its agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Its architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// Its key for tunnels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_public_key: Option<String>,
    /// Its services.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, ServiceState>,
    /// Its last heartbeat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat: Option<Beat>,
}

impl Device {
    /// What enrolment and presence together tell of a device.
    pub fn new(device_id: &DeviceId, enrolment: Option<&Enrolment>, seen: Option<&Seen>) -> Device {
        let (enrolment, seen) = (enrolment.cloned(), seen.cloned());
        let said = seen.as_ref().and_then(|s| s.state);
        let asked = enrolment.as_ref().and_then(|e| e.agent_version.clone());
        Device {
            device_id: device_id.clone(),
            client_id: enrolment.as_ref().map(|e| e.client_id.clone()),
            device_name: enrolment.as_ref().and_then(|e| e.device_name.clone()),
            org_id: enrolment.as_ref().and_then(|e| e.org_id.clone()),
            enrolled_at: enrolment.as_ref().map(|e| e.enrolled_at),
            metadata: enrolment.and_then(|e| e.metadata),
            state: said,
            reason: seen.as_ref().and_then(|s| s.reason),
            since: said.and(seen.as_ref().map(|s| s.since)),
            boot_id: seen.as_ref().and_then(|s| s.boot_id.clone()),
            run_id: seen.as_ref().and_then(|s| s.run_id.clone()),
            agent_version: seen.as_ref().and_then(|s| s.agent_version.clone()).or(asked),
            os: seen.as_ref().and_then(|s| s.os.clone()),
            arch: seen.as_ref().and_then(|s| s.arch.clone()),
            ssh_public_key: seen.as_ref().and_then(|s| s.ssh_public_key.clone()),
            services: seen.as_ref().map(|s| s.services.clone()).unwrap_or_default(),
            last_heartbeat: seen.and_then(|s| s.last_heartbeat),
        }
    }

    fn cells(&self) -> [String; 7] {
        let state = match (self.state, self.reason) {
            (Some(State::Online), _) => "online",
            (Some(State::Offline), Some(Reason::ConnectionLost)) => "offline (lost)",
            (Some(State::Offline), _) => "offline",
            (None, _) => "unknown",
        };
        let beat = self.last_heartbeat.as_ref().map(|beat| match beat.seq {
            Some(seq) => format!("{} #{seq}", seconds(beat.received)),
            None => seconds(beat.received),
        });
        [
            printable(self.device_id.as_str(), 40),
            cell(self.client_id.as_ref().map(ClientId::as_str), 40),
            cell(self.device_name.as_deref(), 24),
            state.to_owned(),
            self.since.map_or_else(none, seconds),
            beat.unwrap_or_else(none),
            cell(self.agent_version.as_deref(), 16),
        ]
    }
}

/// A table with a heading, one line for each device.
pub fn table(devices: &[Device]) -> String {
    let heading = ["DEVICE ID", "CLIENT ID", "NAME", "STATE", "SINCE", "LAST HEARTBEAT", "VERSION"];
    let rows: Vec<_> =
        std::iter::once(heading.map(str::to_owned)).chain(devices.iter().map(Device::cells)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(widths) {
            write!(line, "{text:width$}  ").expect("writing to a String cannot fail");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn none() -> String {
    "-".to_owned()
}

fn cell(text: Option<&str>, longest: usize) -> String {
    text.map_or_else(none, |text| printable(text, longest))
}

/// What a device said, made harmless for a terminal: no control characters, no endless line.
fn printable(text: &str, longest: usize) -> String {
    let mut shown: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if let Some((end, _)) = shown.char_indices().nth(longest) {
        shown.truncate(end);
        shown.push('…');
    }
    if shown.is_empty() { none() } else { shown }
}

/// To the second: what a person reads.
fn seconds(time: Timestamp) -> String {
    let text = time.to_string();
    format!("{}Z", text.split_once('.').map_or(text.as_str(), |(whole, _)| whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_harmless() {
        let device = |json: &str| serde_json::from_str::<Device>(json).unwrap();
        let devices = [
            device(
                r#"{"device_id":"d1","client_id":"c1","device_name":"\u001b[31mred\nline","state":"online",
                "since":"2026-01-31T12:00:00.123Z","agent_version":"0.1.0",
                "last_heartbeat":{"seq":7,"received":"2026-01-31T12:00:10.000Z"}}"#,
            ),
            device(r#"{"device_id":"device-2","state":"offline","reason":"connection_lost"}"#),
            device(r#"{"device_id":"d3"}"#),
        ];
        let expected = "\
DEVICE ID  CLIENT ID  NAME           STATE           SINCE                 LAST HEARTBEAT           VERSION
d1         c1         \u{fffd}[31mred\u{fffd}line  online          2026-01-31T12:00:00Z  2026-01-31T12:00:10Z #7  0.1.0
device-2   -          -              offline (lost)  -                     -                        -
d3         -          -              unknown         -                     -                        -
";
        assert_eq!(table(&devices), expected);
        assert_eq!(table(&[]).lines().count(), 1);
        assert_eq!(printable(&"x".repeat(30), 24).chars().count(), 25);
    }
}
