//! The two URLs of the configuration: the broker's and a proxy's. An error never repeats what may be a password.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use super::files::{MASK, SECRET_IF_IT_HAS_A_USER, Secret};
use super::finding::suggestion;
use super::values::schema;

/// How the broker is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `mqtts://`, `ssl://`, `tls://`: MQTT over TLS, port 8883.
    Mqtts,
    /// `wss://`: MQTT over WebSocket over TLS, port 443.
    Wss,
    /// `mqtt://`, `tcp://`: MQTT in the clear, port 1883.
    Mqtt,
    /// `ws://`: MQTT over WebSocket in the clear, port 80.
    Ws,
    /// `unix://`: MQTT over a unix socket.
    Unix,
}

const SCHEMES: [(&str, Scheme); 8] = [
    ("mqtts", Scheme::Mqtts),
    ("ssl", Scheme::Mqtts),
    ("tls", Scheme::Mqtts),
    ("wss", Scheme::Wss),
    ("mqtt", Scheme::Mqtt),
    ("tcp", Scheme::Mqtt),
    ("ws", Scheme::Ws),
    ("unix", Scheme::Unix),
];

impl Scheme {
    /// Over TLS.
    pub(crate) fn encrypted(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    /// Over WebSocket.
    pub(crate) fn websocket(self) -> bool {
        matches!(self, Self::Wss | Self::Ws)
    }

    fn port(self) -> u16 {
        match self {
            Scheme::Mqtts => 8883,
            Scheme::Wss => 443,
            Scheme::Mqtt => 1883,
            Scheme::Ws => 80,
            Scheme::Unix => 0,
        }
    }

    fn name(self) -> &'static str {
        SCHEMES.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }
}

/// Where the broker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    /// How it is spoken to.
    pub scheme: Scheme,
    /// A name, or an IP address without brackets. Empty with [`Scheme::Unix`].
    pub host: String,
    /// The TCP port. 0 with [`Scheme::Unix`].
    pub port: u16,
    /// The resource of a WebSocket, `/mqtt` if none is given; or the path of the unix socket. Else empty.
    pub path: String,
}

impl BrokerUrl {
    /// Reads `SCHEME://HOST[:PORT][/PATH]` or `unix:///PATH`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = split_scheme(text, "mqtts://broker.example:8883", &SCHEMES)?;
        if scheme == Scheme::Unix {
            let path =
                Some(rest).filter(|path| path.len() > 1 && path.starts_with('/') && !path.contains('\0'));
            let path = path.ok_or("a unix socket is written as unix:///run/broker.sock")?.to_owned();
            return Ok(BrokerUrl { scheme, host: String::new(), port: 0, path });
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(
                "must not contain a user or password; use mqtt.username and mqtt.password_file".into()
            );
        }
        let (host, port) = host_and_port(authority)?;
        let port = port.unwrap_or(scheme.port());
        Ok(BrokerUrl { scheme, host, port, path: resource(scheme, path)? })
    }

    /// Whether everyone on the way can read along.
    pub fn is_plaintext(&self) -> bool {
        matches!(self.scheme, Scheme::Mqtt | Scheme::Ws)
    }

    /// Whether there is no way: the broker runs on this machine.
    pub fn is_local(&self) -> bool {
        self.scheme == Scheme::Unix || is_loopback(&self.host)
    }
}

/// Whether a name or an address is this machine's own, by itself and without asking anybody.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BrokerUrl { scheme, host, port, path } = self;
        match scheme {
            Scheme::Unix => write!(f, "unix://{path}"),
            _ => write!(f, "{}://{}:{port}{path}", scheme.name(), Bracketed(host)),
        }
    }
}

/// A host as it stands before a port: an IPv6 address in brackets.
pub(crate) struct Bracketed<'a>(pub(crate) &'a str);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') { write!(f, "[{}]", self.0) } else { f.write_str(self.0) }
    }
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP CONNECT.
    Http,
    /// SOCKS 5; the proxy resolves the broker's name.
    Socks5,
}

/// A proxy on the way to the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// A name, or an IP address without brackets.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// Who we are to it: user and password.
    pub credentials: Option<(String, Secret)>,
}

