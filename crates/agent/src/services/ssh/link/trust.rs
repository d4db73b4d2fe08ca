//! Which servers are believed. Nobody is on first sight: a key is on file, or signed by an authority that is.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::digest::{SHA256, digest};

use super::Server;
use crate::clock::Clock;
use crate::services::ssh::wire::Reader;
use certificate::Certificate;
use known_hosts::{Known, Mark};

mod certificate;
#[cfg(any(test, feature = "fuzzing"))]
pub(in crate::services::ssh) mod fuzzing;
mod known_hosts;
#[cfg(test)]
mod tests;

/// Longer than the file of any fleet's servers.
const SIZE_LIMIT: u64 = 1 << 20;

/// The kinds of host key that are believed, the best first. RSA is not: signatures by it are checked with numbers of any
/// size that the server likes.
pub(super) const KINDS: [&str; 3] = ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"];
/// Certificates of these kinds.
const CERTIFIED: [&str; 3] = [
    "ssh-ed25519-cert-v01@openssh.com",
    "ecdsa-sha2-nistp256-cert-v01@openssh.com",
    "ecdsa-sha2-nistp384-cert-v01@openssh.com",
];

/// Which servers are believed.
pub(in crate::services::ssh) struct Trust(Believed);

enum Believed {
    /// A file in the format of OpenSSH, read for each connection.
    File(PathBuf),
    /// One key, as it goes over the wire.
    Key(Vec<u8>),
    /// One key, by the SHA-256 of it.
    Fingerprint([u8; 32]),
}

/// A setting that names no host key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is no host key: write its fingerprint (SHA256:…) or the key itself (ssh-ed25519 AAAA…), as ssh-keygen -l or \
     ssh-keyscan show them"
)]
pub(in crate::services::ssh) struct NoHostKey;

/// Why a server is not believed.
#[derive(Debug, thiserror::Error)]
pub(in crate::services::ssh) enum Distrust {
    /// What is known of servers cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing is known of this server.
    #[error(
        "the server shows the unknown host key {seen}; if it is the right one, put it into `known_hosts`"
    )]
    Unknown {
        /// The key that it showed.
        seen: Fingerprint,
    },
    /// Another key is known of this server.
    #[error(
        "the server shows the host key {seen}, which is NOT the one on file: somebody may be in between; \
         if its key was changed on purpose, replace it in `known_hosts` or `host_key`"
    )]
    Wrong {
        /// The key that it showed.
        seen: Fingerprint,
    },
    /// The key is marked as stolen.
    #[error("the server shows the host key {seen}, which is revoked: whoever has it may be anybody")]
    Revoked {
        /// The key that it showed.
        seen: Fingerprint,
    },
    /// All it has, or all that is known of it, are keys of other kinds.
    #[error(
        "the server has no host key of a kind that is believed: make it one with ssh-keygen -t ed25519 (RSA is not)"
    )]
    Kind,
    /// It shows a certificate that does not hold.
    #[error("the server shows a host certificate of {authority} that {reason}")]
    Certificate {
        /// The key that signed it.
        authority: Fingerprint,
        /// What is the matter with it, as the rest of a sentence.
        reason: &'static str,
    },
    /// It shows a key that it does not have.
    #[error("the server shows a host key that it does not have: it signs wrongly")]
    Forged,
    /// What it shows is no key at all.
    #[error("the server shows a damaged host key")]
    Damaged,
}

/// A key as people compare it: `SHA256:` and its digest in base64.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::services::ssh) struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(key: &[u8]) -> Self {
        let mut sum = [0; 32];
        sum.copy_from_slice(digest(&SHA256, key).as_ref());
        Self(sum)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Trust {
    /// Believes what a file in the format of OpenSSH's `known_hosts` says, as it is at each connection.
    pub(in crate::services::ssh) fn known_hosts(path: &Path) -> Self {
        Self(Believed::File(path.into()))
    }

    /// Believes one key: its fingerprint, or the key itself.
    ///
    /// # Errors
    /// When `text` is neither.
    pub(in crate::services::ssh) fn pinned(text: &str) -> Result<Self, NoHostKey> {
        if let Some(sum) = text.trim().strip_prefix("SHA256:") {
            let sum = STANDARD_NO_PAD.decode(sum.trim_end_matches('=')).map_err(|_| NoHostKey)?;
            return Ok(Self(Believed::Fingerprint(sum.try_into().map_err(|_| NoHostKey)?)));
        }
        let mut words = text.split_whitespace();
        let (kind, key) = words.next().zip(words.next()).ok_or(NoHostKey)?;
        let key = STANDARD.decode(key).map_err(|_| NoHostKey)?;
        let named = KINDS.contains(&kind) && self::kind(&key) == Some(kind);
        if named { Ok(Self(Believed::Key(key))) } else { Err(NoHostKey) }
    }

    /// What is known of `server`, to be held against what it shows. Reads the file.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(super) fn of(&self, server: &Server) -> Result<Expected, Distrust> {
        let known = match &self.0 {
            Believed::Key(key) => vec![Known { mark: None, key: key.clone() }],
            Believed::Fingerprint(sum) => {
                return Ok(Expected { host: server.host.clone(), known: Vec::new(), sum: Some(*sum) });
            }
            Believed::File(path) => {
                let text = read(path).map_err(|source| Distrust::File { path: path.clone(), source })?;
                known_hosts::about(&text, server)
            }
        };
        Ok(Expected { host: server.host.clone(), known, sum: None })
    }
}

