//! Opens tunnels that the backend asks for: ports of an SSH server that lead to a target on this device, each for a
//! while.
//!
//! What is common to remote actions is done by `action/`, the SSH itself by `link/`; here is what a tunnel is. It must
//! never lead to what the owner has not allowed, nor go through a server that is not known.

mod client;
mod decide;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod key;
mod link;
mod open;
mod outcome;
mod run;
mod settings;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::{
    DeviceId,
    ssh::{Notice, Report, Request, State, Status, Wanted},
    topic::{Layout, Template, order_status, ssh_servers},
};
use ring::digest::{SHA256, digest};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    action::{
        Action, Decoded, End, Hold, Order, Refusal, Step,
        engine::{self, Engine},
    },
    log::chain,
    mqtt::{Inbound, Inbox},
    outbox::Tally,
    service::{Context, Invalid, Outgoing, Service},
};
use decide::Allowed;
use key::{Key, KeyError};
#[doc(hidden)]
pub use link::bench::hold;
use link::{Limit, Links, Ways};
pub(crate) use open::Tunnels;
use outcome::Outcome;
pub(crate) use settings::Config;

/// Messages taken and not yet acknowledged.
const INBOX: usize = 64;
/// The device's key in the service's folder, where the settings name none.
const KEY: &str = "id_ed25519";

/// Opens tunnels.
pub(crate) struct Ssh {
    config: Config,
    allowed: Allowed,
    ctx: Context,
    requests: Template,
    inbox: Inbox,
}

impl Service for Ssh {
    const NAME: &'static str = "ssh";
    type Config = Config;

    fn new(config: Config, ctx: Context) -> anyhow::Result<Self> {
        let allowed = config.check()?;
        let requests = ctx.template(config.topic.as_deref()).for_requests();
        let inbox = ctx.claim(&requests, config.qos, INBOX);
        Ok(Self { config, allowed, ctx, requests, inbox })
    }

    fn check(&self) -> anyhow::Result<()> {
        self.config.complete()?;
        // A file of the Go agent names none and has to load: there the service says so itself, and opens nothing.
        let may_lack = self.ctx.shared.topics.layout == Layout::IotCloud;
        if self.config.trust().is_none() && !may_lack {
            return Err(Invalid::key("known_hosts", settings::NO_HOST_KEY).into());
        }
        if let Some(path) = &self.config.private_key_path {
            Key::load(path).map_err(|error| Invalid::key("private_key_path", chain(&error)))?;
        }
        Ok(())
    }

    async fn run(self) -> anyhow::Result<()> {
        let Self { config, allowed, ctx, requests, inbox } = self;
        let shared = Arc::clone(&ctx.shared);
        let _shown = shared.tunnels.begin();
        let folder = ctx.folder()?.path().to_owned();
        let way = Way { path: config.key_file(&folder), found: Mutex::default() };
        // Before the device shows itself, so that its birth has the key.
        if let Err(why) = way.links(&config, &ctx) {
            warn!(why, "no tunnel can be opened");
            ctx.degraded(no_way(&why));
        }
        let shutdown = ctx.shutdown.clone();
        let device_id = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            device_id = ctx.identity().device_id() => device_id,
        };
        let layout = ctx.shared.topics.layout;
        let topics = Topics {
            status: ctx.topic(&order_status(layout, &requests))?,
            servers: match layout {
                Layout::Device => None,
                Layout::IotCloud => Some(ctx.topic(&ssh_servers(&requests))?),
            },
        };
        // Nothing waits: whoever asks for a tunnel wants it now.
        let limits = engine::Limits { running: usize::try_from(config.max_connections)?, waiting: 0 };
        let cancels = ctx.shared.actions.cancels(Self::NAME);
        if !ctx.shared.actions.policy.is_set() {
            warn!(
                "there is no policy: whoever may publish to this device may open tunnels; see docs/policy.md"
            );
        }
        let tunnels = Opener { config, allowed, ctx: ctx.clone(), device_id, topics, way };
        Engine::new(tunnels, ctx, cancels, limits).run(inbox).await
    }
}

