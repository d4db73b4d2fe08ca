//! What is under `services.ssh`.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    KEY,
    decide::Allowed,
    link::{NoHostKey, Server, Trust},
};
use crate::{
    action::policy,
    config::{Delivery, InputFile, Interval, Qos, SecretFile, Topic},
    service::Invalid,
};

/// What is missing where no host key is known.
pub(super) const NO_HOST_KEY: &str = "no host key of a server is known, and none is believed on first sight: name a file \
     in `known_hosts`, or the key itself in `host_key`";
/// More tunnels are no remote access but a relay.
const MAX_CONNECTIONS: u32 = 1024;

/// Settings under `services.ssh`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Topic of the requests; by default that of the layout. Where it lacks {device_id}, that is appended.
    pub(super) topic: Option<Topic>,
    /// Quality of service of the status.
    pub(super) qos: Qos,
    /// What becomes of a status while the broker is out of reach.
    pub(super) delivery: Delivery,
    /// The SSH server on which ports are opened.
    pub(super) backend_host: Option<String>,
    /// The port of its sshd.
    pub(super) backend_port: u16,
    /// The user there.
    pub(super) ssh_user: Option<String>,
    /// The device's private key, of OpenSSH or PEM; by default one that is made in the state folder.
    pub(super) private_key_path: Option<SecretFile>,
    /// The keys of servers, as OpenSSH's known_hosts has them.
    pub(super) known_hosts: Option<InputFile>,
    /// The key of the server instead, or its fingerprint (SHA256:…).
    pub(super) host_key: Option<String>,
    /// The address on which the server is asked to listen.
    pub(super) bind: String,
    /// Where on the device's side tunnels may lead, each host:port, or host:* for all ports.
    pub(super) targets: Vec<String>,
    /// The servers that a request may name, each host or host:port; by default only that of `backend_host`.
    pub(super) backends: Vec<String>,
    /// How many tunnels are open at once; a further one is refused.
    pub(super) max_connections: u32,
    /// How long reaching a server may take, from its name to the open port.
    pub(super) connection_timeout: Interval,
    /// After so much silence a server is asked for a sign of life; it is given up after three times as much.
    pub(super) keep_alive: Interval,
    /// A tunnel through which nothing was connected for so long is closed.
    pub(super) idle_timeout: Interval,
    /// The longest that a tunnel is open. A request that says nothing gets 30 minutes, or this if it is less.
    pub(super) max_ttl: Interval,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topic: None,
            qos: Qos::AtLeastOnce,
            delivery: Delivery::Durable,
            backend_host: None,
            backend_port: 22,
            ssh_user: None,
            private_key_path: None,
            known_hosts: None,
            host_key: None,
            bind: "localhost".to_owned(),
            targets: vec!["127.0.0.1:22".to_owned()],
            backends: Vec::new(),
            max_connections: 5,
            connection_timeout: Interval::seconds(30),
            keep_alive: Interval::seconds(15),
            idle_timeout: Interval::seconds(600),
            max_ttl: Interval::seconds(8 * 3600),
        }
    }
}

impl Config {
    /// What has to be there once it is in use.
    ///
    /// # Errors
    /// The key that cannot work.
    pub(super) fn complete(&self) -> Result<(), Invalid> {
        if self.backend_host.is_none() && self.backends.is_empty() {
            return Err(Invalid::key(
                "backend_host",
                "must be set: the SSH server on which ports are opened",
            ));
        }
        if self.ssh_user.as_ref().is_none_or(|user| user.trim().is_empty()) {
            return Err(Invalid::key("ssh_user", "must be set: the user on the SSH server"));
        }
        Ok(())
    }

    /// What can be said of a section that need not be in use; and the lists, read.
    ///
    /// # Errors
    /// The key that cannot work.
    pub(super) fn check(&self) -> Result<Allowed, Invalid> {
        if self.backend_port == 0 {
            return Err(Invalid::key("backend_port", "must be from 1 to 65535"));
        }
        if self.max_connections == 0 || self.max_connections > MAX_CONNECTIONS {
            return Err(Invalid::key("max_connections", format!("must be from 1 to {MAX_CONNECTIONS}")));
        }
        if self.known_hosts.is_some() && self.host_key.is_some() {
            return Err(Invalid::key("host_key", "there is `known_hosts` as well; keep one of them"));
        }
        if let Some(Err(error)) = self.trust() {
            return Err(Invalid::key("host_key", error.to_string()));
        }
        if self.bind.is_empty() || self.bind.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Invalid::key("bind", "must be an address or a name, such as localhost"));
        }
        let targets = self.targets.iter().map(|text| allowed(text)).collect::<Result<_, _>>();
        let targets = targets.map_err(|why| Invalid::key("targets", why))?;
        Ok(Allowed { targets, backends: self.servers()? })
    }

    /// The servers that tunnels may go through.
    fn servers(&self) -> Result<Vec<policy::Allowed>, Invalid> {
        let configured = self.backend_host.as_ref().map(|host| server(host, self.backend_port));
        let configured = configured.iter().map(|text| {
            allowed(text)
                .map_err(|_| Invalid::key("backend_host", format!("{:?} is no host", self.backend_host)))
        });
        let named = self.backends.iter().map(|text| {
            // A host alone is meant with the usual port.
            let whole = allowed(text).or_else(|why| {
                allowed(&server(text.trim_matches(['[', ']']), self.backend_port)).map_err(|_| why)
            });
            whole.map_err(|why| Invalid::key("backends", why))
        });
        configured.chain(named).collect()
    }

    /// Which servers are believed; none where nothing is said.
    pub(super) fn trust(&self) -> Option<Result<Trust, NoHostKey>> {
        match (&self.host_key, &self.known_hosts) {
            (Some(key), _) => Some(Trust::pinned(key)),
            (None, Some(file)) => Some(Ok(Trust::known_hosts(file))),
            (None, None) => None,
        }
    }

    /// The device's key, with the service's folder.
    pub(super) fn key_file(&self, folder: &Path) -> PathBuf {
        self.private_key_path.as_ref().map_or_else(|| folder.join(KEY), |path| path.to_path_buf())
    }
}

fn server(host: &str, port: u16) -> String {
    Server { host: host.to_owned(), port }.to_string()
}

fn allowed(text: &str) -> Result<policy::Allowed, String> {
    policy::Allowed::try_from(text.to_owned())
}
