//! Where the device is, and how sure it is of that: from a receiver on a serial port, from gpsd, by the networks it
//! hears, or as configured. A fix that is old is sent with its age, and beyond `max_age` not at all.

mod fix;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod google;
mod gps;
mod gpsd;
mod networks;
mod nmea;
mod once;
mod port;
mod settings;
mod source;

use std::time::Duration;

use protocol::{
    DeviceId,
    location::{Location, Source},
    topic::Template,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::warn;

use fix::{Fix, Point};
pub(crate) use once::{Asking, once};
pub(crate) use settings::{Asked, Config};
use source::{Choice, Seen, Teller, choose, deadline, is_needed};

use crate::{
    clock::Clock,
    log::chain,
    service::{Context, Outgoing, Service},
    store::Store,
};

/// The slack a location has before the service counts as hanging.
const GRACE: Duration = Duration::from_secs(30);
/// However fast it moves: not more often than so.
const LEAST: Duration = Duration::from_secs(1);
/// What a place that somebody has typed is taken to be off, in metres.
const TYPED: f64 = 10.0;

/// Publishes locations.
pub(crate) struct Locations {
    config: Config,
    ctx: Context,
    topic: Template,
    sources: Vec<Source>,
}

impl Service for Locations {
    const NAME: &'static str = "location";
    type Config = Config;

    fn new(config: Config, ctx: Context) -> anyhow::Result<Self> {
        let (topic, sources) = (ctx.template(config.topic.as_deref()), config.sources()?);
        Ok(Self { config, ctx, topic, sources })
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.sources.contains(&Source::Google) { Ok(self.config.check_geolocation()?) } else { Ok(()) }
    }

    async fn run(self) -> anyhow::Result<()> {
        self.ctx.until_shutdown(self.watch()).await
    }
}

impl Locations {
    async fn watch(&self) -> anyhow::Result<()> {
        let folder = self.ctx.folder().inspect_err(|error| {
            warn!(error = chain(error), "cannot keep how often the place is asked for");
        });
        // A receiver takes a while to find its satellites, and the device one to be enrolled.
        let sources = Sources::start(&self.config, &self.sources, &self.ctx.shared.clock, folder.ok());
        self.watch_these(sources).await
    }

    async fn watch_these(&self, sources: Sources) -> anyhow::Result<()> {
        let device_id = self.ctx.identity().device_id().await;
        let topic = self.ctx.topic(&self.topic)?;
        Watch { service: self, sources, device_id, topic, next: Instant::now(), last: None }.run().await
    }
}

/// The sources at work. They end with this.
struct Sources {
    began: Instant,
    feeds: Vec<(Source, watch::Receiver<Seen>)>,
    changed: mpsc::Receiver<()>,
    /// Whether what costs money has to be asked.
    needed: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Sources {
    /// `folder` keeps how often a geolocation service was asked.
    fn start(config: &Config, wanted: &[Source], clock: &Clock, folder: Option<Store>) -> Self {
        let (mut feeds, mut tasks, needed) = (Vec::new(), JoinSet::new(), watch::Sender::new(false));
        let (change, changed) = mpsc::channel(1);
        for source in wanted {
            let (tell, feed) = Teller::new();
            match source {
                Source::Gps => {
                    let Some(path) = config.gps_device_path.clone() else { continue };
                    let rate = config.gps_baud_rate;
                    tasks.spawn(async move { gps::run(&path, rate, &tell).await });
                }
                Source::Gpsd => {
                    let (Some(server), clock) = (config.gpsd.clone(), clock.clone()) else { continue };
                    tasks.spawn(async move { gpsd::run(&server, &clock, &tell).await });
                }
                Source::Google => {
                    let (config, clock, needed) = (config.clone(), clock.clone(), needed.subscribe());
                    let limit = config.geolocation_daily_limit.0;
                    let tally = google::Tally::new(folder.clone(), clock.clone(), limit);
                    tasks.spawn(google::run(config, clock, tally, needed, tell));
                }
                // It is as old as each look at it.
                Source::Fixed => {}
            }
            let (mut watched, change) = (feed.clone(), change.clone());
            tasks.spawn(async move {
                while watched.changed().await.is_ok() {
                    // One that waits already stands for this one, too.
                    change.try_send(()).ok();
                }
            });
            feeds.push((*source, feed));
        }
        Self { began: Instant::now(), feeds, changed, needed, _tasks: tasks }
    }

    /// Which fix to use of what they tell; has those asked that it takes.
    fn choose(&self, seen: &[(Source, Seen)], now: Instant, max_age: Duration) -> Choice {
        let needed = is_needed(Source::Google, seen, self.began, now, max_age);
        self.needed.send_if_modified(|before| std::mem::replace(before, needed) != needed);
        choose(seen, self.began, now, max_age)
    }

    /// What each of them tells.
    fn seen(&self, config: &Config) -> Vec<(Source, Seen)> {
        let fixed = config.fixed.as_ref().map(settings::Fixed::point);
        let seen = |(source, feed): &(Source, watch::Receiver<Seen>)| match (source, fixed) {
            (Source::Fixed, Some(point)) => {
                (*source, Seen { fix: Some(Fix::new(Instant::now(), point, TYPED)), trouble: None })
            }
            _ => (*source, feed.borrow().clone()),
        };
        self.feeds.iter().map(seen).collect()
    }

    /// Waits until one of them has something new to tell.
    async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            // None of them ever will.
            std::future::pending().await
        }
    }
}

