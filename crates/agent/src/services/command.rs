//! Runs commands that the backend sends, each at most once, and tells how each has ended, exactly once.
//!
//! What is common to remote actions is done by `action/`, starting and ending of processes by `executor/`; here is what
//! a command is. It must never run one that the owner's policy does not allow.

mod outcome;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use protocol::{
    DeviceId,
    command::{Order as Wanted, Report, Request, State, Status},
    topic::{Layout, Template, order_status},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{task::spawn_blocking, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    action::{
        Action, Decoded, End, Order, Refusal, Step,
        engine::{self, Engine},
        policy::{Run, Verdict},
    },
    config::{ByteSize, Delivery, Interval, Qos, Topic},
    executor::{self, Event, Executor, Job, Login, Running},
    mqtt::{Inbound, Inbox},
    outbox::Tally,
    service::{Context, Invalid, Outgoing, Service},
    store,
};
use outcome::Outcome;
use outcome::Pieces;
pub(crate) use outcome::{Outcome as Ended, name};

/// Messages taken and not yet acknowledged.
const INBOX: usize = 64;
/// What a command has left to end by itself once it was asked to.
const GRACE: Duration = Duration::from_secs(2);
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs commands.
pub(crate) struct Command {
    config: Config,
    ctx: Context,
    /// Where the status goes.
    status: Template,
    inbox: Inbox,
}

/// Settings under `services.command`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Topic of the requests; by default that of the layout. Where it lacks {device_id}, that is appended.
    topic: Option<Topic>,
    /// Quality of service of the status.
    qos: Qos,
    /// What becomes of a status while the broker is out of reach.
    delivery: Delivery,
    /// Bytes kept of each of the two outputs of a command: the beginning and the end.
    output_size_limit: ByteSize,
    /// How long a command may take; a request may ask for less.
    max_execution_time: Interval,
    /// How many commands run at once.
    max_concurrent: u32,
    /// How many more wait; a further one is rejected.
    queue: u32,
    /// What runs a command, by `-c`.
    shell: String,
    /// The user that commands run as (`user`, `user:group` or numbers); by default that of the agent.
    run_as: Option<String>,
    /// Variables that a request may set; those it does not set are the agent's own.
    env: Vec<String>,
    /// What the processes of one command may use.
    limits: Limits,
    /// How often output is sent of a command with `stream`.
    stream_interval: Interval,
}

/// What the processes of one command may use.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Memory, in bytes; by default as much as there is.
    memory: Option<ByteSize>,
    /// Processes and threads.
    pids: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: None, pids: Some(512) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topic: None,
            qos: Qos::AtLeastOnce,
            delivery: Delivery::Durable,
            output_size_limit: ByteSize::bytes(64 << 10),
            max_execution_time: Interval::seconds(60),
            max_concurrent: 4,
            queue: 64,
            shell: "/bin/sh".to_owned(),
            run_as: None,
            env: Vec::new(),
            limits: Limits::default(),
            stream_interval: Interval::seconds(1),
        }
    }
}

