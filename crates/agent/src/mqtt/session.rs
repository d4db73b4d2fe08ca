//! The MQTT session as we hold it: what is in flight, by packet identifier, and what QoS 2 has half received.
//!
//! A message stays here until the broker has acknowledged it. It never trusts a connection: after a loss it
//! says what to send again (session kept) or gives every message back (session lost).

use std::collections::{BTreeSet, VecDeque};

use super::{
    Delivery, Outcome, Qos,
    codec::{CodecError, Nack, Wire},
    outbox::Queued,
};

/// Most messages in flight at once, whatever the broker allows.
pub(super) const WINDOW: u16 = 64;

#[derive(Debug)]
enum Stage {
    /// PUBLISH sent, PUBACK or PUBREC awaited.
    Publish,
    /// QoS 2: the broker has it, PUBCOMP awaited.
    Release,
}

#[derive(Debug)]
struct Flight {
    id: u16,
    stage: Stage,
    queued: Queued,
    /// On this connection.
    sent: bool,
    /// On an earlier one.
    dup: bool,
}

/// Messages in flight in the order in which they were first sent.
#[derive(Debug, Default)]
pub(super) struct Session {
    last_id: u16,
    flights: VecDeque<Flight>,
    /// Inbound QoS 2 identifiers whose PUBREC went out and whose PUBREL has not come.
    received: BTreeSet<u16>,
}

impl Session {
    /// Identifiers begin after `last_id`. A process begins anywhere: the broker may still hold a QoS 2 identifier
    /// of the process before, and would take a new message under it for an old one.
    pub(super) fn new(last_id: u16) -> Self {
        Self { last_id, ..Self::default() }
    }

    /// Nothing awaits an acknowledgement.
    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Messages sent on this connection and not acknowledged.
    pub(super) fn in_flight(&self) -> usize {
        self.flights.iter().filter(|flight| flight.sent).count()
    }

    /// Everything on board has been sent on this connection.
    pub(super) fn all_sent(&self) -> bool {
        self.flights.iter().all(|flight| flight.sent)
    }

