//! This program itself: the launcher runs the new version beside the old one's process, which watches it; see `launch.rs`.

use std::{
    fs::File,
    future::pending,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{status::ServiceState, update::State};
use serde_json::value::to_raw_value;
use tokio::time::{Instant, sleep};

use super::{Course, Next};
use crate::{
    action::Order,
    executor::own_program,
    launch::{Life, Of, PROGRAM, Phase, Trial, current},
    outbox::apart,
    services::update::{
        Asked, Updater,
        installer::{Unpacked, link},
        record::Record,
    },
};

/// How soon it is looked again how the services are.
const PAUSE: Duration = Duration::from_secs(1);
/// Bytes of a program that say what machine it is for.
const HEAD: usize = 20;

impl Updater {
    /// What the launcher is to know is on the disk before the link leads to the new version.
    pub(super) async fn install_itself(
        &self,
        course: &mut Course<'_>,
        record: &mut Record,
        package: &Unpacked,
    ) -> Next {
        if let Err(why) = runs_here(&package.path.join(PROGRAM)) {
            return Next::End(State::Failed, Some(why));
        }
        let trial = match self.trial(course, package) {
            Ok(trial) => trial,
            Err(error) => return Next::End(State::Failed, Some(error.to_string())),
        };
        self.keep_trial(&trial).await;
        self.switch(course, record, package).await
    }

    fn trial(&self, course: &Course<'_>, package: &Unpacked) -> serde_json::Result<Trial> {
        let degraded = self.ctx.shared.board.states().into_iter();
        let degraded = degraded.filter(|(_, state)| *state != ServiceState::Running).map(|(name, _)| name);
        Ok(Trial::new(Of {
            release: package.version.clone(),
            update_id: course.id.to_owned(),
            asked: to_raw_value(course.asked)?,
            previous: package.previous.clone(),
            timeout: self.config.health.timeout.get(),
            grace: self.config.health.network_grace.get(),
            reach: self.ctx.mqtt.first_hop(),
            degraded: degraded.collect(),
        }))
    }

    /// The old version makes way for the new one; the new one goes on.
    pub(super) async fn itself_arrived(&self, course: &Course<'_>, record: &Record) -> Option<Next> {
        let package = record.package.as_ref()?;
        let trial = self.trial_of(course.id).await;
        if trial.as_ref().is_some_and(|trial| trial.phase == Phase::Failed) {
            let why = trial.and_then(|trial| trial.why).unwrap_or_default();
            return Some(Next::Restore(why));
        }
        if is_running(package) {
            return None;
        }
        let leads = current(&self.own()) == Some(link(&package.version));
        match trial {
            Some(trial) if leads && trial.phase == Phase::Trial => self.make_way().await,
            _ => Some(Next::Restore("the new version could not be started".to_owned())),
        }
    }

    /// All services are as well as they were before.
    ///
    /// # Errors
    /// Which is not, by then.
    pub(super) async fn services_well(&self, course: &Course<'_>, by: Instant) -> Result<(), String> {
        let before = self.trial_of(course.id).await.map(|trial| trial.degraded).unwrap_or_default();
        loop {
            let ill = self.ctx.shared.board.all().into_iter().find(|(name, line)| {
                let ill = matches!(line.state, ServiceState::Degraded | ServiceState::Restarting);
                ill && !before.iter().any(|known| known == name)
            });
            let Some((name, line)) = ill else { return Ok(()) };
            if Instant::now() + PAUSE >= by {
                let detail = line.detail.unwrap_or_default();
                return Err(format!("the service {name} does not run as it did before: {detail}"));
            }
            sleep(PAUSE).await;
        }
    }

    /// The launcher is told that it need not wait any more.
    pub(super) async fn commit_itself(&self, course: &Course<'_>) -> Option<Next> {
        if let Some(mut trial) = self.trial_of(course.id).await {
            // First: whoever watches may be gone the moment that it is written.
            Life::of_this_process().outlive();
            (trial.phase, trial.cut) = (Phase::Confirmed, false);
            self.keep_trial(&trial).await;
        }
        None
    }

    /// The launcher is told that this version finds no network.
    pub(super) async fn note_cut(&self, course: &Course<'_>) {
        if let Some(mut trial) = self.trial_of(course.id).await {
            trial.cut = true;
            self.keep_trial(&trial).await;
        }
    }

    /// A version that has failed makes way for the one before, which then says so.
    pub(super) async fn restore_itself(&self, course: &Course<'_>, record: &Record) -> Next {
        let Some(package) = &record.package else { return Next::End(State::Failed, record.why.clone()) };
        if !is_running(package) {
            return self.switch_back(course, record).await;
        }
        let trial = match self.trial_of(course.id).await {
            Some(trial) => Ok(trial),
            // It is taken back by hand, or nobody knows any more how it came.
            None => self.trial(course, package),
        };
        let mut trial = match trial {
            Ok(trial) => trial,
            Err(error) => return Next::End(State::Failed, Some(error.to_string())),
        };
        trial.fail(record.why.clone().unwrap_or_default());
        self.keep_trial(&trial).await;
        self.make_way().await
    }

    /// Why an update of this id has failed already, as the launcher knows, although the record of it is gone.
    pub(super) async fn has_failed_before(&self, id: &str) -> Option<String> {
        let trial = self.trial_of(id).await?;
        (trial.phase == Phase::Failed).then_some(trial.why.unwrap_or_default())
    }

    /// The order of an update of this program that was on its way, where everything else about it is gone.
    pub(in super::super) async fn forgotten(&self) -> Option<Order<Asked>> {
        let Trial { update_id: id, asked, .. } = self.latest_trial().await?;
        let request = serde_json::from_str(asked?.get()).ok()?;
        let known = self.files.record().await.ok()?.is_some_and(|record| record.id == id);
        (!known).then_some(Order { id: Some(id), expires_at: None, request })
    }

    /// The update is over: from now on nobody needs to know what it asked for.
    pub(super) async fn settle_trial(&self, course: &Course<'_>) {
        if let Some(mut trial) = self.trial_of(course.id).await.filter(|trial| trial.asked.is_some()) {
            trial.asked = None;
            self.keep_trial(&trial).await;
        }
    }

    /// This process ends, in good order.
    async fn make_way(&self) -> ! {
        self.ctx.shared.handover.notify_one();
        pending().await
    }

    async fn latest_trial(&self) -> Option<Trial> {
        let folder = self.own();
        apart(move || Trial::read(&folder)).await
    }

    async fn trial_of(&self, id: &str) -> Option<Trial> {
        self.latest_trial().await.filter(|trial| trial.update_id == id)
    }

    async fn keep_trial(&self, trial: &Trial) {
        let write = || async {
            let (trial, folder) = (trial.clone(), self.own());
            apart(move || trial.write(&folder)).await.map_err(|error| error.to_string())
        };
        self.insist(write).await;
    }
}

/// Whether this process is that version.
fn is_running(package: &Unpacked) -> bool {
    Life::of_this_process().release.as_ref() == Some(&package.version)
}

/// A program for another machine is known by its first bytes.
fn runs_here(path: &Path) -> Result<(), String> {
    let head = |path: PathBuf| -> io::Result<[u8; HEAD]> {
        let mut head = [0; HEAD];
        File::open(path)?.read_exact(&mut head).map(|()| head)
    };
    let (Ok(new), Ok(own)) = (head(path.to_owned()), head(own_program())) else { return Ok(()) };
    let elf = |head: &[u8; HEAD]| head.starts_with(b"\x7fELF");
    // Word size and byte order, and the machine, by the ELF specification.
    let machine = |head: &[u8; HEAD]| (head[4], head[5], head[18], head[19]);
    if elf(&new) && elf(&own) && machine(&new) != machine(&own) {
        let number = |head: &[u8; HEAD]| u16::from(head[18]) | u16::from(head[19]) << 8;
        return Err(format!(
            "the agent in it is for another machine: it is a program for ELF machine {}, and this is {}",
            number(&new),
            number(&own)
        ));
    }
    Ok(())
}
