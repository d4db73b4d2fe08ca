//! The MQTT session as we hold it: what is in flight, by packet identifier, and what QoS 2 has half received.
//!
//! A message stays here until the broker has acknowledged it. It never trusts a connection: after a loss it
//! says what to send again (session kept) or gives every message back (session lost).

use std::collections::{BTreeSet, VecDeque};

use tokio::time::{Duration, Instant};

use super::{
    Outcome, Qos,
    codec::{CodecError, Wire},
    queue::Queued,
};

/// Most messages in flight at once, whatever the broker allows.
pub(super) const WINDOW: u16 = 64;
/// Most bytes in flight at once, unless it is a single message.
const WINDOW_BYTES: usize = 512 * 1024;

/// Messages of QoS 2 have the identifiers up to this, all else has those above it.
const EXACT_IDS: u16 = WINDOW;

/// So many connections in a row that the broker ended with the same message alone in flight, over so long a time, are
/// the fault of that message: a broker that knows no better way, as under 3.1.1, ends the connection on it.
const STRIKES: u32 = 5;
const STRIKES_OVER: Duration = Duration::from_secs(20);

/// What the end of a connection says of the messages that were in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// Nothing: there was none, or the broker gave another reason.
    Nothing,
    /// The network broke.
    Network,
    /// The broker ended it, perhaps because of a message.
    Perhaps,
    /// The broker ended it because of a message.
    Message,
}

#[derive(Debug, PartialEq, Eq)]
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
    /// Since when the broker has acknowledged, on this connection, one that was sent later.
    overtaken: Option<Instant>,
}

impl Flight {
    fn encode(&mut self, wire: Wire) -> Result<Vec<u8>, CodecError> {
        self.sent = true;
        match self.stage {
            Stage::Publish => wire.publish(&self.queued.message, Some(self.id), self.dup),
            Stage::Release => Ok(Wire::pubrel(self.id).to_vec()),
        }
    }
}

/// A packet to send, or the message of which none can be built; it is off board then.
pub(super) type Encoded = Result<Vec<u8>, Box<(Queued, CodecError)>>;

/// What the broker may hold of QoS 2 for the process before this one: it takes a new message under such an identifier
/// for an old one, and drops it. So before the first one all of them are released, unasked.
#[derive(Debug, Default, PartialEq, Eq)]
enum Inherited {
    /// It has no session of before, or has answered.
    #[default]
    Nothing,
    /// To be released on this connection.
    Unknown,
    /// Released on this connection, not known to have arrived.
    Released,
}

/// Messages in flight in the order in which they were first sent.
#[derive(Debug, Default)]
pub(super) struct Session {
    last_id: u16,
    flights: VecDeque<Flight>,
    /// Inbound QoS 2 identifiers whose PUBREC went out and whose PUBREL has not come.
    received: BTreeSet<u16>,
    /// So many messages are sent one by one, since one of them may be why the broker ended the connection.
    careful: usize,
    inherited: Inherited,
}

impl Session {
    /// That of a new process: the broker may still have the one of the process before.
    pub(super) fn new() -> Self {
        Self { inherited: Inherited::Unknown, ..Self::default() }
    }

    /// Nothing awaits an acknowledgement.
    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Messages sent on this connection and not acknowledged.
    pub(super) fn in_flight(&self) -> usize {
        self.sent().count()
    }

    fn sent(&self) -> impl Iterator<Item = &Flight> {
        self.flights.iter().filter(|flight| flight.sent)
    }

    /// How large the next message may be where the broker takes `window` at once; none while it has to wait. The last
    /// place is for a live message: it does not wait until one of those that were old already is acknowledged.
    pub(super) fn room(&self, window: u16, live: bool) -> Option<usize> {
        let window = if self.careful > 0 { 1 } else { usize::from(window.min(WINDOW)) };
        let window = if live { window } else { window.saturating_sub(1).max(1) };
        let (count, bytes) =
            self.sent().fold((0, 0), |(count, bytes), flight| (count + 1, bytes + flight.queued.size()));
        match count {
            0 => Some(usize::MAX),
            _ if count < window => Some(WINDOW_BYTES.saturating_sub(bytes)),
            _ => None,
        }
    }

