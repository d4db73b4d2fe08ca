//! The agent's end of one job.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    path::PathBuf,
    process::{Child, Command},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    net::{SendFlags, Shutdown},
    process::{Pid, WaitOptions},
};
use tokio::{
    io::Interest,
    net::UnixStream,
    time::{Instant, sleep, sleep_until},
};

use super::{
    contain::{Cell, Plan},
    frame::{self, Decoder, Frame, Stream},
    job::{End, Event, Job, Kept, LONGEST, Report},
    os,
    tree::{self, Process},
};

/// How much longer than its job a keeper may take before it is itself taken for stuck: what a SIGKILL may take, the
/// output, and a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the orphans of a lost keeper are hunted.
const HUNT: Duration = Duration::from_secs(5);
/// How often we look whether a process that is ending has ended.
const LOOK: Duration = Duration::from_millis(1);

/// The keepers of this process. What else of its children leads a session elsewhere is an orphan of a lost one.
static KEEPERS: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

fn keepers<T>(with: impl FnOnce(&mut BTreeSet<i32>) -> T) -> T {
    with(&mut KEEPERS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A job that was started. When this is dropped before [`Event::Ended`] came, the job is ended and its outcome left in
/// its spool, as if the agent had died.
///
/// After it came, dropping this tells the keeper that the outcome is in safe hands: until then it writes the outcome
/// to the spool, should the agent die. So it is dropped after the outcome has been written down.
#[derive(Debug)]
pub struct Running {
    keeper: Option<Keeper>,
    stream: Option<UnixStream>,
    decoder: Decoder,
    out: VecDeque<u8>,
    events: VecDeque<Event>,
    /// The heads of both streams, as far as they came.
    heads: [Vec<u8>; 2],
    state: State,
    started: Instant,
    /// When the keeper must have ended.
    until: Instant,
    grace: Duration,
    plan: Plan,
    spool: PathBuf,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Running,
    Lost,
    Ended,
}

/// The process, until it is reaped.
#[derive(Debug)]
struct Keeper {
    child: Child,
    pid: i32,
    /// See [`Process::started`].
    started: u64,
}

impl Running {
    pub(super) fn spawn(
        command: &mut Command,
        socket: std::os::unix::net::UnixStream,
        job: &Job,
        plan: Plan,
    ) -> io::Result<Self> {
        let stream = UnixStream::from_std(socket)?;
        // Within the lock, so that nobody takes it for an orphan meanwhile.
        let child = keepers(|keepers| {
            let child = command.spawn()?;
            keepers.insert(child.id().cast_signed());
            Ok::<_, io::Error>(child)
        })?;
        let pid = child.id().cast_signed();
        let started = tree::process(pid).map_or(0, |process| process.started);
        let now = Instant::now();
        Ok(Self {
            keeper: Some(Keeper { child, pid, started }),
            stream: Some(stream),
            decoder: Decoder::new(frame::max_answer(job.output_limit)),
            out: VecDeque::new(),
            events: VecDeque::new(),
            heads: [Vec::new(), Vec::new()],
            state: State::Running,
            started: now,
            until: now + job.timeout.min(LONGEST) + job.grace.min(LONGEST) + PATIENCE,
            grace: job.grace.min(LONGEST),
            plan,
            spool: job.spool.clone(),
        })
    }

    /// Sends now, as far as there is room. Past tokio, which takes a new socket for full until it has looked.
    pub(super) fn send(&mut self, mut bytes: &[u8]) {
        if let Some(stream) = self.stream.as_ref().filter(|_| self.out.is_empty()) {
            // What is wrong with the socket comes up at the next attempt to read from it.
            while let Ok(sent) = rustix::net::send(stream, bytes, os::NO_SIGNAL | SendFlags::DONTWAIT) {
                bytes = &bytes[sent..];
                if bytes.is_empty() {
                    return;
                }
            }
        }
        self.out.extend(bytes);
    }

    /// The process that keeps the job, until it has gone.
    pub fn keeper(&self) -> Option<u32> {
        self.keeper.as_ref().map(|keeper| keeper.pid.cast_unsigned())
    }

    /// Asks for the end of the job: [`End::Cancelled`], unless it has just ended otherwise.
    pub fn cancel(&mut self) {
        self.end_it(&Frame::Cancel);
    }

    /// Asks for the end of the job because the agent is about to end: [`End::Interrupted`], after half a second of grace
    /// at most.
    pub fn interrupt(&mut self) {
        self.end_it(&Frame::Interrupt);
    }

    fn end_it(&mut self, frame: &Frame) {
        self.until = self.until.min(Instant::now() + self.grace + PATIENCE);
        self.send(&frame.encode());
    }

    /// As if the agent died now: the keeper leaves the outcome in the spool, also one that has come here already. For an
    /// outcome that cannot be written down.
    pub fn leave(mut self) {
        if self.state == State::Ended {
            self.state = State::Running;
        }
    }

    /// What happens next. [`Event::Ended`] comes exactly once and last; a call after it never returns. A call that is
    /// dropped loses nothing.
    pub async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            match self.state {
                State::Running => self.exchange().await,
                State::Lost => {
                    self.bury().await;
                    self.state = State::Ended;
                    let report = self.lost();
                    self.events.push_back(Event::Ended(report));
                }
                State::Ended => std::future::pending().await,
            }
        }
    }

    /// Moves bytes either way, once.
    async fn exchange(&mut self) {
        let Some(stream) = &self.stream else {
            self.state = State::Lost;
            return;
        };
        let interest =
            if self.out.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        let ready = tokio::select! {
            ready = stream.ready(interest) => ready.is_ok(),
            // Stopped, or worse: by whatever it was to keep.
            () = sleep_until(self.until) => false,
        };
        if !ready {
            self.state = State::Lost;
            return;
        }
        self.flush();
        self.read();
    }

    fn flush(&mut self) {
        let Some(stream) = &self.stream else { return };
        while !self.out.is_empty() {
            match stream.try_write(self.out.as_slices().0) {
                Ok(written) => drop(self.out.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The keeper has gone; what it had said is still to be read.
                Err(_) => self.out.clear(),
            }
        }
    }

    fn read(&mut self) {
        let Some(stream) = &self.stream else { return };
        let mut buffer = [0; 16 << 10];
        match stream.try_read(&mut buffer) {
            Ok(read) if read > 0 => self.decoder.push(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Its end, without a report.
            Ok(_) | Err(_) => self.state = State::Lost,
        }
        while self.state != State::Ended {
            match self.decoder.next() {
                Ok(Some(frame)) => self.take(frame),
                Ok(None) => return,
                Err(_) => {
                    self.state = State::Lost;
                    return;
                }
            }
        }
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Started(pid) => self.events.push_back(Event::Started { pid }),
            Frame::Head(stream, bytes) => {
                self.heads[usize::from(stream == Stream::Stderr)].extend(bytes);
            }
            Frame::Chunk(stdout, stderr) => self.events.push_back(Event::Chunk { stdout, stderr }),
            Frame::Ended(mut report) => {
                [report.stdout.head, report.stderr.head] = std::mem::take(&mut self.heads);
                self.state = State::Ended;
                self.events.push_back(Event::Ended(report));
            }
            // Ours to say.
            Frame::Order(_) | Frame::Cancel | Frame::Interrupt | Frame::Taken => self.state = State::Lost,
        }
    }

    fn lost(&mut self) -> Report {
        let [stdout, stderr] = std::mem::take(&mut self.heads).map(|head| Kept { head, ..Kept::default() });
        Report { end: End::Lost, stdout, stderr, duration: self.started.elapsed() }
    }

    /// Ends the keeper, if it is not dead yet, and everything that it leaves.
    async fn bury(&mut self) {
        self.stream = None;
        let Some(keeper) = &mut self.keeper else { return };
        // It may be dead already.
        keeper.child.kill().ok();
        let mut cell = Cell::of_keeper(&self.plan, keeper.pid, keeper.started);
        let started = keeper.started;
        reap(&mut keeper.child).await;
        let until = Instant::now() + HUNT;
        while Instant::now() < until {
            cell.kill();
            let mut left = 0;
            tree::kill(|| {
                let orphans = orphans(started);
                left = orphans.len();
                orphans
            });
            if cell.try_remove() && left == 0 {
                break;
            }
            sleep(LOOK).await;
        }
        keepers(|keepers| keepers.remove(&keeper.pid));
        self.keeper = None;
    }
}

/// What a lost keeper has left: it came to us, since we take orphans in. Not a keeper, not of our own session (no job is
/// in it), not older than the keeper. Those that are dead are reaped.
fn orphans(since: u64) -> Vec<Process> {
    let own = std::process::id().cast_signed();
    let all = tree::processes();
    let session = all.iter().find(|process| process.pid == own).map_or(0, |process| process.session);
    let adopted: Vec<Process> = keepers(|keepers| {
        let adopted = all.iter().filter(|process| {
            process.parent == own
                && process.session != session
                && process.started >= since
                && !keepers.contains(&process.pid)
        });
        adopted.copied().collect()
    });
    for process in adopted.iter().filter(|process| process.zombie) {
        if let Some(pid) = Pid::from_raw(process.pid) {
            // It is dead: this returns at once.
            rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).ok();
        }
    }
    let mut found: Vec<Process> = adopted.into_iter().filter(|process| !process.zombie).collect();
    let roots: Vec<i32> = found.iter().map(|process| process.pid).collect();
    found.extend(tree::below(&roots, &all));
    found
}

