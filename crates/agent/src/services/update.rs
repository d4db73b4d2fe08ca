//! Updates of the software on this device: never a mixture of two versions, never one that nobody has signed, and none
//! that has not proved itself.
//!
//! What is common to remote actions is done by `action/`; `course/` is the table of states that each update goes
//! through, `download/` has the file, `installer/` verifies it and changes what is in use, in a process of its own.

mod board;
mod booted;
mod course;
mod download;
pub(crate) mod installer;
mod jobs;
mod offers;
mod outcome;
pub mod package;
mod rauc;
mod record;
mod settings;
#[cfg(test)]
mod tests;

use std::{fs, io, path::PathBuf, sync::Arc};

use protocol::{
    DeviceId, Timestamp,
    topic::{Template, order_status},
    update::{Report, Request, State, Status, Wanted},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    action::{
        Action, Decoded, End, Hold, Order, Refusal, Step,
        engine::{self, Engine},
        policy::Verdict,
    },
    http::Url,
    launch,
    mqtt::{self, Delivery, Inbound, Inbox, Message, Qos},
    outbox::{Tally, apart},
    service::{Context, Invalid, Outgoing, Service},
};
pub(crate) use board::{Listed, Updates};
use download::Download;
use jobs::Jobs;
use outcome::Outcome;
pub(crate) use rauc::{Slot, slots};
use record::{Files, Stage};
pub(crate) use record::{History, Past};
pub(crate) use settings::Config;

/// Messages taken and not yet acknowledged.
const INBOX: usize = 64;
/// How many more wait while one is in hand.
const WAITING: usize = 16;

/// Updates software.
pub(crate) struct Update {
    config: Config,
    ctx: Context,
    requests: Template,
    inbox: Inbox,
}

impl Service for Update {
    const NAME: &'static str = "update";
    type Config = Config;

    fn new(config: Config, ctx: Context) -> anyhow::Result<Self> {
        config.check()?;
        let requests = ctx.template(config.topic.as_deref()).for_requests();
        let inbox = ctx.claim(&requests, config.qos, INBOX);
        Ok(Self { config, ctx, requests, inbox })
    }

    fn check(&self) -> anyhow::Result<()> {
        self.config.keys().map_err(|why| Invalid::key("trusted_keys", why))?;
        Ok(())
    }

    async fn run(self) -> anyhow::Result<()> {
        let Self { config, ctx, requests, inbox } = self;
        let shared = Arc::clone(&ctx.shared);
        let shutdown = ctx.shutdown.clone();
        let device_id = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            device_id = ctx.identity().device_id() => device_id,
        };
        let topic = ctx.topic(&order_status(shared.topics.layout, &requests))?;
        let store = ctx.folder()?;
        let folder = store.path().to_owned();
        let taken = Arc::clone(&shared);
        let turn = apart(move || taken.updates.take_turn()).await;
        if !shared.actions.policy.is_set() {
            warn!(
                "there is no policy: whoever signs for a trusted key may update this device; see docs/policy.md"
            );
        }
        let updater = Updater {
            download: Download::new(folder.join("download"), config.rules(), shared.clock.clone()),
            jobs: Jobs::new(folder.clone()),
            files: Files::new(store, turn),
            config: config.clone(),
            ctx: ctx.clone(),
            device_id,
            topic,
            folder,
        };
        updater.clear_ended().await;
        let (sender, orders) = shared.updates.open();
        if let Some(order) = updater.forgotten().await {
            warn!(id = order.id, "an update of the agent has left nothing but its trial");
            sender.try_send(order).ok();
        }
        let cancels = shared.actions.cancels(Self::NAME);
        let offers = offers::watch(&config, &ctx, updater.files.clone(), sender);
        let booted = booted::mark(&config, &ctx, updater.files.clone());
        let limits = engine::Limits { running: 1, waiting: WAITING };
        let engine = Engine::new(updater, ctx.clone(), cancels, limits).with_orders(orders);
        let ended = tokio::select! {
            ended = engine.run(inbox) => ended,
            () = offers => Ok(()),
            never = booted => match never {},
        };
        shared.updates.close();
        ended
    }
}

