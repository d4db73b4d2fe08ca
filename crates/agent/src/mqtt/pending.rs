//! What becomes of a published message.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use crate::outbox::{Counts, Tally};

/// What became of a published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged by the broker (QoS 0: written to the connection).
    Sent,
    /// Not sent, or not known to have arrived: there was no connection and the message was live.
    Offline,
    /// Dropped since there was no room for it, or the agent stopped first.
    Dropped,
    /// The broker refused it for good, with its reason.
    Refused(String),
}

/// The outcome of a published message, to await or to drop.
pub struct Pending {
    source: Source,
}

enum Source {
    Queue(oneshot::Receiver<Outcome>),
    Outbox(Pin<Box<dyn Future<Output = Outcome> + Send>>),
}

impl Pending {
    /// Of a message that waits in memory.
    pub(super) fn queued(outcome: oneshot::Receiver<Outcome>) -> Self {
        Self { source: Source::Queue(outcome) }
    }

    /// Of the one message that `tally` follows.
    pub(super) fn stored(tally: Arc<Tally>) -> Self {
        let outcome = async move {
            match tally.wait(Counts::is_settled).await {
                Counts { acknowledged: 1.., .. } => Outcome::Sent,
                Counts { dropped: 1.., .. } => Outcome::Dropped,
                _ => Outcome::Refused("refused for good, or dropped later to make room".to_owned()),
            }
        };
        Self { source: Source::Outbox(Box::pin(outcome)) }
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

impl Future for Pending {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match &mut self.source {
            Source::Queue(outcome) => {
                Pin::new(outcome).poll(cx).map(|outcome| outcome.unwrap_or(Outcome::Dropped))
            }
            Source::Outbox(outcome) => outcome.as_mut().poll(cx),
        }
    }
}
