//! Proxies on the way to the broker: HTTP CONNECT and SOCKS5. TLS runs end to end inside.

use std::fmt;

use zeroize::Zeroizing;

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

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP/1.1 CONNECT (RFC 9110, section 9.3.6).
    Http,
    /// SOCKS 5 (RFC 1928); it resolves the broker's name.
    Socks5,
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
