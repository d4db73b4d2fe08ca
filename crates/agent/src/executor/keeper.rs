//! The keeper of one job: a process between the agent and the program, of one thread, without a runtime.
//!
//! It outlives neither: when the agent goes away it ends the job, and leaves the outcome in the spool. Its standard
//! input is the socket to the agent, its standard output the spool file, which is locked for as long as it lives.
//! Whatever the job forks stays below the keeper, since orphans come back to it; so "no child is left" means that
//! nothing of the job is.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::Mode,
    io::Errno,
    net::{SocketType, sockopt::socket_type},
    process::{Pid, Signal, WaitOptions, WaitStatus},
};

use super::{
    contain::Cell,
    frame::{Frame, MAX_ORDER, Order, Stream},
    job::{End, Job, Kept, Report},
    launch,
    line::Line,
    os,
    output::Keep,
    plain,
    tree::{self, Process},
};
use crate::sys::{self, Signals};

/// How long a job may take to end when the agent is gone: whoever starts it again waits for it.
const SHORT_GRACE: Duration = Duration::from_millis(500);
/// How long output is waited for when nobody of the job is left to write it.
const DRAIN: Duration = Duration::from_secs(1);
/// How long SIGKILL is given. A process in the middle of a call to a dead disk outlives it, and then the report.
const PATIENCE: Duration = Duration::from_secs(5);
/// Chunks wait for an agent that is this far behind.
const BACKLOG: usize = 256 << 10;
/// As much as one read takes.
const BUFFER: usize = 256 << 10;
/// Where the system has no descriptor for signals, they are asked for this often.
const LOOK: Duration = Duration::from_millis(20);
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
    let mut keeper = Keeper::new(line, signals);
    let Some(order) = keeper.order() else { return Ok(()) };
    let report = keeper.work(&order);
    keeper.hand_over(report, spool);
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
    fn new(line: Line, signals: Signals) -> Self {
        Self {
            line,
            signals,
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
        let end = match self.begin(order) {
            Ok(()) => self.watch(&order.job, started),
            Err(why) => End::Failed(why),
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
        self.line.push(&Frame::Started(launched.pid.as_raw_pid().cast_unsigned()));
        self.buffer = vec![0; BUFFER];
        self.chunks = job.chunk_every.map(|every| (every, Instant::now() + every));
        let pipes =
            [(Stream::Stdout, OwnedFd::from(launched.stdout)), (Stream::Stderr, launched.stderr.into())];
        for (stream, pipe) in pipes {
            os::widen(&pipe);
            rustix::io::ioctl_fionbio(&pipe, true).map_err(|error| plain(&error.into()))?;
            let keep = Keep::new(job.output_limit, job.chunk_every.is_some());
            self.taps.push(Tap { stream, pipe: Some(File::from(pipe)), keep });
        }
        Ok(())
    }

    /// Until the program has ended, nothing is left of it, and its output is drained.
    fn watch(&mut self, job: &Job, started: Instant) -> End {
        let deadline = started + job.timeout;
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
            let until = now + if short { grace.min(SHORT_GRACE) } else { grace };
            if Instant::now() >= until {
                return;
            }
            self.pump(until);
        }
    }

    /// SIGKILL to all of it, again and again until nothing is left, or nothing more can be done.
    fn kill(&mut self) {
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

    /// Gives the report to the agent, or, when that is gone, to its successor.
    fn hand_over(&mut self, report: Report, spool: File) {
        // The agent has had the heads.
        let bare = |kept: &Kept| Kept { head: Vec::new(), ..kept.clone() };
        let (stdout, stderr) = (bare(&report.stdout), bare(&report.stderr));
        let sent = Report { stdout, stderr, end: report.end.clone(), ..report };
        self.line.push(&Frame::Ended(sent));
        while !self.taken && !self.line.gone() {
            self.pump(Instant::now() + if self.alone { FAR } else { DRAIN });
            self.kill_leftover();
        }
        if !self.taken {
            // Nobody is left to be told that there is no room for it.
            store(&spool, &Frame::Ended(report).encode()).ok();
        }
        while !self.alone {
            self.pump(Instant::now() + DRAIN);
            self.kill_leftover();
        }
    }

    /// What did not die in time dies at some time.
    fn kill_leftover(&mut self) {
        if !self.alone {
            self.kill_once();
            self.reap();
        } else if !self.cell.try_remove() {
            self.cell.kill();
        }
    }

    /// Moves whatever can be moved; waits for something to move until then at most.
    fn pump(&mut self, until: Instant) {
        let due = self.chunks.map(|(_, at)| at);
        self.wait(due.map_or(until, |due| due.min(until)));
        if self.signals.take() {
            self.asked.get_or_insert(End::Interrupted);
        }
        self.reap();
        self.read_output();
        self.listen();
        if due.is_some_and(|due| Instant::now() >= due) && self.line.waiting() < BACKLOG {
            self.chunk();
        }
    }

    fn wait(&self, until: Instant) {
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(4);
        let signals = self.signals.descriptor();
        fds.extend(signals.as_ref().map(|signals| PollFd::new(signals, PollFlags::IN)));
        fds.extend(self.line.interest().map(|(stream, flags)| PollFd::new(stream, flags)));
        let pipes = self.taps.iter().filter_map(|tap| tap.pipe.as_ref());
        fds.extend(pipes.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        let mut left = until.saturating_duration_since(Instant::now());
        if signals.is_none() {
            left = left.min(LOOK);
        }
        // Interrupted or not: whoever calls looks at everything.
        poll(&mut fds, Timespec::try_from(left).ok().as_ref()).ok();
    }

    /// Takes leave of children that have ended.
    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == self.child => self.status = Some(status),
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => {
                    self.alone = false;
                    return;
                }
                Err(_) => {
                    self.alone = true;
                    return;
                }
            }
        }
    }

    fn read_output(&mut self) {
        for tap in &mut self.taps {
            let Some(pipe) = &mut tap.pipe else { continue };
            match pipe.read(&mut self.buffer) {
                Ok(0) => tap.pipe = None,
                Ok(read) => {
                    let head = tap.keep.push(&self.buffer[..read]);
                    if !head.is_empty() {
                        self.line.push(&Frame::Head(tap.stream, head.to_vec()));
                    }
                }
                Err(error) if is_passing(&error) => {}
                Err(_) => tap.pipe = None,
            }
        }
    }

    fn listen(&mut self) {
        loop {
            match self.line.exchange() {
                Ok(Some(Frame::Order(order))) => self.order = Some(order),
                Ok(Some(Frame::Cancel)) => drop(self.asked.get_or_insert(End::Cancelled)),
                Ok(Some(Frame::Taken)) => self.taken = true,
                Ok(None) => break,
                // Not the agent's words: it is as good as gone.
                Ok(Some(_)) | Err(_) => {
                    self.asked.get_or_insert(End::Interrupted);
                    break;
                }
            }
        }
        if self.line.gone() {
            self.asked.get_or_insert(End::Interrupted);
        }
    }

    /// Output since the last chunk, if there was any.
    fn chunk(&mut self) {
        let Some((every, at)) = &mut self.chunks else { return };
        *at = Instant::now() + *every;
        let mut pieces = self.taps.iter_mut().map(|tap| tap.keep.chunk());
        let (stdout, stderr) = (pieces.next().unwrap_or_default(), pieces.next().unwrap_or_default());
        drop(pieces);
        if !(stdout.is_empty() && stderr.is_empty()) {
            self.line.push(&Frame::Chunk(stdout, stderr));
        }
    }
}

/// All that descends from this process.
fn below() -> Vec<Process> {
    tree::below(&[std::process::id().cast_signed()], &tree::processes())
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn ended(status: WaitStatus) -> End {
    status
        .exit_status()
        .map(End::Exited)
        .or(status.terminating_signal().map(End::Signaled))
        .unwrap_or(End::Lost)
}

fn store(mut spool: &File, bytes: &[u8]) -> io::Result<()> {
    spool.set_len(0)?;
    spool.rewind()?;
    spool.write_all(bytes)?;
    spool.sync_all()
}
