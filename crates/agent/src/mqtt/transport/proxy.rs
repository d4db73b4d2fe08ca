//! Proxies on the way to the broker: HTTP CONNECT and SOCKS5. TLS runs end to end inside.

use std::net::IpAddr;
use std::{fmt, io};

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::http::{self, Failure};
pub use crate::config::ProxyKind;

use super::{Error, Stream};

/// A proxy on the way to the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// A name, or an IP address without brackets.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// What it wants to know of us.
    pub credentials: Option<Credentials>,
}

/// A user and a password, which no `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}
impl Proxy {
    fn name(&self) -> String {
        http::authority(&self.host, self.port)
    }

    fn refused(&self, reason: impl Into<String>) -> Error {
        Error::ProxyRefused { proxy: self.name(), reason: reason.into() }
    }

    fn lost(&self, source: io::Error) -> Error {
        Error::ProxyIo { proxy: self.name(), source }
    }
}

/// Asks the proxy at the other end of `stream` for a way to `host:port`.
pub(super) async fn tunnel(
    mut stream: Stream,
    proxy: &Proxy,
    host: &str,
    port: u16,
) -> Result<Stream, Error> {
    match proxy.kind {
        ProxyKind::Http => connect(&mut stream, proxy, host, port).await?,
        ProxyKind::Socks5 => {
            socks_greet(&mut stream, proxy).await?;
            socks_connect(&mut stream, proxy, host, port).await?;
        }
    }
    Ok(stream)
}

async fn connect(stream: &mut Stream, proxy: &Proxy, host: &str, port: u16) -> Result<(), Error> {
    if !http::is_token(host) {
        return Err(Error::BadName { host: host.to_owned() });
    }
    let target = http::authority(host, port);
    let mut request = Zeroizing::new(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
    if let Some(Credentials { user, password }) = &proxy.credentials {
        let pair = Zeroizing::new(format!("{user}:{}", password.as_str()));
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(pair.as_bytes()));
        *request += &format!("Proxy-Authorization: Basic {}\r\n", encoded.as_str());
    }
    *request += "\r\n";
    let head = http::exchange(stream, &request).await.map_err(|failure| match failure {
        Failure::Io(source) => proxy.lost(source),
        Failure::Malformed(reason) => proxy.refused(reason),
    })?;
    match head.status {
        200..=299 => Ok(()),
        407 if proxy.credentials.is_none() => Err(proxy.refused("it requires a user and a password")),
        407 => Err(proxy.refused("it does not accept the user or the password")),
        _ => Err(proxy.refused(head.status_line())),
    }
}

/// RFC 1928, section 3, and RFC 1929 where there are credentials.
async fn socks_greet(stream: &mut Stream, proxy: &Proxy) -> Result<(), Error> {
    let methods: &[u8] = if proxy.credentials.is_some() { &[5, 2, 0, 2] } else { &[5, 1, 0] };
    let [version, method] = socks_ask(stream, methods).await.map_err(|source| proxy.lost(source))?;
    match (version, method, &proxy.credentials) {
        (5, 0, _) => Ok(()),
        (5, 2, Some(credentials)) => socks_log_in(stream, proxy, credentials).await,
        (5, _, None) => Err(proxy.refused("it requires a user and a password")),
        (5, ..) => Err(proxy.refused("it accepts neither no login nor a user and a password")),
        _ => Err(proxy.refused("it does not answer in SOCKS 5")),
    }
}

async fn socks_log_in(stream: &mut Stream, proxy: &Proxy, credentials: &Credentials) -> Result<(), Error> {
    let mut request = Zeroizing::new(vec![1]);
    for part in [&credentials.user, &*credentials.password] {
        let length =
            u8::try_from(part.len()).map_err(|_| proxy.refused("user and password end at 255 bytes"))?;
        request.push(length);
        request.extend_from_slice(part.as_bytes());
    }
    match socks_ask(stream, &request).await.map_err(|source| proxy.lost(source))? {
        [1, 0] => Ok(()),
        _ => Err(proxy.refused("it does not accept the user or the password")),
    }
}

/// RFC 1928, sections 4 to 6. A name goes as it is: the proxy may know names that we cannot resolve.
async fn socks_connect(stream: &mut Stream, proxy: &Proxy, host: &str, port: u16) -> Result<(), Error> {
    let mut request = vec![5, 1, 0];
    match host.parse() {
        Ok(IpAddr::V4(address)) => {
            request.push(1);
            request.extend_from_slice(&address.octets());
        }
        Ok(IpAddr::V6(address)) => {
            request.push(4);
            request.extend_from_slice(&address.octets());
        }
        Err(_) => {
            let length = u8::try_from(host.len()).map_err(|_| Error::BadName { host: host.to_owned() })?;
            request.extend_from_slice(&[3, length]);
            request.extend_from_slice(host.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    let [version, reply, _, kind] = socks_ask(stream, &request).await.map_err(|source| proxy.lost(source))?;
    if (version, reply) != (5, 0) {
        return Err(proxy.refused(socks_reason(reply)));
    }
    socks_skip_address(stream, kind).await.map_err(|source| proxy.lost(source))
}

/// The answer ends with the address that the proxy connects from, which is of no use here.
async fn socks_skip_address(stream: &mut Stream, kind: u8) -> io::Result<()> {
    let length = match kind {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is not valid SOCKS 5")),
    };
    let mut rest = [0; 255 + 2];
    stream.read_exact(&mut rest[..length + 2]).await.map(drop)
}

async fn socks_ask<const N: usize>(stream: &mut Stream, request: &[u8]) -> io::Result<[u8; N]> {
    stream.write_all(request).await?;
    stream.flush().await?;
    let mut answer = [0; N];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// RFC 1928, section 6.
fn socks_reason(reply: u8) -> &'static str {
    match reply {
        2 => "its rules do not allow it",
        3 => "it cannot reach the network",
        4 => "it cannot reach the broker",
        5 => "the broker refuses its connection",
        6 => "the broker does not answer it",
        _ => "it failed",
    }
}
