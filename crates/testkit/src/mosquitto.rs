//! A real mosquitto as a child process, on free loopback ports, in a folder of its own.

mod builder;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use builder::Ports;
pub use builder::{Builder, Tls};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::process::installed;
use crate::wire;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// A broker; killed when dropped.
#[derive(Debug)]
pub struct Mosquitto {
    builder: Builder,
    ports: Ports,
    child: Option<Child>,
    dir: TempDir,
}

impl Mosquitto {
    /// A broker with a plain listener and nothing else, to be refined.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A broker with a plain listener and nothing else.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn plain() -> anyhow::Result<Self> {
        Self::builder().start().await
    }

    /// The plain listener's port, on 127.0.0.1.
    ///
    /// # Panics
    /// When there is no such listener; so do the other ports.
    pub fn port(&self) -> u16 {
        self.ports.plain.expect("this broker was built with a plain listener")
    }

    /// The plain listener's address.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port()))
    }

    /// The TLS listener's port.
    pub fn tls_port(&self) -> u16 {
        self.ports.tls.expect("this broker was built with a TLS listener")
    }

    /// The websockets listener's port; mosquitto takes any path.
    pub fn ws_port(&self) -> u16 {
        self.ports.ws.expect("this broker was built with a websockets listener")
    }

    /// The port of the websockets listener over TLS.
    pub fn wss_port(&self) -> u16 {
        self.ports.wss.expect("this broker was built with a websockets listener over TLS")
    }

    /// The unix socket listener's path.
    pub fn socket_path(&self) -> PathBuf {
        self.path(builder::SOCKET)
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Everything it logged, over all its starts (`log_type all`).
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path(builder::LOG)).unwrap_or_default()).into_owned()
    }

    /// Waits for `pattern` (plain text) anywhere in the log, from its beginning.
    ///
    /// # Errors
    /// When it does not come within `timeout`; the error holds the log.
    pub async fn wait_log(&self, pattern: &str, timeout: Duration) -> anyhow::Result<()> {
        self.wait_log_count(pattern, 1, timeout).await
    }

    /// Waits until `pattern` stands in the log at least `count` times.
    ///
    /// # Errors
    /// As [`Mosquitto::wait_log`].
    pub async fn wait_log_count(&self, pattern: &str, count: usize, timeout: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let log = self.log();
            if log.matches(pattern).count() >= count {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{pattern:?} not {count} times in mosquitto's log within {timeout:?}:\n{log}"
            );
            sleep(POLL).await;
        }
    }

    /// SIGTERM: it saves its sessions, if it has persistence, and ends its connections.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        self.end(Signal::TERM).await
    }

    /// SIGKILL: no farewell to anyone.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.end(Signal::KILL).await
    }

    /// Starts it again on the same ports, with the sessions it had saved.
    ///
    /// # Errors
    /// As [`Builder::start`]; also when it already runs.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "mosquitto already runs");
        let config = self.builder.config(&self.ports, self.dir.path());
        fs::write(self.path("mosquitto.conf"), config).context("write mosquitto.conf")?;
        let logged = self.log().len();
        self.child = Some(self.spawn()?);
        let ready = self.wait_ready(logged).await;
        if ready.is_err() {
            self.destroy();
        }
        ready
    }

    /// Starts it again on the same ports, having forgotten every session and retained message.
    ///
    /// # Errors
    /// As [`Mosquitto::start`].
    pub async fn start_without_session(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "mosquitto still runs");
        let data = self.path(builder::DATA);
        fs::remove_dir_all(&data).with_context(|| format!("delete {}", data.display()))?;
        self.start().await
    }

    async fn end(&mut self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_mut().context("mosquitto does not run")?;
        let pid = Pid::from_child(child);
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to mosquitto"))?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while exit_status(child)?.is_none() {
            ensure!(Instant::now() < deadline, "mosquitto still runs {STOP_TIMEOUT:?} after {signal:?}");
            sleep(POLL).await;
        }
        self.child = None;
        Ok(())
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        fs::create_dir_all(self.path(builder::DATA)).context("create mosquitto's data folder")?;
        let output = File::create(self.path("stderr")).context("create mosquitto's stderr file")?;
        let spawned = Command::new(find_mosquitto())
            .arg("-c")
            .arg(self.path("mosquitto.conf"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share mosquitto's stderr file")?)
            .stderr(output)
            .spawn();
        installed("mosquitto", "mosquitto", spawned).context("start mosquitto")
    }

    async fn wait_ready(&mut self, logged: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let child = self.child.as_mut().context("mosquitto was started")?;
            if let Some(status) = exit_status(child)? {
                bail!("mosquitto ended with {status}: {}\n{}", self.stderr(), self.log());
            }
            // The line first: an answer alone could come from a stranger on the same port.
            if self.log()[logged..].contains(" running") && self.answers().await {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "mosquitto not ready within {START_TIMEOUT:?}: {}\n{}",
                self.stderr(),
                self.log()
            );
            sleep(POLL).await;
        }
    }

    async fn answers(&self) -> bool {
        let others = [self.ports.tls, self.ports.ws, self.ports.wss];
        for port in others.into_iter().flatten() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
                return false;
            }
        }
        match self.ports.plain {
            Some(port) => answers_connect(port).await.unwrap_or(false),
            None => true,
        }
    }

    fn write_users(&self) -> anyhow::Result<()> {
        if let Some(acl) = &self.builder.acl {
            fs::write(self.path(builder::ACL), acl).context("write the ACL file")?;
        }
        if self.builder.users.is_empty() {
            return Ok(());
        }
        let passwords = self.path(builder::PASSWORDS);
        File::create(&passwords).context("create the password file")?;
        for (name, password) in &self.builder.users {
            let ran =
                Command::new("mosquitto_passwd").arg("-b").arg(&passwords).args([name, password]).output();
            let output = installed("mosquitto_passwd", "mosquitto", ran).context("run mosquitto_passwd")?;
            ensure!(output.status.success(), "mosquitto_passwd: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn address_in_use(&self) -> bool {
        let text = self.stderr() + &self.log();
        // For websockets that is all it says.
        ["Address already in use", "Address in use", "Unable to create websockets listener"]
            .iter()
            .any(|complaint| text.contains(complaint))
    }

    fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("stderr")).unwrap_or_default()).into_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn destroy(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Either fails only when it has ended already.
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.destroy();
    }
}

async fn answers_connect(port: u16) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(&wire::connect_311("testkit-probe")).await?;
    let mut first = [0; 1];
    stream.read_exact(&mut first).await?;
    // A refusal counts as well: it is the broker that refuses.
    stream.write_all(&wire::DISCONNECT).await?;
    Ok(first[0] == 0x20)
}

fn exit_status(child: &mut Child) -> anyhow::Result<Option<ExitStatus>> {
    child.try_wait().context("wait for mosquitto")
}

/// Debian keeps it in a folder that an ordinary user's PATH lacks; Homebrew's is in its own.
fn find_mosquitto() -> &'static Path {
    let places = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"];
    places.map(Path::new).into_iter().find(|path| path.exists()).unwrap_or(Path::new("mosquitto"))
}
