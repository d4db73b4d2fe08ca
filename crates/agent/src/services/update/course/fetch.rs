//! Waiting for its time, and having the file.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol::update::{Report, State, Wanted};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{AGAIN, Course, Duration, Next};
use crate::{
    action::policy::Verdict,
    log::chain,
    outbox::{Tally, apart},
    services::update::{
        Asked, Updater, download,
        record::{Record, Stage},
    },
    store::make_folder,
};

/// Progress is told no more often than this.
const PROGRESS: Duration = Duration::from_secs(1);
/// A try that gained so many bytes is not counted: a bad network is no bad server.
const GAIN: u64 = 64 << 10;

impl Updater {
    pub(super) async fn download(&self, course: &Course<'_>, record: &mut Record) -> Next {
        let Asked::Install { wanted, local, .. } = course.asked else {
            return Next::End(State::Failed, Some("there is nothing to fetch".to_owned()));
        };
        // The whole package is nowhere but at its URL.
        let local = local.as_ref().filter(|_| record.full.is_none());
        if let Some(refused) = self.wait_its_turn(course, record).await {
            return refused;
        }
        if !record.begun {
            record.begun = true;
            self.keep(record).await;
        }
        if local.is_some() && self.is_copied(wanted.size) {
            return self.fetched(course, record).await;
        }
        if let Some(path) = local {
            self.tell_state(course, record, State::Downloading);
            let (from, to) = (path.clone(), self.copy());
            let limit = wanted.size;
            return match apart(move || copy(&from, &to, limit)).await {
                Ok(()) => self.fetched(course, record).await,
                Err(error) => {
                    Next::End(State::Failed, Some(format!("{} cannot be copied: {error}", path.display())))
                }
            };
        }
        loop {
            let told = self.tell_state(course, record, State::Downloading);
            let error = match self.fetch(course, wanted, record, told).await {
                Ok(()) => return self.fetched(course, record).await,
                Err(error) => error,
            };
            let why = chain(&error);
            if error.is_final() {
                return Next::End(State::Failed, Some(why));
            }
            if error.progressed() < GAIN {
                record.attempt += 1;
            }
            if record.attempt > self.config.max_retry_attempts.saturating_add(1) {
                record.attempt -= 1;
                return Next::End(State::Failed, Some(why));
            }
            warn!(id = course.id, attempt = record.attempt, error = why, "a download is tried again");
            self.keep(record).await;
            self.tell_why(course, record, State::Downloading, &why);
            sleep(self.ctx.shared.backoff.delay(record.attempt.saturating_sub(1))).await;
        }
    }

    /// Where the file is now.
    pub(super) fn file(&self, course: &Course<'_>, record: &Record) -> PathBuf {
        match course.asked {
            Asked::Install { local: Some(_), .. } if record.full.is_none() => self.copy(),
            _ => self.download.file(),
        }
    }

    /// An earlier process may have done so; the stick may be gone since.
    fn is_copied(&self, size: u64) -> bool {
        std::fs::metadata(self.copy()).is_ok_and(|found| found.len() == size)
    }

    /// It is not verified at a time at which it may not be installed.
    async fn fetched(&self, course: &Course<'_>, record: &Record) -> Next {
        self.wait_its_turn(course, record).await.unwrap_or(Next::Enter(Stage::Verifying))
    }

    /// Waits until the owner lets updates begin. Meanwhile it may have expired, or the owner have changed his mind.
    async fn wait_its_turn(&self, course: &Course<'_>, record: &Record) -> Option<Next> {
        let mut told = None;
        while let Some(why) = self.config.held(self.ctx.shared.clock.now()) {
            if told.as_ref() != Some(&why) {
                info!(id = course.id, reason = why, "an update waits");
                self.tell_why(course, record, State::Waiting, &why);
                told = Some(why);
            }
            sleep(AGAIN).await;
        }
        if let Verdict::Refused { reason, .. } = self.ctx.shared.actions.policy.update() {
            return Some(Next::End(State::Failed, Some(reason)));
        }
        let Asked::Install { expires_at: Some(at), .. } = course.asked else { return None };
        let late = (!record.begun || told.is_some()) && *at <= self.ctx.now();
        late.then(|| Next::End(State::Failed, Some("expired: its time was over while it waited".to_owned())))
    }

    async fn fetch(
        &self,
        course: &Course<'_>,
        wanted: &Wanted,
        record: &Record,
        told: Option<Arc<Tally>>,
    ) -> Result<(), download::Error> {
        let file = match &record.full {
            Some(full) => self.download.whole(full).await?,
            None => download::Wanted {
                url: wanted.update_url.clone(),
                size: wanted.size,
                sha256: Some(wanted.sha256.0),
            },
        };
        let mut last = (Instant::now(), 0);
        // What is live overtakes what has to go over the disk.
        let is_told = || told.as_ref().is_none_or(|told| told.counts().acknowledged > 0);
        let fetched = self.download.fetch(&file, |there| {
            let percent = u8::try_from(there.saturating_mul(100) / file.size.max(1)).unwrap_or(100).min(100);
            if last.0.elapsed() >= PROGRESS && last.1 != percent && is_told() {
                last = (Instant::now(), percent);
                let report = self.report(State::Downloading, course, record);
                self.say_live(course.id, Report { progress: Some(percent), ..report });
            }
        });
        fetched.await.map(drop)
    }
}

/// Takes a file of this machine, of which more may come while it is read.
fn copy(from: &Path, to: &Path, size: u64) -> io::Result<()> {
    use std::io::Read as _;
    let (file, _) = crate::config::open(from)?;
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    let mut out = File::create(to)?;
    let copied = io::copy(&mut file.take(size), &mut out)?;
    if copied < size {
        return Err(io::Error::other(format!("it has {copied} bytes instead of {size}")));
    }
    out.sync_all()
}
