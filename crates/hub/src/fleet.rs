//! The fleet: who is enrolled, who is there, and when each device was last heard.
//!
//! Kept in memory; what has changed is handed out for the store now and then. Losing the last seconds of it is no
//! loss: presence is retained by the broker, and the next heartbeat comes.
//!
//! Messages of different runs of one agent can arrive in the wrong order: a broker may publish the will of a dead
//! connection after the birth of the next. So runs are compared by their id, never by timestamps, which come from
//! clocks that may be wrong. A run that another has replaced is not believed again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use protocol::status::{Presence, Reason, ServiceState, State};
use protocol::{DeviceId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::devices::Device;
use crate::store::Enrolment;

/// The largest presence or heartbeat that is read.
pub const MAX_PAYLOAD: usize = 16 * 1024;
/// How many devices are listed that never enrolled here: they need no proof to be seen, so they are bounded.
pub const MAX_STRANGERS: usize = 1000;
/// A heartbeat that arrives this much later than the will of its own run was sent after it, not overtaken by it.
const OVERTAKING: Duration = Duration::from_secs(2);

/// How a device was last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Who.
    pub device_id: DeviceId,
    /// There or not; absent for one that has heartbeats but no presence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why it is offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// Since when, by the hub's clock.
    pub since: Timestamp,
    /// The kernel's id of its boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The id of its agent's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// The run before, whose late messages are not believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_run: Option<String>,
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

/// A heartbeat that was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// Its number within the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// When it was sent, by the device's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    /// When it arrived, by the hub's.
    pub received: Timestamp,
    /// The run that sent it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

/// What of a heartbeat is read; older agents send less than ours.
#[derive(Deserialize)]
struct Heartbeat {
    device_id: DeviceId,
    timestamp: Option<Timestamp>,
    seq: Option<u64>,
    run_id: Option<String>,
}

/// What a message meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A device is there.
    Online,
    /// A device is gone.
    Offline(Option<Reason>),
    /// A device is alive.
    Heartbeat(Option<u64>),
    /// Nothing new.
    None,
}

/// Why a message was not believed.
#[derive(Debug, thiserror::Error)]
pub enum Ignored {
    /// Over [`MAX_PAYLOAD`].
    #[error("it is too large")]
    TooLarge,
    /// Not what the contract says.
    #[error("it cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// It names another device than its topic.
    #[error("it names another device than its topic")]
    Foreign,
    /// Of a run that has been replaced.
    #[error("it comes from an earlier run of the agent")]
    EarlierRun,
    /// A heartbeat the broker has kept: it says nothing about now.
    #[error("it is a retained heartbeat")]
    Retained,
    /// There are [`MAX_STRANGERS`] already.
    #[error("the device is not enrolled, and too many such devices have been seen")]
    Stranger,
}

/// Everything known about the devices.
#[derive(Default)]
pub struct Fleet {
    enrolments: HashMap<DeviceId, Enrolment>,
    seen: HashMap<DeviceId, Seen>,
    strangers: usize,
    changed: HashSet<DeviceId>,
}

impl Fleet {
    /// The fleet as the store remembers it.
    pub fn new(enrolments: Vec<Enrolment>, seen: Vec<Seen>) -> Fleet {
        let enrolments: HashMap<_, _> = enrolments.into_iter().map(|e| (e.device_id.clone(), e)).collect();
        let strangers = seen.iter().filter(|s| !enrolments.contains_key(&s.device_id)).count();
        let seen = seen.into_iter().map(|s| (s.device_id.clone(), s)).collect();
        Fleet { enrolments, seen, strangers, changed: HashSet::new() }
    }

    /// A device has enrolled, or enrolled again.
    pub fn enrolled(&mut self, enrolment: Enrolment) {
        let device_id = enrolment.device_id.clone();
        let before = self.enrolments.insert(device_id.clone(), enrolment);
        if before.is_none() && self.seen.contains_key(&device_id) {
            self.strangers -= 1;
        }
    }

    /// A presence, on the topic of `device_id`. `retained`: the broker had kept it; it was not published now.
    pub fn presence(
        &mut self,
        device_id: &DeviceId,
        payload: &[u8],
        retained: bool,
        now: Timestamp,
    ) -> Result<Change, Ignored> {
        let said: Presence = decode(payload)?;
        if said.device_id != *device_id {
            return Err(Ignored::Foreign);
        }
        let seen = self.seen(device_id, now)?;
        if seen.previous_run.as_ref() == Some(&said.run_id) {
            return Err(Ignored::EarlierRun);
        }
        let other_run = seen.run_id.as_ref().is_some_and(|run| *run != said.run_id);
        // A retained "offline" of an unknown run is how we learn of one that came and went while we were away.
        if other_run && said.state == State::Offline && seen.state == Some(State::Online) && !retained {
            return Err(Ignored::EarlierRun);
        }
        let change = (seen.state, seen.reason) != (Some(said.state), said.reason) || other_run;
        seen.adopt(said, change, now);
        let (state, reason) = (seen.state, seen.reason);
        self.changed.insert(device_id.clone());
        Ok(match (change, state) {
            (false, _) | (true, None) => Change::None,
            (true, Some(State::Online)) => Change::Online,
            (true, Some(State::Offline)) => Change::Offline(reason),
        })
    }

