//! Where the kinds of updates differ.

use protocol::update::State;
use tokio::time::Instant;

use super::{Course, Next};
use crate::services::update::{
    Updater,
    installer::{Kind, Unpacked},
    record::Record,
};

impl Updater {
    /// Makes it what is in use, or asks somebody to do so.
    pub(super) async fn install_kind(
        &self,
        course: &mut Course<'_>,
        record: &mut Record,
        package: &Unpacked,
    ) -> Next {
        match package.kind {
            Kind::Files => self.switch(course, record, package).await,
            Kind::Command | Kind::Plain => self.command(course, record, package).await,
            Kind::Module => self.install_module(course, record).await,
            Kind::Rauc => self.install_bundle(course, record, package).await,
            Kind::Agent => self.install_itself(course, record, package).await,
        }
    }

    /// The machine has to be restarted, and what was asked for that is on the disk: starts that, where nobody else has.
    ///
    /// # Errors
    /// Where it goes, if that is not waited for.
    pub(super) async fn restart_machine(&self, course: &Course<'_>, record: &mut Record) -> Result<(), Next> {
        match kind(record) {
            Some(Kind::Module) => self.restart_for_module(course, record).await,
            Some(Kind::Rauc) => self.reboot().await.map_err(Next::Restore),
            // The command has done so itself.
            _ => Ok(()),
        }
    }

    /// It is to prove itself: whether it is what runs at all. Where it goes, if it is not.
    pub(super) async fn arrived(&self, course: &mut Course<'_>, record: &mut Record) -> Option<Next> {
        match kind(record) {
            Some(Kind::Module) => self.module_arrived(course, record).await,
            Some(Kind::Rauc) => self.bundle_arrived(course, record).await,
            Some(Kind::Agent) => self.itself_arrived(course, record).await,
            _ => None,
        }
    }

    /// What it has done to others is as well as before, at the latest then.
    ///
    /// # Errors
    /// What is not.
    pub(super) async fn well(&self, course: &Course<'_>, record: &Record, by: Instant) -> Result<(), String> {
        match kind(record) {
            Some(Kind::Agent) => self.services_well(course, by).await,
            _ => Ok(()),
        }
    }

    /// There is no network to prove itself by: tells whoever else waits for that.
    pub(super) async fn cut(&self, course: &Course<'_>, record: &Record) {
        if kind(record) == Some(Kind::Agent) {
            self.note_cut(course).await;
        }
    }

    /// It has proved itself: makes it what stays. Where it goes, if that fails.
    pub(super) async fn commit(&self, course: &mut Course<'_>, record: &mut Record) -> Option<Next> {
        match kind(record) {
            Some(Kind::Module) => self.commit_module(course, record).await,
            Some(Kind::Rauc) => self.commit_bundle().await,
            Some(Kind::Agent) => self.commit_itself(course).await,
            _ => None,
        }
    }

    /// What was in use before is to be again.
    pub(super) async fn restore(&self, course: &mut Course<'_>, record: &mut Record) -> Next {
        match kind(record) {
            Some(Kind::Files) => self.switch_back(course, record).await,
            Some(Kind::Module) => self.restore_module(course, record).await,
            Some(Kind::Rauc) => self.restore_bundle(course, record).await,
            Some(Kind::Agent) => self.restore_itself(course, record).await,
            Some(Kind::Command | Kind::Plain) | None => {
                let why = record.why.clone().unwrap_or_default();
                let why = format!("{why}; what update_command has done cannot be taken back here");
                Next::End(State::Failed, Some(why))
            }
        }
    }

    /// It is over, and what came of it is on the disk.
    pub(super) async fn cleanup(&self, course: &Course<'_>, record: &mut Record) {
        if kind(record) == Some(Kind::Module) {
            self.clean_module(course, record).await;
        }
        // Whatever is known of it: the record may be the one of an update that had lost everything else.
        self.settle_trial(course).await;
    }
}

fn kind(record: &Record) -> Option<Kind> {
    record.package.as_ref().map(|package| package.kind)
}
