//! Bundles for the root file system: RAUC installs them into the other slot, the machine is restarted, and the new slot is
//! marked good only when it has proved itself.

mod back;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::update::{Report, State};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use super::{Course, Next};
use crate::services::update::{
    Updater,
    installer::Unpacked,
    rauc::{Rauc, Results, Slot},
    record::{Record, Stage},
};

/// How often RAUC is asked how far it is: progress is told no more often than that.
const LOOK: Duration = Duration::from_secs(1);
/// How long it may be silent, or idle without having told a result.
const SILENCE: Duration = Duration::from_secs(10);
/// How long another installation is waited for.
const BUSY: Duration = Duration::from_secs(1800);
/// How long one may take.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// What has to be known after the machine was restarted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::services::update) struct Slots {
    /// What RAUC says was booted before.
    before: String,
    /// That slot by its name; empty where that was not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(in crate::services::update) slot: String,
    /// It was good then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    good: bool,
    /// The bundle is in the other one, which will be booted.
    installed: bool,
    /// How often the machine was to come up on the slot before again.
    back: u32,
}

impl Slots {
    /// As it is before an installation.
    fn before(booted: String, known: &[Slot]) -> Self {
        let runs = known.iter().find(|slot| slot.says("state", "booted"));
        let slot = runs.map(|slot| slot.slot.clone()).unwrap_or_default();
        let good = runs.is_some_and(|slot| slot.says("boot-status", "good"));
        Self { before: booted, slot, good, ..Self::default() }
    }

    /// A bundle lies in the other slot, of which nothing is known but that it was installed.
    pub(in crate::services::update) fn unproven(&self) -> bool {
        self.installed && !self.before.is_empty()
    }
}

impl Updater {
    /// Hands the bundle to RAUC and waits until it is installed.
    pub(super) async fn install_bundle(
        &self,
        course: &mut Course<'_>,
        record: &mut Record,
        package: &Unpacked,
    ) -> Next {
        self.tell_state(course, record, State::Installing);
        let done = async {
            let bundle = bundle(&package.path)
                .map_err(|error| format!("the bundle that was unpacked is gone: {error}"))?;
            let rauc = Rauc::open().await?;
            if self.installed_before(course, record, &rauc).await? {
                return Ok(Stage::Confirming);
            }
            let mut results = rauc.results().await?;
            if !self.is_ours(course, record, &rauc).await? {
                let booted = self.idle(course, record, &rauc).await?;
                // Anew: what has ended meanwhile is another's, and not the result of this one.
                results = rauc.results().await?;
                record.rauc = Some(Slots::before(booted, &rauc.slots().await?));
                self.keep(record).await;
                rauc.install(&bundle).await?;
            }
            self.installed(course, record, &rauc, results).await.map(|()| Stage::Rebooting)
        };
        let next = match done.await {
            Ok(next) => next,
            Err(why) => return Next::End(State::Failed, Some(why)),
        };
        if let Some(slots) = &mut record.rauc {
            slots.installed = true;
        }
        Next::Enter(next)
    }

    /// The machine was restarted before it was heard how it ended, and runs from another slot than before: RAUC has it booted
    /// only once all of it is there. Another installation would replace the slot that is to be gone back to.
    async fn installed_before(
        &self,
        course: &Course<'_>,
        record: &Record,
        rauc: &Rauc,
    ) -> Result<bool, String> {
        let Some(slots) = record.rauc.as_ref().filter(|_| course.resumed) else { return Ok(false) };
        let booted = rauc.now().await?.booted;
        Ok(record.boot_id != self.ctx.identity().boot_id() && booted != slots.before)
    }

    /// What RAUC is at was begun by an earlier process for this update, and not by somebody else.
    async fn is_ours(&self, course: &Course<'_>, record: &Record, rauc: &Rauc) -> Result<bool, String> {
        let begun = course.resumed && record.rauc.is_some();
        let same_boot = record.boot_id == self.ctx.identity().boot_id();
        Ok(begun && same_boot && rauc.now().await?.busy)
    }

    /// Waits until RAUC does nothing; which slot is booted.
    async fn idle(&self, course: &Course<'_>, record: &Record, rauc: &Rauc) -> Result<String, String> {
        let by = Instant::now() + BUSY;
        let mut told = false;
        loop {
            let now = rauc.now().await?;
            if !now.busy {
                return Ok(now.booted);
            }
            if Instant::now() >= by {
                return Err("RAUC is busy with something else".to_owned());
            }
            if !std::mem::replace(&mut told, true) {
                self.tell_why(course, record, State::Installing, "RAUC is busy with something else");
            }
            sleep(LOOK).await;
        }
    }

    /// Until RAUC says how it went.
    async fn installed(
        &self,
        course: &Course<'_>,
        record: &Record,
        rauc: &Rauc,
        mut results: Results,
    ) -> Result<(), String> {
        let last = Instant::now() + LONGEST;
        let (mut heard, mut shown) = (Instant::now(), None);
        while Instant::now() < last {
            match timeout(LOOK, results.next()).await {
                Ok(Some(0)) => return Ok(()),
                Ok(Some(code)) => {
                    let why = rauc.now().await.map(|now| now.trouble).unwrap_or_default();
                    return Err(format!("RAUC has not installed the bundle ({code}): {why}"));
                }
                Ok(None) => return Err("the system bus has gone while RAUC installed".to_owned()),
                Err(_) => {}
            }
            let silent = match rauc.now().await {
                Ok(now) if now.busy => {
                    heard = Instant::now();
                    if now.percent.is_some() && now.percent != shown {
                        shown = now.percent;
                        let report = self.report(State::Installing, course, record);
                        self.say_live(course.id, Report { progress: shown, ..report });
                    }
                    continue;
                }
                Ok(_) => "RAUC has ended the installation without saying how it went".to_owned(),
                Err(why) => why,
            };
            if heard.elapsed() > SILENCE {
                return Err(silent);
            }
        }
        Err(format!("RAUC has not installed the bundle within {} h", LONGEST.as_secs() / 3600))
    }

    /// Whether the machine came up on the new slot.
    pub(super) async fn bundle_arrived(&self, course: &Course<'_>, record: &mut Record) -> Option<Next> {
        let slots = record.rauc.clone().unwrap_or_default();
        let by = Instant::now() + self.config.health.timeout.get();
        let mut told = false;
        loop {
            let why = match booted().await {
                Ok(booted) if booted != slots.before => return None,
                Ok(booted) => {
                    let why = format!(
                        "the machine came up on the slot that it ran from before ({booted}): its boot loader did not take the new one, or went back"
                    );
                    return Some(Next::Restore(why));
                }
                Err(why) => why,
            };
            // At boot it may come later than the agent.
            if Instant::now() >= by {
                return Some(Next::Restore(why));
            }
            if !std::mem::replace(&mut told, true) {
                self.tell_why(course, record, State::Confirming, &why);
            }
            sleep(LOOK).await;
        }
    }

    /// The slot stays.
    pub(super) async fn commit_bundle(&self) -> Option<Next> {
        let marked = async { Rauc::open().await?.mark("good", "booted").await };
        marked.await.err().map(Next::Restore)
    }
}

async fn booted() -> Result<String, String> {
    Ok(Rauc::open().await?.now().await?.booted)
}

/// The only file below a folder.
fn bundle(folder: &Path) -> io::Result<PathBuf> {
    let mut path = folder.to_owned();
    while path.is_dir() {
        path = fs::read_dir(&path)?.next().ok_or(io::ErrorKind::NotFound)??.path();
    }
    Ok(path)
}
