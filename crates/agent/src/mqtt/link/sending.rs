//! What goes out: subscriptions, the birth, messages.

use tokio::time::Instant;
use tracing::{error, info};

use super::{AHEAD, Link, Lost, Phase, unawaited};
use crate::mqtt::{Connection, Outcome, Presence, Qos, outbox::Queued, session::WINDOW};

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
    pub(super) fn bear(&mut self, presence: &dyn Presence) -> Result<(), Lost> {
        self.born = true;
        if let Some(birth) = presence.birth() {
            self.send(unawaited(birth))?;
        }
        let mut state = self.shared.state();
        (state.up, state.lost) = (true, None);
        drop(state);
        let (version, session_present) = (self.wire.name(), self.session_present);
        info!(version, session_present, "connected");
        self.shared.connection.send_replace(Connection::Connected { version, session_present });
        Ok(())
    }

    /// Sends what was in flight before, then what waits, as far as the window and the socket allow.
    pub(super) fn fill(&mut self) -> Result<(), Lost> {
        let window = usize::from(self.limits.receive_maximum.min(WINDOW));
        while self.out.len() - self.written < AHEAD && self.session.in_flight() < window {
            if self.session.all_sent() {
                let Some(queued) = self.shared.state().outbox.pop() else { return Ok(()) };
                self.send(queued)?;
            } else {
                self.send_next()?;
            }
        }
        Ok(())
    }

    /// Puts one message on the wire, whatever the window says.
    pub(super) fn send(&mut self, mut queued: Queued) -> Result<(), Lost> {
        let message = &mut queued.message;
        message.qos = message.qos.min(self.limits.max_qos);
        message.retain &= self.limits.retain;
        let size = message.topic.len() + message.payload.len() + 16;
        if self.limits.max_packet_size.is_some_and(|max| size > max as usize) {
            self.refuse(queued, "packet too large for the broker");
            return Ok(());
        }
        if message.qos > Qos::AtMostOnce {
            self.session.launch(queued);
            return self.send_next();
        }
        match self.wire.publish(message, None, false) {
            Ok(bytes) => {
                self.out.extend(bytes);
                queued.finish(Outcome::Sent);
            }
            Err(error) => self.refuse(queued, &error.to_string()),
        }
        Ok(())
    }

    pub(super) fn send_next(&mut self) -> Result<(), Lost> {
        match self.session.next(self.wire) {
            Some(Ok(bytes)) => {
                self.out.extend(bytes);
                self.clocks.ack.get_or_insert_with(Instant::now);
            }
            Some(Err(error)) => {
                if let Some(queued) = self.session.discard_last_sent() {
                    self.refuse(queued, &error.to_string());
                }
            }
            None => {}
        }
        Ok(())
    }

    pub(super) fn refuse(&self, queued: Queued, reason: &str) {
        error!(topic = queued.message.topic, reason, "message refused for good");
        self.shared.state().counters.refused += 1;
        queued.finish(Outcome::Refused(reason.to_owned()));
    }
}
