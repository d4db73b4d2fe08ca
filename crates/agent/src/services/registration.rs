//! Gets this device its id from the backend, once in its life. Asks until it is answered, for ever; keeps no
//! other service from starting: those that need the id await it.
//!
//! It must never take an id from a reply that is not the authentic answer to its latest request.

mod request;

use std::time::Duration;

use anyhow::Context as _;
use protocol::{
    Timestamp,
    registration::Reply,
    topic::{Template, registration_reply},
};
use request::Asked;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    config::{Interval, Qos, Secret, SecretFile, Topic},
    identity::EnrolError,
    log::chain,
    mqtt::{Connection, Delivery, Inbox, Message, Outcome as Sent, Pending},
    register::Outcome,
    service::{Context, Invalid, Service},
};

/// Replies taken and not yet looked at.
const INBOX: usize = 16;
/// The slack an exchange has before the service counts as hanging.
const GRACE: Duration = Duration::from_secs(60);
/// How soon an identity that could not be written down is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(10);

/// Asks for the device id.
pub(crate) struct Registration {
    config: Config,
    ctx: Context,
    topic: String,
    replies: Inbox,
    /// The latest request, until it is answered.
    asked: Option<Asked>,
    /// An operator asks anew: the backend's word counts more than the id we have.
    anew: bool,
}

/// Settings under `services.registration`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Topic of the request; by default that of the layout. It cannot contain `{device_id}`.
    topic: Option<Topic>,
    /// Quality of service.
    qos: Qos,
    /// File with the secret that the backend knows too, at least 16 bytes, readable by its owner only.
    device_secret_file: Option<SecretFile>,
    /// The secret itself; better kept in a file of its own.
    device_secret: Option<Secret>,
    /// How to show that we know the secret: psk-hmac never sends it, plain does.
    proof: Proof,
    /// How long to wait for the reply before asking again.
    response_timeout: Interval,
}

/// How a device proves that it may enrol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Proof {
    /// A keyed hash over the request, and another over the reply.
    PskHmac,
    /// The secret itself, for the IOT-Cloud backend: whoever can read the topic has it.
    Plain,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topic: None,
            qos: Qos::AtLeastOnce,
            device_secret_file: None,
            device_secret: None,
            proof: Proof::PskHmac,
            response_timeout: Interval::seconds(30),
        }
    }
}

/// What `status` calls the replies that were not for us, not authentic or not in time.
const IGNORED: &str = "ignored";
/// What is said when the time is up.
const SILENCE: &str = "no answer from the backend";
/// Why a corrected clock did not help either.
const CLOCK: &str = "the backend's clock and ours do not agree";

/// What one request led to.
enum Answer {
    /// The device has its id.
    Enrolled,
    /// Nobody answered.
    Silence,
    /// The connection broke before the request was known to have arrived.
    Lost,
    /// The backend says no.
    Refused(String),
    /// Our clock is wrong, and this is the backend's.
    Clock(Timestamp),
}

impl Service for Registration {
    const NAME: &'static str = "registration";
    const ENABLED: bool = true;
    type Config = Config;

    fn new(config: Config, ctx: Context) -> anyhow::Result<Self> {
        if config.qos == Qos::AtMostOnce {
            return Err(
                Invalid::key("qos", "must be 1 or 2: a lost request or reply costs a whole timeout").into()
            );
        }
        request::check_written(&config)?;
        let template = ctx.template(config.topic.as_deref());
        if template.names_device() {
            return Err(Invalid::key(
                "topic",
                "cannot contain {device_id}: registration is what provides it",
            )
            .into());
        }
        let topic = ctx.resolve(&template).context("a topic without {device_id} is always known")?;
        let reply: Template = registration_reply(ctx.shared.topics.layout, &template);
        let replies = ctx.claim(&reply, config.qos, INBOX);
        Ok(Self { config, ctx, topic, replies, asked: None, anew: false })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let shutdown = self.ctx.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            enrolled = self.enrol() => enrolled?,
        }
        self.rest(shutdown).await;
        Ok(())
    }
}

