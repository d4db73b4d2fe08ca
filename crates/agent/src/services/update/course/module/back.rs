//! The way back: what a module has installed only the module can take back.

use protocol::update::State;
use tracing::warn;

use super::{Course, Cut, Next, Reboot, Verb, known};
use crate::services::update::{Updater, record::Record};

/// How often a restart is tried until the module says that it has led back.
const RESTARTS: u32 = 3;

impl Updater {
    /// Has the module take back what it has installed, if it can, and tells it that the update has failed.
    pub(in super::super) async fn restore_module(
        &self,
        course: &mut Course<'_>,
        record: &mut Record,
    ) -> Next {
        let why = record.why.clone().unwrap_or_default();
        if known(record).has_done(Verb::ArtifactCommit) {
            return self.confirmed(course, record).await;
        }
        if !known(record).has_begun(Verb::ArtifactInstall) {
            return Next::End(State::Failed, Some(why));
        }
        self.tell_why(course, record, State::Installing, &format!("going back: {why}"));
        let can = known(record).rollback == Some(true);
        if can && !known(record).has_begun(Verb::ArtifactFailure) {
            self.take_back(course, record).await;
        }
        if let Err(why) = self.ask(course, record, Verb::ArtifactFailure, Cut::Again).await {
            self.stick(record, &why).await;
        }
        let why = record.why.clone().unwrap_or_default();
        match (can, known(record).stuck) {
            (true, false) => Next::End(State::RolledBack, Some(why)),
            (true, true) => Next::End(State::Failed, Some(why)),
            (false, _) => {
                let why =
                    format!("{why}; and the module has no way back: it does not say Yes to SupportsRollback");
                Next::End(State::Failed, Some(why))
            }
        }
    }

    async fn take_back(&self, course: &Course<'_>, record: &mut Record) {
        if let Err(why) = self.ask(course, record, Verb::ArtifactRollback, Cut::Again).await {
            return self.stick(record, &why).await;
        }
        if known(record).reboot.is_none() {
            // It has failed before it was asked.
            let asked = self.question(course, record, Verb::NeedsArtifactReboot, Reboot::answered).await;
            if let Err(why) = &asked {
                warn!(id = course.id, error = why, "an update module does not say whether to restart");
            }
            known(record).reboot = Some(asked.unwrap_or(Reboot::No));
            self.keep(record).await;
        }
        let automatic = match known(record).reboot {
            Some(Reboot::Yes) => false,
            Some(Reboot::Automatic) => true,
            Some(Reboot::No) | None => return,
        };
        let verify = Verb::ArtifactVerifyRollbackReboot;
        while !known(record).has_done(verify) {
            // What was cut off there is only asked again.
            if known(record).now != Some(verify) {
                self.restart_back(course, record, automatic).await;
            }
            if let Err(why) = self.ask(course, record, verify, Cut::Again).await {
                known(record).restarts += 1;
                warn!(id = course.id, error = why, "a restart has not led back");
                if known(record).restarts >= RESTARTS {
                    return self.stick(record, &why).await;
                }
                self.keep(record).await;
            }
        }
    }

    /// Restarts the machine, or has the module restart what it does. How that ended does not matter: the module is asked.
    async fn restart_back(&self, course: &Course<'_>, record: &mut Record, automatic: bool) {
        let verb = Verb::ArtifactRollbackReboot;
        let begun = known(record).now == Some(verb);
        let elsewhere = known(record).boot_id != self.ctx.identity().boot_id();
        if begun && (elsewhere || !automatic) {
            known(record).end(verb, false);
            return;
        }
        self.begin_verb(record, verb).await;
        let restarted = if automatic {
            match self.reboot().await {
                Ok(()) => Err(self.ends_with_the_machine().await),
                Err(why) => Err(why),
            }
        } else {
            self.call(course, record, verb).await.map(drop).map_err(|fault| fault.why)
        };
        if let Err(why) = restarted {
            warn!(id = course.id, error = why, "the restart for going back failed");
        }
        known(record).end(verb, false);
    }

    /// The way back has failed there, and that is on the disk.
    async fn stick(&self, record: &mut Record, why: &str) {
        known(record).stuck = true;
        let before = record.why.take().unwrap_or_default();
        record.why = Some(format!("{before}; and {why}"));
        self.keep(record).await;
    }
}