/// What is asked, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Asked {
    /// To install this.
    Install {
        /// Which software.
        wanted: Wanted,
        /// Where the file is, if it is on this machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        local: Option<PathBuf>,
        /// After which it is not to begin any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<Timestamp>,
    },
    /// To go back to the version before.
    Rollback {
        /// Of which software; of the only one.
        name: Option<String>,
    },
}

/// What updates are to the engine.
struct Updater {
    config: Config,
    ctx: Context,
    device_id: DeviceId,
    /// Where the status goes.
    topic: String,
    /// Where this service keeps what it needs.
    folder: PathBuf,
    files: Files,
    download: Download,
    jobs: Jobs,
}

impl Action for Updater {
    type Request = Asked;
    type Outcome = Outcome;

    fn busy(&self) -> String {
        format!("busy: {WAITING} updates wait already")
    }

    fn decode(&self, message: &Inbound) -> Decoded<Asked> {
        match Request::decode(&message.payload) {
            Ok(Request { update_id, expires_at, wanted }) => {
                let request = Asked::Install { wanted, local: None, expires_at };
                Decoded::Order(Order { id: Some(update_id.into()), expires_at, request })
            }
            Err(malformed) => match malformed.update_id {
                Some(id) => Decoded::Invalid { id, keep: malformed.valid_id, reason: malformed.reason },
                None => Decoded::Unreadable { reason: malformed.reason },
            },
        }
    }

    fn authorise(&self, _id: &str, request: &Asked) -> Result<Option<String>, Refusal> {
        let judged = judge(&self.config, &self.ctx, request);
        // A file may have been broken, or mended, since.
        self.show_ready();
        judged
    }

    fn ending(&self, request: Option<&Asked>, end: End) -> Outcome {
        let why = match end {
            End::Rejected(reason) => reason,
            End::Expired => "expired: it came after expires_at".to_owned(),
            End::Cancelled => "cancelled before it began".to_owned(),
            End::Interrupted => "interrupted".to_owned(),
        };
        let report = Report::of(State::Failed, self.ctx.now()).because(why);
        Outcome(match request {
            Some(Asked::Install { wanted, .. }) => report.on(wanted),
            _ => report,
        })
    }

    fn tell(&self, id: &str, step: Step<'_, Self>) -> Option<Arc<Tally>> {
        let report = match step {
            Step::Accepted(Asked::Install { wanted, .. }) => {
                Report::of(State::Received, self.ctx.now()).on(wanted)
            }
            Step::Accepted(Asked::Rollback { .. }) => Report::of(State::Received, self.ctx.now()),
            // Its states are told as they are entered; to whoever asks again, the latest.
            Step::Begun(_) => self.ctx.shared.updates.latest(id).filter(|report| !report.state.is_final())?,
            Step::Ended(Outcome(report)) => report.clone(),
        };
        self.say(id, report)
    }

    async fn run(self: Arc<Self>, id: String, request: Asked, _: CancellationToken) -> (Outcome, Hold) {
        (Outcome(self.carry(&id, &request).await), None)
    }

    async fn recover(&self, id: &str, request: Asked, rebooted: Option<bool>) -> Option<Outcome> {
        if rebooted.is_none() {
            // The next process takes it up.
            if let Err(why) = self.files.leave(id.to_owned()).await {
                warn!(id, error = why, "the state of an update cannot be written");
            }
            return None;
        }
        Some(Outcome(self.carry(id, &request).await))
    }

    fn ready(&self, _: &Context) {
        self.show_ready();
    }

    fn detail(&self, request: &Asked) -> String {
        match request {
            Asked::Install { wanted: Wanted { version, sha256, size, .. }, local, .. } => {
                let from = if local.is_some() { ", a file of this device" } else { "" };
                format!("version {version}, {size} bytes, sha256 {sha256}{from}")
            }
            Asked::Rollback { name } => {
                format!("back to the version before, {}", name.as_deref().unwrap_or(""))
            }
        }
    }

    fn summary(&self, outcome: &Outcome) -> String {
        outcome.summary()
    }

