//! What every remote action (command, tunnel, update) shares: at most one effect and exactly one end for each order,
//! whatever dies. A service says what an order is and how it is carried out; all else is done here, once.
//!
//! ```text
//! message ─ decode ─ authorise ─ audit + journal (fsync) ─ PUBACK ─ run ─ audit + journal ─ outbox ─ told
//! ```

pub(crate) mod audit;
pub(crate) mod engine;
pub(crate) mod journal;
pub(crate) mod lines;
#[allow(dead_code, reason = "updates are to come")]
pub(crate) mod policy;

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{identity, mqtt::Inbound, outbox::Tally, service::Context};
use audit::Audit;
use engine::{Cancel, Slot};
use policy::Policy;

/// A kind of remote action.
pub(crate) trait Action: Send + Sync + Sized + 'static {
    /// What is asked, as it is written down.
    type Request: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;
    /// How it ended, as it is written down and told.
    type Outcome: Serialize + DeserializeOwned + Send + Sync + 'static;

    /// For so long after its end an order that came without an id still stands for the same that comes again. None: only
    /// what the broker itself sends again is taken for the same.
    const STANDS: Option<Duration> = None;
    /// What an order is called where somebody on this device names one that is not known.
    const NOUN: &'static str = "order";

    /// The id of an order that came without one; where it is taken, another is made up.
    fn name(&self, _request: &RawValue) -> String {
        new_id()
    }

    /// What is said to whoever wants to end something that is not known; its id is taken from then on.
    fn unknown(&self) -> String {
        "not known here, so there is nothing to cancel; and it will not be run any more".to_owned()
    }

    /// What is said to one for which there is no room.
    fn busy(&self) -> String {
        "busy".to_owned()
    }

    /// Reads a message.
    fn decode(&self, message: &Inbound) -> Decoded<Self::Request>;

    /// Whether it may be done, and by which of the owner's rules.
    ///
    /// # Errors
    /// Why not.
    fn authorise(&self, id: &str, request: &Self::Request) -> Result<Option<String>, Refusal>;

    /// An end that the engine decides; without the request where that cannot be known.
    fn ending(&self, request: Option<&Self::Request>, end: End) -> Self::Outcome;

    /// Tells how far an order is; of a durable message, what becomes of it.
    fn tell(&self, id: &str, step: Step<'_, Self>) -> Option<Arc<Tally>>;

    /// Does it. Dropped before it has ended, it leaves what [`Action::recover`] needs; and so does what it returns, until
    /// that is released.
    fn run(
        self: Arc<Self>,
        id: String,
        request: Self::Request,
        cancel: CancellationToken,
    ) -> impl Future<Output = (Self::Outcome, Hold)> + Send;

    /// How something ended that was begun, and whose `run` is gone: with an earlier process, of this boot of the machine
    /// or one before (`rebooted`), or, where that is none, since this service ends. None leaves it open for the next
    /// process.
    fn recover(
        &self,
        id: &str,
        request: Self::Request,
        rebooted: Option<bool>,
    ) -> impl Future<Output = Option<Self::Outcome>> + Send;

    /// Says on the board that all is well.
    fn ready(&self, ctx: &Context);

    /// What was asked, for the audit.
    fn detail(&self, request: &Self::Request) -> String;

    /// How it ended, for the audit: without what it wrote.
    fn summary(&self, outcome: &Self::Outcome) -> String;

    /// An outcome without what is long, to be kept when there is no more room for that.
    fn brief(outcome: &RawValue) -> Box<RawValue>;
}

/// Done once an end is written down. Dropped before that, it leaves the end to [`Action::recover`].
pub(crate) type Hold = Option<Box<dyn FnOnce() + Send + Sync>>;

/// What a message asks.
#[derive(Debug)]
pub(crate) enum Decoded<R> {
    /// To do something.
    Order(Order<R>),
    /// To end something before its time.
    Cancel {
        /// What.
        id: String,
    },
    /// Nothing that can be done.
    Invalid {
        /// Whom to answer.
        id: String,
        /// The answer stands for whatever comes under this id.
        keep: bool,
        /// What is wrong.
        reason: String,
    },
    /// Nothing that can be answered.
    Unreadable {
        /// What is wrong.
        reason: String,
    },
}