    /// An identifier that is not in use; also for SUBSCRIBE.
    pub(super) fn fresh_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = self.last_id;
            if !self.flights.iter().any(|flight| flight.id == id) {
                return id;
            }
        }
    }

    /// Takes a QoS 1 or 2 message on board; [`Session::next`] sends it.
    pub(super) fn launch(&mut self, queued: Queued) {
        let id = self.fresh_id();
        self.flights.push_back(Flight { id, stage: Stage::Publish, queued, sent: false, dup: false });
    }

    /// The packet of the first message not yet sent on this connection: in the order of the first time, after
    /// a reconnect too (MQTT 5 section 4.4).
    pub(super) fn next(&mut self, wire: Wire) -> Option<Result<Vec<u8>, CodecError>> {
        let flight = self.flights.iter_mut().find(|flight| !flight.sent)?;
        flight.sent = true;
        Some(match flight.stage {
            Stage::Publish => wire.publish(&flight.queued.message, Some(flight.id), flight.dup),
            Stage::Release => Ok(Wire::pubrel(flight.id).to_vec()),
        })
    }

    /// Takes the message of the packet that could not be built off board.
    pub(super) fn discard_last_sent(&mut self) -> Option<Queued> {
        let index = self.flights.iter().rposition(|flight| flight.sent)?;
        self.flights.remove(index).map(|flight| flight.queued)
    }

    fn take(&mut self, id: u16) -> Option<Queued> {
        let index = self.flights.iter().position(|flight| flight.id == id)?;
        self.flights.remove(index).map(|flight| flight.queued)
    }

    /// PUBACK, or a PUBREC that refuses. Tells a message that should be tried again later.
    pub(super) fn acknowledged(&mut self, id: u16, nack: Option<Nack>) -> Option<Queued> {
        let queued = self.take(id)?;
        match nack {
            None => queued.finish(Outcome::Sent),
            Some(nack) if nack.is_final() || queued.message.delivery == Delivery::Live => {
                queued.finish(Outcome::Refused(nack.to_string()));
            }
            Some(_) => return Some(queued),
        }
        None
    }

    /// PUBREC: the broker has the message; from now on only its release is repeated.
    pub(super) fn received_by_broker(&mut self, id: u16) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.id == id) {
            flight.stage = Stage::Release;
            flight.queued.message.payload = Vec::new();
        }
    }

    /// PUBCOMP.
    pub(super) fn completed(&mut self, id: u16) {
        if let Some(queued) = self.take(id) {
            queued.finish(Outcome::Sent);
        }
    }

    /// The connection is gone. A live message is not repeated: a stale "alive" is a lie. (QoS 2 is kept: its
    /// identifier may still be held by the broker.)
    pub(super) fn interrupted(&mut self) {
        let (kept, live) = std::mem::take(&mut self.flights).into_iter().partition(|flight| {
            flight.queued.message.delivery != Delivery::Live || flight.queued.message.qos == Qos::ExactlyOnce
        });
        self.flights = kept;
        for flight in &mut self.flights {
            flight.dup |= flight.sent;
            flight.sent = false;
        }
        let live: VecDeque<Flight> = live;
        live.into_iter().for_each(|flight| flight.queued.finish(Outcome::Offline));
    }

    /// The broker has no session: gives back what it never acknowledged, in order.
    pub(super) fn lost(&mut self) -> Vec<Queued> {
        self.received.clear();
        let mut again = Vec::new();
        for flight in self.flights.drain(..) {
            match flight.stage {
                Stage::Release => flight.queued.finish(Outcome::Sent),
                Stage::Publish if flight.queued.message.delivery == Delivery::Live => {
                    flight.queued.finish(Outcome::Offline);
                }
                Stage::Publish => again.push(flight.queued),
            }
        }
        again
    }

    /// An inbound QoS 2 message: true when it was taken before and only its PUBREC got lost.
    pub(super) fn is_repeated(&self, id: u16) -> bool {
        self.received.contains(&id)
    }

    /// Inbound QoS 2: its PUBREC goes out.
    pub(super) fn taken(&mut self, id: u16) {
        self.received.insert(id);
    }

    /// Inbound QoS 2: PUBREL came, PUBCOMP goes out.
    pub(super) fn released(&mut self, id: u16) {
        self.received.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{self, Receiver};

    use super::*;
    use crate::mqtt::Message;

    fn launch(session: &mut Session, payload: &str, delivery: Delivery) -> (u16, Receiver<Outcome>) {
        let (done, outcome) = oneshot::channel();
        let message = Message {
            topic: "t".into(),
            payload: payload.into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            delivery,
        };
        session.launch(Queued { message, done });
        let packet = session.next(Wire::V311).unwrap().unwrap();
        (u16::from_be_bytes([packet[5], packet[6]]), outcome)
    }

    #[test]
    fn acknowledgements_may_come_in_any_order() {
        let mut session = Session::default();
        let (first, mut one) = launch(&mut session, "1", Delivery::Memory);
        let (second, mut two) = launch(&mut session, "2", Delivery::Memory);
        assert!(session.acknowledged(second, None).is_none());
        assert_eq!(two.try_recv(), Ok(Outcome::Sent));
        assert!(one.try_recv().is_err());
        assert!(session.acknowledged(first, None).is_none());
        assert!(session.acknowledged(first, None).is_none(), "a second PUBACK is ignored");
        assert_eq!(session.in_flight(), 0);
    }

    #[test]
    fn a_lost_session_gives_everything_back_in_order_but_live_messages() {
        let mut session = Session::default();
        let _one = launch(&mut session, "1", Delivery::Memory);
        let (_, mut live) = launch(&mut session, "2", Delivery::Live);
        let _three = launch(&mut session, "3", Delivery::Durable);
        session.interrupted();
        assert_eq!(live.try_recv(), Ok(Outcome::Offline));
        let again: Vec<_> = session.lost().into_iter().map(|queued| queued.message.payload).collect();
        assert_eq!(again, [b"1", b"3"]);
    }

    #[test]
    fn a_kept_session_repeats_with_the_same_identifiers_and_dup() {
        let mut session = Session::default();
        let (id, _outcome) = launch(&mut session, "1", Delivery::Memory);
        session.interrupted();
        assert!(!session.all_sent());
        let bytes = session.next(Wire::V311).unwrap().unwrap();
        assert_eq!(bytes[0], 0x3a, "PUBLISH, DUP, QoS 1");
        assert_eq!(bytes[5..7], id.to_be_bytes());
    }

    #[test]
    fn a_refusal_for_good_is_final_and_any_other_comes_back() {
        let mut session = Session::default();
        let (id, mut outcome) = launch(&mut session, "1", Delivery::Memory);
        assert!(session.acknowledged(id, Some(Nack { code: 0x87 })).is_none());
        assert_eq!(outcome.try_recv(), Ok(Outcome::Refused("not authorised (0x87)".into())));
        let (id, _outcome) = launch(&mut session, "2", Delivery::Memory);
        assert!(session.acknowledged(id, Some(Nack { code: 0x97 })).is_some());
    }

    #[test]
    fn identifiers_wrap_and_skip_those_in_use() {
        let mut session = Session::default();
        let (first, _outcome) = launch(&mut session, "1", Delivery::Memory);
        session.last_id = u16::MAX;
        assert_eq!((first, session.fresh_id()), (1, 2));
    }
}