impl Proxy {
    /// Reads `http://[USER:PASSWORD@]HOST:PORT` or `socks5://…`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let kinds = [("http", ProxyKind::Http), ("socks5", ProxyKind::Socks5)];
        let (kind, rest) = split_scheme(text, "http://proxy.example:3128", &kinds)?;
        let (credentials, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(credentials(user)?), authority),
            None => (None, rest),
        };
        let (host, port) = host_and_port(authority.strip_suffix('/').unwrap_or(authority))?;
        let port = port.ok_or("the port of a proxy must be given")?;
        Ok(Proxy { kind, host, port, credentials })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.kind == ProxyKind::Http { "http://" } else { "socks5://" })?;
        if self.credentials.is_some() {
            write!(f, "{MASK}@")?;
        }
        write!(f, "{}:{}", Bracketed(&self.host), self.port)
    }
}

fn split_scheme<'t, T: Copy>(
    text: &'t str,
    example: &str,
    known: &[(&'static str, T)],
) -> Result<(T, &'t str), String> {
    let (name, rest) = text.split_once("://").ok_or_else(|| format!("expected a URL such as {example}"))?;
    match known.iter().find(|(scheme, _)| name.eq_ignore_ascii_case(scheme)) {
        Some((_, scheme)) => Ok((*scheme, rest)),
        None if name.chars().all(|c| c.is_ascii_alphanumeric()) => {
            let hint = suggestion(name, known.iter().map(|(scheme, _)| *scheme));
            Err(format!("the scheme `{name}` is unknown; {hint}"))
        }
        None => Err(format!("expected a URL such as {example}")),
    }
}

/// What stands between the slashes of a URL; the host without brackets.
pub(crate) fn host_and_port(authority: &str) -> Result<(String, Option<u16>), String> {
    let bracketed = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let (host, port) = match bracketed {
        Some((address, rest)) => {
            let address = address.parse::<Ipv6Addr>();
            let address = address.map_err(|_| "what is in brackets is no IPv6 address".to_owned())?;
            (
                address.to_string(),
                if rest.is_empty() { None } else { Some(rest.strip_prefix(':').unwrap_or("")) },
            )
        }
        None if authority.matches(':').count() > 1 => {
            return Err("an IPv6 address is written in brackets: [::1]:8883".to_owned());
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (name(host)?, Some(port)),
            None => (name(authority)?, None),
        },
    };
    Ok((host, port.map(port_number).transpose()?))
}

fn port_number(text: &str) -> Result<u16, String> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port != 0);
    port.ok_or_else(|| "the port is no number from 1 to 65535".to_owned())
}

/// A DNS name (RFC 1123, and `_`), or an IPv4 address.
fn name(host: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    let relative = host.strip_suffix('.').unwrap_or(host);
    if host.len() > 253 || !relative.split('.').all(label) {
        return Err("the host is neither a DNS name nor an IP address".to_owned());
    }
    if host.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.')) && host.parse::<Ipv4Addr>().is_err() {
        return Err("the host looks like an IPv4 address, but is none".to_owned());
    }
    Ok(host.to_owned())
}

fn resource(scheme: Scheme, path: &str) -> Result<String, String> {
    match scheme {
        Scheme::Ws | Scheme::Wss if matches!(path, "" | "/") => Ok("/mqtt".to_owned()),
        Scheme::Ws | Scheme::Wss => {
            let visible = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
            if visible { Ok(path.to_owned()) } else { Err("the path is not one of a URL".to_owned()) }
        }
        _ if matches!(path, "" | "/") => Ok(String::new()),
        _ => Err("only ws:// and wss:// have a path".to_owned()),
    }
}

fn credentials(userinfo: &str) -> Result<(String, Secret), String> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let text = |part| percent_decoded(part).and_then(|bytes| String::from_utf8(bytes).ok());
    let user = text(user).filter(|user| !user.is_empty());
    let password = percent_decoded(password).map(Secret::new);
    user.zip(password).ok_or_else(|| "the user or password is not percent-encoded as in a URL".to_owned())
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?
            }
            byte => byte,
        });
    }
    Some(decoded)
}

struct Url<T> {
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Url<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a URL")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for BrokerUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Url { parse: BrokerUrl::parse })
    }
}

impl<'de> Deserialize<'de> for Proxy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(SECRET_IF_IT_HAS_A_USER, Url { parse: Proxy::parse })
    }
}

impl Serialize for BrokerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Proxy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

schema!(BrokerUrl, { "type": "string", "pattern": "^((mqtts?|ssl|tls|tcp|wss?)://[^/@]|unix:///)" });
schema!(Proxy, { "type": "string", "pattern": "^(http|socks5)://" });

#[cfg(test)]
mod tests;
