//! How bytes get to the broker: TCP or a unix socket, through a proxy or not, TLS, and WebSocket, each a layer
//! over the one before. It knows nothing of MQTT.
//!
//! **Invariant:** nothing here turns the verification of certificates off, and no layer holds a message whole.

mod error;
mod http;
mod proxy;
mod tcp;
mod tls;
mod websocket;

use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

pub use crate::config::Scheme;
pub use error::Error;
pub use proxy::{Credentials, Proxy, ProxyKind};
pub(crate) use tcp::Dialer;
pub use tls::{TlsFiles, explain};

use crate::clock::Clock;

/// A way to the broker in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connected, authenticated, framed way to the broker.
pub type Stream = Box<dyn Io>;

/// Where the broker is and how to get there: what the configuration says, in types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// A name, or an IP address without brackets. Unused for [`Scheme::Unix`].
    pub host: String,
    /// The TCP port. Unused for [`Scheme::Unix`].
    pub port: u16,
    /// The resource asked for in a WebSocket's upgrade (`/mqtt`), or the path of the unix socket.
    pub path: String,
    /// The files that TLS needs.
    pub tls: TlsFiles,
    /// The proxy on the way. Unused for [`Scheme::Unix`].
    pub proxy: Option<Proxy>,
}

/// Dials one broker, again and again: it remembers an unanswered DNS question, the certificates while their
/// files stay the same, and the TLS session.
#[derive(Debug)]
pub struct Dial {
    endpoint: Endpoint,
    tcp: tcp::Dialer,
    tls: tls::Connector,
}

impl Dial {
    /// Prepares to dial `endpoint`; nothing is read, resolved or opened yet. Certificates are judged by `clock`.
    pub fn new(endpoint: Endpoint, clock: Clock) -> Self {
        let (host, port) = match &endpoint.proxy {
            Some(proxy) => (&proxy.host, proxy.port),
            None => (&endpoint.host, endpoint.port),
        };
        let tcp = tcp::Dialer::new(host.clone(), port);
        let tls = tls::Connector::new(endpoint.tls.clone(), clock);
        Self { endpoint, tcp, tls }
    }

    /// Lets no more than this many bytes wait in the kernel, about, or the double where that is Linux.
    #[must_use]
    pub(crate) fn with_receive_buffer(mut self, bytes: usize) -> Self {
        self.tcp.set_receive_buffer(bytes);
        self
    }

    /// Reads the certificate files as [`Dial::connect`] would, and connects to nothing.
    pub fn check(&self) -> Result<(), Error> {
        if self.endpoint.scheme.encrypted() { self.tls.check(&self.endpoint.host) } else { Ok(()) }
    }

    /// The way without anything that is spoken on it.
    pub fn reach(&self) -> Reach {
        Reach(self.endpoint.clone())
    }

    /// Goes all the way to where MQTT can begin. It has no deadline of its own: the caller bounds it, and
    /// dropping it leaves nothing behind but a DNS question, whose answer the next call takes.
    pub async fn connect(&self) -> Result<Stream, Error> {
        let Endpoint { scheme, host, port, path, proxy, .. } = &self.endpoint;
        if *scheme == Scheme::Unix {
            return unix(path).await;
        }
        if scheme.encrypted() {
            self.tls.check(host)?; // before the network, so that a bad file is what gets reported
        }
        let mut stream: Stream = Box::new(self.tcp.connect().await?);
        if let Some(proxy) = proxy {
            stream = proxy::tunnel(stream, proxy, host, *port).await?;
        }
        if scheme.encrypted() {
            stream = self.tls.connect(stream, host).await?;
        }
        if scheme.websocket() {
            stream = Box::new(websocket::open(stream, &self.endpoint).await?);
        }
        Ok(stream)
    }
}

/// Where something can be connected to, whatever it then says.
#[derive(Debug, Clone)]
pub struct Reach(Endpoint);

impl Reach {
    /// The host and port that a connection begins at; none for a socket of this machine.
    pub(crate) fn first(&self) -> Option<(String, u16)> {
        let Endpoint { scheme, host, port, proxy, .. } = &self.0;
        let first = proxy.as_ref().map_or((host, *port), |proxy| (&proxy.host, proxy.port));
        (*scheme != Scheme::Unix).then(|| (first.0.clone(), first.1))
    }

    /// Connects, through the proxy if there is one, and says nothing. It has no deadline of its own.
    ///
    /// # Errors
    /// Why it cannot be reached.
    pub async fn probe(&self) -> Result<(), Error> {
        let Endpoint { scheme, host, port, path, proxy, .. } = &self.0;
        if *scheme == Scheme::Unix {
            return unix(path).await.map(drop);
        }
        let (first, first_port) = match proxy {
            Some(proxy) => (&proxy.host, proxy.port),
            None => (host, *port),
        };
        let stream = tcp::Dialer::new(first.clone(), first_port).connect().await?;
        match proxy {
            Some(proxy) => proxy::tunnel(Box::new(stream), proxy, host, *port).await.map(drop),
            None => Ok(()),
        }
    }
}

impl super::Mqtt {
    /// The host and port that a connection begins at, if it is one over the network.
    pub(crate) fn first_hop(&self) -> Option<(String, u16)> {
        self.reach.as_ref()?.first()
    }
}

async fn unix(path: &str) -> Result<Stream, Error> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => Err(Error::Socket { path: PathBuf::from(path), source }),
    }
}
