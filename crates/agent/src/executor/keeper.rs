//! The keeper of one job: a process between the agent and the program, of one thread, without a runtime.
//!
//! It outlives neither: when the agent goes away it ends the job, and leaves the outcome in the spool. Its standard
//! input is the socket to the agent, its standard output the spool file, which is locked for as long as it lives.
//! Whatever the job forks stays below the keeper, since orphans come back to it; so "no child is left" means that
//! nothing of the job is.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    fs::Mode,
    net::{SocketType, sockopt::socket_type},
    process::{Pid, WaitStatus},
};

use super::{
    contain::Cell,
    frame::{Frame, MAX_ORDER, Order, Stream},
    job::{End, Kept, Report},
    launch,
    line::Line,
    os,
    output::Keep,
    plain,
    spool::Spool,
};
use crate::sys::{self, Signals};

mod end;
mod pump;

/// How long output is waited for when nobody of the job is left to write it.
const DRAIN: Duration = Duration::from_secs(1);
/// Chunks come no more often than this.
const MIN_CHUNKS: Duration = Duration::from_millis(1);
/// As much as one read takes.
const BUFFER: usize = 256 << 10;
/// A reason names what it is about, which may be a command line of 128 KiB.
const LONGEST_REASON: usize = 1000;
/// For ever.
const FAR: Duration = Duration::from_secs(3600);

/// The whole life of a keeper.
///
/// # Errors
/// When this process was not started by an agent.
pub(super) fn run() -> anyhow::Result<()> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    sys::close_inherited();
    anyhow::ensure!(
        socket_type(io::stdin()).is_ok_and(|kind| kind == SocketType::STREAM),
        "executor is what the agent starts for itself"
    );
    sys::forget_signals()?;
    let signals = Signals::block()?;
    // It leads a group already where somebody started it by hand.
    rustix::process::setsid().ok();
    os::reap_orphans();
    // No file system is held, and `ps` shows what this is.
    std::env::set_current_dir("/")?;
    std::fs::write("/proc/self/comm", "iot-agent-job").ok();
    let line = Line::new(io::stdin().as_fd().try_clone_to_owned()?, MAX_ORDER)?;
    let spool = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut keeper = Keeper::new(line, signals, Spool::new(spool));
    let Some(order) = keeper.order() else { return Ok(()) };
    let report = keeper.work(&order);
    keeper.hand_over(&report);
    Ok(())
}

/// One of the job's streams.
struct Tap {
    stream: Stream,
    pipe: Option<File>,
    keep: Keep,
}

struct Keeper {
    line: Line,
    signals: Signals,
    spool: Spool,
    taps: Vec<Tap>,
    /// How often a chunk is due, and when the next is.
    chunks: Option<(Duration, Instant)>,
    order: Option<Box<Order>>,
    /// The program, and how it ended.
    child: Option<Pid>,
    status: Option<WaitStatus>,
    /// Whether nothing of the job is left.
    alone: bool,
    /// Why it is to end before it does so by itself.
    asked: Option<End>,
    taken: bool,
    cell: Cell,
    buffer: Vec<u8>,
}

impl Keeper {
    fn new(line: Line, signals: Signals, spool: Spool) -> Self {
        Self {
            line,
            signals,
            spool,
            taps: Vec::new(),
            chunks: None,
            order: None,
            child: None,
            status: None,
            alone: true,
            asked: None,
            taken: false,
            cell: Cell::default(),
            buffer: Vec::new(),
        }
    }

    /// What to do; `None` when the agent went away before it had said so.
    fn order(&mut self) -> Option<Box<Order>> {
        while self.order.is_none() && self.asked.is_none() {
            self.pump(Instant::now() + FAR);
        }
        self.order.take()
    }

    fn work(&mut self, order: &Order) -> Report {
        let started = Instant::now();
        let end = match self.asked.take() {
            // Nobody wants it any more.
            Some(end) => end,
            None => match self.begin(order) {
                Ok(()) => self.watch(&order.job, started),
                Err(why) => {
                    // Whatever went wrong, nothing is left of it.
                    self.kill();
                    End::Failed(why.chars().take(LONGEST_REASON).collect())
                }
            },
        };
        self.chunk();
        let until = Instant::now() + DRAIN;
        while !self.cell.try_remove() && self.alone && Instant::now() < until {
            self.pump(Instant::now() + Duration::from_millis(1));
        }
        let mut kept = std::mem::take(&mut self.taps).into_iter().map(|tap| tap.keep.kept());
        let (stdout, stderr) = (kept.next().unwrap_or_default(), kept.next().unwrap_or_default());
        Report { end, stdout, stderr, duration: started.elapsed() }
    }

    fn begin(&mut self, order: &Order) -> Result<(), String> {
        let job = &order.job;
        self.cell = Cell::make(&order.plan, &job.limits)?;
        let launched = launch::launch(job, &order.plan, &self.cell)?;
        self.child = Some(launched.pid);
        self.alone = false;
        self.line.push(&Frame::Started(launched.pid.as_raw_pid().cast_unsigned()).encode());
        self.buffer = vec![0; BUFFER];
        self.chunks = job.chunk_every.map(|every| {
            let every = every.clamp(MIN_CHUNKS, FAR);
            (every, Instant::now() + every)
        });
        let pipes = [
            (Stream::Stdout, OwnedFd::from(launched.stdout)),
            (Stream::Stderr, OwnedFd::from(launched.stderr)),
        ];
        for (stream, pipe) in pipes {
            os::widen(&pipe);
            rustix::io::ioctl_fionbio(&pipe, true).map_err(|error| plain(&error.into()))?;
            let keep = Keep::new(job.output_limit, job.chunk_every.is_some());
            self.taps.push(Tap { stream, pipe: Some(File::from(pipe)), keep });
        }
        Ok(())
    }

    /// Gives the report to the agent, or, when that is gone, to its successor.
    fn hand_over(&mut self, report: &Report) {
        // Whoever reads it has had the heads.
        let bare = |kept: &Kept| Kept { head: Vec::new(), ..kept.clone() };
        let (stdout, stderr) = (bare(&report.stdout), bare(&report.stderr));
        let ended = Frame::Ended(Report { stdout, stderr, ..report.clone() }).encode();
        self.line.push(&ended);
        while !self.taken && !self.line.gone() {
            self.pump(Instant::now() + if self.alone { FAR } else { DRAIN });
            self.kill_leftover();
        }
        if !self.taken {
            // Nobody is left to be told that there is no room for it.
            self.spool.finish(report, &ended).ok();
        }
        while !self.alone {
            self.pump(Instant::now() + DRAIN);
            self.kill_leftover();
        }
    }
}
