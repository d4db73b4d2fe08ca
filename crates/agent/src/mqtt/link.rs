//! One connection: CONNECT, the subscriptions, the birth, then messages both ways until it ends.
//!
//! Order is its promise: after a CONNACK nothing is published before the subscriptions are granted, and
//! nothing before the birth. Every wait for the broker has a deadline.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf},
    time::{Instant, sleep_until},
};
use tracing::{debug, error, info, warn};

use super::{
    Ack, Connection, Inbound, Message, Outcome, Presence, Qos, Receipt, Settings, Shared,
    codec::{CodecError, Connect, Incoming, Limits, Nack, Refusal, Wire},
    driver::DialError,
    frame::{Frame, FrameError, Framer},
    outbox::Queued,
    router::Routed,
    session::{Session, WINDOW},
    transport::{Stream, explain},
};

/// How long the broker may take for CONNACK, for a SUBACK, for any PUBACK while messages are in flight, and
/// for taking bytes from us.
const PATIENCE: Duration = Duration::from_secs(20);
/// No more is encoded ahead of what the socket takes.
const AHEAD: usize = 16 * 1024;
/// With so much unsent nothing more is read: the answers to a broker that talks and does not listen are bounded.
const BACKLOG: usize = 4 * AHEAD;
/// Messages taken from the broker and not acknowledged, at most, where no claim is smaller.
const RECEIVE_MAXIMUM: u16 = 32;

/// How a connection ended when nothing went wrong.
pub(super) enum End {
    /// Asked to stop.
    Stopped,
    /// Asked to connect anew.
    Again,
}

