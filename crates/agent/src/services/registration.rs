//! Gets this device its id from the backend, once in its life. Asks until it is answered, for ever; keeps no
//! other service from starting: those that need the id await it.
//!
//! It must never take an id from a reply that is not the authentic answer to its latest request.

use std::time::Duration;

use anyhow::Context as _;
use protocol::{
    Timestamp,
    proof::Psk,
    registration::{Nonce, PlainRequest, Reply, ReplyError, Request, open_plain_reply, open_reply},
    topic::{Template, registration_reply},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};

use crate::{
    config::{Interval, Qos, Secret, SecretFile, Topic},
    identity::EnrolError,
    mqtt::{Connection, Delivery, Inbox, Message},
    register::Outcome,
    service::{Context, Invalid, Service},
};

/// Replies taken and not yet looked at.
const INBOX: usize = 16;
/// The slack an exchange has before the service counts as hanging.
const GRACE: Duration = Duration::from_secs(60);

/// Asks for the device id.
pub(crate) struct Registration {
    config: Config,
    ctx: Context,
    topic: String,
    replies: Inbox,
    /// Replies that were not for us or not authentic, since the start.
    ignored: u64,
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

/// Why a corrected clock did not help either.
const CLOCK: &str = "the backend's clock and ours do not agree";

/// What one request led to.
enum Answer {
    /// The device has its id.
    Enrolled,
    /// Nobody answered.
    Silence,
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
        Ok(Self { config, ctx, topic, replies, ignored: 0, anew: false })
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
        let mut server_time = None;
        loop {
            self.connected().await?;
            let corrected = server_time.is_some();
            match self.ask(server_time.take()).await? {
                Answer::Enrolled => {
                    return Ok(Outcome::Enrolled(self.ctx.identity().device_id().await.to_string()));
                }
                Answer::Clock(time) if !corrected => server_time = Some(time),
                Answer::Clock(_) => return Ok(Outcome::Refused(CLOCK.to_owned())),
                Answer::Refused(why) => return Ok(Outcome::Refused(why)),
                Answer::Silence => self.pause(&mut tries, "no answer from the backend").await,
            }
        }
    }

    /// Asks until the device has an id.
    async fn enrol(&mut self) -> anyhow::Result<()> {
        let mut tries = 0;
        let mut server_time = None;
        while self.ctx.identity().device().borrow().is_none() {
            self.ctx.idle();
            self.connected().await?;
            self.ctx.progress(self.config.response_timeout.get() + GRACE);
            let corrected = server_time.is_some();
            match self.ask(server_time.take()).await {
                Ok(Answer::Enrolled) => {}
                // Once: a backend that does not like its own time either is treated as any refusal.
                Ok(Answer::Clock(time)) if !corrected => server_time = Some(time),
                Ok(Answer::Clock(_)) => self.pause(&mut tries, CLOCK).await,
                Ok(Answer::Refused(why)) => {
                    self.pause(&mut tries, &format!("refused by the backend: {why}")).await
                }
                Ok(Answer::Silence) if self.config.proof == Proof::Plain => {}
                Ok(Answer::Silence) => self.pause(&mut tries, "no answer from the backend").await,
                Err(error) => self.pause(&mut tries, &format!("{error:#}")).await,
            }
        }
        Ok(())
    }

    /// Says why there is no id yet, and waits before the next request.
    async fn pause(&self, tries: &mut u32, why: &str) {
        self.ctx.degraded(why);
        let delay = self.ctx.shared.backoff.delay(*tries);
        *tries = tries.saturating_add(1);
        self.ctx.progress(delay + GRACE);
        tokio::time::sleep(delay).await;
    }

    async fn connected(&self) -> anyhow::Result<()> {
        let mut connection = self.ctx.mqtt.connection();
        connection.wait_for(|connection| matches!(connection, Connection::Connected { .. })).await?;
        Ok(())
    }

    async fn ask(&mut self, server_time: Option<Timestamp>) -> anyhow::Result<Answer> {
        let secret = self.secret()?;
        match self.config.proof {
            Proof::Plain => self.ask_plain(&secret).await,
            Proof::PskHmac => {
                let psk = Psk::from_file_bytes(secret.bytes()).context("the device secret")?;
                self.ask_signed(&psk, server_time).await
            }
        }
    }

