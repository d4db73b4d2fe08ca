//! The agent as a whole: load, supervise, drain.

mod connection;
mod signals;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tracing::{error, info, warn};

use connection::{endpoint, fault, settings};
pub(crate) use signals::Signals;

use crate::{
    action::{Actions, audit::Audit, policy::Policy},
    clock::{self, Clock},
    config::{self, Config, Loaded, Paths, Sources},
    control::{self, Control},
    desk::Desk,
    identity::{Identity, machine_id},
    launch, log,
    mqtt::{self, Backoff, Committer, Driver, Mqtt, transport::Dial},
    outbox::{Disk, Folder, Outbox},
    presence::Presence,
    register,
    service::{Shared, Topics},
    services::{REGISTRY, schemas},
    store::Store,
    supervisor::{self, Supervisor},
    sys,
    systemd::{Notifier, Watchdog},
};

/// How long services have to end on SIGTERM.
const DRAIN_SERVICES: Duration = Duration::from_secs(2);
/// How long what waits may still be sent after that.
pub(crate) const DRAIN_QUEUE: Duration = Duration::from_millis(800);
/// When the connection is given up for good: goodbye, DISCONNECT and all.
pub(crate) const DRAIN_LINK: Duration = Duration::from_millis(2500);
/// The same while the outbox cannot be written: what waits is nowhere else.
const DRAIN_DEGRADED: Duration = Duration::from_millis(2800);
/// What is left for the goodbye and the last writing.
const DRAIN_AFTER: Duration = Duration::from_millis(1900);
/// When the outbox is written for the last time, at the latest: since the beginning of the end.
const DRAIN: Duration = Duration::from_millis(4800);
/// How often the time is written down, so that a clock that resets cannot go back further.
const KEEP: Duration = Duration::from_secs(3600);
/// How soon what could not be written is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(10);
/// After which what the start needed is over: connecting, the first heartbeat and sample.
const STARTED: Duration = Duration::from_secs(30);

/// Folder of the outbox in the state folder.
const OUTBOX: &str = "outbox";

/// Folder of the records of remote actions in the state folder.
const AUDIT: &str = "audit";

/// State file of the clock's floor.
const CLOCK_FILE: &str = "clock.json";

#[derive(Debug, Serialize, Deserialize)]
struct Floor {
    time: protocol::Timestamp,
}

/// What exists before anything runs: state, identity, broker handle.
#[derive(Debug)]
pub struct Parts {
    /// What services share.
    pub shared: Arc<Shared>,
    /// The broker.
    pub mqtt: Mqtt,
    /// The task that has to run for `mqtt` to work.
    pub driver: Driver,
    /// The task that has to run for what is durable to be so, where there is an outbox.
    pub committer: Option<Committer>,
}

/// Opens the state folder and makes everything that services stand on; `presence` is what is said of this device. What
/// is durable waits on `disk`, or in memory where there is none.
///
/// # Errors
/// State that cannot be used, or settings of the connection that cannot work.
pub fn prepare<P: mqtt::Presence>(
    config: &Config,
    disk: Option<Arc<dyn Disk>>,
    presence: impl FnOnce(Arc<Shared>) -> P,
) -> anyhow::Result<Parts> {
    let store = Store::open(&config.paths.state).context("open the state folder")?;
    let clock = clock(&store);
    let identity = Identity::load(&store, &config.identity.device_file, &config.mqtt.client_id, machine_id())
        .context("find out who this device is")?;
    let shared = shared(config, identity, clock, store);
    let settings = settings(config, &shared)?;
    let presence = presence(Arc::clone(&shared));
    let (mqtt, driver, committer) = match disk {
        Some(disk) => {
            let (cap, clock) = (config.outbox.max_size.get(), shared.clock.clone());
            let outbox = Outbox::open(Arc::clone(&disk), cap, clock);
            let (mqtt, driver, committer) = mqtt::durable(settings, presence, outbox, disk);
            (mqtt, driver, Some(committer))
        }
        None => {
            let (mqtt, driver) = mqtt::new(settings, presence);
            (mqtt, driver, None)
        }
    };
    shared.actions.audit.attach(&mqtt);
    if let Some(device) = &*shared.identity.device().borrow() {
        mqtt.bind(device.device_id.as_str());
    }
    Ok(Parts { shared, mqtt, driver, committer })
}

/// The clock, with the floor that an earlier run has left.
fn clock(store: &Store) -> Clock {
    let kept = store.read::<Floor>(CLOCK_FILE).unwrap_or_else(|error| {
        warn!(error = %error, "the time of the last run cannot be read");
        None
    });
    Clock::new(clock::built(), kept.map(|floor| floor.time.to_system_time()))
}

