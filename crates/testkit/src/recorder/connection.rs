//! One client of the recording broker. Nothing is answered before it is in the journal, on disk.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, ReadHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::host::{Host, Stream, ToPeer, tell};
use super::journal::{Event, Published};
use super::mood::{Mood, Rejection, Stage};
use super::packets::{self, Connect, Fields, TooLarge, cut};
use super::state::matches;
use super::writer::{Outgoing, Writer};
use crate::wire::{LEVEL_5, PINGRESP, Packet};

/// Reason codes of MQTT 5.
const PROTOCOL_ERROR: u8 = 0x82;
const PACKET_TOO_LARGE: u8 = 0x95;
const SESSION_TAKEN_OVER: u8 = 0x8E;

struct Connection {
    host: Rc<Host>,
    number: u64,
    client: Option<Connect>,
    /// The mood at its CONNACK, whose limits it was told.
    told: Mood,
    /// Answers to what is not yet known to be on disk.
    replies: Vec<(Option<Stage>, Vec<u8>)>,
    /// Of the client, with QoS over 0, and not answered: at least so many.
    in_flight: usize,
}

/// How a connection ends from this side.
struct End {
    /// Told to a client of MQTT 5.
    code: Option<u8>,
    goodbye: bool,
}

impl End {
    const GONE: Self = Self { code: None, goodbye: false };

    fn because(code: u8) -> Self {
        Self { code: Some(code), goodbye: false }
    }
}

pub(super) async fn run(
    host: Rc<Host>,
    stream: Box<dyn Stream>,
    number: u64,
    mut inbox: mpsc::UnboundedReceiver<ToPeer>,
) {
    let (mut from, to) = tokio::io::split(stream);
    let (outgoing, writer) = Writer::start(to);
    let mut connection = Connection {
        host: Rc::clone(&host),
        number,
        client: None,
        told: Mood::default(),
        replies: Vec::new(),
        in_flight: 0,
    };
    let end = connection.converse(&mut from, &mut inbox, &outgoing).await;
    if let (Some(code), Some(LEVEL_5)) = (end.code, connection.client.as_ref().map(|client| client.level)) {
        // The writer may be gone with the line.
        outgoing.send((Instant::now(), packets::disconnect(code))).ok();
    }
    // Whoever sees the end finds it in the journal.
    host.note(Event::Closed { connection: number, goodbye: end.goodbye }).expect("an event can be encoded");
    host.commit().await.expect("the journal lives as long as the process");
    drop(outgoing);
    writer.finish().await;
}

