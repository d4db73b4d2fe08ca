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
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// Where a reference leads that was found here (RFC 3986, section 5.2), such as the `Location` of a redirect. Its
    /// fragment is of no use to a server.
    ///
    /// # Errors
    /// As for a whole URL; the text is never repeated.
    pub(crate) fn join(&self, reference: &str) -> Result<Self, String> {
        let reference = reference.split('#').next().unwrap_or_default();
        let scheme = if self.secure { "https" } else { "http" };
        let here = self.target.split('?').next().unwrap_or_default();
        let is_whole = reference.split(['/', '?']).next().is_some_and(|first| first.contains(':'));
        let target = match reference {
            "" => self.target.clone(),
            _ if is_whole => return reference.parse(),
            _ if reference.starts_with("//") => return format!("{scheme}:{reference}").parse(),
            _ if reference.starts_with('/') => without_dots(reference),
            _ if reference.starts_with('?') => format!("{here}{reference}"),
            _ => {
                let folder = here.rfind('/').map_or("/", |end| &here[..=end]);
                without_dots(&format!("{folder}{reference}"))
            }
        };
        format!("{scheme}://{}{target}", self.authority()).parse()
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

/// A path that begins with a slash, and its query, without `.` and `..` (RFC 3986, section 5.2.4).
fn without_dots(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_dots = segment == "." || segment == "..";
        if segment == ".." {
            kept.pop();
        } else if !is_dots {
            kept.push(segment);
        }
        if is_dots && segments.peek().is_none() {
            kept.push("");
        }
    }
    format!("/{}{query}", kept.join("/"))
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

    /// The examples of RFC 3986, section 5.4, as far as they are of HTTP, and a few of our own.
    #[test]
    fn references_lead_where_browsers_go() {
        let base: Url = "https://a.example/b/c/d;p?q".parse().unwrap();
        for (reference, expected) in [
            ("g", "https://a.example/b/c/g"),
            ("./g", "https://a.example/b/c/g"),
            ("g/", "https://a.example/b/c/g/"),
            ("/g", "https://a.example/g"),
            ("//g", "https://g/"),
            ("?y", "https://a.example/b/c/d;p?y"),
            ("g?y", "https://a.example/b/c/g?y"),
            ("#s", "https://a.example/b/c/d;p?q"),
            ("g?y#s", "https://a.example/b/c/g?y"),
            (";x", "https://a.example/b/c/;x"),
            ("", "https://a.example/b/c/d;p?q"),
            (".", "https://a.example/b/c/"),
            ("..", "https://a.example/b/"),
            ("../g", "https://a.example/b/g"),
            ("../../../g", "https://a.example/g"),
            ("/./g", "https://a.example/g"),
            ("g..", "https://a.example/b/c/g.."),
            ("./g/.", "https://a.example/b/c/g/"),
            ("g;x=1/../y", "https://a.example/b/c/y"),
            ("g?y/../x", "https://a.example/b/c/g?y/../x"),
            ("g?u=https://x/", "https://a.example/b/c/g?u=https://x/"),
            ("HTTPS://other.example:8443/h#s", "https://other.example:8443/h"),
            ("http://127.0.0.1:1/h", "http://127.0.0.1:1/h"),
        ] {
            let joined = base.join(reference).map(|url| url.to_string());
            assert_eq!(joined.as_deref(), Ok(expected), "{reference}");
        }
        for reference in ["ftp://x/", "file:/etc/passwd", "http://x.example/", "//u:hunter2@x/", "a b"] {
            let why = base.join(reference).unwrap_err();
            assert!(!why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn parameters_have_their_names() {
        let url: Url = "https://geo.example/key?a=key&key=b".parse().unwrap();
        assert!(url.has_parameter("key") && url.has_parameter("a") && !url.has_parameter("b"));
        assert!(!"https://geo.example/key".parse::<Url>().unwrap().has_parameter("key"));
    }
}