    fn brief(outcome: &RawValue) -> Box<RawValue> {
        outcome::brief(outcome)
    }
}

impl Updater {
    /// Says on the board how the service is.
    fn show_ready(&self) {
        let trouble = self.ctx.shared.actions.policy.trouble().or_else(|| self.config.trouble());
        match trouble {
            Some(why) => self.ctx.degraded(format!("nothing is updated: {why}")),
            None => self.ctx.healthy(),
        }
    }

    fn say(&self, id: &str, report: Report) -> Option<Arc<Tally>> {
        self.publish(id, report, self.config.delivery)
    }

    /// What is of no use later.
    fn say_live(&self, id: &str, report: Report) {
        drop(self.publish(id, report, Delivery::Live));
    }

    fn publish(&self, id: &str, report: Report, delivery: Delivery) -> Option<Arc<Tally>> {
        self.ctx.shared.updates.say(id, &report);
        let payload = self.payload(id, report);
        let (topic, qos) = (self.topic.clone(), self.config.qos);
        self.ctx.publish_followed(Outgoing { topic, qos, delivery, payload: move |_| payload.clone() })
    }

    /// What became of it.
    async fn say_and_see(&self, id: &str, report: Report) -> mqtt::Outcome {
        self.ctx.shared.updates.say(id, &report);
        let (topic, qos) = (self.topic.clone(), self.config.qos.max(Qos::AtLeastOnce));
        let payload = self.payload(id, report);
        self.ctx.mqtt.publish(Message { topic, payload, qos, retain: false, delivery: Delivery::Live }).await
    }

    fn payload(&self, id: &str, report: Report) -> Vec<u8> {
        let status = Status { device_id: self.device_id.clone(), update_id: id.to_owned(), report };
        serde_json::to_vec(&status).expect("strings and numbers make JSON")
    }

    /// Where entries go that are for the owner's command.
    fn stage(&self) -> PathBuf {
        self.folder.join("stage")
    }

    /// Where versions of this program lie.
    fn own(&self) -> PathBuf {
        self.ctx.shared.state.path().join(launch::FOLDER)
    }

    /// The copy of a file of this machine.
    fn copy(&self) -> PathBuf {
        self.folder.join("copy")
    }

    /// Removes what an update has left that is over.
    async fn clear(&self) {
        if let Err(error) = self.download.discard() {
            warn!(error = %error, "a downloaded file cannot be removed");
        }
        let (stage, copy) = (self.stage(), self.copy());
        let removed = apart(move || absent(fs::remove_file(copy)).and(absent(fs::remove_dir_all(stage))));
        if let Err(error) = removed.await {
            warn!(error = %error, "what was unpacked of an update cannot be removed");
        }
    }

    /// An earlier process may have ended before it could do so.
    async fn clear_ended(&self) {
        let record = self.files.record().await;
        if record.is_ok_and(|record| record.is_none_or(|record| record.stage == Stage::Ended)) {
            self.clear().await;
        }
    }
}

/// Whether it may be done at all, and by which of the owner's rules.
fn judge(config: &Config, ctx: &Context, request: &Asked) -> Result<Option<String>, Refusal> {
    let rule = match ctx.shared.actions.policy.update() {
        Verdict::Allowed { rule, .. } => rule,
        Verdict::Refused { rule, reason } => return Err(Refusal { rule, reason }),
    };
    let Asked::Install { wanted, local, .. } = request else { return Ok(rule) };
    let refuse = |reason: String| Err(Refusal { rule: None, reason });
    if let Some(why) = config.trouble() {
        return refuse(why);
    }
    if let Err(error) = semver::Version::parse(&wanted.version) {
        return refuse(format!("version: {:?} is no semantic version: {error}", wanted.version));
    }
    if local.is_none()
        && let Err(why) = wanted.update_url.parse::<Url>()
    {
        return refuse(format!("update_url: {why}"));
    }
    let most = config.download.max_size.get();
    if wanted.size > most {
        return refuse(format!("size: {} bytes are more than download.max_size, {most}", wanted.size));
    }
    Ok(rule)
}

/// What is not there needs no removing.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
