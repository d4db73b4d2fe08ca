//! Whether the new version works: its health, and the way to the broker.

use std::sync::Arc;

use protocol::update::{Report, State};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};

use super::{Course, Duration, Next};
use crate::{
    mqtt::Outcome,
    outbox::Tally,
    services::update::{Updater, record::Record},
};

/// How soon health is looked at again.
const PAUSE: Duration = Duration::from_secs(1);
/// How often, while there is no network, it is tried whether there is one again.
const LOOK: Duration = Duration::from_secs(10);
/// How often it is written down how long there has been none.
const NOTE: Duration = Duration::from_secs(60);
/// How long a connection to the broker's port may take.
const CONNECT: Duration = Duration::from_secs(5);

impl Updater {
    pub(super) async fn confirm(&self, course: &mut Course<'_>, record: &mut Record) -> Next {
        if let Some(next) = self.arrived(course, record).await {
            return next;
        }
        let mut tally = self.tell_state(course, record, State::Confirming);
        let began = Instant::now();
        let by = began + self.config.health.timeout.get();
        if let Err(why) = self.well(course, record, by).await {
            return Next::Restore(why);
        }
        match self.healthy(course, record, by).await {
            // What the broker has heard before does not say that it can hear after it.
            Ok(true) if self.config.health.need_connection => {
                let report = self.report(State::Confirming, course, record);
                tally = self.say(course.id, Report { progress: Some(100), ..report });
            }
            Ok(_) => {}
            Err(why) => return Next::Restore(why),
        }
        if self.config.health.need_connection
            && let Err(why) = self.connected(course, record, tally, by).await
        {
            return Next::Restore(why);
        }
        if let Some(next) = self.commit(course, record).await {
            return next;
        }
        self.confirmed(course, record).await
    }

    /// It is what stays, and that is on the disk.
    pub(super) async fn confirmed(&self, course: &Course<'_>, record: &Record) -> Next {
        if let (Some(package), Some(sha256)) = (&record.package, course.sha256()) {
            let mut inventory = self.inventory().await;
            inventory.confirm(package, sha256);
            if let Some(slots) = &record.rauc {
                inventory.note_slot(&package.name, &slots.slot);
            }
            self.insist(|| self.files.keep_inventory(&inventory)).await;
            info!(id = course.id, name = package.name, version = package.version, "updated");
        }
        Next::End(State::Success, None)
    }

    /// Both the owner's and the package's own program say so, at the latest then; whether there was any.
    async fn healthy(&self, course: &Course<'_>, record: &Record, by: Instant) -> Result<bool, String> {
        let Some(package) = &record.package else { return Ok(false) };
        let folder = match &package.target {
            Some(target) => target.join("current"),
            None if package.path.is_dir() => package.path.clone(),
            None => self.stage(),
        };
        let own = package.scripts.health.as_ref().map(|health| {
            ("health of the package", vec![folder.join(health).to_string_lossy().into_owned()])
        });
        let owners = self.config.health.command.as_ref().map(|command| ("health.command", command.words()));
        let env = self.environment(course, record).await;
        let any = owners.is_some() || own.is_some();
        for (what, argv) in owners.into_iter().chain(own) {
            loop {
                let left = by.saturating_duration_since(Instant::now());
                let cwd = if folder.is_dir() { folder.clone() } else { "/".into() };
                let run = self.jobs.run(argv.clone(), &env, cwd, left.max(PAUSE));
                let Err(fault) = run.await else { break };
                if Instant::now() + PAUSE >= by {
                    let seconds = self.config.health.timeout.get().as_secs();
                    return Err(format!("not healthy within {seconds} s: {what} {}", fault.why));
                }
                sleep(PAUSE).await;
            }
        }
        Ok(any)
    }

    /// The broker has had word from the new version.
    async fn connected(
        &self,
        course: &Course<'_>,
        record: &mut Record,
        tally: Option<Arc<Tally>>,
        mut by: Instant,
    ) -> Result<(), String> {
        let spent = Duration::from_secs(record.without_network);
        let last = by + self.config.health.network_grace.get().saturating_sub(spent);
        let mut cut: Option<Instant> = None;
        loop {
            if timeout_at(by, self.heard(course, record, tally.as_deref())).await.is_ok() {
                return Ok(());
            }
            let why = match timeout(CONNECT, self.ctx.mqtt.probe()).await {
                Ok(Ok(())) if cut.is_some() && Instant::now() < last => {
                    // The network is back: now the broker has to be reached in the usual time.
                    cut = None;
                    by = Instant::now() + self.config.health.timeout.get();
                    continue;
                }
                Ok(Ok(())) => {
                    let reason = self.ctx.mqtt.lost().unwrap_or_else(|| "it does not answer".to_owned());
                    return Err(format!("the broker was not reached, although its port can be: {reason}"));
                }
                Ok(Err(why)) => why,
                Err(_) => format!("no connection within {} s", CONNECT.as_secs()),
            };
            if Instant::now() >= last {
                return Err(format!("the broker was not reached, and there is no network: {why}"));
            }
            if cut.is_none_or(|since| since.elapsed() >= NOTE) {
                match cut.replace(Instant::now()) {
                    None => {
                        self.tell_cut(course, record, &why);
                        self.cut(course, record).await;
                    }
                    // For the next process, too.
                    Some(since) => {
                        record.without_network += since.elapsed().as_secs();
                        self.keep(record).await;
                    }
                }
            }
            by = (Instant::now() + LOOK).min(last);
        }
    }

    fn tell_cut(&self, course: &Course<'_>, record: &Record, why: &str) {
        let grace = self.config.health.network_grace;
        warn!(id = course.id, error = why, "no network; a new version has longer to prove itself");
        let why = format!("there is no network ({why}), so it has up to {grace} longer");
        self.tell_why(course, record, State::Confirming, &why);
    }

    /// The broker has acknowledged what was sent from the new version.
    async fn heard(&self, course: &Course<'_>, record: &Record, tally: Option<&Tally>) {
        if let Some(tally) = tally {
            // A refusal is a word from the broker, too.
            let counts = tally.wait(|counts| counts.acknowledged + counts.failed + counts.dropped > 0).await;
            if counts.acknowledged + counts.failed > 0 {
                return;
            }
        }
        // Nobody follows what is not on the disk: once more, to know.
        loop {
            match self.say_and_see(course.id, self.report(State::Confirming, course, record)).await {
                Outcome::Sent | Outcome::Refused(_) => return,
                Outcome::Offline | Outcome::Dropped => sleep(PAUSE).await,
            }
        }
    }
}