/// Something to do.
#[derive(Debug)]
pub(crate) struct Order<R> {
    /// Under which id; it gets one where it has none.
    pub(crate) id: Option<String>,
    /// After which it is not to begin any more.
    pub(crate) expires_at: Option<Timestamp>,
    /// What.
    pub(crate) request: R,
}

/// Why something is not done.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// By which of the owner's rules.
    pub(crate) rule: Option<String>,
    /// In words.
    pub(crate) reason: String,
}

/// An end that the engine decides.
#[derive(Debug)]
pub(crate) enum End {
    /// It is not done, for this reason.
    Rejected(String),
    /// Its time was over before it began.
    Expired,
    /// It was cancelled before it began.
    Cancelled,
    /// It was begun, and nobody knows more.
    Interrupted,
}

/// How far an order is.
#[derive(Debug)]
pub(crate) enum Step<'a, A: Action> {
    /// It is written down and will be done.
    Accepted(&'a A::Request),
    /// It is being done.
    Begun(&'a A::Request),
    /// It has ended.
    Ended(&'a A::Outcome),
}

/// What all remote actions of this device have in common.
#[derive(Debug)]
pub(crate) struct Actions {
    /// The owner's last word.
    pub(crate) policy: Policy,
    /// What was asked and done, for whoever asks later.
    pub(crate) audit: Audit,
    /// Where wishes to cancel go, by service.
    cancels: Mutex<BTreeMap<&'static str, mpsc::Sender<Cancel>>>,
    /// The journals, by service: each is written by one engine at a time.
    journals: Mutex<BTreeMap<&'static str, Slot>>,
}

impl Actions {
    /// With the owner's policy, and what keeps the records.
    pub(crate) fn new(policy: Policy, audit: Audit) -> Self {
        Self { policy, audit, cancels: Mutex::default(), journals: Mutex::default() }
    }

    /// Where wishes to cancel what `service` does arrive from now on.
    pub(crate) fn cancels(&self, service: &'static str) -> mpsc::Receiver<Cancel> {
        let (sender, receiver) = mpsc::channel(8);
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner).insert(service, sender);
        receiver
    }

    /// From now on the journal of `service` is `slot`; the one before.
    pub(crate) fn take_over(&self, service: &'static str, slot: &Slot) -> Option<Slot> {
        let mut journals = self.journals.lock().unwrap_or_else(PoisonError::into_inner);
        journals.insert(service, Arc::clone(slot))
    }

    /// Cancels `id`, and says what came of it.
    ///
    /// # Errors
    /// Why it cannot be cancelled.
    pub(crate) async fn cancel(&self, service: &str, id: String) -> Result<&'static str, String> {
        let cancels = self.cancels.lock().unwrap_or_else(PoisonError::into_inner).get(service).cloned();
        let off = || format!("the service {service} does not run");
        let (answer, said) = oneshot::channel();
        cancels.ok_or_else(off)?.send(Cancel { id, answer }).await.map_err(|_| off())?;
        said.await.map_err(|_| off())?
    }
}

/// An id for an order that has none: 128 random bits, as a UUID of version 4, variant 1, is written.
pub(crate) fn new_id() -> String {
    // Without random bits an id that is taken twice does no harm but to be answered as known.
    let bits = identity::random_bits().unwrap_or_else(|error| {
        tracing::error!(error = %error, "an order without an id gets one that is not unique");
        0
    });
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_new_id_is_a_uuid_of_version_4() {
        let (one, other) = (super::new_id(), super::new_id());
        assert_ne!(one, other);
        for id in [one, other] {
            let dashes: Vec<usize> = id.match_indices('-').map(|(at, _)| at).collect();
            assert_eq!((id.len(), dashes), (36, vec![8, 13, 18, 23]), "{id}");
            assert_eq!(&id[14..15], "4", "{id}");
            assert!(["8", "9", "a", "b"].contains(&&id[19..20]), "{id}");
        }
    }
}
