//! What the machine and its programs are doing, at an interval or upon change. A look never holds up anything else: it
//! runs on threads of its own, and what takes too long is left out of the sample.

mod asker;
mod cgroup;
mod change;
mod counters;
mod cpu;
mod disks;
mod files;
mod filesystems;
#[cfg(test)]
mod fixture;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod glob;
mod host;
mod memory;
mod mounts;
mod name;
mod network;
mod observer;
mod once;
mod own;
mod payload;
#[cfg(any(test, not(target_os = "linux")))]
mod portable;
mod post;
mod pressure;
mod processes;
mod sample;
mod sensors;
mod settings;
mod system;
mod text;
mod watched;

use std::time::Duration;

use protocol::{DeviceId, topic::Template};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tracing::info;

use change::Changes;
use files::Root;
use observer::{Observer, Told};
pub(crate) use once::once;
use payload::Head;
use post::Post;
pub(crate) use settings::Config;
use settings::OverlayFile;

use crate::{
    mqtt::Connection,
    service::{Context, Invalid, Outgoing, Service},
};

/// How long after the first look, which has no rates, the first sample is taken.
const FIRST: Duration = Duration::from_secs(1);
/// The slack a look has before the service counts as hanging.
const GRACE: Duration = Duration::from_secs(30);

/// Publishes samples.
pub(crate) struct Metrics {
    config: Config,
    ctx: Context,
    topic: Template,
    root: Root,
}

impl Service for Metrics {
    const NAME: &'static str = "metrics";
    const ENABLED: bool = true;
    type Config = Config;

    fn new(config: Config, ctx: Context) -> anyhow::Result<Self> {
        let topic = ctx.template(config.topic.as_deref());
        config.selectors().map_err(|why| Invalid::key("processes", why))?;
        Ok(Self { config, ctx, topic, root: Root::system() })
    }

    fn check(&self) -> anyhow::Result<()> {
        self.config.with_file().map(drop)
    }

    async fn run(self) -> anyhow::Result<()> {
        self.ctx.until_shutdown(self.watch()).await
    }
}

impl Metrics {
    fn observer(&self, config: &Config) -> anyhow::Result<Observer> {
        Observer::new(&self.root, config, self.ctx.shared.clock.clone()).map_err(anyhow::Error::msg)
    }

    async fn watch(&self) -> anyhow::Result<()> {
        let device_id = self.ctx.identity().device_id().await;
        let topic = self.ctx.topic(&self.topic)?;
        let file = self.config.metrics_config_file.as_ref();
        let mut watch = Watch {
            service: self,
            file: file
                .map(|file| Post::of(File { overlay: OverlayFile::new(file.to_path_buf()), news: None })),
            fault: None,
            file_late: false,
            observer: self.observer(&self.config)?,
            changes: Changes::new(self.config.on_change.clone()).every(self.config.interval.get()),
            own: self.config.monitor_goroutines,
            connection: self.ctx.mqtt.connection(),
            device_id,
            topic,
        };
        watch.run().await
    }
}

/// The JSON file, and what it said when it was read last, until that is taken.
struct File {
    overlay: OverlayFile,
    news: Option<Result<Config, String>>,
}

impl File {
    /// What came too late the last time is still news.
    fn reread(&mut self, written: Config) {
        if let Some(news) = self.overlay.news(written) {
            self.news = Some(news);
        }
    }
}

/// The service at work.
struct Watch<'a> {
    service: &'a Metrics,
    file: Option<Post<File>>,
    /// What is wrong with the settings in the file.
    fault: Option<String>,
    file_late: bool,
    observer: Observer,
    changes: Changes,
    /// Whether the agent tells of itself.
    own: bool,
    connection: watch::Receiver<Connection>,
    device_id: DeviceId,
    topic: String,
}

impl Watch<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        let config = &self.service.config;
        let interval = config.interval.get();
        self.promise();
        self.reread().await?;
        self.begin().await?;
        let mut ticks = interval_at(Instant::now(), interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.promise();
            ticks.tick().await;
            if self.reread().await? {
                info!("metrics_config_file has changed");
                self.begin().await?;
            }
            // Samples that nobody will get are not taken; the next one covers the time.
            if self.service.ctx.would_drop(config.delivery) {
                continue;
            }
            self.look().await?;
            self.send();
            self.tell();
        }
    }

    /// Two timeouts, for the file and the look, and a pause between two looks may come after the interval.
    fn promise(&self) {
        let Config { interval, timeout, .. } = &self.service.config;
        self.service.ctx.progress(interval.get() + 3 * timeout.get() + FIRST + GRACE);
    }

    /// The first look has no rates: what is sent begins with the second, soon after.
    async fn begin(&mut self) -> anyhow::Result<()> {
        self.look().await?;
        sleep(FIRST.min(self.service.config.interval.get())).await;
        self.observer.look_again();
        Ok(())
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let counters = self.service.ctx.mqtt.counters();
        let told = Told { messages: counters.queued, bytes: counters.queued_bytes };
        self.observer.look(self.own.then_some(told)).await
    }

    /// Looks at the settings' file; true if there are new ones.
    async fn reread(&mut self) -> anyhow::Result<bool> {
        let Self { service, file: Some(file), .. } = self else { return Ok(false) };
        let (by, written) = (Instant::now() + service.config.timeout.get(), service.config.clone());
        self.file_late = !file.work(by, move |file| file.reread(written)).await?;
        let Some(news) = file.here_mut().and_then(|file| file.news.take()) else { return Ok(false) };
        match news {
            Ok(config) => {
                self.observer = service.observer(&config)?;
                self.changes = Changes::new(config.on_change.clone()).every(config.interval.get());
                self.own = config.monitor_goroutines;
                self.fault = None;
            }
            Err(why) => self.fault = Some(why),
        }
        Ok(self.fault.is_none())
    }

    /// Hands over what was seen, or what of it has changed.
    fn send(&mut self) {
        let Config { qos, delivery, .. } = self.service.config;
        if self.connection.has_changed().unwrap_or(false)
            && matches!(*self.connection.borrow_and_update(), Connection::Connected { .. })
        {
            self.changes.full_next();
        }
        let seen = self.observer.seen();
        let Some(extent) = self.changes.judge(&seen, Instant::now()) else { return };
        let (ctx, timestamp) = (&self.service.ctx, self.service.ctx.now());
        let payload = |seq| {
            let head = Head { device_id: &self.device_id, timestamp, seq };
            seen.encode(head, (extent, &self.changes))
        };
        ctx.publish(Outgoing { topic: self.topic.clone(), qos, delivery, payload });
    }

    /// How it goes, for `status`.
    fn tell(&self) {
        let timeout = self.service.config.timeout;
        let file = self.file_late.then_some("metrics_config_file");
        let late = file.iter().chain(self.observer.late());
        let late = late.map(|what| format!("the look at {what} takes longer than {timeout}"));
        let why: Vec<String> = self.fault.iter().cloned().chain(late).collect();
        if why.is_empty() {
            self.service.ctx.healthy();
        } else {
            self.service.ctx.degraded(why.join("; "));
        }
    }
}

#[cfg(test)]
mod tests;
