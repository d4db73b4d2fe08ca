//! What this device says of itself without being asked: birth, will and goodbye, retained on its status topic.
//!
//! Never queued: each is made at the moment it is needed. Nothing before enrolment.

use std::sync::Arc;

use protocol::{
    status::{self, Reason, State},
    topic,
};

use crate::{
    mqtt::{self, Delivery, Message, Qos},
    service::Shared,
};

/// Makes presence messages.
#[derive(Debug, Clone)]
pub struct Presence {
    shared: Arc<Shared>,
}

impl Presence {
    /// Presence of the device that `shared` describes.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Said on a clean stop.
    pub fn goodbye(&self) -> Option<Message> {
        self.message(State::Offline, Some(Reason::Shutdown))
    }

    fn message(&self, state: State, reason: Option<Reason>) -> Option<Message> {
        let identity = &self.shared.identity;
        let device = identity.device();
        let device_id = device.borrow().as_ref()?.device_id.clone();
        let topic = topic::presence(&self.shared.topics.prefix, &device_id);
        let presence = status::Presence {
            device_id,
            state,
            reason,
            timestamp: protocol::Timestamp::from_system_time(self.shared.clock.now()),
            boot_id: identity.boot_id().to_owned(),
            run_id: identity.run_id().to_owned(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            ssh_public_key: self.shared.tunnels.key(),
            services: self.shared.board.states(),
            schema: status::SCHEMA,
        };
        let payload = serde_json::to_vec(&presence).expect("strings and numbers make JSON");
        Some(Message { topic, payload, qos: Qos::AtLeastOnce, retain: true, delivery: Delivery::Live })
    }
}

impl mqtt::Presence for Presence {
    fn birth(&self) -> Option<Message> {
        self.message(State::Online, None)
    }

    fn will(&self) -> Option<Message> {
        self.message(State::Offline, Some(Reason::ConnectionLost))
    }
}
