//! Deadlines: every wait for the broker has one.

use std::time::Duration;

use tokio::time::Instant;

use super::{LEAVING, Link, Lost, PATIENCE, Phase, SETTLE};
use crate::mqtt::codec::Wire;

/// Since when each thing is awaited.
pub(super) struct Clocks {
    pub(super) began: Instant,
    pub(super) phase: Instant,
    pub(super) read: Instant,
    pub(super) wrote: Instant,
    /// Bytes wait that the socket does not take.
    pub(super) stalled: Option<Instant>,
    /// A PINGREQ is unanswered.
    pub(super) ping: Option<Instant>,
    /// Messages are in flight: since the first, or the last acknowledgement.
    pub(super) ack: Option<Instant>,
    pub(super) keep_alive: Duration,
}

impl Clocks {
    pub(super) fn new(keep_alive: Duration) -> Self {
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

impl Link<'_> {
    /// When something has to be done even if nothing happens.
    pub(super) fn deadline(&self) -> Instant {
        let clocks = &self.clocks;
        let mut deadline = match clocks.ping {
            Some(sent) => sent + clocks.keep_alive / 2,
            None if self.phase == Phase::Connack => clocks.phase + PATIENCE,
            None => clocks.read.min(clocks.wrote) + clocks.keep_alive,
        };
        for since in [clocks.stalled, clocks.ack, self.session.overtaken()].into_iter().flatten() {
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
        let state = self.shared.state();
        let pause = state.queue.pause().filter(|_| self.phase == Phase::Up);
        let stop = state.stop.as_ref().map(|stop| stop.by).filter(|_| self.phase != Phase::Leaving);
        [pause, stop].into_iter().flatten().fold(deadline, Instant::min)
    }

    /// The deadline has passed: pings, or gives up.
    pub(super) fn expire(&mut self) -> Result<(), Lost> {
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
        if [clocks.ack, self.session.overtaken()].into_iter().flatten().any(|since| over(since, PATIENCE)) {
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
