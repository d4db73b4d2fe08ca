//! A broker of our own that forgets nothing: every message is on disk before its sender is told, so that after any
//! number of kills what was acknowledged can be counted. It also misbehaves on demand; see [`Mood`].
//!
//! It is a process of its own, to be SIGKILLed: the test binary, started once more. So each test binary that uses it
//! says [`recorder_process!`](crate::recorder_process) at its root.

pub mod account;
mod connection;
mod host;
mod journal;
mod mood;
mod packets;
mod state;
mod writer;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{Instant, sleep};

pub use account::Account;
pub use journal::{Entry, Event, Published, now};
pub use mood::{Mood, Rejection, Stage};
use mood::{Order, Start};

use crate::certs::Identity;
use crate::feed::Feed;
use crate::ports::free_port;
use crate::process::collect;

/// Set for the process that is the broker, to a [`Start`].
const VARIABLE: &str = "IOT_AGENT_RECORDER";
/// The broker's answers among what the test harness prints.
const MARK: &str = "recorder: ";
const JOURNAL: &str = "journal";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);

/// Makes the test binary able to be the broker. It is a test itself: run as one it starts, kills and restarts a broker.
#[macro_export]
macro_rules! recorder_process {
    () => {
        #[test]
        fn recorder_process() {
            $crate::recorder::process().unwrap();
        }
    };
}

/// The body of [`recorder_process!`](crate::recorder_process).
///
/// # Errors
/// When the broker, or the test of it, fails.
pub fn process() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("a runtime")?;
    let Ok(start) = std::env::var(VARIABLE) else { return runtime.block_on(lives_and_dies()) };
    let start = serde_json::from_str(&start).context("read how to start")?;
    let served = tokio::task::LocalSet::new().block_on(&runtime, host::serve(start));
    if let Err(error) = &served {
        host::say(&json!({ "error": format!("{error:#}") }))?;
    }
    served
}

/// What every test with a recorder relies on.
async fn lives_and_dies() -> anyhow::Result<()> {
    let mut recorder = Recorder::start().await?;
    recorder.kill().await?;
    recorder.start_again().await?;
    recorder.start_again().await.err().context("it runs once only")?;
    let started = |entry: &&Entry| matches!(entry.event, Event::Started { .. });
    let lives = recorder.entries()?.iter().filter(started).count();
    ensure!(lives == 2, "{lives} lives in the journal");
    Ok(())
}

/// The broker; killed when dropped.
#[derive(Debug)]
pub struct Recorder {
    ports: (u16, Option<u16>),
    identity: Option<Identity>,
    mood: Mood,
    running: Option<Running>,
    reader: Mutex<journal::Reader>,
    dir: TempDir,
}

#[derive(Debug)]
struct Running {
    child: Child,
    stdin: ChildStdin,
    lines: Feed<String>,
    errors: Feed<String>,
}

impl Recorder {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When it does not start; also when the test binary lacks [`recorder_process!`](crate::recorder_process).
    pub async fn start() -> anyhow::Result<Self> {
        Self::begin(None).await
    }

    /// Starts one that has a port for TLS, too.
    ///
    /// # Errors
    /// As [`Recorder::start`].
    pub async fn with_tls(identity: &Identity) -> anyhow::Result<Self> {
        Self::begin(Some(identity.clone())).await
    }

    async fn begin(identity: Option<Identity>) -> anyhow::Result<Self> {
        let mut recorder = Self {
            ports: (0, None),
            identity,
            mood: Mood::default(),
            running: None,
            reader: Mutex::default(),
            dir: tempfile::tempdir().context("a folder for the recorder")?,
        };
        // Another process may take a port between the look and the bind.
        for _ in 0..4 {
            recorder.ports = (free_port(), recorder.identity.as_ref().map(|_| free_port()));
            if recorder.start_again().await.is_ok() {
                return Ok(recorder);
            }
        }
        recorder.start_again().await.map(|()| recorder)
    }

    /// Its port on 127.0.0.1, the same for all its lives.
    pub fn port(&self) -> u16 {
        self.ports.0
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// Its port for TLS.
    ///
    /// # Panics
    /// When it has none.
    pub fn tls_port(&self) -> u16 {
        self.ports.1.expect("this recorder was started with TLS")
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        let mut running = self.running.take().context("the recorder does not run")?;
        running.child.kill().await.context("kill the recorder")
    }

    /// Starts it again, with the sessions of those that wanted them kept.
    ///
    /// # Errors
    /// When it does not start, or still runs.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.spawn(false).await
    }

    /// Starts it again without any session.
    ///
    /// # Errors
    /// As [`Recorder::start_again`].
    pub async fn start_without_sessions(&mut self) -> anyhow::Result<()> {
        self.spawn(true).await
    }

