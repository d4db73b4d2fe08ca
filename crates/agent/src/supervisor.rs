//! Starts every enabled service in a task of its own, starts a failed, panicking or hanging one again with
//! back-off, and ends them all within a deadline, naming those that are stuck.
//!
//! One service failing never stops another, and none stops the agent.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use protocol::status::ServiceState;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, error_span, info, warn};

use crate::{
    config::{Section, Services},
    mqtt::{Backoff, Mqtt},
    outbox::Class,
    service::{Context, Entry, Shared},
    services::REGISTRY,
};

/// How long a failed service waits; one that ran for a minute starts from the beginning again.
const BACKOFF: Backoff = Backoff {
    min: Duration::from_millis(500),
    max: Duration::from_secs(60),
    reset_after: Duration::from_secs(60),
};

/// How long one service has to end before a new one takes its place.
const HANDOVER: Duration = Duration::from_secs(2);

/// The running services.
#[derive(Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
    mqtt: Mqtt,
    registry: &'static [Entry],
    running: BTreeMap<&'static str, Running>,
}

/// One service that is kept running.
#[derive(Debug)]
struct Running {
    section: Section,
    shutdown: CancellationToken,
    /// Keeps the service running; ends when it has ended.
    keeper: JoinHandle<()>,
    /// The task of the service itself, to end it when it hangs.
    task: watch::Receiver<Option<AbortHandle>>,
}

impl Supervisor {
    /// Starts what `services` enables.
    ///
    /// # Errors
    /// A section that cannot work; nothing has been started then.
    pub fn start(shared: Arc<Shared>, mqtt: Mqtt, services: &Services) -> anyhow::Result<Self> {
        Self::start_of(REGISTRY, shared, mqtt, services)
    }

    fn start_of(
        registry: &'static [Entry],
        shared: Arc<Shared>,
        mqtt: Mqtt,
        services: &Services,
    ) -> anyhow::Result<Self> {
        load(registry, &shared, services, false)?;
        let mut supervisor = Self { shared, mqtt, registry, running: BTreeMap::new() };
        supervisor.shared.board.expect(registry.iter().map(|entry| entry.name));
        for entry in registry {
            supervisor.spawn(*entry, section(services, entry)?);
        }
        Ok(supervisor)
    }

    /// Applies another configuration: what changed is ended and started anew, the rest is left alone.
    ///
    /// # Errors
    /// A section that cannot work; everything goes on as before then.
    pub async fn reload(&mut self, services: &Services) -> anyhow::Result<Vec<&'static str>> {
        load(self.registry, &self.shared, services, false)?;
        let mut changed = Vec::new();
        for entry in self.registry {
            let section = section(services, entry)?;
            let same = match self.running.get(entry.name) {
                Some(running) => entry.wanted(&section) && running.section == section,
                None => !entry.wanted(&section),
            };
            if !same {
                changed.push((entry, section));
            }
        }
        // All at once: together they take no longer than one.
        let deadline = Instant::now() + HANDOVER;
        for (entry, _) in &changed {
            if let Some(running) = self.running.get(entry.name) {
                running.shutdown.cancel();
            }
        }
        for (entry, section) in &changed {
            // Not taken out before it has ended: who gives up on this reload can still drain it.
            if let Some(running) = self.running.get_mut(entry.name) {
                running.end(entry.name, deadline).await;
                self.running.remove(entry.name);
            }
            self.spawn(**entry, section.clone());
        }
        Ok(changed.into_iter().map(|(entry, _)| entry.name).collect())
    }

    /// Ends everything; a service that has not ended after `patience` is named and left behind.
    pub async fn drain(&mut self, patience: Duration) -> Vec<&'static str> {
        let deadline = Instant::now() + patience;
        let running = std::mem::take(&mut self.running);
        running.values().for_each(|running| running.shutdown.cancel());
        let mut stuck = Vec::new();
        for (name, mut running) in running {
            if !running.end(name, deadline).await {
                stuck.push(name);
            }
        }
        stuck
    }

    /// Watches the promises of the services; never returns.
    pub async fn watch(&self) {
        loop {
            let name = self.shared.board.overdue().await;
            error!(service = name, "no sign of progress: started anew");
            if let Some(running) = self.running.get(name)
                && let Some(task) = &*running.task.borrow()
            {
                task.abort();
            }
        }
    }

    fn spawn(&mut self, entry: Entry, section: Section) {
        if !entry.wanted(&section) {
            self.mqtt.release(entry.name);
            self.shared.board.set(entry.name, ServiceState::Off, None);
            return;
        }
        let shutdown = CancellationToken::new();
        let ctx = Context {
            name: entry.name,
            shared: Arc::clone(&self.shared),
            mqtt: self.mqtt.in_class(Class::of_service(entry.name)),
            shutdown: shutdown.clone(),
        };
        // Before its task first runs: a heartbeat in between would call it off.
        ctx.healthy();
        let (sender, task) = watch::channel(None);
        let keeper = tokio::spawn(keep(entry, section.clone(), ctx, sender));
        self.running.insert(entry.name, Running { section, shutdown, keeper, task });
    }
}