fn read(path: &Path) -> io::Result<String> {
    let (file, _) = crate::config::open(path)?;
    let mut text = String::new();
    file.take(SIZE_LIMIT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SIZE_LIMIT { Err(io::Error::other("it is longer than 1 MiB")) } else { Ok(text) }
}

/// What is known of one server.
pub(in crate::services::ssh) struct Expected {
    host: String,
    known: Vec<Known>,
    sum: Option<[u8; 32]>,
}

impl Expected {
    /// The kinds of key to ask for: those on file first, since a server shows one only.
    pub(super) fn kinds(&self) -> Vec<&'static str> {
        let on_file = |wanted: &&str| self.keys().any(|key| kind(key) == Some(*wanted));
        let (mut first, rest): (Vec<_>, Vec<_>) = KINDS.into_iter().partition(on_file);
        first.extend(rest);
        first
    }

    /// Whether a certificate would be believed, if the right authority had signed it.
    pub(super) fn takes_certificates(&self) -> bool {
        self.authorities().next().is_some()
    }

    /// The host keys to ask for, by the names of their algorithms.
    pub(in crate::services::ssh) fn algorithms(&self) -> Vec<&'static str> {
        let certified = if self.takes_certificates() { &CERTIFIED[..] } else { &[] };
        certified.iter().copied().chain(self.kinds()).collect()
    }

    /// Judges what the server shows: a key or a certificate as it goes over the wire.
    ///
    /// # Errors
    /// When it is not believed.
    pub(in crate::services::ssh) fn judge(&self, shown: &[u8], clock: &Clock) -> Result<(), Distrust> {
        match kind(shown).ok_or(Distrust::Damaged)?.strip_suffix(certificate::SUFFIX) {
            Some(_) => self.judge_certificate(shown, clock),
            None => self.judge_key(shown),
        }
    }

    fn judge_key(&self, key: &[u8]) -> Result<(), Distrust> {
        let seen = Fingerprint::of(key);
        if self.revoked(key) {
            return Err(Distrust::Revoked { seen });
        }
        if !kind(key).is_some_and(|kind| KINDS.contains(&kind)) {
            return Err(Distrust::Kind);
        }
        match self.sum {
            Some(sum) if sum == seen.0 => Ok(()),
            Some(_) => Err(Distrust::Wrong { seen }),
            None if self.keys().any(|known| known == key) => Ok(()),
            None if self.keys().next().is_some() => Err(Distrust::Wrong { seen }),
            None => Err(Distrust::Unknown { seen }),
        }
    }

    fn judge_certificate(&self, shown: &[u8], clock: &Clock) -> Result<(), Distrust> {
        let certificate = Certificate::read(shown).ok_or(Distrust::Damaged)?;
        for key in [certificate.authority, &certificate.key] {
            if self.revoked(key) {
                return Err(Distrust::Revoked { seen: Fingerprint::of(key) });
            }
        }
        let authority = Fingerprint::of(certificate.authority);
        if !self.authorities().any(|known| known == certificate.authority) {
            let reason = "is not known to sign for this server";
            return Err(Distrust::Certificate { authority, reason });
        }
        certificate.judge(&self.host, clock).map_err(|reason| Distrust::Certificate { authority, reason })
    }

    fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.marked(None)
    }

    fn authorities(&self) -> impl Iterator<Item = &[u8]> {
        self.marked(Some(Mark::Authority))
    }

    fn revoked(&self, key: &[u8]) -> bool {
        self.marked(Some(Mark::Revoked)).any(|known| known == key)
    }

    fn marked(&self, mark: Option<Mark>) -> impl Iterator<Item = &[u8]> {
        self.known.iter().filter(move |known| known.mark == mark).map(|known| &known.key[..])
    }
}

/// That `signature` over `data` is by what the server shows, a key or a certificate of the kind `algorithm`. Whether that
/// is to be believed is another question: [`Expected::judge`].
///
/// # Errors
/// When it is not.
pub(in crate::services::ssh) fn verify(
    algorithm: &str,
    shown: &[u8],
    signature: &[u8],
    data: &[u8],
) -> Result<(), Distrust> {
    if kind(shown) != Some(algorithm) {
        return Err(Distrust::Damaged);
    }
    let signed = match algorithm.ends_with(certificate::SUFFIX) {
        true => Certificate::read(shown).and_then(|shown| certificate::verify(&shown.key, signature, data)),
        false => certificate::verify(shown, signature, data),
    };
    signed.ok_or(Distrust::Forged)
}

/// The name of its kind, with which a key begins.
fn kind(key: &[u8]) -> Option<&str> {
    Reader::new(key).text().ok()
}