impl Connection {
    async fn converse(
        &mut self,
        from: &mut ReadHalf<Box<dyn Stream>>,
        inbox: &mut mpsc::UnboundedReceiver<ToPeer>,
        outgoing: &Outgoing,
    ) -> End {
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            tokio::select! {
                read = from.read_buf(&mut buffer) => if !matches!(read, Ok(1..)) { return End::GONE },
                told = inbox.recv() => if let Some(ToPeer::Leave(code)) = told { return End::because(code) },
                () = self.silence() => return End::because(0x8D),
            }
            let lag = self.host.mood.borrow().lag;
            if !lag.is_zero() {
                sleep(lag).await;
            }
            if self.stalls(Stage::Accept) {
                buffer.clear();
            }
            let taken = self.take_all(&mut buffer);
            let answered = self.answer(outgoing).await;
            match (taken, answered) {
                (Ok(None), Ok(())) => {}
                (Ok(Some(end)), _) => return end,
                (Err(error), _) | (_, Err(error)) => {
                    self.violation(&format!("{error:#}"));
                    return End::because(PROTOCOL_ERROR);
                }
            }
        }
    }

    /// Passes once the client has said nothing for one and a half times what it promised.
    async fn silence(&self) {
        match self.client.as_ref().map_or(0, |client| client.keep_alive) {
            0 => std::future::pending().await,
            keep_alive => sleep(Duration::from_millis(1500) * u32::from(keep_alive)).await,
        }
    }

    fn stalls(&self, stage: Stage) -> bool {
        self.host.mood.borrow().stall == Some(stage)
    }

    /// Handles every whole packet; tells when it is the last.
    fn take_all(&mut self, buffer: &mut Vec<u8>) -> anyhow::Result<Option<End>> {
        let mut offset = 0;
        let end = loop {
            let (announced, limit) = self.limit();
            match cut(&buffer[offset..], limit) {
                Ok(None) => break None,
                Ok(Some((packet, length))) => {
                    offset += length;
                    if let Some(end) = self.take(&packet)? {
                        break Some(end);
                    }
                }
                Err(TooLarge(length)) => {
                    if announced {
                        self.violation(&format!("a packet of {length} bytes"));
                    }
                    break Some(End::because(PACKET_TOO_LARGE));
                }
            }
        };
        buffer.drain(..offset);
        Ok(end)
    }

    /// The longest packet, and whether the client knows.
    fn limit(&self) -> (bool, usize) {
        let knows = self.client.as_ref().is_some_and(|client| client.level == LEVEL_5);
        let announced = self.told.maximum_packet_size.filter(|_| knows);
        let announced = announced.map_or(usize::MAX, |size| size as usize);
        let silent = self.host.mood.borrow().close_over.filter(|_| self.client.is_some());
        let silent = silent.unwrap_or(usize::MAX);
        (announced < silent, announced.min(silent))
    }

    fn take(&mut self, packet: &Packet) -> anyhow::Result<Option<End>> {
        let Some(client) = &self.client else { return self.greet(packet) };
        let level = client.level;
        let mut fields = Fields::new(packet, level);
        let connection = self.number;
        match packet.kind() {
            3 => return self.publish(packet),
            4 | 7 => {
                let (id, code) = (fields.id()?, if fields.is_empty() { 0 } else { fields.u8()? });
                self.note(Event::Acknowledged { connection, id, code })?;
            }
            5 => {
                let id = fields.id()?;
                self.note(Event::Received { connection, id })?;
                self.reply(None, packets::acknowledgement(0x62, id, 0));
            }
            6 => {
                let id = fields.id()?;
                self.note(Event::Released { connection, id })?;
                self.reply(Some(Stage::Pubcomp), packets::acknowledgement(0x70, id, 0));
            }
            8 => self.subscribe(fields, level)?,
            10 => self.unsubscribe(fields, level)?,
            12 => self.reply(Some(Stage::Pingresp), PINGRESP.to_vec()),
            14 => return Ok(Some(End { code: None, goodbye: true })),
            kind => bail!("a packet of type {kind}"),
        }
        Ok(None)
    }

    fn greet(&mut self, packet: &Packet) -> anyhow::Result<Option<End>> {
        let connect = Connect::parse(packet)?;
        let (connection, mood) = (self.number, self.host.mood.borrow().clone());
        if let Some(code) = mood.refuse {
            self.note(Event::Refused { connection, code })?;
            self.reply(Some(Stage::Connack), packets::connack(connect.level, false, code, &mood));
            return Ok(Some(End::GONE));
        }
        self.take_over(&connect.client);
        let kept = self.host.state.borrow().sessions.get(&connect.client).is_some_and(|own| own.persistent);
        let session_present = kept && !connect.clean && !mood.lose_session;
        self.note(Event::Connected {
            connection,
            client: connect.client.clone(),
            level: connect.level,
            session_present,
            persistent: connect.persistent,
            receive_maximum: connect.receive_maximum,
        })?;
        self.reply(Some(Stage::Connack), packets::connack(connect.level, session_present, 0, &mood));
        (self.client, self.told) = (Some(connect), mood);
        Ok(None)
    }

    /// The client has come again: its former connection ends.
    fn take_over(&self, client: &str) {
        let former = |(number, other): (&u64, &String)| (other == client).then_some(*number);
        let former = self.host.state.borrow().clients.iter().find_map(former);
        if let Some(peer) = former.and_then(|number| self.host.peers.borrow_mut().remove(&number)) {
            tell(&peer, ToPeer::Leave(SESSION_TAKEN_OVER));
        }
    }

    fn publish(&mut self, packet: &Packet) -> anyhow::Result<Option<End>> {
        let client = self.client.as_ref().context("a client that is there")?;
        let (qos, level) = (packet.qos(), client.level);
        let mut fields = Fields::new(packet, level);
        let topic = fields.text()?;
        let id = if qos > 0 { fields.id()? } else { 0 };
        fields.properties()?;
        let payload = fields.rest().to_vec();
        let code = if qos > 0 { refusal(&self.host.mood.borrow().reject, &topic, &payload) } else { 0 };
        let known =
            self.host.state.borrow_mut().session(self.number).is_some_and(|own| own.received.contains(&id));
        self.note(Event::Published(Published {
            connection: self.number,
            id,
            qos,
            dup: packet.first & 8 != 0,
            retain: packet.first & 1 != 0,
            repeated: qos == 2 && known,
            code,
            topic,
            payload,
        }))?;
        if qos == 0 {
            return Ok(None);
        }
        self.watch_limits(level, qos);
        if code > 0 && level != LEVEL_5 {
            return Ok(Some(End::GONE));
        }
        let (stage, first) = if qos == 1 { (Stage::Puback, 0x40) } else { (Stage::Pubrec, 0x50) };
        self.reply(Some(stage), packets::acknowledgement(first, id, code));
        Ok(None)
    }

    fn watch_limits(&mut self, level: u8, qos: u8) {
        self.in_flight += 1;
        if level != LEVEL_5 {
            return;
        }
        if self.told.receive_maximum.is_some_and(|maximum| self.in_flight > usize::from(maximum)) {
            self.violation(&format!("{} messages in flight", self.in_flight));
        }
        if self.told.maximum_qos.is_some_and(|maximum| qos > maximum) {
            self.violation(&format!("a message of QoS {qos}"));
        }
    }

    fn subscribe(&mut self, mut fields: Fields<'_>, level: u8) -> anyhow::Result<()> {
        let (id, connection, mut codes) = (fields.id()?, self.number, Vec::new());
        fields.properties()?;
        while !fields.is_empty() {
            let (filter, qos) = (fields.text()?, fields.u8()? & 3);
            self.note(Event::Subscribed { connection, filter, qos })?;
            codes.push(qos);
        }
        self.reply(Some(Stage::Suback), packets::granted(0x90, level, id, &codes));
        Ok(())
    }

    fn unsubscribe(&mut self, mut fields: Fields<'_>, level: u8) -> anyhow::Result<()> {
        let (id, connection, mut codes) = (fields.id()?, self.number, Vec::new());
        fields.properties()?;
        while !fields.is_empty() {
            self.note(Event::Unsubscribed { connection, filter: fields.text()? })?;
            codes.push(0);
        }
        self.reply(Some(Stage::Suback), packets::granted(0xB0, level, id, &codes));
        Ok(())
    }

    /// Sends what is due to the client, once everything so far is on disk.
    async fn answer(&mut self, outgoing: &Outgoing) -> anyhow::Result<()> {
        self.deliver()?;
        self.host.commit().await?;
        let (mood, now) = (self.host.mood.borrow().clone(), Instant::now());
        for (stage, bytes) in std::mem::take(&mut self.replies) {
            if stage.is_some() && stage == mood.stall {
                continue;
            }
            let mut due = now;
            if let Some(Stage::Puback | Stage::Pubrec | Stage::Pubcomp) = stage {
                due += mood.delay + self.host.rng.borrow_mut().between(Duration::ZERO, mood.scatter);
            }
            if ends_flight(stage, &bytes) {
                self.in_flight = self.in_flight.saturating_sub(1);
            }
            // The writer may be gone with the line, which reading will show.
            outgoing.send((due, bytes)).ok();
        }
        Ok(())
    }

    /// Only to a client whose CONNACK is on its way or behind it.
    fn deliver(&mut self) -> anyhow::Result<()> {
        let Some(level) = self.client.as_ref().map(|client| client.level) else { return Ok(()) };
        loop {
            let mut state = self.host.state.borrow_mut();
            let Some(out) = state.session(self.number).and_then(|own| own.next(self.number).cloned()) else {
                return Ok(());
            };
            drop(state);
            self.note(Event::Sent { connection: self.number, id: out.id, dup: out.sent_on.is_some() })?;
            let release = || packets::acknowledgement(0x62, out.id, 0);
            self.reply(None, if out.received { release() } else { packets::publish(level, &out) });
        }
    }

    fn reply(&mut self, stage: Option<Stage>, bytes: Vec<u8>) {
        self.replies.push((stage, bytes));
    }

    fn note(&self, event: Event) -> anyhow::Result<()> {
        self.host.note(event)
    }

    fn violation(&self, what: &str) {
        let event = Event::Violation { connection: self.number, what: what.to_owned() };
        self.note(event).expect("an event can be encoded");
    }
}

/// PUBACK, PUBCOMP, and a PUBREC that refuses.
fn ends_flight(stage: Option<Stage>, bytes: &[u8]) -> bool {
    let refused = bytes.get(4).is_some_and(|code| *code >= 0x80);
    matches!(stage, Some(Stage::Puback | Stage::Pubcomp)) || stage == Some(Stage::Pubrec) && refused
}

fn refusal(reject: &[Rejection], topic: &str, payload: &[u8]) -> u8 {
    let contains = |part: &str| part.is_empty() || String::from_utf8_lossy(payload).contains(part);
    let hit = |rule: &&Rejection| {
        (rule.filter.is_empty() || matches(&rule.filter, topic)) && contains(&rule.contains)
    };
    reject.iter().find(hit).map_or(0, |rule| rule.code)
}