/// Why a connection was lost or never came to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error("cannot reach the broker")]
    Dial(#[source] DialError),
    #[error("no answer in time: {0}")]
    Timeout(&'static str),
    #[error("the broker refused the connection: {}", refusal(*.0))]
    Refused(Refusal),
    #[error("the broker closed the connection before CONNACK")]
    ClosedBeforeConnack,
    #[error("the broker closed the connection")]
    Closed,
    #[error("the broker ended the connection: {0}")]
    Disconnected(String),
    #[error("another client took over the session")]
    TakenOver,
    #[error("{0}")]
    Tls(String),
    #[error("connection broken")]
    Io(#[source] io::Error),
    #[error("the broker sent something that is no MQTT")]
    Frame(#[source] FrameError),
    #[error("the broker sent something malformed")]
    Codec(#[source] CodecError),
    #[error("cannot build a packet")]
    Encode(#[source] CodecError),
    /// Trying again at once would be a loop: the back-off is the pause.
    #[error("the broker cannot take a message now: {0}")]
    Busy(Nack),
    #[error("the broker sent {0} out of turn")]
    OutOfTurn(&'static str),
}

fn refusal(refusal: Refusal) -> String {
    match refusal {
        Refusal::Version => "it does not speak this MQTT version; see mqtt.version".into(),
        Refusal::BadCredentials => {
            "bad user name or password; see mqtt.username and mqtt.password_file".into()
        }
        Refusal::NotAuthorised => "not authorised".into(),
        Refusal::ClientId => "it does not accept the client id; see mqtt.client_id".into(),
        Refusal::Other(code) => format!("reason 0x{code:02x}"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// CONNECT is on its way.
    Connack,
    /// SUBSCRIBE is on its way; nothing is published until its SUBACK.
    Subscribing { id: u16, filters: Vec<String> },
    /// Messages flow.
    Up,
    /// The goodbye is on its way, then DISCONNECT.
    Leaving,
}

/// One connection and what it borrows from the driver.
pub(super) struct Link<'a> {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    framer: Framer,
    out: Vec<u8>,
    /// How much of `out` the socket has taken.
    written: usize,
    unflushed: bool,
    wire: Wire,
    number: u64,
    shared: &'a Arc<Shared>,
    session: &'a mut Session,
    phase: Phase,
    born: bool,
    limits: Limits,
    session_present: bool,
    clocks: Clocks,
    /// Messages handed to inboxes and not settled.
    outstanding: usize,
    /// Something stayed unacknowledged: connect anew, so that it comes again.
    redeliver: bool,
    /// Without a session nothing comes again.
    keeps_session: bool,
}

/// Since when each thing is awaited.
struct Clocks {
    began: Instant,
    phase: Instant,
    read: Instant,
    wrote: Instant,
    /// Bytes wait that the socket does not take.
    stalled: Option<Instant>,
    /// A PINGREQ is unanswered.
    ping: Option<Instant>,
    /// Messages are in flight: since the first, or the last acknowledgement.
    ack: Option<Instant>,
    keep_alive: Duration,
}

impl Clocks {
    fn new(keep_alive: Duration) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            phase: now,
            read: now,
            wrote: now,
            stalled: None,
            ping: None,
            ack: None,
            keep_alive,
        }
    }
}

impl<'a> Link<'a> {
    pub(super) fn new(
        stream: Stream,
        wire: Wire,
        number: u64,
        shared: &'a Arc<Shared>,
        session: &'a mut Session,
    ) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            framer: Framer::new(0),
            out: Vec::new(),
            written: 0,
            unflushed: false,
            wire,
            number,
            shared,
            session,
            phase: Phase::Connack,
            born: false,
            limits: Limits::default(),
            session_present: false,
            clocks: Clocks::new(PATIENCE),
            outstanding: 0,
            redeliver: false,
            keeps_session: false,
        }
    }

    /// Runs the connection to its end.
    pub(super) async fn run(mut self, settings: &Settings, presence: &dyn Presence) -> Result<End, Lost> {
        self.framer = Framer::new(settings.max_packet_size);
        self.clocks.keep_alive = settings.keep_alive;
        self.keeps_session = !settings.session_expiry.is_zero();
        self.connect(settings, presence.will().as_ref())?;
        loop {
            if let Some(end) = self.pump(presence)? {
                return self.finish(end).await;
            }
            if self.written < self.out.len() {
                self.clocks.stalled.get_or_insert_with(Instant::now);
            }
            let deadline = self.deadline();
            let unsent = self.out.len() - self.written;
            let idle = unsent == 0;
            tokio::select! {
                read = self.reader.read_buf(self.framer.buffer()), if unsent < BACKLOG => self.absorb(read).await?,
                wrote = push(&mut self.writer, &self.out[self.written..]), if !idle || self.unflushed => {
                    self.advance(wrote)?;
                }
                () = self.shared.wake.notified() => {}
                () = sleep_until(deadline) => self.expire()?,
            }
        }
    }

    fn connect(&mut self, settings: &Settings, will: Option<&Message>) -> Result<(), Lost> {
        let credentials = &settings.credentials;
        let smallest = self.shared.state().router.smallest();
        let receive_maximum = smallest.and_then(|n| u16::try_from(n).ok()).unwrap_or(RECEIVE_MAXIMUM);
        let connect = Connect {
            client_id: &settings.client_id,
            username: credentials.username.as_deref(),
            password: credentials.password.as_ref().map(|password| password.as_slice()),
            // Rounded up, and not to 0, which would be never: we ping at the exact time, the broker gives half as
            // much again.
            keep_alive: u16::try_from(settings.keep_alive.as_millis().div_ceil(1000)).unwrap_or(u16::MAX),
            clean_start: settings.session_expiry.is_zero(),
            session_expiry: u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX),
            receive_maximum: receive_maximum.min(RECEIVE_MAXIMUM),
            max_packet_size: settings.max_packet_size,
            will,
        };
        self.out = self.wire.connect(&connect).map_err(Lost::Encode)?;
        Ok(())
    }

    /// Encodes whatever may be sent now. Tells when there is nothing left to do here.
    fn pump(&mut self, presence: &dyn Presence) -> Result<Option<End>, Lost> {
        self.answer();
        let late = self.is_late();
        match self.phase {
            Phase::Connack => return Ok(late.then_some(End::Stopped)),
            Phase::Subscribing { .. } if !late => return Ok(None),
            Phase::Leaving => return Ok(self.left()),
            // The SUBACK does not come: without the goodbye an "online" would outlive us.
            Phase::Subscribing { .. } => {
                self.leave()?;
                return Ok(self.left());
            }
            Phase::Up => {}
        }
        // Before the birth: an "online" without a will behind it could outlive us. Not when we are leaving: there
        // will be no other connection for the goodbye.
        let again = std::mem::take(&mut self.shared.state().reconnect) || self.redelivers();
        if again && self.shared.state().stop.is_none() {
            return Ok(Some(End::Again));
        }
        if self.subscribe()? {
            return Ok(None);
        }
        if !self.born {
            self.bear(presence)?;
        }
        self.fill()?;
        self.leave()?;
        Ok(if self.phase == Phase::Leaving { self.left() } else { None })
    }

    /// Asked to stop, and the time for what waits is up.
    fn is_late(&self) -> bool {
        self.shared.state().stop.as_ref().is_some_and(|stop| Instant::now() >= stop.by)
    }

    /// Acknowledges what has been taken responsibility for.
    fn answer(&mut self) {
        let receipts = std::mem::take(&mut self.shared.state().acks);
        let number = self.number;
        for receipt in receipts.into_iter().filter(|receipt| receipt.connection == number) {
            self.outstanding -= 1;
            if receipt.taken {
                self.acknowledge(receipt.id, receipt.qos);
            } else {
                self.redeliver = self.keeps_session;
            }
        }
    }

    /// Everything that could be handled has been, and what could not can be now.
    fn redelivers(&self) -> bool {
        self.redeliver
            && self.outstanding == 0
            && self.clocks.began + SETTLE <= Instant::now()
            && !self.shared.state().router.has_vacancy()
    }

    fn acknowledge(&mut self, id: u16, qos: Qos) {
        match qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.out.extend(Wire::puback(id)),
            Qos::ExactlyOnce => {
                self.session.taken(id);
                self.out.extend(Wire::pubrec(id));
            }
        }
    }

    /// Subscribes what is claimed and not subscribed. True while its SUBACK is awaited.
    fn subscribe(&mut self) -> Result<bool, Lost> {
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
    fn bear(&mut self, presence: &dyn Presence) -> Result<(), Lost> {
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
    fn fill(&mut self) -> Result<(), Lost> {
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
    fn send(&mut self, mut queued: Queued) -> Result<(), Lost> {
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

    fn send_next(&mut self) -> Result<(), Lost> {
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

    fn refuse(&self, queued: Queued, reason: &str) {
        error!(topic = queued.message.topic, reason, "message refused for good");
        self.shared.state().counters.refused += 1;
        queued.finish(Outcome::Refused(reason.to_owned()));
    }

    /// Begins to leave once everything has been sent, or the time for that is up.
    fn leave(&mut self) -> Result<(), Lost> {
        let goodbye = {
            let mut state = self.shared.state();
            let empty = state.outbox.is_empty() && self.session.is_idle();
            match &mut state.stop {
                Some(stop) if empty || Instant::now() >= stop.by => stop.goodbye.take(),
                _ => return Ok(()),
            }
        };
        self.phase = Phase::Leaving;
        self.clocks.phase = Instant::now();
        if let Some(goodbye) = goodbye {
            self.send(unawaited(goodbye))?;
        }
        Ok(())
    }

    /// Everything is acknowledged, or the broker took too long.
    fn left(&self) -> Option<End> {
        let patience = self.clocks.phase + LEAVING;
        (self.session.is_idle() || Instant::now() >= patience).then_some(End::Stopped)
    }

    /// DISCONNECT, so that the broker drops the will: but where no goodbye could be said, the will has to say that
    /// we are gone, lest an "online" of an earlier connection stays.
    async fn finish(mut self, end: End) -> Result<End, Lost> {
        if self.phase == Phase::Leaving || matches!(end, End::Again) {
            self.out.extend(Wire::DISCONNECT);
        }
        let bye = async {
            self.writer.write_all(&self.out[self.written..]).await?;
            self.writer.flush().await?;
            self.writer.shutdown().await
        };
        if let Ok(Err(error)) | Err(error) = tokio::time::timeout(LEAVING, bye).await.map_err(io::Error::from)
        {
            debug!(%error, "the connection did not end cleanly");
        }
        Ok(end)
    }

    /// The socket took bytes, or has flushed the last of them.
    fn advance(&mut self, wrote: io::Result<usize>) -> Result<(), Lost> {
        let wrote = wrote.map_err(Lost::Io)?;
        if self.written == self.out.len() {
            self.unflushed = false;
            return Ok(());
        }
        if wrote == 0 {
            return Err(Lost::Closed);
        }
        self.written += wrote;
        self.clocks.wrote = Instant::now();
        self.clocks.stalled = None;
        self.unflushed = true;
        // Also in between: on a slow line with a backlog it is never empty.
        if self.written == self.out.len() || self.written >= AHEAD {
            self.out.drain(..self.written);
            self.out.shrink_to(AHEAD);
            self.written = 0;
        }
        Ok(())
    }

    /// Bytes came in.
    async fn absorb(&mut self, read: io::Result<usize>) -> Result<(), Lost> {
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

    fn broken(&self, error: io::Error) -> Lost {
        // Under TLS 1.3 a broker refuses our certificate only after the handshake.
        if let Some(reason) = explain(&error) {
            return Lost::Tls(reason);
        }
        let reset = matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof);
        if reset && self.phase == Phase::Connack { Lost::ClosedBeforeConnack } else { Lost::Io(error) }
    }

    fn skip(&mut self, qos: Qos, id: Option<u16>, size: u64) {
        warn!(size, "message over mqtt.max_packet_size discarded");
        self.shared.state().counters.oversized += 1;
        if let Some(id) = id {
            self.acknowledge(id, qos);
        }
    }

    fn receive(&mut self, incoming: Incoming) -> Result<(), Lost> {
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
            Incoming::PubAck { id, nack } => self.settle(id, nack)?,
            Incoming::PubRec { id, nack: None } => {
                self.session.received_by_broker(id);
                self.progress();
                self.out.extend(Wire::pubrel(id));
            }
            Incoming::PubRec { id, nack } => self.settle(id, nack)?,
            Incoming::PubRel { id } => {
                self.session.released(id);
                self.out.extend(Wire::pubcomp(id));
            }
            Incoming::PubComp { id } => {
                self.session.completed(id);
                self.progress();
            }
            Incoming::SubAck { id, granted } => self.granted(id, &granted)?,
            Incoming::UnsubAck { .. } | Incoming::PingResp => {}
            Incoming::Disconnect { taken_over: true, .. } => return Err(Lost::TakenOver),
            Incoming::Disconnect { reason, .. } => return Err(Lost::Disconnected(reason)),
        }
        Ok(())
    }

    fn connected(&mut self, session_present: bool, limits: Limits) {
        // A broker that keeps what we asked it to forget is not believed.
        let session_present = session_present && self.keeps_session;
        let mut state = self.shared.state();
        state.counters.connects += 1;
        state.accepted = Some(Instant::now());
        // Anew even where the session is there: a broker that crashed may have restored an older one, without
        // what was subscribed since.
        state.router.resubscribe();
        if !session_present {
            state.router.forget_session();
            let again = self.session.lost();
            state.outbox.restore(again);
        }
        drop(state);
        if let Some(keep_alive) = limits.keep_alive.filter(|seconds| *seconds > 0) {
            self.clocks.keep_alive = self.clocks.keep_alive.min(Duration::from_secs(keep_alive.into()));
        }
        self.limits = limits;
        self.session_present = session_present;
        self.phase = Phase::Up;
    }

    fn granted(&mut self, id: u16, granted: &[bool]) -> Result<(), Lost> {
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

    fn deliver(&mut self, message: Inbound) {
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
        }
        drop(state);
        if let (Routed::Unclaimed, Some(Receipt { id, qos, .. })) = (routed, receipt) {
            self.acknowledge(id, qos);
        }
    }

    fn settle(&mut self, id: u16, nack: Option<Nack>) -> Result<(), Lost> {
        if let Some(nack) = nack {
            warn!(reason = %nack, "the broker refused a message");
            self.shared.state().counters.refused += u64::from(nack.is_final());
        }
        let again = self.session.acknowledged(id, nack);
        self.progress();
        match (again, nack) {
            (Some(again), Some(nack)) => {
                self.shared.state().outbox.restore(vec![again]);
                Err(Lost::Busy(nack))
            }
            _ => Ok(()),
        }
    }

    fn progress(&mut self) {
        self.clocks.ack = (self.session.in_flight() > 0).then(Instant::now);
    }

    /// When something has to be done even if nothing happens.
    fn deadline(&self) -> Instant {
        let clocks = &self.clocks;
        let mut deadline = match clocks.ping {
            Some(sent) => sent + clocks.keep_alive / 2,
            None if self.phase == Phase::Connack => clocks.phase + PATIENCE,
            None => clocks.read.min(clocks.wrote) + clocks.keep_alive,
        };
        for since in [clocks.stalled, clocks.ack].into_iter().flatten() {
            deadline = deadline.min(since + PATIENCE);
        }
        match self.phase {
            Phase::Connack | Phase::Subscribing { .. } => deadline = deadline.min(clocks.phase + PATIENCE),
            Phase::Leaving => deadline = deadline.min(clocks.phase + LEAVING),
            Phase::Up if self.redeliver && clocks.began + SETTLE > Instant::now() => {
                deadline = deadline.min(clocks.began + SETTLE);
            }
            Phase::Up => {}
        }
        match &self.shared.state().stop {
            Some(stop) if self.phase != Phase::Leaving => deadline.min(stop.by),
            _ => deadline,
        }
    }

    /// The deadline has passed: pings, or gives up.
    fn expire(&mut self) -> Result<(), Lost> {
        let now = Instant::now();
        let clocks = &mut self.clocks;
        let over = |since: Instant, patience: Duration| now >= since + patience;
        match self.phase {
            Phase::Connack if over(clocks.phase, PATIENCE) => return Err(Lost::Timeout("CONNACK")),
            Phase::Subscribing { .. } if over(clocks.phase, PATIENCE) => return Err(Lost::Timeout("SUBACK")),
            _ => {}
        }
        if clocks.stalled.is_some_and(|since| over(since, PATIENCE)) {
            return Err(Lost::Timeout("the broker takes no data"));
        }
        if clocks.ack.is_some_and(|since| over(since, PATIENCE)) {
            return Err(Lost::Timeout("PUBACK"));
        }
        match clocks.ping {
            Some(sent) if over(sent, clocks.keep_alive / 2) => return Err(Lost::Timeout("PINGRESP")),
            None if over(clocks.read.min(clocks.wrote), clocks.keep_alive)
                && self.phase != Phase::Connack =>
            {
                clocks.ping = Some(now);
                self.out.extend(Wire::PINGREQ);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A connection is not made anew for redelivery before it is this old: no loop is faster than that.
const SETTLE: Duration = Duration::from_secs(1);
/// How long the goodbye's PUBACK and the last bytes may take.
const LEAVING: Duration = Duration::from_secs(1);

/// Writes what there is, or flushes when there is nothing more.
async fn push(writer: &mut WriteHalf<Stream>, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() { writer.flush().await.map(|()| 0) } else { writer.write(bytes).await }
}

/// A message whose outcome nobody waits for.
fn unawaited(message: Message) -> Queued {
    Queued { message, done: tokio::sync::oneshot::channel().0 }
}
