//! The table of states: what an update does in each, and where it goes from there.
//!
//! ```text
//! downloading ─ verifying ─ installing ┬ confirming ─ success
//!      │            │         │   └ rebooting ┘ │
//!      └── failed ──┴─────────┘     restoring ──┴─ rolled_back, failed
//! ```
//!
//! A state is on disk before anything of it is done, and everything that is done in it can be done again: so the next
//! process goes on where this one was, whatever ended it. A state that is entered too often leads out of the update.

mod confirm;
mod fetch;
mod install;
mod itself;
mod kinds;
mod module;
mod rauc;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use protocol::update::{Report, Sha256, State, Wanted};
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::{
    Asked, Updater,
    installer::{Order, Unpacked},
    jobs::Fault,
    record::{Inventory, Past, Record, Stage},
};

use crate::outbox::Tally;
use module::Verb;
pub(super) use {module::Progress, rauc::Slots};

/// How soon what could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// How often a state may be entered in a row: each is a process that did not come through it.
const ENTRIES: u32 = 10;
/// The same of a download, which goes on where it was.
const FETCHES: u32 = 1000;
/// Bytes of a reason.
const REASON: usize = 1000;

/// Where an update goes from a state.
pub(super) enum Next {
    Enter(Stage),
    /// It goes back to what was, where that can be done, for this reason.
    Restore(String),
    End(State, Option<String>),
}

/// What an order asks for.
pub(super) struct Course<'a> {
    pub(super) id: &'a str,
    pub(super) asked: &'a Asked,
    /// How ended what an earlier process had running.
    pub(super) left: Option<Result<(), Fault>>,
    /// The same of an update module.
    pub(super) verbs: BTreeMap<Verb, Result<String, Fault>>,
    /// An earlier process was at it.
    pub(super) resumed: bool,
}

impl Updater {
    /// Takes an update to its end, from wherever it is.
    pub(super) async fn carry(&self, id: &str, asked: &Asked) -> Report {
        let (left, verbs) = (self.jobs.left().await, self.left_verbs().await);
        let mut course = Course { id, asked, left, verbs, resumed: false };
        let mut record = match self.insist(|| self.files.record()).await {
            Some(record) if record.id == id => {
                course.resumed = true;
                self.resume(&course, record).await
            }
            _ => self.begin(&course).await,
        };
        loop {
            let next = match record.stage {
                Stage::Downloading => self.download(&course, &mut record).await,
                Stage::Verifying => self.verify(&course, &mut record).await,
                Stage::Installing => self.install(&mut course, &mut record).await,
                Stage::Rebooting => self.wait_for_reboot(&course, &mut record).await,
                Stage::Confirming => self.confirm(&mut course, &mut record).await,
                Stage::Restoring => self.restore(&mut course, &mut record).await,
                Stage::Ended => {
                    self.tidy(&course, &mut record).await;
                    let unknown = || self.report(State::Failed, &course, &record);
                    return record.ended.clone().unwrap_or_else(unknown);
                }
            };
            self.go(&course, &mut record, next).await;
            course.resumed = false;
        }
    }

    async fn begin(&self, course: &Course<'_>) -> Record {
        let boot_id = self.ctx.identity().boot_id();
        // Whatever an earlier one has left.
        self.clear().await;
        if let Some(why) = self.has_failed_before(course.id).await {
            let mut record = Record::new(course.id, Stage::Restoring, boot_id);
            self.go(course, &mut record, Next::End(State::RolledBack, Some(why))).await;
            return record;
        }
        let Asked::Rollback { name } = course.asked else {
            let record = Record::new(course.id, Stage::Downloading, boot_id);
            self.keep(&record).await;
            return record;
        };
        let mut record = Record::new(course.id, Stage::Restoring, boot_id);
        record.why = Some("asked for on the device".to_owned());
        match self.to_restore(name.as_deref()).await {
            Ok((package, slots)) => {
                (record.package, record.rauc) = (Some(package), slots);
                self.keep(&record).await;
            }
            Err(why) => self.go(course, &mut record, Next::End(State::Failed, Some(why))).await,
        }
        record
    }

    /// What an earlier process was at.
    async fn resume(&self, course: &Course<'_>, mut record: Record) -> Record {
        if record.stage == Stage::Ended {
            return record;
        }
        info!(id = record.id, stage = ?record.stage, "an update goes on");
        record.entered += 1;
        let most = match record.stage {
            Stage::Downloading => FETCHES,
            // There is nowhere else to go.
            Stage::Restoring => u32::MAX,
            _ => ENTRIES,
        };
        if record.entered > most {
            // It was tried often enough.
            let why = format!("it was interrupted {} times while {:?}", record.entered - 1, record.stage)
                .to_lowercase();
            let next = match record.stage {
                Stage::Installing | Stage::Rebooting | Stage::Confirming => Next::Restore(why),
                _ => Next::End(State::Failed, Some(why)),
            };
            self.go(course, &mut record, next).await;
        } else {
            // Its boot stays: the state has to know whether the machine was restarted since.
            self.keep(&record).await;
        }
        record
    }

