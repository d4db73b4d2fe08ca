//! Sessions, as they follow from the journal: the same code runs while the broker works and when it starts again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::journal::Event;

/// A message for a client.
#[derive(Debug, Clone)]
pub(super) struct Outbound {
    pub(super) id: u16,
    pub(super) topic: String,
    pub(super) payload: String,
    pub(super) qos: u8,
    /// PUBREC has come.
    pub(super) received: bool,
    /// The connection it was last sent on.
    pub(super) sent_on: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) filters: BTreeMap<String, u8>,
    /// Inbound QoS 2 identifiers that were not released.
    pub(super) received: HashSet<u16>,
    pub(super) outbound: VecDeque<Outbound>,
    pub(super) persistent: bool,
    last_id: u16,
    receive_maximum: usize,
}

impl Session {
    /// The next message to send on this connection, in the order in which they came.
    pub(super) fn next(&self, connection: u64) -> Option<&Outbound> {
        let on_the_way =
            self.outbound.iter().filter(|out| out.qos > 0 && out.sent_on == Some(connection)).count();
        let fresh = self.outbound.iter().find(|out| out.sent_on != Some(connection))?;
        (fresh.qos == 0 || on_the_way < self.receive_maximum).then_some(fresh)
    }

    fn queue(&mut self, topic: &str, payload: &str, qos: u8) {
        self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        self.outbound.push_back(Outbound {
            id: self.last_id,
            topic: topic.to_owned(),
            payload: payload.to_owned(),
            qos,
            received: false,
            sent_on: None,
        });
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Client ids of the connections that are open.
    pub(super) clients: HashMap<u64, String>,
    pub(super) sessions: HashMap<String, Session>,
    pub(super) last_connection: u64,
}

impl State {
    pub(super) fn session(&mut self, connection: u64) -> Option<&mut Session> {
        self.sessions.get_mut(self.clients.get(&connection)?)
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::Started { forgetful } => {
                self.clients.clear();
                self.sessions.retain(|_, session| session.persistent && !forgetful);
            }
            Event::Accepted { connection } => self.last_connection = *connection,
            Event::Connected { connection, client, session_present, persistent, receive_maximum, .. } => {
                self.clients.retain(|_, other| other != client);
                self.clients.insert(*connection, client.clone());
                if !session_present {
                    self.sessions.remove(client);
                }
                let session = self.sessions.entry(client.clone()).or_default();
                session.persistent = *persistent;
                session.receive_maximum = usize::from(*receive_maximum);
            }
            Event::Closed { connection, .. } => {
                let Some(client) = self.clients.remove(connection) else { return };
                if self.sessions.get(&client).is_some_and(|session| !session.persistent) {
                    self.sessions.remove(&client);
                }
            }
            Event::Queued { client, topic, qos, payload } => {
                if let Some(session) = self.sessions.get_mut(client) {
                    session.queue(topic, payload, *qos);
                }
            }
            Event::Subscribed { connection, .. }
            | Event::Unsubscribed { connection, .. }
            | Event::Released { connection, .. }
            | Event::Sent { connection, .. }
            | Event::Received { connection, .. }
            | Event::Acknowledged { connection, .. } => {
                if let Some(session) = self.session(*connection) {
                    session.apply(event);
                }
            }
            Event::Published(published) if published.qos == 2 && published.code < 0x80 => {
                if let Some(session) = self.session(published.connection) {
                    session.received.insert(published.id);
                }
            }
            Event::Published(_) | Event::Refused { .. } | Event::Violation { .. } => {}
        }
    }
}

impl Session {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Subscribed { filter, qos, .. } => {
                self.filters.insert(filter.clone(), *qos);
            }
            Event::Unsubscribed { filter, .. } => {
                self.filters.remove(filter);
            }
            Event::Released { id, .. } => {
                self.received.remove(id);
            }
            Event::Sent { connection, id, .. } => {
                // Of QoS 0 nothing more will be heard.
                self.outbound.retain(|out| out.id != *id || out.qos > 0);
                for out in self.outbound.iter_mut().filter(|out| out.id == *id) {
                    out.sent_on = Some(*connection);
                }
            }
            Event::Received { id, .. } => {
                for out in self.outbound.iter_mut().filter(|out| out.id == *id) {
                    out.received = true;
                }
            }
            Event::Acknowledged { id, .. } => self.outbound.retain(|out| out.id != *id),
            _ => {}
        }
    }
}

/// Whether a topic name is one of those the filter stands for.
pub(super) fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}
