//! The end of a job: by itself, at its deadline, or because somebody wants it; and of everything it has started.

use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitStatus};

use super::{DRAIN, Keeper};
use crate::executor::{
    job::{End, Job, LONGEST},
    os,
    tree::{self, Process},
};

/// How long a job may take to end when the agent is gone: whoever starts it again waits for it.
const SHORT_GRACE: Duration = Duration::from_millis(500);
/// How long SIGKILL is given. A process in the middle of a call to a dead disk outlives it, and then the report.
const PATIENCE: Duration = Duration::from_secs(5);

impl Keeper {
    /// Until the program has ended, nothing is left of it, and its output is drained.
    pub(super) fn watch(&mut self, job: &Job, started: Instant) -> End {
        let deadline = started + job.timeout.min(LONGEST);
        while self.status.is_none() && self.asked.is_none() {
            self.pump(deadline);
            if Instant::now() >= deadline {
                self.asked.get_or_insert(End::TimedOut);
            }
        }
        // It was faster than whoever wanted it to end.
        let own = self.status.map(ended);
        if own.is_none() {
            self.ask_to_end(job.grace);
        }
        self.kill();
        self.drain(Instant::now() + DRAIN);
        own.or(self.asked.take()).unwrap_or(End::Interrupted)
    }

    /// SIGTERM to all of it, and some time for that.
    fn ask_to_end(&mut self, grace: Duration) {
        let now = Instant::now();
        self.signal(Signal::TERM);
        // What is stopped hears nothing else.
        self.signal(Signal::CONT);
        while !self.alone {
            let short = self.line.gone() || self.asked == Some(End::Interrupted);
            let until = now + if short { grace.min(SHORT_GRACE) } else { grace.min(LONGEST) };
            if Instant::now() >= until {
                return;
            }
            self.pump(until);
        }
    }

    /// SIGKILL to all of it, again and again until nothing is left, or nothing more can be done.
    pub(super) fn kill(&mut self) {
        let until = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        self.reap();
        if !os::REAPS {
            self.signal(Signal::KILL);
        }
        while !self.alone && Instant::now() < until {
            self.kill_once();
            self.pump(Instant::now() + pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn kill_once(&self) {
        self.cell.kill();
        tree::kill(below);
        self.signal_group(Signal::KILL);
    }

    fn signal(&self, signal: Signal) {
        let below = below();
        tree::signal(&below, signal);
        if below.is_empty() {
            self.signal_group(signal);
        }
    }

    /// Where no tree can be seen: without `/proc`.
    fn signal_group(&self, signal: Signal) {
        // Its number is its own as long as it is not reaped; elsewhere than on Linux its group is all there is.
        if let Some(child) = self.child.filter(|_| self.status.is_none() || !os::REAPS) {
            // Nothing may be left of it.
            rustix::process::kill_process_group(child, signal).ok();
        }
    }

    /// What is still in the pipes, and no longer than until then: somebody outside may hold them open.
    fn drain(&mut self, until: Instant) {
        while self.taps.iter().any(|tap| tap.pipe.is_some()) && Instant::now() < until {
            self.pump(until);
        }
        self.taps.iter_mut().for_each(|tap| tap.pipe = None);
    }

    /// What did not die in time dies at some time.
    pub(super) fn kill_leftover(&mut self) {
        if !self.alone {
            self.kill_once();
            self.reap();
        } else if !self.cell.try_remove() {
            self.cell.kill();
        }
    }
}

/// All that descends from this process.
fn below() -> Vec<Process> {
    tree::below(&[std::process::id().cast_signed()], &tree::processes())
}

fn ended(status: WaitStatus) -> End {
    status
        .exit_status()
        .map(End::Exited)
        .or(status.terminating_signal().map(End::Signaled))
        .unwrap_or(End::Lost)
}