/// The line for `authorized_keys` of the device's key, which is made where there is none.
///
/// # Errors
/// When it cannot be read or made.
pub(crate) fn public_key(config: &Config, state: &Path) -> anyhow::Result<String> {
    Ok(load_key(config, &state.join(Ssh::NAME), "iot-agent")?.public())
}

fn load_key(config: &Config, folder: &Path, comment: &str) -> Result<Key, KeyError> {
    let path = config.key_file(folder);
    match Key::load(&path) {
        Err(KeyError::Missing(_)) if config.private_key_path.is_none() => {
            let failed = |source| KeyError::Write { path: path.clone(), source };
            // With the process's umask nobody else can look into it.
            fs::create_dir_all(folder).map_err(failed)?;
            Key::make(&path, comment)
        }
        loaded => loaded,
    }
}

fn no_way(why: &str) -> String {
    format!("no tunnel can be opened: {why}")
}

/// Where things are told.
struct Topics {
    status: String,
    /// In the IOT-Cloud layout, what the topics of servers begin with.
    servers: Option<String>,
}

/// What opens tunnels, once there is a key: that may come later than the agent.
struct Way {
    path: PathBuf,
    /// With a key, for good: what is missing then is missing in the settings of this process.
    found: Mutex<Option<Result<Arc<Links>, String>>>,
}

impl Way {
    /// # Errors
    /// What is missing.
    fn links(&self, config: &Config, ctx: &Context) -> Result<Arc<Links>, String> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = &*found {
            return found.clone();
        }
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let comment = ctx.identity().client_id().as_str();
        let key = load_key(config, folder, comment).map_err(|error| chain(&error))?;
        ctx.shared.tunnels.show_key(Some(key.public()));
        found.insert(links(config, ctx, key).map(Arc::new)).clone()
    }
}

/// # Errors
/// What the settings lack.
fn links(config: &Config, ctx: &Context, key: Key) -> Result<Links, String> {
    config.complete().map_err(|lacking| format!("services.ssh.{lacking}"))?;
    let trust = config.trust().ok_or(settings::NO_HOST_KEY)?.map_err(|error| error.to_string())?;
    Ok(Links::new(Ways {
        user: config.ssh_user.clone().unwrap_or_default(),
        key,
        trust,
        clock: ctx.shared.clock.clone(),
        timeout: config.connection_timeout.get(),
        keep_alive: config.keep_alive.get(),
        bind: config.bind.clone(),
        limit: Limit::default(),
    }))
}

/// What tunnels are to the engine.
struct Opener {
    config: Config,
    allowed: Allowed,
    ctx: Context,
    device_id: DeviceId,
    topics: Topics,
    way: Way,
}

impl Action for Opener {
    type Request = Wanted;
    type Outcome = Outcome;

    const STANDS: Option<Duration> = Some(Duration::from_mins(1));
    const NOUN: &'static str = "tunnel";

    fn name(&self, request: &RawValue) -> String {
        protocol::hex::encode(&digest(&SHA256, request.get().as_bytes()).as_ref()[..16])
    }

    fn unknown(&self) -> String {
        "not known here, so there is nothing to close; and no tunnel will be opened under this id".to_owned()
    }

    fn busy(&self) -> String {
        format!("too many: max_connections is {}, and so many tunnels are open", self.config.max_connections)
    }

    fn decode(&self, message: &Inbound) -> Decoded<Wanted> {
        match Request::decode(&message.payload) {
            Ok(Request::Close { request_id }) => Decoded::Cancel { id: request_id.into() },
            Ok(Request::Open { request_id, expires_at, wanted }) => {
                Decoded::Order(Order { id: request_id.map(String::from), expires_at, request: wanted })
            }
            Err(malformed) => match malformed.request_id {
                Some(id) => Decoded::Invalid { id, keep: malformed.valid_id, reason: malformed.reason },
                None => Decoded::Unreadable { reason: malformed.reason },
            },
        }
    }

    fn authorise(&self, _id: &str, request: &Wanted) -> Result<Option<String>, Refusal> {
        let judged = self.judge(request);
        // The file may have been broken, or mended, since.
        self.ready(&self.ctx);
        judged
    }