    /// An identifier that is not in use; also for SUBSCRIBE.
    pub(super) fn fresh_id(&mut self) -> u16 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(0).max(EXACT_IDS + 1);
            let id = self.last_id;
            if !self.flights.iter().any(|flight| flight.id == id) {
                return id;
            }
        }
    }

    /// Takes a QoS 1 or 2 message on board; its packet is to be sent now, before what has to be sent again.
    pub(super) fn launch(&mut self, queued: Queued, wire: Wire) -> Encoded {
        let exact = queued.message.qos == Qos::ExactlyOnce;
        let is_free = |id: &u16| !self.flights.iter().any(|flight| flight.id == *id);
        let reserved = if exact { (1..=EXACT_IDS).find(is_free) } else { None };
        let id = reserved.unwrap_or_else(|| self.fresh_id());
        self.flights.push_back(Flight {
            id,
            stage: Stage::Publish,
            queued,
            sent: false,
            dup: false,
            overtaken: None,
        });
        self.encode(self.flights.len() - 1, wire)
    }

    /// The packet of the first message not yet sent on this connection: in the order of the first time, after
    /// a reconnect too (MQTT 5 section 4.4).
    pub(super) fn next(&mut self, wire: Wire) -> Option<Encoded> {
        let index = self.flights.iter().position(|flight| !flight.sent)?;
        Some(self.encode(index, wire))
    }

    fn encode(&mut self, index: usize, wire: Wire) -> Encoded {
        let exact = self.flights[index].queued.message.qos == Qos::ExactlyOnce;
        match self.flights[index].encode(wire) {
            Ok(packet) if exact && self.inherited == Inherited::Unknown => {
                self.inherited = Inherited::Released;
                Ok((1..=EXACT_IDS).flat_map(Wire::pubrel).chain(packet).collect())
            }
            Ok(packet) => Ok(packet),
            Err(error) => {
                let flight = self.flights.remove(index).expect("it was encoded just now");
                Err(Box::new((flight.queued, error)))
            }
        }
    }

    fn take(&mut self, id: u16) -> Option<Flight> {
        let index = self.flights.iter().position(|flight| flight.id == id)?;
        self.careful = self.careful.saturating_sub(1);
        let now = Instant::now();
        for earlier in self.flights.iter_mut().take(index).filter(|flight| flight.sent) {
            earlier.overtaken.get_or_insert(now);
        }
        self.flights.remove(index)
    }

    /// Since when a message has been passed over by the broker, which answers those after it: it may have forgotten it.
    pub(super) fn overtaken(&self) -> Option<Instant> {
        self.flights.iter().filter_map(|flight| flight.overtaken).min()
    }

    /// PUBACK: the broker has the message. True where it was one that had to wait for its turn.
    pub(super) fn acknowledged(&mut self, id: u16) -> bool {
        let Some(Flight { queued, .. }) = self.take(id) else { return false };
        let waited = !queued.is_live();
        queued.finish(Outcome::Sent);
        waited
    }

    /// PUBCOMP, as [`Session::acknowledged`]; or the broker's answer to the release of what it may have inherited.
    pub(super) fn completed(&mut self, id: u16) -> bool {
        if id == EXACT_IDS {
            self.inherited = Inherited::Nothing;
        }
        let released = |flight: &Flight| flight.id == id && flight.stage == Stage::Release;
        self.flights.iter().any(released) && self.acknowledged(id)
    }

    /// PUBACK or PUBREC that refuses: gives the message back.
    pub(super) fn refused(&mut self, id: u16) -> Option<Queued> {
        let flight = self.take(id)?;
        match flight.stage {
            Stage::Publish => Some(flight.queued),
            // It had said that it has it.
            Stage::Release => {
                flight.queued.finish(Outcome::Sent);
                None
            }
        }
    }

    /// PUBREC: the broker has the message; from now on only its release is repeated.
    pub(super) fn received_by_broker(&mut self, id: u16) {
        if let Some(flight) = self.flights.iter_mut().find(|flight| flight.id == id) {
            flight.stage = Stage::Release;
            flight.queued.message.payload = Vec::new();
        }
    }

    /// The connection has ended, which may be the fault of a message that was in flight: gives it back when there is
    /// no doubt left. Until then what was in flight is sent one by one.
    pub(super) fn blame(&mut self, blame: Blame) -> Option<Queued> {
        if blame == Blame::Network {
            self.flights.iter_mut().for_each(|flight| flight.queued.strikes = None);
        }
        let in_flight = self.in_flight();
        if in_flight == 0 || matches!(blame, Blame::Nothing | Blame::Network) {
            return None;
        }
        self.careful = self.careful.max(in_flight);
        let suspect =
            |flight: &Flight| flight.sent && flight.stage == Stage::Publish && !flight.queued.is_live();
        let index = self.flights.iter().position(suspect).filter(|_| in_flight == 1)?;
        let now = Instant::now();
        let (strikes, since) = self.flights[index].queued.strikes.unwrap_or((0, now));
        self.flights[index].queued.strikes = Some((strikes + 1, since));
        let proven = strikes + 1 >= STRIKES && now - since >= STRIKES_OVER;
        if !proven && blame != Blame::Message {
            return None;
        }
        self.careful -= 1;
        self.flights.remove(index).map(|flight| flight.queued)
    }

    /// A message on board is likely to be why the broker ends connections.
    pub(super) fn has_suspect(&self) -> bool {
        self.flights.iter().any(|flight| flight.queued.strikes.is_some_and(|(strikes, _)| strikes > 1))
    }

    /// The connection is gone. A live message is not repeated: a stale "alive" is a lie. (QoS 2 is kept: its
    /// identifier may still be held by the broker.)
    pub(super) fn interrupted(&mut self) {
        let (kept, live): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.flights)
            .into_iter()
            .partition(|flight| !flight.queued.is_live() || flight.queued.message.qos == Qos::ExactlyOnce);
        self.flights = kept;
        if self.inherited == Inherited::Released {
            self.inherited = Inherited::Unknown;
        }
        for flight in &mut self.flights {
            flight.dup |= flight.sent;
            flight.sent = false;
            flight.overtaken = None;
        }
        live.into_iter().for_each(|flight| flight.queued.finish(Outcome::Offline));
    }

    /// The broker has no session: gives back what it never acknowledged, in order.
    pub(super) fn lost(&mut self) -> Vec<Queued> {
        self.received.clear();
        self.inherited = Inherited::Nothing;
        let mut again = Vec::new();
        for flight in self.flights.drain(..) {
            match flight.stage {
                Stage::Release => flight.queued.finish(Outcome::Sent),
                Stage::Publish if flight.queued.is_live() => flight.queued.finish(Outcome::Offline),
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
mod tests;
