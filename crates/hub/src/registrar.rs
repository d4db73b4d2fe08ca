//! The registrar: checks who asks, and gives each client one id for ever.
//!
//! Knows no MQTT and no clock: a payload and a time come in, an answer goes out. An id is on disk before the answer
//! is handed out, in one transaction with the nonce of the request, so that a kill between the two leaves a client
//! that asks again and gets the same id.
//!
//! What it must never do: give a client two ids, give two clients one id, or answer with an id without proof.

use std::sync::Arc;
use std::time::Duration;

use protocol::proof::Psk;
use protocol::registration::{
    Nonce, PlainRequest, Reply, Request, RequestError, claimed_sender, open_request,
};
use protocol::{ClientId, DeviceId, Timestamp};
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::store::{Enrolment, NonceOutcome, Store, StoreError};
use crate::throttle::Throttle;

/// How far a request's timestamp may be from our clock.
pub const MAX_SKEW: Duration = Duration::from_secs(5 * 60);
/// The largest request that is read.
pub const MAX_REQUEST: usize = 64 * 1024;
/// How often one client is told, and the log, that it is not authorised.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(10);

/// Answers registration requests.
pub struct Registrar {
    store: Arc<Store>,
    psk: Psk,
    refusals: Throttle,
}

/// What to send, and to whom.
#[derive(Debug)]
pub struct Answer {
    /// Whose reply topic it goes to.
    pub client_id: ClientId,
    /// The reply, as JSON.
    pub payload: Vec<u8>,
    /// What it says.
    pub verdict: Verdict,
}

/// What was decided about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The client has an id.
    Enrolled {
        /// What is known of it now.
        enrolment: Box<Enrolment>,
        /// It had none before.
        new: bool,
    },
    /// It gets none, for this reason.
    Refused(&'static str),
}

/// The reason of a refusal: for programs, and for people.
struct Refusal(&'static str, &'static str);

const UNAUTHORIZED: Refusal = Refusal("unauthorized", "the device's secret is not the backend's");
const CLOCK: Refusal = Refusal("clock", "the request's timestamp is more than five minutes off");
const REPLAY: Refusal = Refusal("replay", "this request was seen before");
const BUSY: Refusal = Refusal("busy", "too many requests; ask again in some minutes");
const MISMATCH: Refusal = Refusal("client_id_mismatch", "the request came on another client's topic");
const INVALID: Refusal = Refusal("invalid_request", "a field of the request is missing or wrong");
const TAKEN: Refusal = Refusal("device_id_taken", "this device_id belongs to another client");
const UNAVAILABLE: Refusal = Refusal("unavailable", "the backend cannot use its database; ask again later");

/// What a client says of itself, however it proves it.
struct Applicant {
    client_id: ClientId,
    wishes: Option<DeviceId>,
    request: Option<Request>,
}

impl Registrar {
    /// A registrar for the fleet that shares `psk`.
    pub fn new(store: Arc<Store>, psk: Psk) -> Registrar {
        Registrar { store, psk, refusals: Throttle::new(REFUSAL_INTERVAL) }
    }

    /// Answers a request received at `now`. `topic_client` is the client that the topic names, in layouts where it
    /// does. `None`: there is nobody to answer, or an unproven sender has been answered a moment ago.
    pub fn answer(
        &mut self,
        topic_client: Option<&ClientId>,
        payload: &[u8],
        now: Timestamp,
    ) -> Option<Answer> {
        if payload.len() > MAX_REQUEST {
            self.ignore("a registration request is too large", now);
            return None;
        }
        match open_request(&self.psk, payload) {
            Ok(request) => self.answer_signed(topic_client, request, now),
            Err(RequestError::MissingProof) => self.answer_plain(topic_client, payload, now),
            // The mac was right, so the sender is told with a mac.
            Err(error @ RequestError::Fields(_)) => {
                let (Some(client_id), Some(nonce)) = claimed_sender(payload) else {
                    self.ignore("a signed registration request has no usable client_id", now);
                    return None;
                };
                warn!(client_id = client_id.as_str(), error = chain(&error), "registration refused");
                Some(self.signed(client_id, nonce, refuse(INVALID)))
            }
            Err(error) => self.answer_unproven(payload, &error, now),
        }
    }

    fn answer_signed(
        &mut self,
        topic_client: Option<&ClientId>,
        request: Request,
        now: Timestamp,
    ) -> Option<Answer> {
        let proof = request.proof.clone()?;
        let client_id = request.client_id.clone();
        let decided = if topic_client.is_some_and(|topic| *topic != client_id) {
            refuse(MISMATCH)
        } else if now.as_millis().abs_diff(proof.timestamp.as_millis()) > MAX_SKEW.as_millis() as u64 {
            let (verdict, reply) = refuse(CLOCK);
            (verdict, Reply { server_time: Some(now), ..reply })
        } else {
            let applicant = Applicant {
                client_id: client_id.clone(),
                wishes: request.device_id.clone(),
                request: Some(request),
            };
            self.decide(applicant, Some(&proof.nonce), now)
        };
        log(&client_id, &decided.0);
        Some(self.signed(client_id, proof.nonce, decided))
    }

