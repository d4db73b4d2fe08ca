//! HTTP/1.1 requests over connections of our own: one server a client, one connection a request, TLS and proxies as
//! for the broker.
//!
//! Nothing here waits without a deadline, keeps more than a bounded head, follows a redirect, or tells what stands in
//! a URL: its query may be a secret.

mod env;
mod io;
mod response;
mod url;

use std::time::Duration;

use hyper::{
    Request,
    client::conn::http1,
    header::{HOST, HeaderValue, USER_AGENT},
};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    clock::Clock,
    config::Scheme,
    mqtt::transport::{self, Dial, Endpoint, TlsFiles},
};
pub(crate) use response::Response;
pub(crate) use url::Url;

/// How long a connection may take: the lookup, TCP, a proxy, TLS.
const CONNECT: Duration = Duration::from_secs(30);
/// How long the head of an answer may take once the request is on its way.
const ANSWER: Duration = Duration::from_secs(30);
/// About the longest head of an answer, and the most of a body that is read at once, in bytes.
const HEAD: usize = 64 << 10;
/// The most fields in a head.
const FIELDS: usize = 100;
const AGENT: &str = concat!("iot-agent/", env!("CARGO_PKG_VERSION"));

/// Why there is no answer, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The environment names a proxy that cannot be one.
    #[error("the environment's {variable} is no proxy: {reason}")]
    Proxy {
        /// Its name.
        variable: &'static str,
        /// Why not.
        reason: String,
    },
    /// There is no connection.
    #[error("{host} cannot be reached")]
    Connect {
        /// The server.
        host: String,
        /// Why not.
        source: transport::Error,
    },
    /// There is none yet.
    #[error("{host} cannot be reached within {} s", CONNECT.as_secs())]
    ConnectTimeout {
        /// The server.
        host: String,
    },
    /// The server ends the connection, or what it says is not HTTP.
    #[error("no whole answer of HTTP from {host}")]
    Exchange {
        /// The server.
        host: String,
        /// What is wrong.
        source: hyper::Error,
    },
    /// The server says nothing.
    #[error("{host} is silent for {} s", .limit.as_secs())]
    Silent {
        /// The server.
        host: String,
        /// For how long it was waited for.
        limit: Duration,
    },
    /// There is more than was asked for.
    #[error("the answer of {host} is longer than {limit} bytes")]
    TooLong {
        /// The server.
        host: String,
        /// The most that is taken.
        limit: usize,
    },
}

impl Error {
    /// Whether the server cannot have seen anything of the request.
    pub(crate) fn is_before_the_request(&self) -> bool {
        matches!(self, Self::Proxy { .. } | Self::Connect { .. } | Self::ConnectTimeout { .. })
    }
}

/// Asks one server, again and again: it remembers TLS sessions and unanswered lookups.
#[derive(Debug)]
pub(crate) struct Client {
    url: Url,
    dial: Dial,
}

impl Client {
    /// Prepares to ask the server of `url`; nothing is opened yet. Its certificate is judged by the system's roots
    /// and `clock`. The way leads through the proxy that the environment names, as it does for curl.
    ///
    /// # Errors
    /// An environment that makes no sense.
    pub(crate) fn new(url: Url, clock: Clock) -> Result<Self, Error> {
        let proxy = env::proxy(&url, |name| std::env::var(name).ok())?;
        let endpoint = Endpoint {
            // What HTTP runs over is what MQTT runs over.
            scheme: if url.is_secure() { Scheme::Mqtts } else { Scheme::Mqtt },
            host: url.host().to_owned(),
            port: url.port(),
            path: String::new(),
            tls: TlsFiles::default(),
            proxy,
        };
        Ok(Self { url, dial: Dial::new(endpoint, clock) })
    }

    /// Lets no more than this many bytes wait in the kernel, about, or the double where that is Linux.
    #[must_use]
    pub(crate) fn with_receive_buffer(self, bytes: usize) -> Self {
        Self { dial: self.dial.with_receive_buffer(bytes), ..self }
    }

    /// Where it asks.
    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    /// Sends a request, whose URI is path and query, and waits for the head of the answer, whatever it says.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn send(&self, mut request: Request<String>) -> Result<Response, Error> {
        let host = || self.url.host().to_owned();
        let stream = match timeout(CONNECT, self.dial.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(Error::Connect { host: host(), source }),
            Err(_) => return Err(Error::ConnectTimeout { host: host() }),
        };
        let failed = |source| Error::Exchange { host: host(), source };
        let authority = HeaderValue::from_str(&self.url.authority()).expect("a host has but letters");
        request.headers_mut().insert(HOST, authority);
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD).max_headers(FIELDS);
        let (mut sender, connection) =
            builder.handshake(io::Adapted::new(stream, HEAD)).await.map_err(failed)?;
        // Ends with the answer; what goes wrong with it is told there.
        let mut task = JoinSet::new();
        task.spawn(async move { connection.await.ok() });
        match timeout(ANSWER, sender.send_request(request)).await {
            Ok(Ok(head)) => Ok(Response::new(host(), head, task)),
            Ok(Err(source)) => Err(failed(source)),
            Err(_) => Err(Error::Silent { host: host(), limit: ANSWER }),
        }
    }
}

#[cfg(test)]
mod tests;