impl Running {
    /// Waits until the service has ended; ends it by force at the deadline and tells that.
    async fn end(&mut self, name: &'static str, deadline: Instant) -> bool {
        if timeout_at(deadline, &mut self.keeper).await.is_ok() {
            return true;
        }
        error!(service = name, "did not stop in time");
        self.keeper.abort();
        if let Some(task) = &*self.task.borrow() {
            task.abort();
        }
        false
    }
}

/// Loads every section without starting anything, and has what is to run look further: what `iot-agent config check`
/// does.
///
/// # Errors
/// The first section that cannot work, with its place.
pub(crate) fn check(registry: &[Entry], shared: &Arc<Shared>, services: &Services) -> anyhow::Result<()> {
    load(registry, shared, services, true)
}

/// Loads every section; with `further`, what is to run looks also at what its settings lead to. An agent that starts does
/// not: what is missing today may be there tomorrow, and the other services are needed meanwhile.
fn load(registry: &[Entry], shared: &Arc<Shared>, services: &Services, further: bool) -> anyhow::Result<()> {
    for entry in registry {
        let section = section(services, entry)?;
        let ctx = Context {
            name: entry.name,
            shared: Arc::clone(shared),
            mqtt: Mqtt::disconnected(0),
            shutdown: CancellationToken::new(),
        };
        if further && entry.wanted(&section) {
            (entry.check)(&section, ctx)?;
        } else {
            drop((entry.load)(&section, ctx)?);
        }
    }
    Ok(())
}

fn section(services: &Services, entry: &Entry) -> anyhow::Result<Section> {
    services
        .section(entry.name)
        .cloned()
        .with_context(|| format!("no section for the service {}", entry.name))
}

/// Keeps one service running until its shutdown.
async fn keep(entry: Entry, section: Section, ctx: Context, task: watch::Sender<Option<AbortHandle>>) {
    // At error level: a span below the chosen one is not there, and its field with it.
    let span = error_span!("service", service = entry.name);
    let mut failures = 0;
    while !ctx.shutdown.is_cancelled() {
        let began = Instant::now();
        ctx.healthy();
        let Some(error) = run(entry, section.clone(), ctx.clone(), &task).instrument(span.clone()).await
        else {
            break;
        };
        if ctx.shutdown.is_cancelled() {
            warn!(service = entry.name, error = format!("{error:#}"), "failed while stopping");
            break;
        }
        if began.elapsed() >= BACKOFF.reset_after {
            failures = 0;
        }
        let delay = BACKOFF.delay(failures);
        failures = failures.saturating_add(1);
        let error = format!("{error:#}");
        error!(
            service = entry.name,
            error,
            retry_in_ms = u64::try_from(delay.as_millis()).unwrap_or(0),
            "failed"
        );
        ctx.shared.board.set(entry.name, ServiceState::Restarting, Some(error));
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = ctx.shutdown.cancelled() => {}
        }
    }
    ctx.shared.board.set(entry.name, ServiceState::Off, None);
    info!(service = entry.name, "stopped");
}

/// One life of a service; none when it has ended as asked.
async fn run(
    entry: Entry,
    section: Section,
    ctx: Context,
    task: &watch::Sender<Option<AbortHandle>>,
) -> Option<anyhow::Error> {
    let (shutdown, mqtt) = (ctx.shutdown.clone(), ctx.mqtt.clone());
    let life = async move {
        let service = (entry.load)(&section, ctx)?;
        // What an earlier life had claimed and this one has not: its section may have changed.
        mqtt.release(entry.name);
        service.await
    };
    let handle = tokio::spawn(life.in_current_span());
    task.send_replace(Some(handle.abort_handle()));
    match handle.await {
        Ok(Ok(())) if shutdown.is_cancelled() => None,
        Ok(Ok(())) => Some(anyhow!("ended by itself")),
        Ok(Err(error)) => Some(error),
        Err(ended) if ended.is_panic() => {
            Some(anyhow!("panicked: {}", panic_message(ended.into_panic().as_ref())))
        }
        Err(_) => Some(anyhow!("was hanging")),
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests;
