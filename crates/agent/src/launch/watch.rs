//! A version on trial: started beside this process, and watched until it has proved itself, or has not.

use std::{
    io,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{ExitCode, ExitStatus},
    time::Duration,
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal as Kill, WaitOptions};
use tokio::{
    net::TcpStream,
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, timeout},
};

use super::{AGAIN, Phase, Trial, WATCHER, is_managed, program};
use crate::{agent, cli::BAD_CONFIG, sys, systemd::Notifier};

/// How often it is looked whether it has proved itself.
const LOOK: Duration = Duration::from_millis(100);
/// How much longer than itself it is waited for: it may be about to tell why it has not.
const MARGIN: Duration = Duration::from_secs(3);
/// How often it may end before it has proved itself.
const STARTS: u32 = 3;
/// Before it is started again.
const PAUSE: Duration = Duration::from_millis(500);
/// How long it has to end when it is told to: a drain takes five seconds.
const END: Duration = Duration::from_secs(6);
/// How often it is tried whether there is a network, and how long that may take.
const PROBE: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);

/// What became of it.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is not to be used.
    Failed(String),
    /// It is in use, and yet another version is to be looked at.
    Again,
    /// This process is done.
    Exit(ExitCode),
}

/// What this process is told as the agent is, and passes on; and that a child has ended.
struct Signals {
    agent: agent::Signals,
    child: Signal,
}

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self { agent: agent::Signals::catch()?, child: signal(SignalKind::child())? })
    }

    /// The next one that is to be passed on; none when a child has ended.
    async fn next(&mut self) -> Option<Kill> {
        tokio::select! {
            () = self.agent.stop.asked() => Some(Kill::TERM),
            _ = self.agent.reload.recv() => Some(Kill::HUP),
            _ = self.child.recv() => None,
        }
    }
}

/// Starts a version and watches it to the end of its trial, or of its life.
///
/// # Errors
/// There is no runtime to be had.
pub(super) fn run(folder: &Path, trial: &mut Trial) -> anyhow::Result<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start the runtime of the watcher")?;
    let seen = runtime.block_on(async {
        let mut signals = Signals::catch().context("catch signals")?;
        anyhow::Ok(Watcher { folder, notifier: Notifier::from_env() }.run(trial, &mut signals).await)
    });
    runtime.shutdown_background();
    seen
}

struct Watcher<'a> {
    folder: &'a Path,
    notifier: Notifier,
}

/// How a trial went on.
enum On {
    Confirmed,
    Ended(ExitStatus),
    TooLate(String),
    Told,
}

impl Watcher<'_> {
    async fn run(&self, trial: &mut Trial, signals: &mut Signals) -> Seen {
        // Where the service was started by this: what systemd waits for is that there is somebody to answer for it.
        self.notifier.ready();
        self.notifier.status(&format!("version {} is on trial", trial.release));
        let mut clock = Clock::new(trial);
        let mut why = "it was ended before it had proved itself".to_owned();
        loop {
            if trial.starts >= STARTS {
                return Seen::Failed(format!("it was started {STARTS} times: {why}"));
            }
            trial.starts += 1;
            // Uncounted it could be started for ever, but a full disk passes.
            trial.write(self.folder).ok();
            let child = match self.start(trial) {
                Ok(child) => child,
                Err(error) => return Seen::Failed(format!("it cannot be started: {error}")),
            };
            match self.on(child, trial, signals, &mut clock).await {
                On::Confirmed => return self.confirmed(child, signals).await,
                On::Told => return self.told(trial),
                On::TooLate(why) => return Seen::Failed(why),
                On::Ended(status) => {
                    if self.is_confirmed(trial) {
                        return over(status);
                    }
                    if let Some(failed) = self.written(trial).filter(|trial| trial.phase == Phase::Failed) {
                        return Seen::Failed(failed.why.unwrap_or_default());
                    }
                    why = describe(status);
                    // It would be the same the next time.
                    if status.code() == Some(BAD_CONFIG.into()) {
                        return Seen::Failed(why);
                    }
                    tokio::select! {
                        () = sleep(PAUSE) => {}
                        Some(_) = signals.next() => return self.told(trial),
                    }
                }
            }
        }
    }

    fn start(&self, trial: &Trial) -> io::Result<Pid> {
        let mut command = super::agent(&program(self.folder, &trial.link()), &trial.release);
        // The watchdog of systemd is fed by this process until the other one is the main one.
        command.env(WATCHER, std::process::id().to_string()).env_remove("WATCHDOG_PID");
        sys::end_with_parent(&mut command);
        Ok(Pid::from_child(&command.spawn()?))
    }

    /// What the version on trial has written, if it is about this trial and can be read.
    fn written(&self, trial: &Trial) -> Option<Trial> {
        Trial::read(self.folder).filter(|other| other.update_id == trial.update_id)
    }

    /// It has proved itself, and may have been replaced already.
    fn is_confirmed(&self, trial: &Trial) -> bool {
        Trial::read(self.folder)
            .is_some_and(|now| now.update_id != trial.update_id || now.phase == Phase::Confirmed)
    }

    async fn on(&self, child: Pid, trial: &mut Trial, signals: &mut Signals, clock: &mut Clock) -> On {
        loop {
            tokio::select! {
                told = signals.next() => match told {
                    Some(Kill::HUP) => send(child, Kill::HUP),
                    Some(_) => {
                        end(child, signals).await;
                        return On::Told;
                    }
                    None => {}
                },
                () = sleep(LOOK) => self.notifier.alive(),
            }
            if let Some(status) = ended(child) {
                return On::Ended(status);
            }
            if self.is_confirmed(trial) {
                return On::Confirmed;
            }
            // What cannot be read says nothing of the network.
            let cut = self.written(trial).is_some_and(|trial| trial.cut);
            if let Some(why) = clock.over(cut).await {
                end(child, signals).await;
                // It may have written why meanwhile.
                let written = self.written(trial).filter(|trial| trial.phase == Phase::Failed);
                return On::TooLate(written.and_then(|trial| trial.why).unwrap_or(why));
            }
        }
    }

    /// It is the agent from now on.
    async fn confirmed(&self, child: Pid, signals: &mut Signals) -> Seen {
        if is_managed() {
            // It is the service manager's child when this process is gone.
            self.notifier.main(child.as_raw_pid());
            return Seen::Exit(ExitCode::SUCCESS);
        }
        loop {
            if let Some(told) = signals.next().await {
                send(child, told);
            }
            if let Some(status) = ended(child) {
                return over(status);
            }
        }
    }

    /// It was asked to end, which is no start in vain.
    fn told(&self, trial: &Trial) -> Seen {
        let mut trial = self.written(trial).unwrap_or_else(|| trial.clone());
        trial.starts = trial.starts.saturating_sub(1);
        if trial.phase == Phase::Trial {
            trial.write(self.folder).ok();
        }
        Seen::Exit(ExitCode::SUCCESS)
    }
}