impl Registration {
    /// One enrolment for `iot-agent register`: asks until the backend has said yes or no.
    pub(crate) async fn once(mut self, anew: bool) -> anyhow::Result<Outcome> {
        self.anew = anew;
        let mut tries = 0;
        loop {
            self.connected().await?;
            match self.exchange().await? {
                Answer::Enrolled => return self.enrolled().await,
                Answer::Clock(_) => return Ok(Outcome::Refused(CLOCK.to_owned())),
                Answer::Refused(why) => return Ok(Outcome::Refused(why)),
                Answer::Lost => {}
                Answer::Silence => {
                    self.ctx.degraded(SILENCE);
                    if self.pause(&mut tries).await? {
                        return self.enrolled().await;
                    }
                }
            }
        }
    }

    /// What an operator is told; an id that is gone with this process would be a lie.
    async fn enrolled(&self) -> anyhow::Result<Outcome> {
        let identity = self.ctx.identity();
        let device_id = identity.device_id().await.to_string();
        identity.keep().with_context(|| format!("the device id is {device_id}, but it cannot be kept"))?;
        Ok(Outcome::Enrolled(device_id))
    }

    /// That there is a secret that can be used, without asking.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub(crate) fn check_secret(&self) -> Result<(), (&'static str, anyhow::Error)> {
        request::check(&self.config)
    }

    /// Whether there is one already; it may come later.
    pub(crate) fn has_secret(&self) -> bool {
        request::has_secret(&self.config)
    }

    /// Asks until the device has an id.
    async fn enrol(&mut self) -> anyhow::Result<()> {
        let mut tries = 0;
        while self.ctx.identity().device().borrow().is_none() {
            self.ctx.idle();
            self.connected().await?;
            // Twice: our clock may be wrong.
            self.ctx.progress(self.config.response_timeout.get() * 2 + GRACE);
            let plain = self.config.proof == Proof::Plain;
            let (why, pause) = match self.exchange().await {
                Ok(Answer::Enrolled | Answer::Lost) => continue,
                // With `proof: plain` the whole timeout has passed, and that is its pause.
                Ok(Answer::Silence) => (SILENCE.to_owned(), !plain),
                Ok(Answer::Refused(why)) => (format!("refused by the backend: {why}"), !plain),
                Ok(Answer::Clock(_)) => (CLOCK.to_owned(), true),
                Err(error) => (format!("{error:#}"), true),
            };
            self.ctx.degraded(why);
            if pause {
                self.pause(&mut tries).await?;
            }
        }
        Ok(())
    }

    /// Waits before the next request; a late answer to the latest one counts. True if it was the id.
    async fn pause(&mut self, tries: &mut u32) -> anyhow::Result<bool> {
        let delay = self.ctx.shared.backoff.delay(*tries);
        *tries = tries.saturating_add(1);
        self.ctx.progress(delay + GRACE);
        let until = Instant::now() + delay;
        while let Some(answer) = self.listen(until).await? {
            match answer {
                Answer::Enrolled => return Ok(true),
                Answer::Refused(why) => self.ctx.degraded(format!("refused by the backend: {why}")),
                _ => {}
            }
        }
        Ok(false)
    }

    async fn connected(&self) -> anyhow::Result<()> {
        let mut connection = self.ctx.mqtt.connection();
        connection.wait_for(|connection| matches!(connection, Connection::Connected { .. })).await?;
        Ok(())
    }

    /// One request and what came of it; two where our clock is wrong. A backend that does not like its own time
    /// either is not asked a third time.
    async fn exchange(&mut self) -> anyhow::Result<Answer> {
        match self.ask(None).await? {
            Answer::Clock(time) => self.ask(Some(time)).await,
            answer => Ok(answer),
        }
    }

    async fn ask(&mut self, server_time: Option<Timestamp>) -> anyhow::Result<Answer> {
        let secret = request::secret(&self.config)?;
        let (asked, payload) = Asked::make(self.config.proof, &secret, &self.ctx, server_time)?;
        self.asked = Some(asked);
        let deadline = Instant::now() + self.config.response_timeout.get();
        let mut sent = self.publish(payload);
        let mut on_its_way = true;
        let mut refused = None;
        loop {
            tokio::select! {
                outcome = &mut sent, if on_its_way => match outcome {
                    Sent::Sent => on_its_way = false,
                    Sent::Offline => return Ok(Answer::Lost),
                    Sent::Dropped => anyhow::bail!("the request found no room to wait in; see outbox.max_size"),
                    Sent::Refused(why) => anyhow::bail!("the broker refused the request: {why}"),
                },
                answer = self.listen(deadline) => match answer? {
                    // Anybody can say no to a plain request: no reason not to wait for a yes.
                    Some(Answer::Refused(why)) if self.config.proof == Proof::Plain => refused = Some(why),
                    Some(answer) => return Ok(answer),
                    None => return Ok(refused.map_or(Answer::Silence, Answer::Refused)),
                },
            }
        }
    }

    fn publish(&self, payload: Vec<u8>) -> Pending {
        let message = Message {
            topic: self.topic.clone(),
            payload,
            qos: self.config.qos,
            retain: false,
            // An old request is of no use: its nonce is not awaited any more.
            delivery: Delivery::Live,
        };
        info!(
            topic = self.topic,
            client_id = self.ctx.identity().client_id().as_str(),
            "asking for a device id"
        );
        self.ctx.mqtt.publish(message)
    }

    /// The first reply to the latest request that can be believed, before the time is up. All others are counted
    /// and ignored. Cancel-safe.
    async fn listen(&mut self, deadline: Instant) -> anyhow::Result<Option<Answer>> {
        while let Ok(received) = timeout_at(deadline, self.replies.recv()).await {
            let received = received.context("the connection is gone")?;
            let answer = match self.open(&received.payload) {
                Ok(reply) => self.accept(reply)?,
                Err(why) => {
                    self.ignore(&why);
                    None
                }
            };
            // Only now: an id that is not kept would be gone with its reply.
            received.ack();
            if answer.is_some() {
                return Ok(answer);
            }
        }
        Ok(None)
    }

    fn open(&self, payload: &[u8]) -> anyhow::Result<Reply> {
        let asked = self.asked.as_ref().context("nothing is asked, or it has been answered")?;
        Ok(asked.open(self.ctx.identity().client_id(), payload)?)
    }

    fn accept(&mut self, reply: Reply) -> anyhow::Result<Option<Answer>> {
        if let Some(Asked::Signed { .. }) = self.asked {
            self.asked = None;
        }
        if let Some(error) = reply.error {
            let signed = self.config.proof == Proof::PskHmac;
            match (error.as_str(), reply.server_time) {
                ("clock", Some(server_time)) if signed => return Ok(Some(Answer::Clock(server_time))),
                // The broker gave our request to the backend twice: a new nonce mends it.
                ("replay", _) if signed => return Ok(Some(Answer::Silence)),
                _ => {}
            }
            let message = reply.message.map(|message| format!(": {message}")).unwrap_or_default();
            return Ok(Some(Answer::Refused(format!("{error}{message}"))));
        }
        let Some(device_id) = reply.device_id else { return Ok(None) };
        let identity = self.ctx.identity();
        let taken =
            if self.anew { identity.replace(device_id.clone()) } else { identity.enrol(device_id.clone()) };
        match taken {
            // Not kept: used all the same, and tried again by who asked.
            Ok(()) | Err(EnrolError::NotKept { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // Before any other task sees the id: what it publishes must come after the birth.
        self.ctx.mqtt.bind(device_id.as_str());
        info!(device_id = device_id.as_str(), "enrolled");
        Ok(Some(Answer::Enrolled))
    }

    /// Counts a reply, for `status`; whoever floods us with them does not flood the log.
    fn ignore(&self, why: &anyhow::Error) {
        let ignored = self.ctx.count(IGNORED);
        if ignored.is_power_of_two() {
            warn!(error = format!("{why:#}"), ignored, "registration reply ignored");
        } else {
            debug!(error = format!("{why:#}"), ignored, "registration reply ignored");
        }
    }

    /// Enrolled: whatever still comes is late, doubled or forged.
    async fn rest(mut self, shutdown: CancellationToken) {
        self.ctx.idle();
        self.asked = None;
        let mut kept = self.keep();
        let mut again = interval(KEEP_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = again.tick(), if !kept => kept = self.keep(),
                received = self.replies.recv() => {
                    let Some(received) = received else { return shutdown.cancelled().await };
                    self.ignore(&anyhow::anyhow!("already enrolled"));
                    received.ack();
                }
            }
        }
    }

    /// Whether it is on disk who this device is.
    fn keep(&self) -> bool {
        let kept = self.ctx.identity().keep();
        match &kept {
            Ok(()) => self.ctx.healthy(),
            Err(error) => self.ctx.degraded(format!(
                "enrolled, but after a restart it would have to ask again: {}",
                chain(error)
            )),
        }
        kept.is_ok()
    }
}

#[cfg(test)]
mod tests;
