//! The key by which the device proves to a server who it is. Never shown, wiped when dropped, and all its
//! cryptography is ring's.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::{self, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA512,
};
use zeroize::Zeroizing;

use super::wire::{Write as _, trimmed};

mod openssh;
mod pem;
#[cfg(test)]
mod tests;

/// Longer than any key file.
const SIZE_LIMIT: u64 = 64 << 10;

/// Why a key is none that can be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// There is no such file.
    #[error("there is no key {}", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read the key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the key {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner can read it.
    #[error("the key {} can be read by group or others (mode {mode:04o}); chmod 600 it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It is protected by a passphrase.
    #[error(
        "the key {} is encrypted, and there is nobody here to ask for the passphrase; \
         remove it from a copy for this device with ssh-keygen -p -N '' -f COPY",
        .0.display()
    )]
    Encrypted(PathBuf),
    /// It is none, or of a kind that cannot be used.
    #[error("the key {} {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is the matter with it, as the rest of a sentence.
        reason: &'static str,
    },
}

/// What is the matter with the bytes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Encrypted,
    Because(&'static str),
}

const DAMAGED: Fault = Fault::Because("is damaged");
const CURVE: Fault =
    Fault::Because("is for a curve that is not supported; make one with ssh-keygen -t ed25519");
const RSA: Fault = Fault::Because("is RSA of a size that is not supported: 2048 to 4096 bits are");

/// A private key and what the server knows of it.
pub(super) struct Key {
    pair: Pair,
    /// The public key as it goes over the wire.
    blob: Vec<u8>,
    comment: String,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

/// The signature could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign with the key of this device; is there a source of randomness?")]
pub(super) struct CannotSign;

impl Key {
    /// Reads a key: a file of OpenSSH, or PEM (PKCS#8, SEC1, PKCS#1); Ed25519, ECDSA P-256 and P-384, RSA.
    ///
    /// # Errors
    /// When it is missing, can be read by others, is encrypted, damaged, or of another kind.
    pub(super) fn load(path: &Path) -> Result<Self, KeyError> {
        let text = read(path)?;
        Self::parse(&text).map_err(|fault| match fault {
            Fault::Encrypted => KeyError::Encrypted(path.into()),
            Fault::Because(reason) => KeyError::Unusable { path: path.into(), reason },
        })
    }

