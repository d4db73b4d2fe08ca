//! What comes in: packets, and what each of them changes.

use std::{io, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{error, warn};

use super::{Link, Lost, Phase};
use crate::mqtt::{
    Ack, Inbound, Qos, Receipt,
    codec::{Incoming, Limits, Nack, Wire},
    frame::Frame,
    queue::Queued,
    router::Routed,
    transport::explain,
};

/// MQTT 5: reason code of DISCONNECT.
const TAKEN_OVER: u8 = 0x8e;
/// A message that a broker has refused so often, over so long a time, without saying that it is for good will never be
/// taken.
const NACKS: u32 = 8;
const NACKS_OVER: Duration = Duration::from_secs(60);

impl Link<'_> {
    /// Bytes came in.
    pub(super) async fn absorb(&mut self, read: io::Result<usize>) -> Result<(), Lost> {
        let read = read.map_err(|error| self.broken(error))?;
        if read == 0 {
            return Err(if self.phase == Phase::Connack { Lost::ClosedBeforeConnack } else { Lost::Closed });
        }
        self.clocks.read = Instant::now();
        self.clocks.ping = None;
        loop {
            match self.framer.next().map_err(Lost::Frame)? {
                Frame::Incomplete => return Ok(()),
                Frame::Packet(first) => {
                    let incoming = self.wire.decode(first, self.framer.body()).map_err(Lost::Codec)?;
                    self.receive(incoming)?;
                    // Whoever got a message handles it before the next: not every broker keeps to Receive
                    // Maximum (mosquitto 2.0.11 does not), and 3.1.1 has none.
                    tokio::task::yield_now().await;
                }
                Frame::Oversized { qos, id, size } => self.skip(qos, id, size),
            }
        }
    }

    pub(super) fn broken(&self, error: io::Error) -> Lost {
        // Under TLS 1.3 a broker refuses our certificate only after the handshake.
        if let Some(reason) = explain(&error) {
            return Lost::Tls(reason);
        }
        let reset = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof);
        if reset && self.phase == Phase::Connack { Lost::ClosedBeforeConnack } else { Lost::Io(error) }
    }

    pub(super) fn skip(&mut self, qos: Qos, id: Option<u16>, size: u64) {
        warn!(size, "message over mqtt.max_packet_size discarded");
        self.shared.state().counters.oversized += 1;
        if let Some(id) = id {
            self.acknowledge(id, qos);
        }
    }

    pub(super) fn receive(&mut self, incoming: Incoming) -> Result<(), Lost> {
        if (self.phase == Phase::Connack)
            != matches!(incoming, Incoming::Connected { .. } | Incoming::Refused(_))
        {
            return Err(Lost::OutOfTurn(if self.phase == Phase::Connack {
                "a packet before CONNACK"
            } else {
                "CONNACK"
            }));
        }
        match incoming {
            Incoming::Connected { session_present, limits } => self.connected(session_present, limits),
            Incoming::Refused(refusal) => return Err(Lost::Refused(refusal)),
            Incoming::Publish { topic, payload, qos, retain, dup, id } => {
                let ack = id.map(|id| Receipt { connection: self.number, id, qos, taken: false });
                let ack = ack.map(|receipt| Ack { shared: Arc::clone(self.shared), receipt });
                self.deliver(Inbound { topic, payload, qos, retain, dup, ack });
            }
            Incoming::PubAck { id, nack } => self.settle(id, nack),
            Incoming::PubRec { id, nack: None } => {
                self.session.received_by_broker(id);
                self.progress();
                self.out.extend(Wire::pubrel(id));
            }
            Incoming::PubRec { id, nack } => self.settle(id, nack),
            Incoming::PubRel { id } => {
                self.session.released(id);
                self.out.extend(Wire::pubcomp(id));
            }
            Incoming::PubComp { id } => {
                if self.session.completed(id) {
                    self.shared.state().queue.relieved();
                }
                self.progress();
            }
            Incoming::SubAck { id, granted } => self.granted(id, &granted)?,
            Incoming::UnsubAck { .. } | Incoming::PingResp => {}
            Incoming::Disconnect { code: TAKEN_OVER, .. } => return Err(Lost::TakenOver),
            Incoming::Disconnect { code, reason } => return Err(Lost::Disconnected { code, reason }),
        }
        Ok(())
    }

    pub(super) fn connected(&mut self, session_present: bool, limits: Limits) {
        // A broker that keeps what we asked it to forget is not believed.
        let session_present = session_present && self.keeps_session;
        let mut state = self.shared.state();
        state.counters.connects += 1;
        state.accepted = Some(Instant::now());
        state.largest = limits.max_packet_size;
        // Anew even where the session is there: a broker that crashed may have restored an older one, without
        // what was subscribed since.
        state.router.resubscribe();
        if !session_present {
            state.router.forget_session();
            let again = self.session.lost();
            state.queue.give_back(again);
        }
        drop(state);
        if let Some(keep_alive) = limits.keep_alive.filter(|seconds| *seconds > 0) {
            self.clocks.keep_alive = self.clocks.keep_alive.min(Duration::from_secs(keep_alive.into()));
        }
        self.limits = limits;
        self.session_present = session_present;
        self.phase = Phase::Up;
    }

    pub(super) fn granted(&mut self, id: u16, granted: &[bool]) -> Result<(), Lost> {
        if self.phase == Phase::Leaving {
            // It was awaited for too long.
            return Ok(());
        }
        let Phase::Subscribing { id: awaited, filters } = &self.phase else {
            return Err(Lost::OutOfTurn("SUBACK"));
        };
        if *awaited != id || filters.len() != granted.len() {
            return Err(Lost::OutOfTurn("SUBACK"));
        }
        let mut state = self.shared.state();
        for (filter, granted) in filters.iter().zip(granted) {
            // A refused one is not asked for again on this session: it would be refused again.
            state.router.subscribed(filter);
            if !granted {
                error!(filter, "the broker refuses this subscription; see its access rules");
            }
        }
        drop(state);
        self.phase = Phase::Up;
        Ok(())
    }

    pub(super) fn deliver(&mut self, message: Inbound) {
        let receipt = message.ack.as_ref().map(|ack| ack.receipt);
        if let Some(Receipt { id, qos: Qos::ExactlyOnce, .. }) = receipt
            && self.session.is_repeated(id)
        {
            message.leave();
            self.out.extend(Wire::pubrec(id));
            return;
        }
        let mut state = self.shared.state();
        let routed = state.router.route(message);
        match routed {
            Routed::Delivered => self.outstanding += usize::from(receipt.is_some()),
            Routed::Full => {
                state.counters.overflowed += 1;
                self.redeliver |= receipt.is_some() && self.keeps_session;
            }
            Routed::Unclaimed => state.counters.unclaimed += 1,
            Routed::NotOurs => {}
        }
        drop(state);
        let gone = routed == Routed::Unclaimed || (routed == Routed::Full && !self.keeps_session);
        if let Some(Receipt { id, qos, .. }) = receipt.filter(|_| gone) {
            self.acknowledge(id, qos);
        }
    }

    /// The broker has a message, or says why it does not take it.
    pub(super) fn settle(&mut self, id: u16, nack: Option<Nack>) {
        match nack {
            None if self.session.acknowledged(id) => self.shared.state().queue.relieved(),
            None => {}
            Some(nack) => {
                if let Some(queued) = self.session.refused(id) {
                    self.nacked(queued, nack);
                }
            }
        }
        self.progress();
    }

    /// What may be taken later waits; all else waits with it, but for live messages. The connection stays: it tells
    /// the world that the device is there.
    fn nacked(&mut self, mut queued: Queued, nack: Nack) {
        let now = Instant::now();
        let (count, since) = queued.nacks.unwrap_or((0, now));
        let count = count + u32::from(!nack.is_busy());
        queued.nacks = Some((count, since));
        let proven = count >= NACKS && now - since >= NACKS_OVER;
        if nack.is_final() || queued.is_live() || proven {
            return self.refuse(queued, nack.to_string());
        }
        warn!(topic = queued.message.topic, reason = %nack, "the broker does not take a message now");
        let mut state = self.shared.state();
        state.queue.give_back(vec![queued]);
        state.queue.busy(self.longest_pause);
    }

    pub(super) fn progress(&mut self) {
        self.clocks.ack = (self.session.in_flight() > 0).then(Instant::now);
    }
}