    /// Writes down where it goes, then goes there.
    async fn go(&self, course: &Course<'_>, record: &mut Record, next: Next) {
        match next {
            Next::Enter(stage) => (record.stage, record.attempt) = (stage, 1),
            Next::Restore(why) => {
                warn!(id = record.id, reason = why, "an update goes back");
                (record.stage, record.why) = (Stage::Restoring, Some(why));
            }
            Next::End(state, why) => {
                let mut report = self.report(state, course, record);
                report.error = why.map(shortened);
                if let Some(error) = &report.error {
                    warn!(id = record.id, state = state.name(), error, "an update did not succeed");
                }
                self.remember(course, record, &report).await;
                record.stage = Stage::Ended;
                record.ended = Some(report);
            }
        }
        record.entered = 1;
        record.boot_id = self.ctx.identity().boot_id().to_owned();
        self.keep(record).await;
        self.jobs.release();
    }

    /// On disk, however long that takes: nothing goes on before.
    async fn keep(&self, record: &Record) {
        self.insist(|| self.files.keep(record)).await;
    }

    /// Does it until it can be done.
    pub(super) async fn insist<T, F: Future<Output = Result<T, String>>>(
        &self,
        attempt: impl Fn() -> F,
    ) -> T {
        let mut troubled = false;
        loop {
            let why = match attempt().await {
                Ok(done) if troubled => {
                    self.show_ready();
                    return done;
                }
                Ok(done) => return done,
                Err(why) => why,
            };
            if !troubled {
                error!(error = why, "an update waits for the disk");
            }
            troubled = true;
            self.ctx.degraded(format!("an update waits for the disk: {why}"));
            sleep(AGAIN).await;
        }
    }

    /// What is installed.
    pub(super) async fn inventory(&self) -> Inventory {
        self.insist(|| self.files.inventory()).await
    }

    async fn remember(&self, course: &Course<'_>, record: &Record, report: &Report) {
        let name = record.package.as_ref().map(|package| package.name.clone());
        let inventory = self.inventory().await;
        let known = name.as_ref().and_then(|name| inventory.software.get(name));
        let from = match report.state {
            State::Success => known.and_then(|software| software.previous.clone()),
            _ => known.map(|software| software.current.clone()),
        };
        let past = Past {
            update_id: course.id.to_owned(),
            name,
            from: from.map(|version| version.version),
            version: report.version.clone().unwrap_or_default(),
            state: report.state,
            error: report.error.clone(),
            timestamp: report.timestamp,
        };
        self.insist(|| self.files.remember(past.clone())).await;
    }

    /// Removes what is not needed once it is over.
    async fn tidy(&self, course: &Course<'_>, record: &mut Record) {
        self.cleanup(course, record).await;
        self.clear().await;
        let Some(package @ Unpacked { target: Some(target), previous, .. }) = &record.package else { return };
        let succeeded = record.ended.as_ref().is_some_and(|ended| ended.state == State::Success);
        // Otherwise only what was left half done.
        let keep = if succeeded && !package.already { self.config.keep_versions } else { u32::MAX };
        let order = Order::Clean { target: target.clone(), keep, previous: previous.clone() };
        if let Err(refused) = self.jobs.install(&order).await {
            warn!(reason = refused.why, "old versions cannot be removed");
        }
        self.jobs.release();
    }

    /// A report of this update.
    pub(super) fn report(&self, state: State, course: &Course<'_>, record: &Record) -> Report {
        let wanted = match course.asked {
            Asked::Install { wanted, .. } => Some(wanted.version.clone()),
            Asked::Rollback { .. } => None,
        };
        let version = wanted.or_else(|| record.package.as_ref().map(|package| package.version.clone()));
        Report { version, attempt: record.attempt, ..Report::of(state, self.ctx.now()) }
    }

    /// Tells that it is in this state.
    pub(super) fn tell_state(
        &self,
        course: &Course<'_>,
        record: &Record,
        state: State,
    ) -> Option<Arc<Tally>> {
        self.say(course.id, self.report(state, course, record))
    }

    /// The same, and why it does not go on.
    pub(super) fn tell_why(&self, course: &Course<'_>, record: &Record, state: State, why: &str) {
        let report = self.report(state, course, record).because(shortened(why.to_owned()));
        self.say(course.id, report);
    }
}

impl Course<'_> {
    /// What is to be installed.
    pub(super) fn wanted(&self) -> Option<&Wanted> {
        match self.asked {
            Asked::Install { wanted, .. } => Some(wanted),
            Asked::Rollback { .. } => None,
        }
    }

    pub(super) fn sha256(&self) -> Option<Sha256> {
        self.wanted().map(|wanted| wanted.sha256)
    }
}

fn shortened(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(REASON));
    text
}
