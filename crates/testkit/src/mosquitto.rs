//! A real mosquitto as a child process, on free loopback ports, in a folder of its own.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::certs::Identity;
use crate::ports::free_port;
use crate::wire;

const START_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
/// Two test processes may draw the same port; more than a few times in a row is not bad luck.
const PORT_ATTEMPTS: usize = 10;

/// What a broker offers; [`Mosquitto::builder`] starts with a plain listener, no persistence, everyone welcome.
#[derive(Debug, Clone, Default)]
pub struct Builder {
    without_plain: bool,
    websockets: bool,
    unix_socket: bool,
    tls: Option<Tls>,
    secure_websockets: bool,
    users: Vec<(String, String)>,
    acl: Option<String>,
    persistence: bool,
    lines: Vec<String>,
}

/// What the TLS listeners need.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The server's certificate chain and key.
    pub server: Identity,
    /// The CA that signs client certificates.
    pub client_ca: PathBuf,
    /// Refuse clients without a certificate, and take the certificate's common name as the user name.
    pub require_client_certificate: bool,
    /// `tlsv1.2` or `tlsv1.3`, and nothing else; `None`: what mosquitto allows by default.
    pub only_version: Option<&'static str>,
}

impl Builder {
    /// No plain TCP listener.
    pub fn without_plain(mut self) -> Self {
        self.without_plain = true;
        self
    }

    /// A TLS listener.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// A plain websockets listener.
    pub fn websockets(mut self) -> Self {
        self.websockets = true;
        self
    }

    /// A websockets listener over TLS, with what [`Builder::tls`] was given.
    pub fn secure_websockets(mut self) -> Self {
        self.secure_websockets = true;
        self
    }

    /// A unix socket listener, at [`Mosquitto::socket_path`].
    pub fn unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// Adds a user; the first one ends anonymous access.
    pub fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.into(), password.into()));
        self
    }

    /// The whole ACL file, in mosquitto's format.
    pub fn acl(mut self, text: &str) -> Self {
        self.acl = Some(text.into());
        self
    }

    /// Keeps sessions and retained messages on disk over [`Mosquitto::stop`]; over [`Mosquitto::kill`] only what an
    /// `autosave_…` line saved.
    pub fn persistence(mut self) -> Self {
        self.persistence = true;
        self
    }

    /// A global configuration line as it stands, such as `max_packet_size 1000` or `max_keepalive 20`.
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.into());
        self
    }

    /// Starts it and returns once it has answered a CONNECT (or, without a plain listener, a TCP connect).
    ///
    /// # Errors
    /// When mosquitto refuses its configuration or does not answer; the error holds its log.
    ///
    /// # Panics
    /// When mosquitto is not installed.
    pub async fn start(self) -> anyhow::Result<Mosquitto> {
        ensure!(self.tls.is_some() || !self.secure_websockets, "secure_websockets needs tls");
        let dir =
            tempfile::Builder::new().prefix("mosquitto-").tempdir().context("create the broker's folder")?;
        let mut broker = Mosquitto { builder: self, ports: Ports::default(), child: None, dir };
        broker.write_users()?;
        for _ in 0..PORT_ATTEMPTS {
            broker.ports = Ports::draw(&broker.builder);
            match broker.start().await {
                Err(error) if broker.address_in_use() => drop(error),
                other => return other.map(|()| broker),
            }
        }
        bail!("mosquitto found {PORT_ATTEMPTS} times that its port was taken:\n{}", broker.log())
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Ports {
    plain: Option<u16>,
    tls: Option<u16>,
    ws: Option<u16>,
    wss: Option<u16>,
}

impl Ports {
    fn draw(builder: &Builder) -> Self {
        Self {
            plain: (!builder.without_plain).then(free_port),
            tls: builder.tls.is_some().then(free_port),
            ws: builder.websockets.then(free_port),
            wss: builder.secure_websockets.then(free_port),
        }
    }
}

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
        self.path("mqtt.sock")
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Everything it logged, over all its starts (`log_type all`).
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("log")).unwrap_or_default()).into_owned()
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
        fs::write(self.path("mosquitto.conf"), self.config()).context("write mosquitto.conf")?;
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
        let data = self.path("data");
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
        fs::create_dir_all(self.path("data")).context("create mosquitto's data folder")?;
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
            fs::write(self.path("acl"), acl).context("write the ACL file")?;
        }
        if self.builder.users.is_empty() {
            return Ok(());
        }
        let passwords = self.path("passwords");
        File::create(&passwords).context("create the password file")?;
        for (name, password) in &self.builder.users {
            let ran =
                Command::new("mosquitto_passwd").arg("-b").arg(&passwords).args([name, password]).output();
            let output = installed("mosquitto_passwd", "mosquitto", ran).context("run mosquitto_passwd")?;
            ensure!(output.status.success(), "mosquitto_passwd: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn config(&self) -> String {
        let builder = &self.builder;
        let mut text = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| {
            writeln!(text, "{args}").expect("writing to a String cannot fail");
        };
        if rustix::process::geteuid().is_root() {
            // Else it becomes the user `mosquitto`, who may not enter our folder.
            line(format_args!("user root"));
        }
        line(format_args!("log_type all\nlog_dest file {}", self.path("log").display()));
        line(format_args!("log_timestamp_format %Y-%m-%dT%H:%M:%S\nset_tcp_nodelay true"));
        line(format_args!("allow_anonymous {}", builder.users.is_empty()));
        if !builder.users.is_empty() {
            line(format_args!("password_file {}", self.path("passwords").display()));
        }
        if builder.acl.is_some() {
            line(format_args!("acl_file {}", self.path("acl").display()));
        }
        if builder.persistence {
            line(format_args!("persistence true\npersistence_location {}/", self.path("data").display()));
        }
        for extra in &builder.lines {
            line(format_args!("{extra}"));
        }
        let listeners = [
            (self.ports.plain, false, false),
            (self.ports.tls, false, true),
            (self.ports.ws, true, false),
            (self.ports.wss, true, true),
        ];
        for (port, websockets, tls) in listeners {
            let Some(port) = port else { continue };
            line(format_args!("listener {port} 127.0.0.1"));
            if websockets {
                line(format_args!("protocol websockets"));
            }
            if let Some(tls) = builder.tls.as_ref().filter(|_| tls) {
                line(format_args!("{tls}"));
            }
        }
        if builder.unix_socket {
            line(format_args!("listener 0 {}", self.socket_path().display()));
        }
        text
    }

    fn address_in_use(&self) -> bool {
        let text = self.stderr() + &self.log();
        text.contains("Address already in use") || text.contains("Address in use")
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

impl std::fmt::Display for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "cafile {}", self.client_ca.display())?;
        writeln!(f, "certfile {}\nkeyfile {}", self.server.cert.display(), self.server.key.display())?;
        if let Some(version) = self.only_version {
            writeln!(f, "tls_version {version}")?;
        }
        write!(f, "require_certificate {}", self.require_client_certificate)?;
        if self.require_client_certificate {
            write!(f, "\nuse_identity_as_username true")?;
        }
        Ok(())
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

/// Panics when the program is not there, with how to get it.
pub(crate) fn installed<T>(program: &str, package: &str, result: std::io::Result<T>) -> std::io::Result<T> {
    if result.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
        panic!("{program} is not installed; run: apt-get install {package}");
    }
    result
}