fn shared(config: &Config, identity: Identity, clock: Clock, state: Store) -> Arc<Shared> {
    let topics = Topics { layout: config.mqtt.layout, prefix: config.mqtt.prefix.clone() };
    let config::Reconnect { min, max, reset_after } = config.mqtt.reconnect;
    let backoff = Backoff { min: min.get(), max: max.get(), reset_after: reset_after.get() };
    let log = Arc::new(Folder::new(audit_folder(&config.paths)));
    let audit = Audit::new(log, clock.clone(), &config.mqtt.prefix, identity.device());
    Arc::new(Shared {
        identity,
        clock,
        topics,
        board: Default::default(),
        backoff,
        began: Instant::now(),
        actions: Actions::new(Policy::new(config.policy.clone()), audit),
        tunnels: Default::default(),
        handover: Default::default(),
        updates: Default::default(),
        state,
    })
}

/// Why the daemon has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Stopped,
    /// Another version is to run.
    Handover,
}

/// Runs the daemon until SIGTERM or SIGINT, or until another version of it is to run.
///
/// # Errors
/// [`config::Error`] for a configuration that cannot work; anything else that keeps it from starting.
pub async fn run(sources: Sources) -> anyhow::Result<Ended> {
    sys::give_memory_back();
    let mut signals = Signals::catch().context("catch signals")?;
    let loaded = config::load(&sources, &schemas())?;
    let logs = log::init(loaded.config.log.format, loaded.config.log.level, raw_now)?;
    tell(&loaded);
    let mut agent = Agent::start(sources, loaded, logs)?;
    agent.notifier.ready();
    tokio::spawn(async {
        tokio::time::sleep(STARTED).await;
        sys::let_go_of_code();
    });
    let ended = agent.live(&mut signals).await;
    if matches!(ended, Ok(Ended::Handover)) {
        // The service goes on, as another program.
        agent.notifier.reloading();
    } else {
        agent.notifier.stopping();
    }
    agent.drain().await;
    ended
}

/// The running daemon.
struct Agent {
    sources: Sources,
    config: Config,
    logs: log::Handle,
    notifier: Notifier,
    shared: Arc<Shared>,
    mqtt: Mqtt,
    driver: JoinHandle<()>,
    committer: JoinHandle<()>,
    supervisor: Supervisor,
    /// Answers `iot-agent status` and its like; its socket goes with it.
    control: JoinHandle<()>,
    _watchdog: Watchdog,
}

impl Agent {
    fn start(sources: Sources, loaded: Loaded, logs: log::Handle) -> anyhow::Result<Self> {
        let config = loaded.config;
        let outbox = Arc::new(Folder::new(outbox_folder(&config.paths)));
        let Parts { shared, mqtt, driver, committer } = prepare(&config, Some(outbox), Presence::new)?;
        let committer = committer.context("the agent has an outbox")?;
        let control = Control::bind(&config.paths.run)?;
        let supervisor = Supervisor::start(Arc::clone(&shared), mqtt.clone(), &config.services)?;
        let broker = config.mqtt.broker.to_string();
        let client_id = shared.identity.client_id().as_str();
        info!(version = env!("CARGO_PKG_VERSION"), client_id, broker, "started");
        let desk = Desk::new(Arc::clone(&shared), mqtt.clone(), broker, outbox_folder(&config.paths));
        let control = tokio::spawn(control.serve(desk));
        let (driver, committer) = (tokio::spawn(driver.run()), tokio::spawn(committer.run()));
        tokio::spawn(keep(Arc::clone(&shared)));
        tokio::spawn(launch::settle(Arc::clone(&shared), mqtt.clone()));
        // Where there is none, nobody has ever asked anything of this device.
        if audit_folder(&config.paths).exists() {
            shared.actions.audit.resume();
        }
        let notifier = Notifier::from_env();
        let watched = Arc::clone(&shared);
        let stuck = move || watched.board.neglected().map(str::to_owned);
        let watchdog = Watchdog::start(notifier.clone(), stuck).context("start the watchdog")?;
        Ok(Self {
            sources,
            config,
            logs,
            notifier,
            shared,
            mqtt,
            driver,
            committer,
            supervisor,
            control,
            _watchdog: watchdog,
        })
    }

    /// Until it is told to stop, which also cuts a reload short, or cannot go on.
    async fn live(&mut self, Signals { stop, reload }: &mut Signals) -> anyhow::Result<Ended> {
        loop {
            tokio::select! {
                () = stop.asked() => return Ok(Ended::Stopped),
                () = self.shared.handover.notified() => return Ok(Ended::Handover),
                _ = reload.recv() => {}
                () = self.supervisor.watch() => continue,
                // It ends when it is told to, or by a panic. An agent without it would be deaf and dumb for ever.
                _ = &mut self.driver => anyhow::bail!("the MQTT driver has died"),
                _ = &mut self.committer => anyhow::bail!("the outbox has died"),
            }
            tokio::select! {
                () = stop.asked() => return Ok(Ended::Stopped),
                () = self.reload() => {}
            }
        }
    }