/// Waits for a process that is ending.
async fn reap(child: &mut Child) {
    // An error means that somebody else has reaped it.
    while matches!(child.try_wait(), Ok(None)) {
        sleep(LOOK).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.state == State::Ended {
            self.send(&Frame::Taken.encode());
            // It is empty. What cannot be removed is overwritten by the next job of that name.
            std::fs::remove_file(&self.spool).ok();
        }
        let stream = self.stream.take();
        let (Some(mut keeper), Ok(runtime)) = (self.keeper.take(), tokio::runtime::Handle::try_current())
        else {
            // Without a runtime this process is about to end, and its parent takes leave of the keeper.
            return;
        };
        if let Some(stream) = &stream {
            // For the keeper that is our end; its own is still heard, in order to take leave of it then.
            rustix::net::shutdown(stream, Shutdown::Write).ok();
        }
        runtime.spawn(async move {
            if let Some(stream) = stream {
                until_closed(&stream).await;
            }
            reap(&mut keeper.child).await;
            keepers(|keepers| keepers.remove(&keeper.pid));
        });
    }
}

/// Reads until the other side has closed.
async fn until_closed(stream: &UnixStream) {
    let mut rest = [0; 4096];
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut rest) {
            Ok(read) if read > 0 => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return,
        }
    }
}
