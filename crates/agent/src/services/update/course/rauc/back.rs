//! The way back to the slot that ran before.

use tokio::time::Instant;

use super::{Course, Next, Rauc, Record, Slots, State, Updater};
use crate::services::update::Asked;

/// How often the machine is restarted to get back.
const RESTARTS: u32 = 3;

/// What becomes of the way back.
enum Way {
    /// The slot before runs.
    Gone,
    /// It is booted next.
    Open,
    /// It must not be booted, for this reason.
    Shut(String),
    /// RAUC could not be told, for this reason.
    Unclear(String),
}

impl Updater {
    /// Back to the slot before.
    pub(in super::super) async fn restore_bundle(&self, course: &Course<'_>, record: &mut Record) -> Next {
        let why = record.why.clone().unwrap_or_default();
        let Some(mut slots) = record.rauc.clone().filter(|slots| slots.installed) else {
            return Next::End(State::Failed, Some(why));
        };
        let failed = |more: String| Next::End(State::Failed, Some(format!("{why}; {more}")));
        self.tell_why(course, record, State::Installing, &format!("going back: {why}"));
        let (way, there) = self.way_back(course, &slots).await;
        let trouble = match way {
            Way::Gone => return self.bundle_is_back(record, why).await,
            Way::Unclear(trouble) if there => {
                let why =
                    format!("{why}; and the slot before, which runs, may not be booted next: {trouble}");
                return self.bundle_is_back(record, why).await;
            }
            Way::Shut(trouble) => {
                self.stay_here(course).await;
                return failed(format!("and there is no way back: {trouble}"));
            }
            Way::Unclear(trouble) => Some(trouble),
            Way::Open => None,
        };
        if slots.back >= if by_hand(course) { 1 } else { RESTARTS } {
            self.stay_here(course).await;
            let trouble = trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
            return failed(format!("and the machine has not come up on the slot before{trouble}"));
        }
        let next = match &trouble {
            None => "the slot before is booted next".to_owned(),
            Some(trouble) => format!("and it cannot be told to RAUC which slot is booted next: {trouble}"),
        };
        // Without a word from RAUC, too: the slot was not marked good, so a boot loader that counts goes back by itself.
        slots.back += 1;
        record.rauc = Some(slots);
        self.keep(record).await;
        if let Err(trouble) = self.restart_to_go_back(course).await {
            return failed(format!("{next}; the machine has to be restarted: {trouble}"));
        }
        let trouble = self.ends_with_the_machine().await;
        failed(format!("{next}; {trouble}"))
    }

    /// Opens the way back, for as long as a new version has to prove itself; and whether the slot before runs.
    async fn way_back(&self, course: &Course<'_>, slots: &Slots) -> (Way, bool) {
        let by = Instant::now() + self.config.health.timeout.get();
        let (mut tries, mut there) = (0, false);
        let way = loop {
            match self.mark_back(course, slots, &mut there).await {
                Ok(way) => break way,
                Err(trouble) if Instant::now() >= by => break Way::Unclear(trouble),
                Err(trouble) => self.not_back_yet(course, &trouble, tries).await,
            }
            tries += 1;
        };
        self.show_ready();
        (way, there)
    }

    /// Restarts the machine, and tries that for as long as the way back.
    async fn restart_to_go_back(&self, course: &Course<'_>) -> Result<(), String> {
        let by = Instant::now() + self.config.health.timeout.get();
        let mut tries = 0;
        while let Err(trouble) = self.reboot().await {
            if Instant::now() >= by {
                return Err(trouble);
            }
            self.not_back_yet(course, &trouble, tries).await;
            tries += 1;
        }
        self.show_ready();
        Ok(())
    }

    async fn mark_back(&self, course: &Course<'_>, slots: &Slots, there: &mut bool) -> Result<Way, String> {
        let rauc = Rauc::open().await?;
        let known = rauc.slots().await?;
        let before = known.iter().find(|slot| slot.slot == slots.slot);
        // Records of earlier versions have no name.
        let nameless = slots.slot.is_empty();
        *there = match before {
            Some(slot) => slot.says("state", "booted"),
            None => nameless && rauc.now().await?.booted == slots.before,
        };
        if *there {
            return rauc.mark("active", "booted").await.map(|()| Way::Gone);
        }
        // What was good and is bad now was written to by somebody: RAUC marks a slot bad before that.
        if slots.good && before.is_some_and(|slot| slot.says("boot-status", "bad")) {
            return Ok(Way::Shut(format!(
                "the slot {} is bad by now; install a bundle that works",
                slots.slot
            )));
        }
        // Whether or not that can be said of the new one, the other has to be booted.
        let bad = if by_hand(course) { Ok(()) } else { rauc.mark("bad", "booted").await };
        rauc.mark("active", if nameless { "other" } else { &slots.slot }).await?;
        bad.map(|()| Way::Open)
    }

    /// What was running before a way back by hand was tried is booted next: it works.
    async fn stay_here(&self, course: &Course<'_>) {
        if !by_hand(course) {
            return;
        }
        let marked = async { Rauc::open().await?.mark("active", "booted").await };
        if let Err(why) = marked.await {
            tracing::warn!(id = course.id, error = why, "the slot that runs may not be booted next");
        }
    }

    async fn bundle_is_back(&self, record: &Record, why: String) -> Next {
        if let Some(package) = &record.package {
            let mut inventory = self.inventory().await;
            inventory.restore(&package.name, &package.version);
            self.insist(|| self.files.keep_inventory(&inventory)).await;
        }
        Next::End(State::RolledBack, Some(why))
    }

    /// The way to a slot that ran before, by hand.
    ///
    /// # Errors
    /// Why it is not gone.
    pub(in super::super) async fn to_slot(&self, name: &str) -> Result<Slots, String> {
        let rauc = Rauc::open().await?;
        let (now, known) = (rauc.now().await?, rauc.slots().await?);
        let Some(slot) = known.iter().find(|slot| slot.slot == name) else {
            return Err(format!("RAUC does not know the slot {name} any more: install an earlier bundle"));
        };
        if now.busy {
            return Err("RAUC is installing something: try again when it has ended".to_owned());
        }
        if slot.says("state", "booted") {
            return Err(format!("the machine runs from the slot before ({name}) already"));
        }
        if !slot.says("boot-status", "good") {
            return Err(format!(
                "the slot before ({name}) is not good: install an earlier bundle, or, if it is known to work, \
                 `rauc status mark-active {name}` and a restart"
            ));
        }
        Ok(Slots { slot: name.to_owned(), good: true, installed: true, ..Slots::default() })
    }
}

/// The slot that runs is not to blame.
fn by_hand(course: &Course<'_>) -> bool {
    matches!(course.asked, Asked::Rollback { .. })
}
