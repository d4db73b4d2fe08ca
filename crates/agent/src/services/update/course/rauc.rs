//! Bundles for the root file system: RAUC installs them into the other slot, the machine is restarted, and the new slot is
//! marked good only when it has proved itself.

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
    rauc::{Rauc, Results},
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
/// How often the machine is restarted to get back.
const BACK: u32 = 3;

/// What has to be known after the machine was restarted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::services::update) struct Slots {
    /// The slot that ran before.
    before: String,
    /// The bundle is in the other one, which will be booted.
    installed: bool,
    /// How often the machine was to come up on the slot before again.
    back: u32,
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
                record.rauc = Some(Slots { before: booted, ..Slots::default() });
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

    /// Back to the slot before.
    pub(super) async fn restore_bundle(&self, course: &Course<'_>, record: &mut Record) -> Next {
        let why = record.why.clone().unwrap_or_default();
        let Some(mut slots) = record.rauc.clone().filter(|slots| slots.installed) else {
            return Next::End(State::Failed, Some(why));
        };
        self.tell_why(course, record, State::Installing, &format!("going back: {why}"));
        let mut tries = 0;
        let on_the_new_one = loop {
            match self.mark_back(&slots.before).await {
                Ok(on_the_new_one) => break on_the_new_one,
                Err(trouble) => self.not_back_yet(course, &trouble, tries).await,
            }
            tries += 1;
        };
        self.show_ready();
        if !on_the_new_one {
            return Next::End(State::RolledBack, Some(why));
        }
        slots.back += 1;
        if slots.back > BACK {
            let why = format!("{why}; and the machine comes up on the new slot again and again");
            return Next::End(State::Failed, Some(why));
        }
        record.rauc = Some(slots);
        self.keep(record).await;
        if let Err(trouble) = self.reboot().await {
            return Next::End(State::Failed, Some(format!("{why}; and to go back: {trouble}")));
        }
        let trouble = self.ends_with_the_machine().await;
        Next::End(State::Failed, Some(format!("{why}; the slot before is booted next, but {trouble}")))
    }

    /// The slot before is booted next; whether another one runs now.
    async fn mark_back(&self, before: &str) -> Result<bool, String> {
        let rauc = Rauc::open().await?;
        if rauc.now().await?.booted == before {
            return rauc.mark("active", "booted").await.map(|()| false);
        }
        rauc.mark("bad", "booted").await?;
        rauc.mark("active", "other").await.map(|()| true)
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
