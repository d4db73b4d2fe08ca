//! What goes out: subscriptions, the birth, messages.

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{AHEAD, Link, Lost, Phase};
use crate::mqtt::{AROUND, Connection, Outcome, Presence, Qos, queue::Queued, session::Encoded};

impl Link<'_> {
    /// Subscribes what is claimed and not subscribed. True while its SUBACK is awaited.
    pub(super) fn subscribe(&mut self) -> Result<bool, Lost> {
        let (add, remove) = {
            let mut state = self.shared.state();
            if !state.router.has_changes() {
                return Ok(false);
            }
            state.router.changes()
        };
        if !remove.is_empty() {
            let id = self.session.fresh_id();
            self.out.extend(self.wire.unsubscribe(id, &remove).map_err(Lost::Encode)?);
        }
        if add.is_empty() {
            return Ok(false);
        }
        let id = self.session.fresh_id();
        self.out.extend(self.wire.subscribe(id, &add).map_err(Lost::Encode)?);
        let filters = add.into_iter().map(|(filter, _)| filter).collect();
        self.phase = Phase::Subscribing { id, filters };
        self.clocks.phase = Instant::now();
        Ok(true)
    }

    /// The birth goes out, and with it the connection is up.
    pub(super) fn bear(&mut self, presence: &dyn Presence) {
        self.born = true;
        if let Some(birth) = presence.birth() {
            self.send(Queued::unawaited(birth));
        }
        let mut state = self.shared.state();
        (state.up, state.lost) = (true, None);
        drop(state);
        let (version, session_present) = (self.wire.name(), self.session_present);
        info!(version, session_present, "connected");
        if self.limits.max_qos == Qos::AtMostOnce {
            warn!(
                "the broker takes QoS 0 only: nothing is acknowledged, and what is lost on the way is lost"
            );
        }
        self.shared.connection.send_replace(Connection::Connected { version, session_present });
    }

    /// Sends live messages, what was in flight before, then what waits, as far as the window and the socket allow.
    pub(super) fn fill(&mut self) {
        let window = self.limits.receive_maximum;
        while self.out.len() - self.written < AHEAD
            && let Some(room) = self.session.room(window, true)
        {
            let mut state = self.shared.state();
            let live = state.queue.pop_live(room);
            let others = self.session.room(window, false).filter(|_| live.is_none());
            let again = others.and_then(|_| self.session.next(self.wire));
            let next = if again.is_none() { live.or_else(|| state.queue.pop(others?)) } else { None };
            drop(state);
            match (again, next) {
                (Some(encoded), _) => self.encoded(encoded),
                (None, Some(queued)) => self.send(queued),
                (None, None) => return,
            }
        }
    }

    /// Puts one message on the wire, whatever the window says.
    pub(super) fn send(&mut self, mut queued: Queued) {
        let message = &mut queued.message;
        message.qos = message.qos.min(self.limits.max_qos);
        message.retain &= self.limits.retain;
        let size = message.topic.len() + message.payload.len() + AROUND;
        if self.limits.max_packet_size.is_some_and(|max| size > max as usize) {
            return self.refuse(queued, "packet too large for the broker".to_owned());
        }
        if message.qos > Qos::AtMostOnce {
            let encoded = self.session.launch(queued, self.wire);
            return self.encoded(encoded);
        }
        match self.wire.publish(message, None, false) {
            Ok(bytes) => {
                self.put(&bytes);
                queued.finish(Outcome::Sent);
            }
            Err(error) => self.refuse(queued, error.to_string()),
        }
    }

    /// Puts a message behind those that wait. There is room for a power of two, so that one a digit longer than all before does
    /// not double the buffer.
    fn put(&mut self, bytes: &[u8]) {
        let wanted = (self.out.len() + bytes.len()).next_power_of_two();
        self.out.reserve_exact(wanted - self.out.len());
        self.out.extend_from_slice(bytes);
    }

    fn encoded(&mut self, encoded: Encoded) {
        match encoded {
            Ok(bytes) => {
                self.put(&bytes);
                self.clocks.ack.get_or_insert_with(Instant::now);
            }
            Err(failed) => {
                let (queued, error) = *failed;
                self.refuse(queued, error.to_string());
            }
        }
    }

    pub(super) fn refuse(&self, queued: Queued, reason: String) {
        error!(topic = queued.message.topic, reason, "message refused for good");
        self.shared.state().queue.refuse(queued, reason);
    }
}
