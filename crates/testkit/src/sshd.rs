//! A real sshd as a child process, on a free loopback port, with keys, settings and a folder of its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::ports::free_port;
use crate::process::installed;

const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// Two test processes may draw the same port; more than a few times in a row is not bad luck.
const PORT_ATTEMPTS: usize = 10;

/// What a server offers: by default an Ed25519 host key, forwarding of ports, and nothing else.
#[derive(Debug, Clone)]
pub struct Builder {
    host_keys: Vec<(&'static str, u32)>,
    lines: Vec<String>,
}

/// An sshd that lets in whoever runs the test, by the keys that it was told of. It and its connections are killed when
/// dropped.
#[derive(Debug)]
pub struct Sshd {
    dir: TempDir,
    builder: Builder,
    port: u16,
    child: Option<Child>,
}

impl Builder {
    /// With this host key instead: a type and a number of bits as ssh-keygen takes them (0: its default).
    pub fn host_key(mut self, kind: &'static str, bits: u32) -> Self {
        self.host_keys.push((kind, bits));
        self
    }

    /// A line of `sshd_config`, before all others; `{dir}` in it is the server's folder.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Starts it and returns once it has said who it is.
    ///
    /// # Errors
    /// When sshd refuses its settings or does not answer; the error holds its log.
    ///
    /// # Panics
    /// When OpenSSH is not installed.
    pub async fn start(mut self) -> anyhow::Result<Sshd> {
        if self.host_keys.is_empty() {
            self.host_keys.push(("ed25519", 0));
        }
        if geteuid().is_root() {
            // Into which it locks itself before anybody has logged in.
            fs::create_dir_all("/run/sshd").context("make /run/sshd")?;
        }
        let dir = TempDir::new().context("make sshd's folder")?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).context("open sshd's folder")?;
        for (kind, bits) in &self.host_keys {
            keygen(&dir.path().join(format!("host_{kind}")), kind, *bits)?;
        }
        let mut server = Sshd { dir, builder: self, port: 0, child: None };
        write(&server.path("authorized_keys"), "")?;
        let mut last = None;
        for _ in 0..PORT_ATTEMPTS {
            server.port = free_port();
            match server.start().await {
                Ok(()) => return Ok(server),
                Err(error) if format!("{error:#}").contains("in use") => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.context("a port was tried")?)
    }
}

impl Sshd {
    /// A server to be refined.
    pub fn builder() -> Builder {
        Builder { host_keys: Vec::new(), lines: Vec::new() }
    }

    /// A server with an Ed25519 host key.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub async fn plain() -> anyhow::Result<Self> {
        Self::builder().start().await
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Its folder, for further files.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// A file in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The public half of a host key, as one line: `ssh-ed25519 AAAA…`.
    ///
    /// # Errors
    /// When there is no key of this kind.
    pub fn host_key(&self, kind: &str) -> anyhow::Result<String> {
        let line = fs::read_to_string(self.path(&format!("host_{kind}.pub"))).context("read a host key")?;
        Ok(line.trim().to_owned())
    }

    /// Whom it lets in, and what they may: whole lines of `authorized_keys`, which replace those before.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn let_in(&self, lines: &str) -> anyhow::Result<()> {
        write(&self.path("authorized_keys"), &format!("{lines}\n"))
    }

    /// The name of the user it lets in: whose this process is.
    pub fn user(&self) -> String {
        let output = Command::new("id").arg("-un").output().expect("every Unix has id");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Everything it logged, over all its starts (`LogLevel DEBUG1`).
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }

    /// Waits for `pattern` (plain text) anywhere in the log.
    ///
    /// # Errors
    /// When it does not come within `limit`; the error holds the log.
    pub async fn wait_log(&self, pattern: &str, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while !self.log().contains(pattern) {
            ensure!(
                Instant::now() < deadline,
                "{pattern:?} not in sshd's log within {limit:?}:\n{}",
                self.log()
            );
            sleep(POLL).await;
        }
        Ok(())
    }

