//! Runs commands that the backend sends, each at most once, and tells how each has ended, exactly once.
//!
//! What is common to remote actions is done by `action/`, starting and ending of processes by `executor/`; here is what
//! a command is. It must never run one that the owner's policy does not allow.

mod folders;
mod job;
mod outcome;
mod settings;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use protocol::{
    DeviceId,
    command::{Order as Wanted, Report, Request, State, Status},
    topic::{Layout, Template, order_status},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    action::{
        Action, Decoded, End, Hold, Order, Refusal, Step,
        engine::{self, Engine},
        policy::{Run, Verdict},
    },
    executor::Executor,
    mqtt::{Inbound, Inbox},
    outbox::Tally,
    service::{Context, Invalid, Outgoing, Service},
};
use job::Held;
use outcome::Outcome;
pub(crate) use outcome::{Outcome as Ended, name};
use settings::Config;

/// Messages taken and not yet acknowledged.
const INBOX: usize = 64;

/// Runs commands.
pub(crate) struct Command {
    config: Config,
    ctx: Context,
    /// Where the status goes.
    status: Template,
    inbox: Inbox,
}

impl Service for Command {
    const NAME: &'static str = "command";
    type Config = Config;

    fn new(config: Config, ctx: Context) -> anyhow::Result<Self> {
        config.check()?;
        let requests = ctx.template(config.topic.as_deref()).for_requests();
        let status = order_status(ctx.shared.topics.layout, &requests);
        let inbox = ctx.claim(&requests, config.qos, INBOX);
        Ok(Self { config, ctx, status, inbox })
    }

    fn check(&self) -> anyhow::Result<()> {
        let program = fs::metadata(&self.config.shell).map_err(|error| {
            Invalid::key("shell", format!("{} cannot be run: {error}", self.config.shell))
        })?;
        if !program.is_file() || program.permissions().mode() & 0o111 == 0 {
            return Err(Invalid::key("shell", format!("{} is no program", self.config.shell)).into());
        }
        if let Some(account) = &self.config.run_as {
            Executor::check_account(account).map_err(|error| Invalid::key("run_as", error))?;
        }
        Ok(())
    }

    async fn run(self) -> anyhow::Result<()> {
        let Self { config, ctx, status, inbox } = self;
        let shutdown = ctx.shutdown.clone();
        let device_id = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            device_id = ctx.identity().device_id() => device_id,
        };
        let topic = ctx.topic(&status)?;
        let folder = ctx.folder()?.path().to_owned();
        let limits = engine::Limits {
            running: usize::try_from(config.max_concurrent)?,
            waiting: usize::try_from(config.queue)?,
        };
        let executor = Executor::new(config.run_as.as_deref());
        let cancels = ctx.shared.actions.cancels(Self::NAME);
        if !ctx.shared.actions.policy.is_set() {
            warn!(
                "there is no policy: whoever may publish to this device may run anything; see docs/policy.md"
            );
        }
        let troubled = AtomicBool::new(false);
        let commands = Commands { config, ctx: ctx.clone(), device_id, topic, folder, executor, troubled };
        Engine::new(commands, ctx, cancels, limits).run(inbox).await
    }
}

/// What commands are to the engine.
struct Commands {
    config: Config,
    ctx: Context,
    device_id: DeviceId,
    /// Where the status goes.
    topic: String,
    /// Where this service keeps what it needs.
    folder: PathBuf,
    executor: Executor,
    /// The policy could not be read when it was last needed.
    troubled: AtomicBool,
}

/// A command as it is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// It came as bare text, and is answered so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    bare: bool,
    #[serde(flatten)]
    pub(crate) wanted: Wanted,
}

impl Action for Commands {
    type Request = Asked;
    type Outcome = Outcome;

    fn decode(&self, message: &Inbound) -> Decoded<Asked> {
        let first = message.payload.iter().find(|byte| !byte.is_ascii_whitespace());
        if self.ctx.shared.topics.layout == Layout::IotCloud && first != Some(&b'{') {
            return bare(message);
        }
        match Request::decode(&message.payload) {
            Ok(Request::Cancel { execution_id }) => Decoded::Cancel { id: execution_id.into() },
            Ok(Request::Run { execution_id, expires_at, order }) => {
                let request = Asked { bare: false, wanted: order };
                match self.forbidden(&request.wanted) {
                    Some(reason) => Decoded::Invalid { id: execution_id.into(), keep: true, reason },
                    None => Decoded::Order(Order { id: Some(execution_id.into()), expires_at, request }),
                }
            }
            Err(malformed) => match malformed.execution_id {
                Some(id) => Decoded::Invalid { id, keep: malformed.valid_id, reason: malformed.reason },
                None => Decoded::Unreadable { reason: malformed.reason },
            },
        }
    }

    fn authorise(&self, _id: &str, request: &Asked) -> Result<Option<String>, Refusal> {
        let allowed = self.allowed(request).map(|(rule, _)| rule);
        // The file may have been broken, or mended, since.
        let troubled = self.ctx.shared.actions.policy.trouble().is_some();
        if self.troubled.swap(troubled, Ordering::Relaxed) != troubled {
            self.ready(&self.ctx);
        }
        allowed
    }

    fn ending(&self, request: Option<&Asked>, end: End) -> Outcome {
        let report = |state| Report::of(state, self.ctx.now());
        let report = match end {
            End::Rejected(reason) => report(State::Rejected).because(reason),
            End::Expired => report(State::Expired).because("it came, or its turn came, after expires_at"),
            End::Cancelled => report(State::Cancelled).because("cancelled before it began"),
            End::Interrupted => report(State::Interrupted),
        };
        Outcome { bare: request.is_some_and(|request| request.bare), report }
    }

