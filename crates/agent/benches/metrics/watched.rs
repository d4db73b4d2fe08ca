//! Processor time of programs over a while, for each look they took.

use std::time::Duration;

use testkit::{Mosquitto, Process, procfs};
use tokio::time::{Instant, sleep};

use crate::sent::{Sent, now, sent};

/// A program and what its messages' topics begin with.
pub(crate) struct Program<'a> {
    pub(crate) process: &'a Process,
    pub(crate) topic: &'static str,
}

/// What it did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Done {
    pub(crate) cpu: Duration,
    pub(crate) sent: Sent,
    pub(crate) seconds: f64,
}

impl Done {
    /// Of a program that looks every second.
    pub(crate) fn ms_a_look(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e3 / self.seconds
    }

    pub(crate) fn ms_a_minute(&self) -> f64 {
        self.ms_a_look() * 60.0
    }
}

/// All of them over the same while.
pub(crate) async fn watch(broker: &Mosquitto, programs: &[Program<'_>], during: Duration) -> Vec<Done> {
    let cpu = |program: &Program| procfs::usage(program.process.pid()).unwrap().cpu;
    let (began, skip) = (Instant::now(), now(broker));
    let before: Vec<Duration> = programs.iter().map(cpu).collect();
    sleep(during).await;
    let after: Vec<Duration> = programs.iter().map(cpu).collect();
    let seconds = began.elapsed().as_secs_f64();
    let done = |(program, (before, after)): (&Program, (Duration, Duration))| {
        let sent = sent(broker, program.topic, skip);
        assert!(sent.messages as f64 > 0.9 * seconds - 2.0, "{} is silent: {sent:?}", program.topic);
        Done { cpu: after - before, sent, seconds }
    };
    programs.iter().zip(before.into_iter().zip(after)).map(done).collect()
}
