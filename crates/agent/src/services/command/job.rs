//! Running one command: its surroundings, following it to its end, and tidying up.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::Context as _;
use protocol::command::{Order as Wanted, Report, State};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Asked, Commands, folders,
    outcome::{self, Pieces},
};
use crate::{
    action::policy::Run,
    executor::{Event, Job, Login, Running},
    mqtt::Connection,
};

/// What a command has left to end by itself once it was asked to.
const GRACE: Duration = Duration::from_secs(2);
/// How long the outcome of what an earlier process had begun waits for the broker to say how much it takes.
const FIRST_CONNECTION: Duration = Duration::from_secs(10);
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that has ended, until that is written down: before that, its keeper leaves its outcome in the spool.
pub(super) struct Held(pub(super) Option<Running>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.leave();
        }
    }
}

impl Commands {
    pub(super) fn time(&self, wanted: &Wanted) -> Duration {
        let most = self.config.max_execution_time.get();
        wanted.timeout_s.map_or(most, |seconds| Duration::from_secs_f64(seconds).min(most))
    }

    pub(super) async fn execute(
        &self,
        id: &str,
        asked: &Asked,
        run: Run,
        cancel: &CancellationToken,
    ) -> (Report, Held) {
        let started = match self.job(id, &asked.wanted, run).await {
            Ok(job) => self.executor.start(&job).map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        let ended = match started {
            Ok(running) => {
                let mut held = Held(Some(running));
                (self.follow(id, &mut held, asked, cancel).await, held)
            }
            Err(error) => {
                let why = format!("cannot be started: {error:#}");
                (Report::of(State::Failed, self.ctx.now()).because(why), Held(None))
            }
        };
        self.clean(id).await;
        ended
    }

    async fn follow(
        &self,
        id: &str,
        Held(running): &mut Held,
        asked: &Asked,
        cancel: &CancellationToken,
    ) -> Report {
        let mut pieces = Pieces::default();
        let mut cancelled = false;
        let running = running.as_mut().expect("it is kept until its end is written");
        loop {
            let event = tokio::select! {
                event = running.next() => event,
                () = cancel.cancelled(), if !cancelled => {
                    cancelled = true;
                    running.cancel();
                    continue;
                }
            };
            match event {
                Event::Started { .. } => {}
                Event::Chunk { stdout, stderr } if !asked.bare => {
                    let report = Report::of(State::InProgress, self.ctx.now());
                    drop(self.send(id, pieces.next(report, stdout, stderr, self.room(id))));
                }
                Event::Chunk { .. } => {}
                Event::Ended(report) => {
                    if let Some(last) = pieces.last(Report::of(State::InProgress, self.ctx.now())) {
                        drop(self.send(id, last));
                    }
                    return outcome::report(report, self.room(id), self.ctx.now());
                }
            }
        }
    }

    async fn job(&self, id: &str, wanted: &Wanted, run: Run) -> anyhow::Result<Job> {
        let (work, spool) = (self.work(id), self.spool(id));
        let cwd = wanted.cwd.as_ref().map_or_else(|| work.clone(), PathBuf::from);
        let account = self.config.run_as.clone();
        let made = spawn_blocking(move || folders::make(&work, &spool, account.as_deref()));
        let login = made.await?.context("make its working directory")?;
        let mut argv = vec![self.config.shell.clone(), "-c".to_owned(), run.script];
        if !run.args.is_empty() {
            argv.push("sh".to_owned());
            argv.extend(run.args);
        }
        Ok(Job {
            argv,
            env: self.environment(wanted, &login),
            cwd,
            run_as: self.config.run_as.clone(),
            timeout: self.time(wanted),
            grace: GRACE,
            output_limit: self.config.output_size_limit.get(),
            chunk_every: wanted.stream.then(|| self.config.stream_interval.get()),
            limits: self.config.limits(),
            spool: self.spool(id),
        })
    }

    /// Nothing of the agent's own environment but what the owner has named.
    fn environment(&self, wanted: &Wanted, login: &Login) -> BTreeMap<String, String> {
        let mut env = BTreeMap::from([
            ("PATH".to_owned(), PATH.to_owned()),
            ("SHELL".to_owned(), self.config.shell.clone()),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ]);
        env.extend(login.env.iter().cloned());
        let own = self.config.env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
        env.extend(own);
        env.extend(wanted.env.clone());
        env
    }

    /// It is not done before the machine is restarted, with which this process ends.
    pub(super) async fn wait_for_reboot(
        &self,
        report: Report,
        until: Instant,
        cancel: &CancellationToken,
    ) -> Report {
        let status = tokio::select! {
            () = tokio::time::sleep_until(until) => match report.status {
                State::Success => State::Failed,
                other => other,
            },
            () = cancel.cancelled() => State::Cancelled,
        };
        let report = Report { status, timestamp: self.ctx.now(), ..report };
        report.because("the machine was not restarted in time")
    }

    fn work(&self, id: &str) -> PathBuf {
        self.folder.join("work").join(file_name(id))
    }

    pub(super) fn spool(&self, id: &str) -> PathBuf {
        self.folder.join("spool").join(file_name(id))
    }

    /// Takes away what a command has left in its own folder.
    pub(super) async fn clean(&self, id: &str) {
        let work = self.work(id);
        let removed = spawn_blocking(move || folders::remove(&work)).await;
        match removed {
            Ok(Err(error)) if error.kind() != std::io::ErrorKind::NotFound => {
                warn!(id, error = %error, "the working directory of a command cannot be removed");
            }
            _ => {}
        }
    }

    /// Waits, not for ever, until the broker has said how much it takes. After a start it has not yet.
    pub(super) async fn until_connected(&self) {
        let mut connection = self.ctx.mqtt.connection();
        let connected = connection.wait_for(|state| matches!(state, Connection::Connected { .. }));
        // Without it the outcome is as long as the settings allow, which nearly every broker takes.
        drop(timeout(FIRST_CONNECTION, connected).await);
    }

    /// Bytes that the output may take in the payload.
    pub(super) fn room(&self, id: &str) -> usize {
        let around = self.topic.len() + self.device_id.as_str().len() + id.len() + outcome::AROUND;
        self.ctx.mqtt.largest().saturating_sub(around)
    }
}

/// Ids are any text; names of files are not.
fn file_name(id: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
    protocol::hex::encode(&digest.as_ref()[..16])
}
