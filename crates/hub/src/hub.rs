//! What the hub does with a message: sends it to the registrar or to the fleet, by its topic.
//!
//! No MQTT, no clock: a topic, a payload and a time come in; an answer to publish and an event to show go out.

use std::sync::Arc;
use std::time::Duration;

use protocol::proof::Psk;
use protocol::status::Reason;
use protocol::topic::{device_of, registering_client};
use protocol::{ClientId, DeviceId, Timestamp};
use tracing::{error, warn};

use crate::devices::Device;
use crate::fleet::{Change, Fleet, Ignored};
use crate::registrar::{Answer, Registrar, Verdict, chain};
use crate::store::{Store, StoreError};
use crate::throttle::Throttle;

/// The first level of every topic.
pub const PREFIX: &str = "iot";
/// Where IOT-Cloud's devices register.
const FLAT_REGISTRATION: &str = "iot-registration";
/// Where IOT-Cloud's devices send heartbeats.
const FLAT_HEARTBEAT: &str = "iot-heartbeat";
/// What the hub subscribes to: both layouts.
pub const FILTERS: [&str; 5] =
    ["iot/registration/+", FLAT_REGISTRATION, "iot/+/status", "iot/+/heartbeat", FLAT_HEARTBEAT];
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// Something worth showing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A client has its id.
    Enrolled {
        /// The client.
        client_id: ClientId,
        /// Its id.
        device_id: DeviceId,
        /// It had none before.
        new: bool,
    },
    /// A client was refused an id.
    Refused {
        /// The client.
        client_id: ClientId,
        /// Why.
        reason: &'static str,
    },
    /// A device is there.
    Online(DeviceId),
    /// A device is gone.
    Offline(DeviceId, Option<Reason>),
    /// A device is alive.
    Heartbeat(DeviceId, Option<u64>),
}

/// What follows from a message.
#[derive(Debug, Default)]
pub struct Handled {
    /// To publish: topic and payload.
    pub reply: Option<(String, Vec<u8>)>,
    /// To show.
    pub event: Option<Event>,
}

/// Registrar, fleet and store.
pub struct Hub {
    store: Arc<Store>,
    registrar: Registrar,
    fleet: Fleet,
    complaints: Throttle,
}

impl Hub {
    /// The hub over a database.
    pub fn new(store: Store, psk: Psk) -> Result<Hub, StoreError> {
        let store = Arc::new(store);
        let fleet = Fleet::new(store.enrolments()?, store.seen()?);
        let registrar = Registrar::new(Arc::clone(&store), psk);
        Ok(Hub { store, registrar, fleet, complaints: Throttle::new(COMPLAINT_INTERVAL) })
    }

    /// Handles one message. May wait for the disk.
    pub fn handle(&mut self, topic: &str, payload: &[u8], retained: bool, now: Timestamp) -> Handled {
        if topic == FLAT_REGISTRATION {
            let answer = self.registrar.answer(None, payload, now);
            return self.answered(answer, |client| format!("{FLAT_REGISTRATION}/response/{client}"));
        }
        if topic == FLAT_HEARTBEAT {
            return self.heartbeat(None, payload, retained, now);
        }
        // Before the devices' own topics: a client may be called "status".
        if let Some(client_id) = registering_client(PREFIX, topic) {
            let answer = self.registrar.answer(Some(&client_id), payload, now);
            return self.answered(answer, |_| format!("{topic}/reply"));
        }
        if let Some(device_id) = device_of(PREFIX, topic, "status") {
            return match self.fleet.presence(&device_id, payload, retained, now) {
                Ok(change) => shown(device_id, change),
                Err(ignored) => self.complain(topic, &ignored, now),
            };
        }
        if let Some(device_id) = device_of(PREFIX, topic, "heartbeat") {
            return self.heartbeat(Some(&device_id), payload, retained, now);
        }
        Handled::default()
    }

    /// Every device.
    pub fn devices(&self) -> Vec<Device> {
        self.fleet.devices()
    }

    /// Writes down how devices were last seen, where that has changed.
    pub fn save(&mut self) {
        let changed = self.fleet.take_changed();
        if changed.is_empty() {
            return;
        }
        if let Err(error) = self.store.save_seen(&changed) {
            error!(error = chain(&error), "cannot save how devices were last seen; will try again");
            self.fleet.unsaved(changed);
        }
    }

    fn answered(&mut self, answer: Option<Answer>, topic: impl Fn(&ClientId) -> String) -> Handled {
        let Some(Answer { client_id, payload, verdict }) = answer else { return Handled::default() };
        let reply = Some((topic(&client_id), payload));
        let event = match verdict {
            Verdict::Enrolled { enrolment, new } => {
                let device_id = enrolment.device_id.clone();
                self.fleet.enrolled(*enrolment);
                Event::Enrolled { client_id, device_id, new }
            }
            Verdict::Refused(reason) => Event::Refused { client_id, reason },
        };
        Handled { reply, event: Some(event) }
    }

    fn heartbeat(
        &mut self,
        device_id: Option<&DeviceId>,
        payload: &[u8],
        retained: bool,
        now: Timestamp,
    ) -> Handled {
        match self.fleet.heartbeat(device_id, payload, retained, now) {
            Ok((device_id, change)) => shown(device_id, change),
            Err(ignored) => self.complain(device_id.map_or(FLAT_HEARTBEAT, DeviceId::as_str), &ignored, now),
        }
    }

    fn complain(&mut self, source: &str, ignored: &Ignored, now: Timestamp) -> Handled {
        if let Some(suppressed) = self.complaints.pass(source, now) {
            warn!(source, suppressed, reason = chain(ignored), "message ignored");
        }
        Handled::default()
    }
}

fn shown(device_id: DeviceId, change: Change) -> Handled {
    let event = match change {
        Change::Online => Some(Event::Online(device_id)),
        Change::Offline(reason) => Some(Event::Offline(device_id, reason)),
        Change::Heartbeat(seq) => Some(Event::Heartbeat(device_id, seq)),
        Change::None => None,
    };
    Handled { reply: None, event }
}

#[cfg(test)]
mod tests;