    /// A heartbeat; `device_id` is the one that its topic names, in layouts where it does.
    pub fn heartbeat(
        &mut self,
        device_id: Option<&DeviceId>,
        payload: &[u8],
        retained: bool,
        now: Timestamp,
    ) -> Result<(DeviceId, Change), Ignored> {
        if retained {
            return Err(Ignored::Retained);
        }
        let beat: Heartbeat = decode(payload)?;
        if device_id.is_some_and(|id| *id != beat.device_id) {
            return Err(Ignored::Foreign);
        }
        let seen = self.seen(&beat.device_id, now)?;
        if beat.run_id.is_some() && seen.previous_run == beat.run_id {
            return Err(Ignored::EarlierRun);
        }
        if seen.has_had(&beat) {
            return Ok((beat.device_id, Change::None));
        }
        seen.beat(&beat, now);
        self.changed.insert(beat.device_id.clone());
        Ok((beat.device_id, Change::Heartbeat(beat.seq)))
    }

    /// Every device, by id: those issued here are then in the order of their enrolment.
    pub fn devices(&self) -> Vec<Device> {
        let ids: BTreeMap<_, ()> =
            self.enrolments.keys().chain(self.seen.keys()).map(|id| (id, ())).collect();
        ids.keys().map(|id| Device::new(id, self.enrolments.get(*id), self.seen.get(*id))).collect()
    }

    /// What has changed since it was last asked for. To be given back with [`Fleet::unsaved`] where saving fails.
    pub fn take_changed(&mut self) -> Vec<Seen> {
        let changed = std::mem::take(&mut self.changed);
        changed.iter().filter_map(|id| self.seen.get(id)).cloned().collect()
    }

    /// What could not be saved is to be handed out again.
    pub fn unsaved(&mut self, seen: Vec<Seen>) {
        self.changed.extend(seen.into_iter().map(|seen| seen.device_id));
    }

    fn seen(&mut self, device_id: &DeviceId, now: Timestamp) -> Result<&mut Seen, Ignored> {
        if !self.seen.contains_key(device_id) && !self.enrolments.contains_key(device_id) {
            if self.strangers >= MAX_STRANGERS {
                return Err(Ignored::Stranger);
            }
            self.strangers += 1;
        }
        Ok(self.seen.entry(device_id.clone()).or_insert_with(|| Seen::first(device_id.clone(), now)))
    }
}

impl Seen {
    fn first(device_id: DeviceId, now: Timestamp) -> Seen {
        Seen {
            device_id,
            state: None,
            reason: None,
            since: now,
            boot_id: None,
            run_id: None,
            previous_run: None,
            agent_version: None,
            os: None,
            arch: None,
            ssh_public_key: None,
            services: BTreeMap::new(),
            last_heartbeat: None,
        }
    }

    fn adopt(&mut self, said: Presence, change: bool, now: Timestamp) {
        self.run(said.run_id);
        self.state = Some(said.state);
        self.reason = said.reason;
        self.boot_id = Some(said.boot_id);
        self.agent_version = Some(said.agent_version);
        self.os = Some(said.os);
        self.arch = Some(said.arch);
        self.ssh_public_key = said.ssh_public_key;
        self.services = said.services;
        if change {
            self.since = now;
        }
    }

    fn run(&mut self, run_id: String) {
        if self.run_id.as_ref() != Some(&run_id) {
            self.previous_run = self.run_id.replace(run_id);
        }
    }

    /// The will of a dead connection came after the birth of the next, of the same run, and the device lives on.
    fn wrongly_lost(&self, now: Timestamp) -> bool {
        let after = now.as_millis().saturating_sub(self.since.as_millis());
        self.reason == Some(Reason::ConnectionLost)
            && u128::try_from(after).is_ok_and(|ms| ms >= OVERTAKING.as_millis())
    }

    /// A redelivered heartbeat, or one that a later has overtaken.
    fn has_had(&self, beat: &Heartbeat) -> bool {
        let last =
            self.last_heartbeat.as_ref().filter(|last| last.run_id.is_some() && last.run_id == beat.run_id);
        last.is_some_and(|last| beat.seq <= last.seq)
    }

    fn beat(&mut self, beat: &Heartbeat, now: Timestamp) {
        if let Some(run_id) = &beat.run_id
            && (self.run_id.as_ref() != Some(run_id) || self.wrongly_lost(now))
        {
            // Its birth is on its way, or was lost; a run that it replaces is over in any case.
            self.run(run_id.clone());
            (self.state, self.reason, self.since) = (Some(State::Online), None, now);
        }
        self.last_heartbeat = Some(Beat {
            seq: beat.seq,
            timestamp: beat.timestamp,
            received: now,
            run_id: beat.run_id.clone(),
        });
    }
}

fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Ignored> {
    if payload.len() > MAX_PAYLOAD {
        return Err(Ignored::TooLarge);
    }
    serde_json::from_slice(payload).map_err(Ignored::Malformed)
}

#[cfg(test)]
mod tests;