impl Config {
    fn check(&self) -> Result<(), Invalid> {
        if self.max_concurrent == 0 {
            return Err(Invalid::key("max_concurrent", "must be at least 1"));
        }
        if !self.shell.starts_with('/') {
            return Err(Invalid::key("shell", "must be an absolute path, such as /bin/sh"));
        }
        if self.limits.pids.is_some_and(|pids| pids < 2) {
            return Err(Invalid::key("limits.pids", "must be at least 2: the shell, and what it runs"));
        }
        if let Some(name) = self.env.iter().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(Invalid::key("env", format!("{name:?} cannot be the name of a variable")));
        }
        Ok(())
    }

    fn limits(&self) -> executor::Limits {
        executor::Limits { memory: self.limits.memory.map(ByteSize::get), pids: self.limits.pids }
    }
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
        if !Path::new(&self.config.shell).exists() {
            return Err(Invalid::key("shell", "there is no such file").into());
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
        let topic = ctx.resolve(&status).context("the topic needs more than a device id")?;
        let folder = ctx.folder()?.path().to_owned();
        let limits = engine::Limits {
            running: usize::try_from(config.max_concurrent)?,
            waiting: usize::try_from(config.queue)?,
        };
        let executor = Executor::new(config.run_as.as_deref(), &config.limits());
        let cancels = ctx.shared.actions.cancels(Self::NAME);
        let commands = Commands { config, ctx: ctx.clone(), device_id, topic, folder, executor };
        Engine::new(commands, ctx, limits).run(inbox, cancels).await
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
        self.allowed(request).map(|(rule, _)| rule)
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

    async fn run(self: Arc<Self>, id: String, request: Asked, cancel: CancellationToken) -> Outcome {
        let begun = Instant::now();
        let report = match self.allowed(&request) {
            Ok((_, run)) => self.execute(&id, &request, run, &cancel).await,
            // The policy has changed since it was accepted.
            Err(refusal) => Report::of(State::Rejected, self.ctx.now()).because(refusal.reason),
        };
        let report = if request.wanted.expect_reboot && may_reboot(&report) {
            self.wait_for_reboot(report, begun + self.time(&request.wanted), &cancel).await
        } else {
            report
        };
        Outcome { bare: request.bare, report }
    }

    async fn recover(&self, id: &str, request: Asked, rebooted: Option<bool>) -> Option<Outcome> {
        let left = Executor::collect(&self.spool(id)).await;
        self.clean(id).await;
        if request.wanted.expect_reboot && rebooted.is_none() {
            return None;
        }
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
        ctx.running(format!("commands are held by {}", self.executor.containment()));
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

    fn time(&self, wanted: &Wanted) -> Duration {
        let most = self.config.max_execution_time.get();
        wanted.timeout_s.map_or(most, |seconds| Duration::from_secs_f64(seconds).min(most))
    }

    async fn execute(&self, id: &str, asked: &Asked, run: Run, cancel: &CancellationToken) -> Report {
        let started = match self.job(id, &asked.wanted, run).await {
            Ok(job) => self.executor.start(&job).map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        let report = match started {
            Ok(running) => self.follow(id, running, asked, cancel).await,
            Err(error) => {
                Report::of(State::Failed, self.ctx.now()).because(format!("cannot be started: {error:#}"))
            }
        };
        self.clean(id).await;
        report
    }

    async fn follow(
        &self,
        id: &str,
        mut running: Running,
        asked: &Asked,
        cancel: &CancellationToken,
    ) -> Report {
        let mut pieces = Pieces::default();
        let mut cancelled = false;
        loop {
            let event = tokio::select! {
                event = running.next() => event,
                () = cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    running.cancel();
                    continue;
                }
            };
            match event {
                Event::Started { .. } => {}
                Event::Chunk { stdout, stderr } if !asked.bare => {
                    let report = Report::of(State::InProgress, self.ctx.now());
                    drop(self.send(id, pieces.next(report, stdout, stderr)));
                }
                Event::Chunk { .. } => {}
                Event::Ended(report) => return outcome::report(report, self.room(id), self.ctx.now()),
            }
        }
    }

    async fn job(&self, id: &str, wanted: &Wanted, run: Run) -> anyhow::Result<Job> {
        let (work, spool) = (self.work(id), self.spool(id));
        let cwd = wanted.cwd.as_ref().map_or_else(|| work.clone(), PathBuf::from);
        let account = self.config.run_as.clone();
        let made = spawn_blocking(move || make_folders(&work, &spool, account.as_deref()));
        let login = made.await?.context("make its working directory")?;
        let mut argv = vec![self.config.shell.clone(), "-c".to_owned(), run.script];
        if !run.args.is_empty() {
            argv.push("sh".to_owned());
            argv.extend(run.args);
        }
        Ok(Job {
            argv,
            env: self.environment(wanted, &login),
            cwd,
            run_as: self.config.run_as.clone(),
            timeout: self.time(wanted),
            grace: GRACE,
            output_limit: self.config.output_size_limit.get(),
            chunk_every: wanted.stream.then(|| self.config.stream_interval.get()),
            limits: self.config.limits(),
            spool: self.spool(id),
        })
    }

    /// Nothing of the agent's own environment but what the owner has named.
    fn environment(&self, wanted: &Wanted, login: &Login) -> BTreeMap<String, String> {
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), PATH.to_owned()),
            ("SHELL".to_owned(), self.config.shell.clone()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        env.extend(login.env.iter().cloned());
        let own = self.config.env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
        env.extend(own);
        env.extend(wanted.env.clone());
        env
    }

    /// It is not done before the machine is restarted, with which this process ends.
    async fn wait_for_reboot(&self, report: Report, until: Instant, cancel: &CancellationToken) -> Report {
        let status = tokio::select! {
            () = tokio::time::sleep_until(until) => match report.status {
                State::Success => State::Failed,
                other => other,
            },
            () = cancel.cancelled() => State::Cancelled,
        };
        let report = Report { status, timestamp: self.ctx.now(), ..report };
        report.because("the machine was not restarted in time")
    }

    fn work(&self, id: &str) -> PathBuf {
        self.folder.join("work").join(file_name(id))
    }

    fn spool(&self, id: &str) -> PathBuf {
        self.folder.join("spool").join(file_name(id))
    }

    /// Takes away what a command has left in its own folder.
    async fn clean(&self, id: &str) {
        let work = self.work(id);
        let removed = spawn_blocking(move || fs::remove_dir_all(work)).await;
        match removed {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                warn!(id, error = %error, "the working directory of a command cannot be removed");
            }
            _ => {}
        }
    }

    /// Bytes that the output may take in the payload.
    fn room(&self, id: &str) -> usize {
        let around = self.topic.len() + self.device_id.as_str().len() + id.len() + outcome::AROUND;
        self.ctx.mqtt.largest().saturating_sub(around)
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

/// A folder for one command alone, and one for what its keeper may have to leave.
fn make_folders(work: &Path, spool: &Path, account: Option<&str>) -> anyhow::Result<Login> {
    let login = executor::login(account).map_err(anyhow::Error::msg)?;
    store::make_folder(work)?;
    spool.parent().map_or(Ok(()), store::make_folder)?;
    if account.is_some() {
        chown(work, Some(login.ids.0), Some(login.ids.1))?;
    }
    Ok(login)
}

/// Ids are any text; names of files are not.
fn file_name(id: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    protocol::hex::encode(&digest.as_ref()[..16])
}