/// How long a version has.
struct Clock {
    limit: Duration,
    by: Instant,
    last: Instant,
    reach: Option<(String, u16)>,
    /// When it is tried again whether there is a network; none while there was one.
    probe: Option<Instant>,
}

impl Clock {
    fn new(trial: &Trial) -> Self {
        let limit = Duration::from_secs(trial.timeout) + MARGIN;
        let by = Instant::now() + limit;
        let last = by + Duration::from_secs(trial.grace);
        Self { limit, by, last, reach: trial.reach.clone(), probe: None }
    }

    /// Why its time is over, if it is. One that says that there is no network is believed only where this process finds
    /// none, either: it may be at fault itself.
    async fn over(&mut self, cut: bool) -> Option<String> {
        let now = Instant::now();
        if now < self.by || self.probe.is_some_and(|at| now < at && now < self.last) {
            return None;
        }
        if cut && now < self.last && !self.reaches().await {
            self.probe = Some(now + PROBE);
            return None;
        }
        if self.probe.take().is_some() && now < self.last {
            // The network is back: now it has the usual time.
            self.by = now + self.limit;
            return None;
        }
        let seconds = self.limit.saturating_sub(MARGIN).as_secs();
        let more = match cut {
            false => "",
            true if now < self.last => ", although the broker's port can be reached from here",
            true => ", and there is no network",
        };
        Some(format!("it has not proved itself within {seconds} s{more}"))
    }

    async fn reaches(&self) -> bool {
        let Some((host, port)) = &self.reach else { return true };
        matches!(timeout(CONNECT, TcpStream::connect((host.as_str(), *port))).await, Ok(Ok(_)))
    }
}

fn send(child: Pid, signal: Kill) {
    rustix::process::kill_process(child, signal).ok();
}

/// How it ended, if it has. Orphans that have come to this process are seen off, too.
fn ended(child: Pid) -> Option<ExitStatus> {
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == child {
            return Some(ExitStatus::from_raw(status.as_raw()));
        }
    }
    None
}

/// Has it end, and waits until it has.
async fn end(child: Pid, signals: &mut Signals) {
    send(child, Kill::TERM);
    let gone = async {
        while ended(child).is_none() {
            tokio::select! {
                _ = signals.next() => {}
                () = sleep(LOOK) => {}
            }
        }
    };
    if timeout(END, gone).await.is_err() {
        send(child, Kill::KILL);
        rustix::process::waitpid(Some(child), WaitOptions::empty()).ok();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// What is left to do when the agent has ended.
fn over(status: ExitStatus) -> Seen {
    if status.code() == Some(i32::from(AGAIN)) { Seen::Again } else { Seen::Exit(exit_code(status)) }
}

/// As a shell has it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
