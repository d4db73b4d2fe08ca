//! Where a request goes: `https`, or `http` to this machine.

use std::{fmt, str::FromStr};

use crate::config::{Bracketed, host_and_port, is_loopback};

/// An absolute URL of HTTP, without user, password and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    secure: bool,
    host: String,
    port: u16,
    /// Path and query; begins with a slash.
    target: String,
}

impl Url {
    /// A name, or an IP address without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Over TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.secure
    }

    /// Path and query.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }

    /// Host and port as a header has them: the port of the scheme is left out.
    pub(super) fn authority(&self) -> String {
        let host = Bracketed(&self.host);
        if self.port == default_port(self.secure) {
            host.to_string()
        } else {
            format!("{host}:{}", self.port)
        }
    }

    /// Whether the server runs on this machine.
    pub(super) fn is_local(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Whether the query has a parameter of this name.
    pub(crate) fn has_parameter(&self, name: &str) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|pair| pair.split('=').next() == Some(name))
    }
}

fn default_port(secure: bool) -> u16 {
    if secure { 443 } else { 80 }
}

impl FromStr for Url {
    type Err = String;

    /// The text is never repeated: it may hold a secret.
    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) =
            text.split_once("://").ok_or("expected a URL such as https://host.example/path")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err("expected a URL that begins with https://".to_owned()),
        };
        let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("must not contain a user or password".to_owned());
        }
        if !target.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"<>\\^`{|}".contains(&byte)) {
            return Err("the path is not one of a URL".to_owned());
        }
        let (host, port) = host_and_port(authority)?;
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let url = Self { secure, host, port: port.unwrap_or(default_port(secure)), target };
        if !secure && !url.is_local() {
            return Err("everyone on the way could read along; use https:// (http:// only to this machine)"
                .to_owned());
        }
        Ok(url)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_they_are_written() {
        for (text, shown) in [
            ("https://geo.example/v1/locate?a=b&c", Ok("https://geo.example/v1/locate?a=b&c")),
            ("HTTPS://geo.example", Ok("https://geo.example/")),
            ("https://geo.example:443?x", Ok("https://geo.example/?x")),
            ("https://geo.example:8443/", Ok("https://geo.example:8443/")),
            ("http://127.0.0.1:8080/x", Ok("http://127.0.0.1:8080/x")),
            ("http://[::1]/x", Ok("http://[::1]/x")),
            ("http://localhost", Ok("http://localhost/")),
            ("http://geo.example/", Err("use https://")),
            ("https://user:hunter2@geo.example/", Err("user or password")),
            ("https://geo.example/#a", Err("path")),
            ("https://geo.example/a b", Err("path")),
            ("https://geo.example/\r\nHost: x", Err("path")),
            ("https:///path", Err("the host is missing")),
            ("https://geo.example:0/", Err("port")),
            ("ftp://geo.example/", Err("begins with https://")),
            ("geo.example", Err("such as https://")),
        ] {
            match (text.parse::<Url>(), shown) {
                (Ok(url), Ok(shown)) => assert_eq!(url.to_string(), shown, "{text}"),
                (Err(why), Err(part)) => {
                    assert!(why.contains(part) && !why.contains("hunter2"), "{text}: {why}");
                }
                (parsed, _) => panic!("{text}: {parsed:?}"),
            }
        }
    }

    #[test]
    fn parameters_have_their_names() {
        let url: Url = "https://geo.example/key?a=key&key=b".parse().unwrap();
        assert!(url.has_parameter("key") && url.has_parameter("a") && !url.has_parameter("b"));
        assert!(!"https://geo.example/key".parse::<Url>().unwrap().has_parameter("key"));
    }
}
