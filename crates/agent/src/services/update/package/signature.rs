//! Whose a package is: the keys that are trusted, and signatures as `minisign` makes them.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use minisign_verify::{PublicKey, Signature, StreamVerifier};

use super::{Error, Result};

/// The number that minisign gives a key, shown as it shows it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId(u64);

/// The public keys that are trusted.
#[derive(Debug, Clone, Default)]
pub struct Keys(Vec<(KeyId, PublicKey)>);

/// A signature that fits, or that was only looked at where nothing is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// By which key.
    pub key: KeyId,
    /// What the signer says, under the signature.
    pub trusted_comment: String,
}

impl KeyId {
    pub(super) fn new(bytes: [u8; 8]) -> Self {
        Self(u64::from_le_bytes(bytes))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", self.0)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Keys {
    /// Adds the keys of a text: a key alone, or the content of a `.pub` file, or of several joined. Comments and lines
    /// that begin with `#` are passed over.
    ///
    /// # Errors
    /// [`Error::PublicKey`] for a line that is none, [`Error::NoKeys`] where there is none at all.
    pub fn add(&mut self, text: &str) -> Result<()> {
        let before = self.0.len();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') || line.starts_with("untrusted comment:") {
                continue;
            }
            let wrong = || Error::PublicKey(line.chars().take(80).collect());
            let key = PublicKey::from_base64(line).map_err(|_| wrong())?;
            let bytes = STANDARD.decode(line).map_err(|_| wrong())?;
            let id = bytes.get(2..10).and_then(|id| id.try_into().ok()).ok_or_else(wrong)?;
            self.0.push((KeyId::new(id), key));
        }
        if self.0.len() == before { Err(Error::NoKeys) } else { Ok(()) }
    }

    /// The keys' numbers.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.0.iter().map(|(id, _)| *id)
    }

    /// Checks that one of these keys has signed these bytes.
    ///
    /// # Errors
    /// No signature, one of the old kind, one by another key, one that does not fit.
    pub fn verify(&self, bytes: &[u8], signature: &str) -> Result<Signed> {
        let read = Read::new(signature)?;
        self.key(&read)?.verify(bytes, &read.signature, false).map_err(|_| Error::BadSignature(read.key))?;
        Ok(read.signed())
    }

    fn key(&self, read: &Read) -> Result<&PublicKey> {
        if self.0.is_empty() {
            return Err(Error::NoKeys);
        }
        let found = self.0.iter().find(|(id, _)| *id == read.key);
        found.map(|(_, key)| key).ok_or(Error::UntrustedKey(read.key))
    }

    /// Begins to check that one of these keys has signed what is still to come.
    pub(super) fn begin<'a>(&'a self, read: &'a Read) -> Result<StreamVerifier<'a>> {
        self.key(read)?.verify_stream(&read.signature).map_err(|_| Error::SignatureFormat)
    }
}

/// A signature file's content.
pub(super) struct Read {
    pub(super) key: KeyId,
    signature: Signature,
}

impl Read {
    pub(super) fn new(text: &str) -> Result<Self> {
        // Nothing in a signature that nobody looks at.
        let lines: Vec<&str> = text.lines().collect();
        let [untrusted, first, _, _] = lines[..] else { return Err(Error::SignatureFormat) };
        let bytes = STANDARD.decode(first).map_err(|_| Error::SignatureFormat)?;
        let key = bytes.get(2..10).and_then(|id| id.try_into().ok()).ok_or(Error::SignatureFormat)?;
        if !untrusted.starts_with("untrusted comment: ") {
            return Err(Error::SignatureFormat);
        }
        if bytes.starts_with(b"Ed") {
            return Err(Error::Legacy);
        }
        let signature = Signature::decode(text).map_err(|_| Error::SignatureFormat)?;
        Ok(Self { key: KeyId::new(key), signature })
    }

    /// What it says of itself.
    pub(super) fn signed(&self) -> Signed {
        Signed { key: self.key, trusted_comment: self.signature.trusted_comment().to_owned() }
    }
}
