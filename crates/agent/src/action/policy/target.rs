//! Where a tunnel may lead: `host:port`, exactly.

use std::net::{IpAddr, Ipv6Addr};

use serde::Deserialize;

/// A host and a port. Two spellings of one address are equal; a name is equal only to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

/// A target of the policy.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Allowed {
    host: Host,
    /// None is any.
    port: Option<u16>,
}

impl Allowed {
    /// Whether it is this one.
    pub(crate) fn has(&self, target: &Target) -> bool {
        self.host == target.host && self.port.is_none_or(|port| port == target.port)
    }
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.strip_suffix(":*") {
            Some(host) => Ok(Self { host: Host::parse(host)?, port: None }),
            None => Target::parse(&text).map(|target| Self { host: target.host, port: Some(target.port) }),
        }
    }
}

impl Target {
    /// # Errors
    /// Why it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let shape = || format!("expected host:port, found {:?}", text.chars().take(80).collect::<String>());
        let (host, port) = text.rsplit_once(':').ok_or_else(shape)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0).ok_or_else(shape)?;
        Ok(Self { host: Host::parse(host)?, port })
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{:?} is no host", text.chars().take(80).collect::<String>());
        if let Some(inner) = text.strip_prefix('[') {
            let address: Option<Ipv6Addr> = inner.strip_suffix(']').and_then(|inner| inner.parse().ok());
            return address
                .map(|address| Self::Address(IpAddr::V6(address).to_canonical()))
                .ok_or_else(wrong);
        }
        if text.contains(':') {
            return Err(format!("{}; an IPv6 address stands in brackets", wrong()));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(IpAddr::V4(address)));
        }
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 253 || !text.bytes().all(plain) {
            return Err(wrong());
        }
        Ok(Self::Name(text.trim_end_matches('.').to_ascii_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &str, target: &str) -> bool {
        Allowed::try_from(rule.to_owned()).unwrap().has(&Target::parse(target).unwrap())
    }

    #[test]
    fn one_address_is_itself_in_every_spelling_and_nothing_else() {
        for (rule, target) in [
            ("127.0.0.1:22", "127.0.0.1:22"),
            ("127.0.0.1:*", "127.0.0.1:65535"),
            ("[::1]:22", "[0:0:0:0:0:0:0:1]:22"),
            ("[::1]:*", "[::1]:1"),
            ("127.0.0.1:22", "[::ffff:127.0.0.1]:22"),
            ("Printer.local:80", "printer.LOCAL.:80"),
        ] {
            assert!(allows(rule, target), "{rule} {target}");
        }
        for (rule, target) in [
            ("127.0.0.1:22", "127.0.0.1:23"),
            ("127.0.0.1:22", "127.0.0.2:22"),
            ("127.0.0.1:22", "localhost:22"),
            ("localhost:*", "localhost.example:22"),
            ("[::1]:22", "127.0.0.1:22"),
        ] {
            assert!(!allows(rule, target), "{rule} {target}");
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for text in [
            "",
            ":",
            "a",
            "a:",
            ":22",
            "a:0",
            "a:65536",
            "a:+22",
            "a:-1",
            "a: 22",
            "a:22 ",
            "::1:22",
            "[::1:22",
            "::1]:22",
            "[127.0.0.1]:22",
            "a b:22",
            "a/b:22",
            "*:22",
            "a:**",
            "é:22",
            "a\n:22",
            "a:22\n",
        ] {
            assert!(Target::parse(text).is_err() && Allowed::try_from(text.to_owned()).is_err(), "{text:?}");
        }
        assert!(Target::parse("a:*").is_err(), "only the policy may say so");
    }
}
