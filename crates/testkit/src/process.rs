//! A program under test: its output line by line, its signals, its end.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::feed::Feed;

/// What to preload for `FAKETIME` to be obeyed. Not by way of `faketime`: it stays between us and the program, which
/// then outlives it when it is killed.
///
/// # Panics
/// When libfaketime is not installed.
pub fn libfaketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.exists()).expect("libfaketime is not installed; run: apt-get install faketime")
}

/// A child process with captured output; SIGKILLed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
    /// Lines of its standard error.
    pub stderr: Feed<String>,
    /// Lines of its standard output.
    pub stdout: Feed<String>,
}

impl Process {
    /// Starts `program` with these arguments.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn<I: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = I>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::run(command)
    }

    /// Starts a command prepared by the caller (environment, working directory, …); its three standard streams are
    /// taken over. Standard input is empty.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().with_context(|| format!("start {:?}", command.as_std().get_program()))?;
        let pid = child.id().context("a child just started has a process id")?;
        let stdout = collect(child.stdout.take().context("standard output is piped")?);
        let stderr = collect(child.stderr.take().context("standard error is piped")?);
        Ok(Self { child, pid, stderr, stdout })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The next line of standard error that contains `pattern` (plain text), after the one last returned. Waiting
    /// for two lines in the wrong order passes over the first; [`Process::find_line`] does not.
    ///
    /// # Errors
    /// When none comes within `timeout` or before the process ends; the error lists the last lines.
    pub async fn wait_line(&self, pattern: &str, timeout: Duration) -> anyhow::Result<String> {
        let line = self.stderr.next(|line| line.contains(pattern), timeout).await;
        line.with_context(|| format!("wait for {pattern:?} on standard error"))
    }

    /// The first line of standard error that contains `pattern`, however long ago it came.
    ///
    /// # Errors
    /// As [`Process::wait_line`].
    pub async fn find_line(&self, pattern: &str, timeout: Duration) -> anyhow::Result<String> {
        let line = self.stderr.find(|line| line.contains(pattern), timeout).await;
        line.with_context(|| format!("wait for {pattern:?} on standard error"))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended and been waited for.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // tokio reaps the child in the background; its id is then gone, and may already be another's.
        let pid = self.child.id().ok_or_else(|| anyhow!("process {} has ended", self.pid))?;
        let pid = Pid::from_raw(pid.cast_signed()).context("a process id is not 0")?;
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to {pid:?}"))
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// As [`Process::signal`].
    pub fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// When it has already ended and been waited for.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("kill the process")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `timeout`; the error lists its last lines.
    pub async fn wait_exit(&mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        match tokio::time::timeout(timeout, self.child.wait()).await {
            Ok(status) => status.context("wait for the process"),
            Err(_) => Err(anyhow!("still runs after {timeout:?}; its lines: {:#?}", self.stderr.all())),
        }
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait().context("look at the process")?.is_none())
    }
}

/// Reads lines until the stream's end, which closes the feed.
pub(crate) fn collect(stream: impl AsyncRead + Unpin + Send + 'static) -> Feed<String> {
    let feed = Feed::default();
    let filled = feed.clone();
    tokio::spawn(async move {
        each_line(stream, |line| filled.push(line)).await;
        filled.close();
    });
    feed
}

/// Hands over each line without its end. Bytes that are no UTF-8 are replaced, not refused.
pub(crate) async fn each_line(stream: impl AsyncRead + Unpin, mut take: impl FnMut(String)) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).await.is_ok_and(|read| read > 0) {
        take(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned());
        line.clear();
    }
}

/// Panics when the program is not there, with how to get it.
pub(crate) fn installed<T>(program: &str, package: &str, result: std::io::Result<T>) -> std::io::Result<T> {
    if result.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        panic!("{program} is not installed; run: apt-get install {package}");
    }
    result
}