    /// Changes how it behaves, also in its next lives.
    ///
    /// # Errors
    /// When it does not answer. While it does not run that is none.
    pub async fn mood(&mut self, mood: Mood) -> anyhow::Result<()> {
        self.mood = mood.clone();
        match self.running {
            Some(_) => self.order(&Order::Mood(mood)).await,
            None => Ok(()),
        }
    }

    /// Ends every connection without a word.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn drop_all(&mut self) -> anyhow::Result<()> {
        self.order(&Order::Drop).await
    }

    /// Ends every connection; in MQTT 5 by a DISCONNECT with this reason code.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn disconnect_all(&mut self, code: u8) -> anyhow::Result<()> {
        self.order(&Order::Disconnect { code }).await
    }

    /// Sends a client a message, now or when it is back. It is on disk on return, and repeated until acknowledged.
    ///
    /// # Errors
    /// When the client has no session, or no subscription for this topic.
    pub async fn send(&mut self, client: &str, topic: &str, payload: &str, qos: u8) -> anyhow::Result<()> {
        let (client, topic, payload) = (client.to_owned(), topic.to_owned(), payload.to_owned());
        self.order(&Order::Send { client, topic, payload, qos }).await
    }

    /// Everything that happened, over all its lives.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        self.look(0, <[Entry]>::to_vec)
    }

    /// As [`Recorder::entries`], without the first so many.
    ///
    /// # Errors
    /// As [`Recorder::entries`].
    pub fn entries_after(&self, count: usize) -> anyhow::Result<Vec<Entry>> {
        self.look(count, <[Entry]>::to_vec)
    }

    /// Every message that came, in order.
    ///
    /// # Errors
    /// As [`Recorder::entries`].
    pub fn published(&self) -> anyhow::Result<Vec<Published>> {
        let message = |entry: &Entry| match &entry.event {
            Event::Published(published) => Some(published.clone()),
            _ => None,
        };
        self.look(0, |entries| entries.iter().filter_map(message).collect())
    }

    /// Shows `done` what happened, and then what happens, until it says yes.
    ///
    /// # Errors
    /// When it has not within `limit`; the error holds the last entries.
    pub async fn wait(&self, mut done: impl FnMut(&Entry) -> bool, limit: Duration) -> anyhow::Result<Entry> {
        let deadline = Instant::now() + limit;
        let mut seen = 0;
        loop {
            let (count, found) = self.look(seen, |new| (new.len(), new.iter().find(|e| done(e)).cloned()))?;
            seen += count;
            if let Some(entry) = found {
                return Ok(entry);
            }
            if Instant::now() >= deadline {
                let tail = self.look(seen.saturating_sub(20), <[Entry]>::to_vec)?;
                bail!("not within {limit:?}; the last of {seen} entries: {tail:#?}");
            }
            sleep(POLL).await;
        }
    }

    fn look<T>(&self, from: usize, at: impl FnOnce(&[Entry]) -> T) -> anyhow::Result<T> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.catch_up(&self.dir.path().join(JOURNAL))?;
        Ok(at(&reader.entries[from..]))
    }

    async fn order(&mut self, order: &Order) -> anyhow::Result<()> {
        let running = self.running.as_mut().context("the recorder does not run")?;
        let line = format!("{}\n", serde_json::to_string(order).context("encode an order")?);
        running.stdin.write_all(line.as_bytes()).await.context("write an order")?;
        running.answer("done").await
    }

    async fn spawn(&mut self, forgetful: bool) -> anyhow::Result<()> {
        ensure!(self.running.is_none(), "the recorder still runs");
        let (port, tls_port) = self.ports;
        let tls = tls_port.zip(self.identity.clone()).map(|(port, own)| (port, own.cert, own.key));
        let folder: PathBuf = self.dir.path().into();
        let start = Start { folder, port, tls, forgetful, mood: self.mood.clone() };
        let mut command = Command::new(std::env::current_exe().context("name the test binary")?);
        command.args(["recorder_process", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(VARIABLE, serde_json::to_string(&start).context("encode how to start")?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("start the test binary as a recorder")?;
        let stdin = child.stdin.take().context("standard input is piped")?;
        let lines = collect(child.stdout.take().context("standard output is piped")?);
        let errors = collect(child.stderr.take().context("standard error is piped")?);
        let running = Running { child, stdin, lines, errors };
        running.answer("ready").await.context("start the recorder; is there recorder_process!()?")?;
        self.running = Some(running);
        Ok(())
    }
}

impl Running {
    async fn answer(&self, wanted: &str) -> anyhow::Result<()> {
        let line = self.lines.next(|line| line.starts_with(MARK), ANSWER_TIMEOUT).await;
        let line = line.with_context(|| format!("{:#?}", self.errors.all()))?;
        let answer: Value = serde_json::from_str(&line[MARK.len()..]).context("understand the recorder")?;
        ensure!(answer == wanted, "the recorder says {answer}");
        Ok(())
    }
}