    /// The process id of the listener while it runs. Each connection has processes of its own below it.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it again on the same port with the same keys.
    ///
    /// # Errors
    /// As [`Builder::start`]; also when it already runs.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "sshd already runs");
        write(&self.path("sshd_config"), &self.config())?;
        let spawned = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f"])
            .arg(self.path("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().append(true).create(true).open(self.path("log")).context("open its log")?)
            .spawn();
        self.child = Some(installed("/usr/sbin/sshd", "openssh-server", spawned).context("start sshd")?);
        let ready = self.wait_ready().await;
        if ready.is_err() {
            self.kill();
        }
        ready
    }

    /// SIGKILL, for the listener and everything below it: no goodbye to anyone. The kernel closes what they had open.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            for pid in family(child.id()) {
                // Some of them have just ended by themselves.
                if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
                    kill_process(pid, Signal::KILL).ok();
                }
            }
            child.wait().ok();
        }
    }

    /// The processes of connections, without the listener.
    pub fn connections(&self) -> Vec<u32> {
        let all = self.pid().map(family).unwrap_or_default();
        all.into_iter().filter(|pid| Some(*pid) != self.pid()).collect()
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let child = self.child.as_mut().context("sshd was started")?;
            if let Some(status) = child.try_wait().context("ask for sshd's end")? {
                bail!("sshd ended with {status}:\n{}", self.log());
            }
            if greets(self.addr()).await {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "sshd does not answer:\n{}", self.log());
            sleep(POLL).await;
        }
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display().to_string();
        let mut lines: Vec<String> =
            self.builder.lines.iter().map(|line| line.replace("{dir}", &dir)).collect();
        lines.push(format!("ListenAddress 127.0.0.1:{}", self.port));
        for (kind, _) in &self.builder.host_keys {
            lines.push(format!("HostKey {dir}/host_{kind}"));
        }
        lines.push(format!("AuthorizedKeysFile {dir}/authorized_keys"));
        lines.push(format!("PidFile {dir}/pid"));
        // The folder is in /tmp, which others may write to. Nothing of the machine's own login is used.
        lines.extend(
            [
                "StrictModes no",
                "UsePAM no",
                "PasswordAuthentication no",
                "KbdInteractiveAuthentication no",
                "PermitRootLogin prohibit-password",
                "MaxStartups 1000",
                "MaxSessions 1000",
                "UseDNS no",
                "LogLevel DEBUG1",
                "Subsystem sftp internal-sftp",
            ]
            .map(str::to_owned),
        );
        lines.join("\n") + "\n"
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Makes a key pair without a passphrase at `path` and `path.pub`; `bits` 0: ssh-keygen's default.
///
/// # Errors
/// When ssh-keygen will not.
///
/// # Panics
/// When OpenSSH is not installed.
pub fn keygen(path: &Path, kind: &str, bits: u32) -> anyhow::Result<()> {
    let path = path.to_str().context("a path that is text")?;
    let bits = bits.to_string();
    let mut arguments = vec!["-q", "-t", kind, "-N", "", "-C", "test", "-f", path];
    if bits != "0" {
        arguments.extend(["-b", &bits]);
    }
    run_keygen(&arguments).map(drop)
}

/// Runs ssh-keygen; returns what it printed.
///
/// # Errors
/// When it fails; the error has what it said.
///
/// # Panics
/// When OpenSSH is not installed.
pub fn run_keygen(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("ssh-keygen").args(arguments).stdin(Stdio::null()).output();
    let output = installed("ssh-keygen", "openssh-client", output).context("run ssh-keygen")?;
    ensure!(output.status.success(), "ssh-keygen {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

async fn greets(addr: SocketAddr) -> bool {
    let mut greeting = [0; 8];
    let asked = timeout(LIMIT, async { TcpStream::connect(addr).await?.read_exact(&mut greeting).await });
    matches!(asked.await, Ok(Ok(_))) && greeting == *b"SSH-2.0-"
}

/// A process and all below it. sshd puts each connection into a session of its own, so a group would not do.
fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let children = format!("/proc/{0}/task/{0}/children", found[at]);
        let listed = fs::read_to_string(children).unwrap_or_default();
        found.extend(listed.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        at += 1;
    }
    found
}