    fn tell(&self, id: &str, step: Step<'_, Self>) -> Option<Arc<Tally>> {
        match step {
            Step::Accepted(Asked { bare: true, .. }) | Step::Begun(Asked { bare: true, .. }) => None,
            Step::Accepted(_) => self.send(id, Report::of(State::Accepted, self.ctx.now())),
            Step::Begun(_) => self.send(id, Report::of(State::InProgress, self.ctx.now())),
            Step::Ended(outcome) if outcome.bare => self.send_bare(outcome.text()),
            Step::Ended(outcome) => self.send(id, outcome.report.clone()),
        }
    }

    async fn run(self: Arc<Self>, id: String, request: Asked, cancel: CancellationToken) -> (Outcome, Hold) {
        let begun = Instant::now();
        let (report, mut held) = match self.allowed(&request) {
            Ok((_, run)) => self.execute(&id, &request, run, &cancel).await,
            // The policy has changed since it was accepted.
            Err(refusal) => (Report::of(State::Rejected, self.ctx.now()).because(refusal.reason), Held(None)),
        };
        let report = if request.wanted.expect_reboot && may_reboot(&report) {
            self.wait_for_reboot(report, begun + self.time(&request.wanted), &cancel).await
        } else {
            report
        };
        (Outcome { bare: request.bare, report }, Some(Box::new(move || drop(held.0.take()))))
    }

    async fn recover(&self, id: &str, request: Asked, rebooted: Option<bool>) -> Option<Outcome> {
        if request.wanted.expect_reboot && rebooted.is_none() {
            // With what it has left in its spool.
            return None;
        }
        if rebooted.is_some() {
            self.until_connected().await;
        }
        let left = Executor::collect(&self.spool(id)).await;
        self.clean(id).await;
        // What had ended before its agent did has ended so.
        let mut report = match left {
            Some(left) => outcome::report(left, self.room(id), self.ctx.now()),
            None => Report::of(State::Interrupted, self.ctx.now()),
        };
        match (request.wanted.expect_reboot, rebooted) {
            (true, Some(true)) => {
                report.status = State::Success;
                report.message = Some("the machine was restarted".to_owned());
            }
            (true, _) if report.status == State::Success => report.status = State::Interrupted,
            _ => {}
        }
        if report.status == State::Interrupted {
            let why = match rebooted {
                Some(true) => "the machine was restarted while it ran; it is not run again",
                Some(false) => "the agent ended while it ran; it is not run again",
                None => "the service was stopped while it ran; it is not run again",
            };
            report.message = Some(why.to_owned());
        }
        Some(Outcome { bare: request.bare, report })
    }

    fn ready(&self, ctx: &Context) {
        match ctx.shared.actions.policy.trouble() {
            Some(trouble) => ctx.degraded(format!("no command is run: {trouble}")),
            None => ctx.running(format!("commands are held by {}", self.executor.containment())),
        }
    }

    fn detail(&self, request: &Asked) -> String {
        match &request.wanted.args {
            Some(args) => format!("{} {args:?}", request.wanted.command),
            None => request.wanted.command.clone(),
        }
    }

    fn summary(&self, outcome: &Outcome) -> String {
        outcome.summary()
    }

    fn brief(outcome: &RawValue) -> Box<RawValue> {
        outcome::brief(outcome)
    }
}

/// It has done its part, or has been swept away by a machine that goes down.
fn may_reboot(report: &Report) -> bool {
    matches!(report.status, State::Success | State::Interrupted) || report.signal.is_some()
}

/// Text instead of JSON, as the backend of the IOT-Cloud layout sends it.
fn bare(message: &Inbound) -> Decoded<Asked> {
    let unreadable = |reason: &str| Decoded::Unreadable { reason: reason.to_owned() };
    let Ok(text) = str::from_utf8(&message.payload) else { return unreadable("a text that is no UTF-8") };
    let command = text.trim();
    if command.is_empty() || command.contains('\0') {
        return unreadable("an empty text, or one with a NUL character");
    }
    if message.retain {
        return unreadable("a retained text: it would run again with each connection");
    }
    let wanted = Wanted { command: command.to_owned(), ..Wanted::default() };
    Decoded::Order(Order { id: None, expires_at: None, request: Asked { bare: true, wanted } })
}

impl Commands {
    /// What the settings do not let a request say.
    fn forbidden(&self, wanted: &Wanted) -> Option<String> {
        let name = wanted.env.keys().find(|name| !self.config.env.contains(name))?;
        Some(format!("env: {name:?} is not among the variables of services.command.env"))
    }

    fn allowed(&self, request: &Asked) -> Result<(Option<String>, Run), Refusal> {
        let Wanted { command, args, .. } = &request.wanted;
        match self.ctx.shared.actions.policy.command(command, args.as_ref()) {
            Verdict::Allowed { rule, what } => Ok((rule, what)),
            Verdict::Refused { rule, reason } => Err(Refusal { rule, reason }),
        }
    }

    fn send(&self, id: &str, report: Report) -> Option<Arc<Tally>> {
        let (device_id, execution_id) = (self.device_id.clone(), id.to_owned());
        let mut status = Status { device_id, execution_id, seq: 0, report };
        self.publish(|seq| {
            status.seq = seq;
            serde_json::to_vec(&status).expect("strings and numbers make JSON")
        })
    }

    fn send_bare(&self, text: String) -> Option<Arc<Tally>> {
        self.publish(|_| text.clone().into_bytes())
    }

    fn publish(&self, payload: impl FnMut(u64) -> Vec<u8>) -> Option<Arc<Tally>> {
        let Config { qos, delivery, .. } = self.config;
        self.ctx.publish_followed(Outgoing { topic: self.topic.clone(), qos, delivery, payload })
    }
}