    /// SIGHUP: a new configuration, or the old one and the reason.
    async fn reload(&mut self) {
        self.notifier.reloading();
        match self.try_reload().await {
            Ok(changed) => info!(services = changed.join(","), "configuration reloaded"),
            Err(error) => {
                error!(error = format!("{error:#}"), "configuration not reloaded: the old one stays")
            }
        }
        self.notifier.ready();
    }

    async fn try_reload(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let loaded = config::load(&self.sources, &schemas())?;
        tell(&loaded);
        let changed = self.supervisor.reload(&loaded.config.services).await?;
        self.logs.set_level(loaded.config.log.level);
        for section in self.config.differences(&loaded.config) {
            warn!(section, "changed: takes effect when iot-agent is restarted");
        }
        Ok(changed)
    }

    /// Ends everything within five seconds, nothing lost that could be sent.
    async fn drain(mut self) {
        info!("stopping");
        let by = Instant::now() + DRAIN;
        let stuck = self.supervisor.drain(DRAIN_SERVICES).await;
        let goodbye = Presence::new(Arc::clone(&self.shared)).goodbye();
        // What is on disk can be sent by the next process; what could not be written is sent now or never.
        let queue = if self.mqtt.counters().degraded.is_some() { DRAIN_DEGRADED } else { DRAIN_QUEUE };
        let queue = queue.min(by - DRAIN_AFTER - Instant::now());
        self.mqtt.stop(goodbye, queue);
        // One that has died was waited for already, and must not be again.
        if !self.driver.is_finished()
            && timeout(queue + DRAIN_LINK - DRAIN_QUEUE, &mut self.driver).await.is_err()
        {
            self.driver.abort();
            warn!("the connection did not end in time");
        }
        // Whoever still publishes would keep the outbox writing for ever.
        self.control.abort();
        self.mqtt.close();
        if !self.committer.is_finished() && timeout_at(by, &mut self.committer).await.is_err() {
            error!("the outbox could not be written in time: what came last may be lost");
        }
        if let Err(error) = keep_time(&self.shared) {
            warn!(error = %error, "the time cannot be written down");
        }
        info!(stuck = stuck.join(","), "stopped");
    }
}

/// Checks what can be checked without a network, state or a running agent: what `iot-agent config check` does.
///
/// # Errors
/// The first setting that cannot work.
pub fn check(loaded: &Loaded) -> anyhow::Result<()> {
    let config = &loaded.config;
    let clock = Clock::new(clock::built(), None);
    let checked = Dial::new(endpoint(&config.mqtt)?, clock.clone()).check();
    if let Some((key, message)) = checked.err().and_then(|error| fault(&config.mqtt, &error)) {
        return Err(loaded.error_at(key, message).into());
    }
    if let Some(file) = config.mqtt.password_file.as_ref().filter(|file| file.exists()) {
        file.read().map_err(|error| loaded.error_at("mqtt.password_file", log::chain(&error)))?;
    }
    let identity = Identity::unknown(&config.mqtt.client_id)?;
    let shared = shared(config, identity, clock, Store::nowhere());
    supervisor::check(REGISTRY, &shared, &config.services)?;
    register::check(config, shared)
}

/// The control socket of the daemon with these folders.
pub fn socket(paths: &Paths) -> PathBuf {
    paths.run.join(control::SOCKET)
}

/// Where the outbox of the daemon with these folders is.
pub fn outbox_folder(paths: &Paths) -> PathBuf {
    paths.state.join(OUTBOX)
}

/// Where the records of remote actions of the daemon with these folders are.
pub fn audit_folder(paths: &Paths) -> PathBuf {
    paths.state.join(AUDIT)
}

/// What loading has to say, in the log.
fn tell(loaded: &Loaded) {
    for notice in &loaded.notices {
        warn!("{notice}");
    }
}

/// Keeps on disk what has to be there.
async fn keep(shared: Arc<Shared>) {
    let mut device = shared.identity.device();
    loop {
        let kept = shared.identity.keep().and_then(|()| keep_time(&shared));
        let pause = if kept.is_ok() { KEEP } else { KEEP_AGAIN };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = device.changed() => if changed.is_err() { return },
        }
    }
}

fn keep_time(shared: &Shared) -> crate::store::Result<()> {
    let Some(time) = shared.clock.persistable() else { return Ok(()) };
    shared.state.write(CLOCK_FILE, &Floor { time: protocol::Timestamp::from_system_time(time) })
}

/// How late it is, for logs before there is a clock.
pub(crate) fn raw_now() -> SystemTime {
    Clock::new(clock::built(), None).now()
}