    fn ending(&self, request: Option<&Wanted>, end: End) -> Outcome {
        let (state, reason) = match end {
            End::Rejected(reason) => (State::Refused, reason),
            End::Expired => (State::Refused, "expired: it came after expires_at".to_owned()),
            End::Cancelled => (State::Closed, outcome::REQUESTED.to_owned()),
            End::Interrupted => (State::Closed, outcome::INTERRUPTED.to_owned()),
        };
        let report = Report::of(state, self.ctx.now()).because(reason);
        Outcome::of(request.map_or(report.clone(), |wanted| report.on(wanted)))
    }

    fn tell(&self, id: &str, step: Step<'_, Self>) -> Option<Arc<Tally>> {
        match step {
            Step::Accepted(_) => None,
            // Again, to whoever asks again; of one that is being opened there is nothing to say yet.
            Step::Begun(wanted) => {
                let rport = self.ctx.shared.tunnels.rport(id)?;
                self.send(id, self.opened(wanted, rport));
                None
            }
            Step::Ended(outcome) => {
                self.tell_server(outcome.server_id.as_deref(), "/disconnect", &outcome.report);
                self.send(id, outcome.report.clone())
            }
        }
    }

    async fn run(self: Arc<Self>, id: String, request: Wanted, cancel: CancellationToken) -> (Outcome, Hold) {
        (self.carry(&id, &request, &cancel).await, None)
    }

    async fn recover(&self, id: &str, request: Wanted, rebooted: Option<bool>) -> Option<Outcome> {
        let reason = if rebooted.is_some() { outcome::INTERRUPTED } else { outcome::SHUTDOWN };
        let report = Report::of(State::Closed, self.ctx.now()).on(&request).because(reason);
        // It may have been open: who was told so is told that it is not any more.
        let server_id = request.server_id;
        let report = match self.ctx.shared.tunnels.take_left(id) {
            Some(left) => left.on(report),
            None => report,
        };
        Some(Outcome { report, server_id })
    }

    fn ready(&self, ctx: &Context) {
        if let Some(trouble) = ctx.shared.actions.policy.trouble() {
            ctx.degraded(format!("no tunnel is opened: {trouble}"));
        } else if let Err(why) = self.way.links(&self.config, ctx) {
            ctx.degraded(no_way(&why));
        } else {
            ctx.healthy();
        }
    }

    fn detail(&self, request: &Wanted) -> String {
        let server = self.server(request);
        format!("{server} port {} to {}", request.rport, decide::destination(request))
    }

    fn summary(&self, outcome: &Outcome) -> String {
        outcome.summary()
    }

    fn brief(outcome: &RawValue) -> Box<RawValue> {
        outcome::brief(outcome)
    }
}

impl Opener {
    fn opened(&self, wanted: &Wanted, rport: u16) -> Report {
        Report { rport: Some(rport), ..Report::of(State::Open, self.ctx.now()).on(wanted) }
    }

    fn send(&self, id: &str, report: Report) -> Option<Arc<Tally>> {
        let status = Status { device_id: self.device_id.clone(), request_id: id.to_owned(), report };
        let payload = serde_json::to_vec(&status).expect("strings and numbers make JSON");
        self.publish(self.topics.status.clone(), payload)
    }

    /// In the IOT-Cloud layout the server, too, is told of what is open and what is not any more.
    fn tell_server(&self, server_id: Option<&str>, what: &str, report: &Report) {
        let (Some(servers), Some(server_id)) = (&self.topics.servers, server_id) else { return };
        let (Some(lport), Some(rport)) = (report.lport, report.rport) else { return };
        let notice = Notice { device_id: self.device_id.clone(), lport, rport };
        let payload = serde_json::to_vec(&notice).expect("strings and numbers make JSON");
        drop(self.publish(format!("{servers}/{server_id}{what}"), payload));
    }

    fn publish(&self, topic: String, payload: Vec<u8>) -> Option<Arc<Tally>> {
        let Config { qos, delivery, .. } = self.config;
        self.ctx.publish_followed(Outgoing { topic, qos, delivery, payload: move |_| payload.clone() })
    }
}