    /// Read anew for each request: it may have been mended meanwhile.
    fn secret(&self) -> anyhow::Result<Secret> {
        match (&self.config.device_secret, &self.config.device_secret_file) {
            (Some(secret), _) => Ok(secret.clone()),
            (None, Some(file)) => Ok(file.read()?),
            (None, None) => {
                anyhow::bail!("no device secret: name a file in services.registration.device_secret_file")
            }
        }
    }

    async fn ask_signed(&mut self, psk: &Psk, server_time: Option<Timestamp>) -> anyhow::Result<Answer> {
        let nonce = Nonce::from_random(random()?);
        let identity = self.ctx.identity();
        let (client_id, profile) = (identity.client_id().clone(), identity.profile().clone());
        let request = Request {
            client_id: client_id.clone(),
            device_id: identity.device().borrow().as_ref().map(|device| device.device_id.clone()),
            device_name: profile.device_name,
            org_id: profile.org_id,
            metadata: profile.metadata,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            proof: None,
        };
        let timestamp = server_time.unwrap_or_else(|| self.ctx.now());
        self.publish(request.signed(psk, nonce.clone(), timestamp));
        self.answer(|bytes| open_reply(psk, &client_id, &nonce, bytes)).await
    }

    async fn ask_plain(&mut self, secret: &Secret) -> anyhow::Result<Answer> {
        let request = PlainRequest {
            client_id: self.ctx.identity().client_id().clone(),
            device_secret: secret.text().context("the device secret is no text")?.trim_end().to_owned(),
        };
        self.publish(serde_json::to_vec(&request).context("encode the request")?);
        self.answer(open_plain_reply).await
    }

    fn publish(&self, payload: Vec<u8>) {
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
        drop(self.ctx.mqtt.publish(message));
    }

    /// The first reply that `open` believes, before the time is up. All others are counted and ignored.
    async fn answer(&mut self, open: impl Fn(&[u8]) -> Result<Reply, ReplyError>) -> anyhow::Result<Answer> {
        let deadline = Instant::now() + self.config.response_timeout.get();
        while let Ok(received) = timeout_at(deadline, self.replies.recv()).await {
            let received = received.context("the connection is gone")?;
            let opened = open(&received.payload);
            let answer = match opened {
                Ok(reply) => self.accept(reply)?,
                Err(why) => {
                    self.ignore(&why);
                    None
                }
            };
            // Only now: an id that is not kept would be gone with its reply.
            received.ack();
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
        Ok(Answer::Silence)
    }

    fn accept(&self, reply: Reply) -> anyhow::Result<Option<Answer>> {
        if let Some(error) = reply.error {
            if let ("clock", Some(server_time)) = (error.as_str(), reply.server_time) {
                return Ok(Some(Answer::Clock(server_time)));
            }
            // The broker gave our request to the backend twice: a new nonce mends it.
            if error == "replay" {
                return Ok(Some(Answer::Silence));
            }
            let message = reply.message.map(|message| format!(": {message}")).unwrap_or_default();
            return Ok(Some(Answer::Refused(format!("{error}{message}"))));
        }
        let Some(device_id) = reply.device_id else { return Ok(None) };
        let identity = self.ctx.identity();
        let taken =
            if self.anew { identity.replace(device_id.clone()) } else { identity.enrol(device_id.clone()) };
        match taken {
            Ok(()) => self.ctx.healthy(),
            Err(error @ EnrolError::NotKept { .. }) => {
                self.ctx.degraded(format!("{:#}", anyhow::Error::from(error)))
            }
            Err(error) => return Err(error.into()),
        }
        info!(device_id = device_id.as_str(), "enrolled");
        Ok(Some(Answer::Enrolled))
    }

    fn ignore(&mut self, why: &ReplyError) {
        self.ignored += 1;
        warn!(error = %why, ignored = self.ignored, "registration reply ignored");
    }

    /// Enrolled: whatever still comes is late, doubled or forged.
    async fn rest(mut self, shutdown: tokio_util::sync::CancellationToken) {
        self.ctx.idle();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                received = self.replies.recv() => {
                    let Some(received) = received else { return shutdown.cancelled().await };
                    self.ignored += 1;
                    debug!(ignored = self.ignored, "registration reply ignored: already enrolled");
                    received.ack();
                }
            }
        }
    }
}

fn random() -> anyhow::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| anyhow::anyhow!("no randomness for a nonce: {error}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