/// Why there is no fix: in which order, and of which source.
fn troubles(seen: &[(Source, Seen)]) -> String {
    let why = |(source, seen): &(Source, Seen)| {
        let why = seen.trouble.as_ref().map_or("has told nothing yet", |trouble| &trouble.why);
        format!("{source}: {why}")
    };
    if seen.is_empty() {
        return "nothing is configured that could know the place: gps_device_path, gpsd, use_google_geolocation or fixed".to_owned();
    }
    seen.iter().map(why).collect::<Vec<_>>().join("; ")
}

/// The service at work.
struct Watch<'a> {
    service: &'a Locations,
    sources: Sources,
    device_id: DeviceId,
    topic: String,
    /// When the next one is due.
    next: Instant,
    /// The place that was sent last, and when.
    last: Option<(Point, Instant)>,
}

impl Watch<'_> {
    async fn run(&mut self) -> anyhow::Result<()> {
        loop {
            let now = Instant::now();
            let wake = self.look(now);
            self.service.ctx.progress(wake.saturating_duration_since(now) + GRACE);
            tokio::select! {
                () = sleep_until(wake) => {}
                () = self.sources.changed() => {}
            }
        }
    }

    /// Sends what is due; tells when to look again, whatever changes.
    fn look(&mut self, now: Instant) -> Instant {
        let Config { interval, max_age, .. } = self.service.config;
        let seen = self.sources.seen(&self.service.config);
        let choice = self.sources.choose(&seen, now, max_age.get());
        match choice {
            Choice::Fix(source, fix) => {
                self.tell(source, &seen);
                if now >= self.next || self.has_moved(&fix, now) {
                    self.send(source, &fix, now);
                    self.last = Some((fix.point, now));
                    self.next = self.after(now, interval.get());
                }
                // When it will be too old, for its source or at all.
                let ends =
                    [deadline(source), max_age.get()].map(|limit| fix.at + limit + Duration::from_millis(1));
                ends.into_iter().filter(|end| *end > now).fold(self.next, Instant::min)
            }
            Choice::Wait(until) => until.min(now + interval.get()),
            Choice::Nothing => {
                self.service.ctx.degraded(troubles(&seen));
                now + interval.get()
            }
        }
    }

    /// On the beat of the interval; one that was missed is skipped.
    fn after(&self, now: Instant, interval: Duration) -> Instant {
        let beat = self.next + interval;
        if beat > now && self.last.is_some() { beat } else { now + interval }
    }

    fn has_moved(&self, fix: &Fix, now: Instant) -> bool {
        let (Some(least), Some((point, at))) = (self.service.config.min_distance, self.last) else {
            return false;
        };
        now.saturating_duration_since(at) >= LEAST && fix.point.distance(point) >= least.0
    }

    fn send(&self, source: Source, fix: &Fix, now: Instant) {
        let Config { qos, delivery, round_to, .. } = self.service.config;
        if self.service.ctx.would_drop(delivery) {
            return;
        }
        let mut location = Location {
            device_id: self.device_id.clone(),
            timestamp: self.service.ctx.now(),
            seq: 0,
            place: fix.place(source, now, round_to.map(|step| step.0)),
        };
        let payload = |seq| {
            location.seq = seq;
            serde_json::to_vec(&location).expect("strings and finite numbers make JSON")
        };
        self.service.ctx.publish(Outgoing { topic: self.topic.clone(), qos, delivery, payload });
    }

    /// Where the place comes from, for `status`; and what does not work of what was asked for before it.
    fn tell(&self, from: Source, seen: &[(Source, Seen)]) {
        let ctx = &self.service.ctx;
        let before: Vec<_> = seen.iter().take_while(|(source, _)| *source != from).cloned().collect();
        if !before.is_empty() {
            ctx.degraded(format!("the place is from {from}, since {}", troubles(&before)));
        } else {
            ctx.running(format!("the place is from {from}"));
        }
    }
}

#[cfg(test)]
mod tests;