    /// `proof: plain`: the secret itself, and a reply that nothing protects.
    fn answer_plain(
        &mut self,
        topic_client: Option<&ClientId>,
        payload: &[u8],
        now: Timestamp,
    ) -> Option<Answer> {
        let Ok(request) = serde_json::from_slice::<PlainRequest>(payload) else {
            return self.answer_unproven(payload, &RequestError::MissingProof, now);
        };
        let client_id = request.client_id;
        if !self.psk.is(request.device_secret.as_bytes()) {
            return self.answer_unproven(payload, &"the device_secret is not the hub's", now);
        }
        let decided = if topic_client.is_some_and(|topic| *topic != client_id) {
            refuse(MISMATCH)
        } else {
            self.decide(Applicant { client_id: client_id.clone(), wishes: None, request: None }, None, now)
        };
        log(&client_id, &decided.0);
        Some(Answer { client_id, payload: decided.1.unsigned(), verdict: decided.0 })
    }

    /// Tells a sender who proved nothing that it is not authorised: without a mac, since a mac for whoever asks
    /// would let a stranger end another client's enrolment with an answer that client believes.
    fn answer_unproven(
        &mut self,
        payload: &[u8],
        error: &dyn std::fmt::Display,
        now: Timestamp,
    ) -> Option<Answer> {
        let (Some(client_id), nonce) = claimed_sender(payload) else {
            self.ignore(&format!("a registration request cannot be read: {error}"), now);
            return None;
        };
        let suppressed = self.refusals.pass(client_id.as_str(), now)?;
        let error = error.to_string();
        warn!(client_id = client_id.as_str(), error, suppressed, "registration refused: compare the secrets");
        let (verdict, reply) = refuse(UNAUTHORIZED);
        let payload = Reply { nonce, ..reply }.unsigned();
        Some(Answer { client_id, payload, verdict })
    }

    fn decide(&self, applicant: Applicant, nonce: Option<&Nonce>, now: Timestamp) -> (Verdict, Reply) {
        match self.enrol(applicant, nonce, now) {
            Ok(Ok((enrolment, new))) => {
                let reply = Reply { device_id: Some(enrolment.device_id.clone()), ..Reply::default() };
                (Verdict::Enrolled { enrolment: Box::new(enrolment), new }, reply)
            }
            Ok(Err(refusal)) => refuse(refusal),
            Err(error) => {
                error!(error = chain(&error), "cannot enrol");
                refuse(UNAVAILABLE)
            }
        }
    }

    /// The id of a proven applicant, on disk. Database transactions that write exclude each other, so that of two
    /// requests at once the second finds what the first wrote.
    fn enrol(
        &self,
        applicant: Applicant,
        nonce: Option<&Nonce>,
        now: Timestamp,
    ) -> Result<Result<(Enrolment, bool), Refusal>, StoreError> {
        let tx = self.store.begin()?;
        if let Some(nonce) = nonce {
            match tx.remember(nonce, now)? {
                NonceOutcome::Fresh => {}
                NonceOutcome::Seen => return Ok(Err(REPLAY)),
                NonceOutcome::Full => return Ok(Err(BUSY)),
            }
        }
        let known = tx.enrolment(&applicant.client_id)?;
        let wish = applicant.wishes.filter(|id| known.as_ref().is_none_or(|known| known.device_id != *id));
        if let Some(wish) = &wish
            && tx.is_taken(wish)?
        {
            // The nonce is used up all the same.
            tx.commit()?;
            return Ok(Err(TAKEN));
        }
        let new = known.is_none();
        // An id nobody has: that of a device which outlived the hub's database, or was given one by hand.
        let before = known.unwrap_or_else(|| Enrolment {
            device_id: wish.unwrap_or_else(|| fresh_id(now)),
            client_id: applicant.client_id,
            device_name: None,
            org_id: None,
            metadata: None,
            agent_version: None,
            enrolled_at: now,
        });
        let enrolment = updated(before, applicant.request);
        tx.enrol(&enrolment)?;
        tx.commit()?;
        Ok(Ok((enrolment, new)))
    }

    fn signed(&self, client_id: ClientId, nonce: Nonce, (verdict, reply): (Verdict, Reply)) -> Answer {
        let payload = reply.signed(&self.psk, &client_id, nonce);
        Answer { client_id, payload, verdict }
    }

    fn ignore(&mut self, what: &str, now: Timestamp) {
        if let Some(suppressed) = self.refusals.pass("", now) {
            warn!(suppressed, "{what}; ignored");
        }
    }
}

fn updated(before: Enrolment, request: Option<Request>) -> Enrolment {
    let Some(request) = request else { return before };
    let Request { device_name, org_id, metadata, agent_version, .. } = request;
    Enrolment { device_name, org_id, metadata, agent_version: Some(agent_version), ..before }
}

fn refuse(Refusal(error, message): Refusal) -> (Verdict, Reply) {
    let reply = Reply { error: Some(error.into()), message: Some(message.into()), ..Reply::default() };
    (Verdict::Refused(error), reply)
}

/// A UUIDv7 of this moment: sorts by age, unguessable in its second half.
fn fresh_id(now: Timestamp) -> DeviceId {
    let millis = u64::try_from(now.as_millis()).unwrap_or(0);
    let nanos = u32::try_from(millis % 1000).unwrap_or(0) * 1_000_000;
    let uuid = Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, millis / 1000, nanos));
    uuid.to_string().parse().expect("a UUID is hexadecimal digits and hyphens")
}

fn log(client_id: &ClientId, verdict: &Verdict) {
    let client_id = client_id.as_str();
    match verdict {
        Verdict::Enrolled { enrolment, new } => {
            info!(client_id, device_id = enrolment.device_id.as_str(), new, "enrolled");
        }
        Verdict::Refused(reason) => warn!(client_id, reason, "registration refused"),
    }
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests;
