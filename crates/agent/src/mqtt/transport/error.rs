//! Why the broker was not reached.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error as ThisError;

/// Why the broker was not reached: one variant for each thing that is attempted, naming what it was attempted on.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The name could not be looked up.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name of the broker or the proxy.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The name exists and has no address.
    #[error("{host} has no address")]
    NoAddress {
        /// The name of the broker or the proxy.
        host: String,
    },
    /// The last of the addresses refused or could not be reached.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address, of the broker or the proxy.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The last of the addresses did not answer in time.
    #[error("no answer from {address} within {} s", .limit.as_secs())]
    ConnectTimeout {
        /// The address, of the broker or the proxy.
        address: SocketAddr,
        /// How long one address is waited for.
        limit: Duration,
    },
    /// The unix socket could not be connected to.
    #[error("cannot connect to the socket {}", .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection to the proxy broke before it led anywhere.
    #[error("lost the proxy {proxy}")]
    ProxyIo {
        /// Host and port of the proxy.
        proxy: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The proxy answered, and would not.
    #[error("the proxy {proxy} refused: {reason}")]
    ProxyRefused {
        /// Host and port of the proxy.
        proxy: String,
        /// Its reason, or what is wrong with its answer.
        reason: String,
    },
    /// A certificate or key file could not be read.
    #[error("cannot read {}", .path.display())]
    ReadFile {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A certificate or key file was read and is of no use.
    #[error("{}: {reason}", .path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A client certificate without its key, or the reverse.
    #[error("a client certificate and its key are only of use together")]
    HalfIdentity,
    /// The host can stand in no certificate.
    #[error("{host} is neither a DNS name nor an IP address")]
    BadName {
        /// The host as configured.
        host: String,
    },
    /// The connection broke during the TLS handshake.
    #[error("lost {host} during the TLS handshake")]
    HandshakeIo {
        /// The broker.
        host: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// One side of the TLS handshake did not accept the other.
    #[error("TLS with {host} failed: {reason}")]
    Handshake {
        /// The broker.
        host: String,
        /// What is wrong with the other side, or what it said is wrong with ours.
        reason: String,
    },
    /// The connection broke during the WebSocket upgrade.
    #[error("lost {host} during the WebSocket upgrade")]
    UpgradeIo {
        /// The broker.
        host: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The HTTP server answered, and would not become a WebSocket for MQTT.
    #[error("no WebSocket at {host}{path}: {reason}")]
    Upgrade {
        /// The broker.
        host: String,
        /// The resource asked for.
        path: String,
        /// What the server said, or what is wrong with its answer.
        reason: String,
    },
}
