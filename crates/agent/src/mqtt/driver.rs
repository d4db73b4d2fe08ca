//! Keeps a connection to the broker: tries, waits with jitter, falls back to 3.1.1, tells the state.
//!
//! Lack of network, a refusal, a hostile broker: nothing ends it but [`Mqtt::stop`](super::Mqtt::stop).

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::{
    Connection, Presence, Settings, Shared, Version,
    codec::{Refusal, Wire},
    link::{End, Link, Lost},
    session::Session,
};
use crate::log::chain;

/// From dialling to a stream on which CONNECT can be sent.
const DIAL: Duration = Duration::from_secs(20);
/// So many take-overs of the session within [`TAKEOVER_WINDOW`] are another device with our client id.
const TAKEOVERS: usize = 3;
const TAKEOVER_WINDOW: Duration = Duration::from_secs(60);

/// The task that owns the connection.
pub struct Driver {
    shared: Arc<Shared>,
    settings: Settings,
    presence: Box<dyn Presence>,
    session: Session,
    wire: Wire,
    /// 3.1.1 is a guess, good for this one connection.
    guessed: bool,
    /// Tries since the last connection that held.
    failures: u32,
    connections: u64,
    takeovers: VecDeque<Instant>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl super::Mqtt {
    /// Whether anything can be connected to where the broker is, beside the connection that there is or not.
    ///
    /// # Errors
    /// Why not, as a chain.
    pub async fn probe(&self) -> Result<(), String> {
        let reach = self.reach.as_ref().ok_or("there is no broker")?;
        reach.probe().await.map_err(|error| chain(&error))
    }
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, settings: Settings, presence: Box<dyn Presence>) -> Self {
        let wire = if settings.version == Version::V311 { Wire::V311 } else { Wire::V5 };
        Self {
            shared,
            settings,
            presence,
            session: Session::new(),
            wire,
            guessed: false,
            failures: 0,
            connections: 0,
            takeovers: VecDeque::new(),
        }
    }

    /// Runs until [`Mqtt::stop`](super::Mqtt::stop).
    pub async fn run(mut self) {
        while !self.stopping() {
            self.shared.connection.send_replace(Connection::Connecting);
            let end = self.connect().await;
            let held = self.taken_down(end.as_ref().err());
            match end {
                Ok(End::Stopped) => break,
                Ok(End::Again) => {}
                Err(lost) => self.wait(lost, held).await,
            }
        }
        self.shared.connection.send_replace(Connection::Stopped);
    }

    fn stopping(&self) -> bool {
        self.shared.state().stop.is_some()
    }

    /// One connection, from dialling to its end.
    async fn connect(&mut self) -> Result<End, Lost> {
        self.shared.state().reconnect = false;
        let dialled = tokio::select! {
            dialled = timeout(DIAL, self.settings.dial.connect()) => dialled,
            () = stopped(&self.shared) => return Ok(End::Stopped),
        };
        let stream = dialled.map_err(|_| Lost::Timeout("dialling the broker"))?.map_err(Lost::Dial)?;
        self.connections += 1;
        let link = Link::new(stream, self.wire, self.connections, &self.shared, &mut self.session);
        link.run(&self.settings, self.presence.as_ref()).await
    }

    /// What ends with every connection. Tells how long the broker had accepted it.
    fn taken_down(&mut self, lost: Option<&Lost>) -> Option<Duration> {
        let refused = lost.and_then(|lost| self.session.blame(lost.blame()));
        self.session.interrupted();
        let mut state = self.shared.state();
        state.up = false;
        state.acks.clear();
        state.queue.drop_live();
        if let Some(queued) = refused {
            let (topic, size) = (&queued.message.topic, queued.message.payload.len());
            error!(topic, size, "message set aside: the broker closes the connection on it");
            state.queue.refuse(queued, "the broker closes the connection on it".to_owned());
        }
        let accepted = state.accepted.take();
        drop(state);
        self.shared.settle();
        accepted.map(|at| at.elapsed())
    }

    /// Says why the connection ended and waits before the next one.
    async fn wait(&mut self, lost: Lost, held: Option<Duration>) {
        if self.falls_back(&lost) {
            return;
        }
        let backoff = self.settings.reconnect;
        if held.is_some_and(|held| held >= backoff.reset_after) {
            self.failures = 0;
        }
        let mut delay = backoff.delay(self.failures);
        self.failures = self.failures.saturating_add(1);
        if self.taken_over(&lost, held) {
            let client_id = &self.settings.client_id;
            if matches!(lost, Lost::TakenOver) {
                error!(client_id, "another device uses this client id");
            } else {
                error!(
                    client_id,
                    "the broker keeps ending the connection: another device uses this client id, or its access \
                     rules forbid something"
                );
            }
            delay = backoff.max;
        }
        let reason = chain(&lost);
        warn!(
            error = reason,
            retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            "not connected"
        );
        self.shared.state().lost = Some(reason.clone());
        self.shared.connection.send_replace(Connection::Waiting { error: reason, delay });
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = stopped(&self.shared) => {}
        }
    }

    /// Under `version: auto`: 3.1.1 after a broker that speaks no 5, and 5 again when 3.1.1 fails in its turn.
    fn falls_back(&mut self, lost: &Lost) -> bool {
        if self.settings.version != Version::Auto {
            return false;
        }
        let tried = self.wire;
        if std::mem::take(&mut self.guessed) {
            self.wire = Wire::V5;
        }
        match lost {
            Lost::Refused(Refusal::Version) if tried == Wire::V5 => {
                info!("the broker speaks no MQTT 5: using 3.1.1");
                self.wire = Wire::V311;
                true
            }
            // Some old brokers just close. So does one that is starting, or a bad network: it must not cost a
            // broker of today its MQTT 5 for longer than one connection.
            Lost::ClosedBeforeConnack if tried == Wire::V5 => {
                self.wire = Wire::V311;
                self.guessed = true;
                true
            }
            Lost::Refused(Refusal::Version) | Lost::ClosedBeforeConnack => {
                self.wire = Wire::V5;
                false
            }
            _ => false,
        }
    }

    /// Whether another device with our client id is the likely reason. Only MQTT 5 has a word for it, and not
    /// every broker says it: so a connection that was accepted at the first try and then closed counts as well.
    /// A broker that restarts, or a bad network, makes a try fail in between.
    fn taken_over(&mut self, lost: &Lost, held: Option<Duration>) -> bool {
        if held.is_none() {
            self.takeovers.clear();
        }
        // What a message does is no other device's doing.
        if held.is_none() || self.session.has_suspect() || !matches!(lost, Lost::TakenOver | Lost::Closed) {
            return false;
        }
        let now = Instant::now();
        self.takeovers.push_back(now);
        self.takeovers.retain(|at| now.duration_since(*at) <= TAKEOVER_WINDOW);
        self.takeovers.len() >= TAKEOVERS
    }
}

/// Returns once a stop has been asked for.
async fn stopped(shared: &Shared) {
    while shared.state().stop.is_none() {
        shared.wake.notified().await;
    }
}