    /// Makes an Ed25519 key and writes it to `path`, for its owner alone. What stood there is replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn make(path: &Path, comment: &str) -> Result<Self, KeyError> {
        let failed = |source| KeyError::Write { path: path.into(), source };
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|lost| failed(io::Error::other(lost)))?;
        let key = Self::ed25519(&*seed, None, comment.into())
            .map_err(|_| failed(io::Error::other("ring takes no seed")))?;
        crate::store::replace(path, openssh::write(&seed, &key.blob, comment).as_bytes()).map_err(failed)?;
        Ok(key)
    }

    /// The line for the server's `authorized_keys`.
    pub(super) fn public(&self) -> String {
        let line = format!("{} {}", self.kind(), STANDARD.encode(&self.blob));
        if self.comment.is_empty() { line } else { format!("{line} {}", self.comment) }
    }

    /// The public key as it goes over the wire (RFC 4253, section 6.6).
    pub(super) fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The name of the algorithm to sign with, of those that the server takes, where it told.
    pub(super) fn algorithm(&self, taken: Option<&str>) -> &'static str {
        let takes = |name| taken.is_none_or(|names| names.split(',').any(|taken| taken == name));
        match &self.pair {
            Pair::Rsa(_) if !takes("rsa-sha2-512") && takes("rsa-sha2-256") => "rsa-sha2-256",
            Pair::Rsa(_) => "rsa-sha2-512",
            _ => self.kind(),
        }
    }

    /// Signs `data`: the whole signature of RFC 4253, section 6.6, with the name of `algorithm`.
    ///
    /// # Errors
    /// When ring cannot.
    pub(super) fn sign(&self, algorithm: &str, data: &[u8]) -> Result<Vec<u8>, CannotSign> {
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(data).as_ref().to_vec(),
            Pair::P256(pair) | Pair::P384(pair) => {
                let fixed = pair.sign(&random, data).map_err(|_| CannotSign)?;
                let (r, s) = fixed.as_ref().split_at(fixed.as_ref().len() / 2);
                let mut both = Vec::new();
                both.put_mpint(r);
                both.put_mpint(s);
                both
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let padding = if algorithm == "rsa-sha2-256" { &RSA_PKCS1_SHA256 } else { &RSA_PKCS1_SHA512 };
                pair.sign(padding, &random, data, &mut signature).map_err(|_| CannotSign)?;
                signature
            }
        };
        let mut whole = Vec::new();
        whole.put_string(algorithm.as_bytes());
        whole.put_string(&signature);
        Ok(whole)
    }

    /// The name of the kind of key.
    fn kind(&self) -> &'static str {
        match &self.pair {
            Pair::Ed25519(_) => "ssh-ed25519",
            Pair::P256(_) => "ecdsa-sha2-nistp256",
            Pair::P384(_) => "ecdsa-sha2-nistp384",
            Pair::Rsa(_) => "ssh-rsa",
        }
    }

    fn parse(text: &[u8]) -> Result<Self, Fault> {
        let (label, der) = pem::private(text)?;
        match label {
            "OPENSSH PRIVATE KEY" => openssh::read(&der),
            "PRIVATE KEY" => pem::pkcs8(&der),
            "EC PRIVATE KEY" => pem::sec1(&der),
            "RSA PRIVATE KEY" => Self::rsa(rsa::KeyPair::from_der(&der), String::new()),
            "ENCRYPTED PRIVATE KEY" => Err(Fault::Encrypted),
            _ => Err(Fault::Because("is of a kind that is not supported: Ed25519, ECDSA and RSA are")),
        }
    }

    fn ed25519(seed: &[u8], public: Option<&[u8]>, comment: String) -> Result<Self, Fault> {
        let pair = match public {
            Some(public) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
            None => Ed25519KeyPair::from_seed_unchecked(seed),
        };
        Ok(Self::of_ed25519(pair.map_err(|_| DAMAGED)?, comment))
    }

    fn of_ed25519(pair: Ed25519KeyPair, comment: String) -> Self {
        let mut blob = Vec::new();
        blob.put_string(b"ssh-ed25519");
        blob.put_string(pair.public_key().as_ref());
        Self { pair: Pair::Ed25519(pair), blob, comment }
    }

    /// `point`: the public half, uncompressed (SEC 1, section 2.3.3); its length tells the curve.
    fn ecdsa(private: &[u8], point: &[u8], comment: String) -> Result<Self, Fault> {
        let (algorithm, size) = match point.len() {
            65 => (&ECDSA_P256_SHA256_FIXED_SIGNING, 32),
            97 => (&ECDSA_P384_SHA384_FIXED_SIGNING, 48),
            _ => return Err(CURVE),
        };
        let private = trimmed(private);
        let mut padded = Zeroizing::new(vec![0; size]);
        let start = size.checked_sub(private.len()).ok_or(DAMAGED)?;
        padded[start..].copy_from_slice(private);
        let pair =
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, &padded, point, &SystemRandom::new());
        Ok(Self::of_ecdsa(pair.map_err(|_| DAMAGED)?, comment))
    }

    fn of_ecdsa(pair: EcdsaKeyPair, comment: String) -> Self {
        let point = pair.public_key().as_ref();
        let short = point.len() == 65;
        let curve = if short { "nistp256" } else { "nistp384" };
        let mut blob = Vec::new();
        blob.put_string(format!("ecdsa-sha2-{curve}").as_bytes());
        blob.put_string(curve.as_bytes());
        blob.put_string(point);
        Self { pair: if short { Pair::P256(pair) } else { Pair::P384(pair) }, blob, comment }
    }

    fn rsa(pair: Result<rsa::KeyPair, ring::error::KeyRejected>, comment: String) -> Result<Self, Fault> {
        let pair = pair.map_err(|_| RSA)?;
        let public: PublicKeyComponents<Vec<u8>> = pair.public().into();
        let mut blob = Vec::new();
        blob.put_string(b"ssh-rsa");
        blob.put_mpint(&public.e);
        blob.put_mpint(&public.n);
        Ok(Self { pair: Pair::Rsa(pair), blob, comment })
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyError::Missing(path.into()),
        _ => KeyError::Read { path: path.into(), source },
    };
    let (file, found): (File, _) = crate::config::open(path).map_err(failed)?;
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.into(), mode });
    }
    // Room at once: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(SIZE_LIMIT as usize + 1));
    file.take(SIZE_LIMIT + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > SIZE_LIMIT {
        return Err(KeyError::Unusable { path: path.into(), reason: "is longer than 64 KiB" });
    }
    Ok(text)
}
