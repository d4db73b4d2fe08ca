//! What a broker offers, and its configuration file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use super::Mosquitto;
use crate::certs::Identity;
use crate::ports::free_port;

/// Names in the broker's folder.
pub(super) const LOG: &str = "log";
pub(super) const DATA: &str = "data";
pub(super) const PASSWORDS: &str = "passwords";
pub(super) const ACL: &str = "acl";
pub(super) const SOCKET: &str = "mqtt.sock";

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
    pub(super) users: Vec<(String, String)>,
    pub(super) acl: Option<String>,
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

    /// The text of `mosquitto.conf`; `dir` holds the files it names.
    pub(super) fn config(&self, ports: &Ports, dir: &Path) -> String {
        let mut text = String::new();
        let mut line = |args: std::fmt::Arguments<'_>| {
            writeln!(text, "{args}").expect("writing to a String cannot fail");
        };
        if rustix::process::geteuid().is_root() {
            // Else it becomes the user `mosquitto`, who may not enter our folder.
            line(format_args!("user root"));
        }
        line(format_args!("log_type all\nlog_dest file {}", dir.join(LOG).display()));
        line(format_args!("log_timestamp_format %Y-%m-%dT%H:%M:%S\nset_tcp_nodelay true"));
        line(format_args!("allow_anonymous {}", self.users.is_empty()));
        if !self.users.is_empty() {
            line(format_args!("password_file {}", dir.join(PASSWORDS).display()));
        }
        if self.acl.is_some() {
            line(format_args!("acl_file {}", dir.join(ACL).display()));
        }
        if self.persistence {
            line(format_args!("persistence true\npersistence_location {}/", dir.join(DATA).display()));
        }
        for extra in &self.lines {
            line(format_args!("{extra}"));
        }
        let listeners = [
            (ports.plain, false, false),
            (ports.tls, false, true),
            (ports.ws, true, false),
            (ports.wss, true, true),
        ];
        for (port, websockets, tls) in listeners {
            let Some(port) = port else { continue };
            line(format_args!("listener {port} 127.0.0.1"));
            if websockets {
                line(format_args!("protocol websockets"));
            }
            if let Some(tls) = self.tls.as_ref().filter(|_| tls) {
                line(format_args!("{tls}"));
            }
        }
        if self.unix_socket {
            line(format_args!("listener 0 {}", dir.join(SOCKET).display()));
        }
        text
    }
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ports {
    pub(super) plain: Option<u16>,
    pub(super) tls: Option<u16>,
    pub(super) ws: Option<u16>,
    pub(super) wss: Option<u16>,
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
