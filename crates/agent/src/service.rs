//! What a service is, what it is given, and how the registry knows it.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use anyhow::Context as _;
use protocol::{Timestamp, status::ServiceState, topic::Template};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    action::Actions,
    board::Board,
    clock::Clock,
    config::{Section, ServiceSchema},
    identity::Identity,
    mqtt::{Backoff, Connection, Delivery, Inbox, Message, Mqtt, Qos},
    outbox::{Class, Draft, Tally},
    services::{ssh::Tunnels, update::Updates},
};

/// A part of the agent with a section of its own under `services:`. See `docs/adding-a-service.md`.
pub trait Service: Sized + Send + 'static {
    /// Key under `services:`, field in every log line, task name.
    const NAME: &'static str;
    /// On unless the configuration says otherwise. Off for whatever obeys orders from outside or tells more
    /// than that the device lives.
    const ENABLED: bool = false;
    /// Its own section: strict, with defaults. Lives in the service's file.
    type Config: DeserializeOwned + Serialize + JsonSchema + Clone + Send + Sync + 'static;

    /// Validates and claims routes. No I/O, no spawn: `iot-agent config check` stops here.
    ///
    /// # Errors
    /// A setting that cannot work, as [`Invalid`] so that its place in the file can be told.
    fn new(config: Self::Config, ctx: Context) -> anyhow::Result<Self>;

    /// Looks at what its settings lead to outside of the configuration, such as a file: only for `iot-agent config
    /// check`, since a running agent does not end for it.
    ///
    /// # Errors
    /// What would not work.
    fn check(&self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Runs until `ctx.shutdown`. An `Err` or a panic is restarted with capped, jittered back-off.
    fn run(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// A key of a service's section that is well-formed and still cannot work.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Invalid {
    key: &'static str,
    message: String,
}

impl Invalid {
    /// What is wrong with `key`.
    pub fn key(key: &'static str, message: impl Into<String>) -> Self {
        Self { key, message: message.into() }
    }
}

/// A service that is ready to run, its type forgotten.
pub type Task = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// A line of the registry.
#[derive(Clone, Copy)]
pub struct Entry {
    /// [`Service::NAME`].
    pub name: &'static str,
    /// What the configuration has to know of it.
    pub schema: ServiceSchema,
    /// Reads its section, checks it and makes it ready to run.
    pub load: fn(&Section, Context) -> anyhow::Result<Task>,
    /// As `load`, and looks further: what `iot-agent config check` does.
    pub check: fn(&Section, Context) -> anyhow::Result<()>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Entry {
    /// The entry of a service.
    pub const fn of<S: Service>() -> Self {
        Self {
            name: S::NAME,
            schema: ServiceSchema::of::<S::Config>(S::NAME, S::ENABLED),
            load: |section, ctx| Ok(Box::pin(load::<S>(section, ctx)?.run())),
            check: |section, ctx| load::<S>(section, ctx)?.check().map_err(|error| place(section, error)),
        }
    }

    /// Whether this configuration wants it.
    pub fn wanted(&self, section: &Section) -> bool {
        section.enabled().unwrap_or(self.schema.default_enabled)
    }
}

/// Makes a service from its section; what it finds wrong there is told with its place in the file.
pub(crate) fn load<S: Service>(section: &Section, ctx: Context) -> anyhow::Result<S> {
    S::new(section.parse()?, ctx).map_err(|error| place(section, error))
}

fn place(section: &Section, error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<Invalid>() {
        Ok(invalid) => section.error_at(invalid.key, invalid.message).into(),
        Err(other) => other,
    }
}

/// What all services of a process share.
#[derive(Debug)]
pub struct Shared {
    /// Who this device is.
    pub identity: Identity,
    /// What time it is.
    pub clock: Clock,
    /// How topics are laid out.
    pub topics: Topics,
    /// How each service is doing.
    pub board: Board,
    /// How to wait before trying again what the network refused.
    pub backoff: Backoff,
    /// When this process began.
    pub began: Instant,
    /// What remote actions have in common.
    pub(crate) actions: Actions,
    /// The tunnels that are open.
    pub(crate) tunnels: Tunnels,
    /// Asks this process to end and make way for another version of the agent.
    pub(crate) handover: tokio::sync::Notify,
    /// The updates of this process.
    pub(crate) updates: Updates,
    /// The state folder; see [`Context::folder`].
    pub state: crate::store::Store,
}

/// How topic templates become topics on this device.
#[derive(Debug, Clone)]
pub struct Topics {
    /// `mqtt.layout`.
    pub layout: protocol::topic::Layout,
    /// `mqtt.prefix`.
    pub prefix: String,
}

/// A message on its way up, whose payload carries its number.
#[derive(Debug)]
pub struct Outgoing<F> {
    /// Topic name, no wildcards.
    pub topic: String,
    /// Quality of service.
    pub qos: Qos,
    /// What happens to it while offline.
    pub delivery: Delivery,
    /// Makes the payload from the number, at once; must not use the broker.
    pub payload: F,
}

/// Everything a service may use. Cheap to clone, no globals.
#[derive(Debug, Clone)]
pub struct Context {
    /// Whose context it is.
    pub name: &'static str,
    /// What all services share: identity, clock, topics.
    pub shared: Arc<Shared>,
    /// The broker.
    pub mqtt: Mqtt,
    /// Cancelled when this service is to end.
    pub shutdown: CancellationToken,
}

impl Context {
    /// Who this device is; its id is awaited, since registration provides it.
    pub fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    /// The time for a payload.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_system_time(self.shared.clock.now())
    }

    /// The topic to use: as configured, else the layout's own.
    pub fn template(&self, configured: Option<&Template>) -> Template {
        let default = || {
            let text = protocol::topic::default_topic(self.shared.topics.layout, self.name);
            // A service that the contract does not know names its topic like the known ones.
            Template::parse(text.unwrap_or(&format!("{{prefix}}/{{device_id}}/{}", self.name)))
                .expect("a service's name is a topic level")
        };
        configured.cloned().unwrap_or_else(default)
    }

    /// The topic that `template` stands for; none until the device id it needs is known.
    pub fn resolve(&self, template: &Template) -> Option<String> {
        let device = self.identity().device();
        let device = device.borrow();
        let device_id = device.as_ref().map(|device| device.device_id.as_str());
        template.resolve(&self.shared.topics.prefix, device_id, self.identity().client_id().as_str())
    }

    /// The same once the device id is known.
    ///
    /// # Errors
    /// When that was not awaited.
    pub fn topic(&self, template: &Template) -> anyhow::Result<String> {
        self.resolve(template).context("the topic needs more than a device id")
    }

    /// Claims the topic that `template` stands for; subscribed as soon as it is known.
    pub fn claim(&self, template: &Template, qos: Qos, capacity: usize) -> Inbox {
        let client_id = self.identity().client_id().as_str();
        let filter = template.as_str().replace("{prefix}", &self.shared.topics.prefix);
        self.mqtt.claim(self.name, &filter.replace("{client_id}", client_id), qos, capacity)
    }

    /// A state folder of the service's own.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self) -> crate::store::Result<crate::store::Store> {
        self.shared.state.folder(self.name)
    }

    /// The service works, with a limit that `why` names; shown in `status` and in the heartbeat.
    pub fn degraded(&self, why: impl Into<String>) {
        self.shared.board.set(self.name, ServiceState::Degraded, Some(why.into()));
    }

    /// The service works.
    pub fn healthy(&self) {
        self.shared.board.set(self.name, ServiceState::Running, None);
    }

    /// The service works, and `detail` is worth knowing of it.
    pub fn running(&self, detail: impl Into<String>) {
        self.shared.board.set(self.name, ServiceState::Running, Some(detail.into()));
    }

    /// Counts one more of `what`, for `status`; the sum since the start.
    pub fn count(&self, what: &'static str) -> u64 {
        self.shared.board.count(self.name, what)
    }

    /// The `seq` of the next message of a stream that is not durable: it begins again with `run_id`, not with the
    /// service, so that a reader can tell a loss from a restart.
    pub fn next_seq(&self) -> u64 {
        self.shared.board.next_seq(self.name)
    }

    /// Hands a numbered message over. What becomes of it is the driver's business. Durable messages are numbered by
    /// topic, through restarts; others as [`Context::next_seq`] says.
    pub fn publish(&self, outgoing: Outgoing<impl FnMut(u64) -> Vec<u8>>) {
        self.hand_over(outgoing, None);
    }

    /// The same, and what becomes of a durable message is counted; none of another.
    pub fn publish_followed(&self, outgoing: Outgoing<impl FnMut(u64) -> Vec<u8>>) -> Option<Arc<Tally>> {
        let tally = Arc::new(Tally::default());
        self.hand_over(outgoing, Some(&tally)).then_some(tally)
    }

    /// Whether it is durable.
    fn hand_over(&self, outgoing: Outgoing<impl FnMut(u64) -> Vec<u8>>, tally: Option<&Arc<Tally>>) -> bool {
        let Outgoing { topic, qos, delivery, mut payload } = outgoing;
        if delivery == Delivery::Durable && self.mqtt.is_durable() {
            let class = Class::of_service(self.name);
            return self.mqtt.store(Draft { class, topic, qos, retain: false, payload: &mut payload }, tally);
        }
        let payload = payload(self.next_seq());
        drop(self.mqtt.publish(Message { topic, payload, qos, retain: false, delivery }));
        false
    }

    /// Whether a message of this kind would be dropped now, so that there is no need to make it and to use its number.
    pub fn would_drop(&self, delivery: Delivery) -> bool {
        delivery == Delivery::Live
            && !matches!(*self.mqtt.connection().borrow(), Connection::Connected { .. })
    }

    /// Does `work` until it ends or the service is to end, whichever comes first.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn until_shutdown(
        &self,
        work: impl Future<Output = anyhow::Result<()>> + Send,
    ) -> anyhow::Result<()> {
        tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            ended = work => ended,
        }
    }

    /// Promises another sign of progress before `within` has passed. A service that breaks its promise hangs:
    /// its task is ended and started anew.
    pub fn progress(&self, within: Duration) {
        self.shared.board.promise(self.name, Some(within));
    }

    /// Waits for something outside, for however long: no promise.
    pub fn idle(&self) {
        self.shared.board.promise(self.name, None);
    }
}
