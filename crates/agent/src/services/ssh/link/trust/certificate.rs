//! Certificates of hosts (PROTOCOL.certkeys of OpenSSH): who signed what for whom, and until when.

use std::time::{Duration, UNIX_EPOCH};

use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::KINDS;
use super::known_hosts::matches;
use crate::clock::Clock;
use crate::services::ssh::wire::{Reader, Write as _};

/// With which the names of certificates end.
pub(super) const SUFFIX: &str = "-cert-v01@openssh.com";
/// A certificate for hosts, not users.
const HOST: u32 = 2;

/// A certificate, as far as it matters here. Nothing in it is believed before `judge`.
pub(super) struct Certificate<'a> {
    /// The key that it is for, as it goes over the wire.
    pub(super) key: Vec<u8>,
    /// The key that signed it, likewise.
    pub(super) authority: &'a [u8],
    purpose: u32,
    principals: Vec<&'a str>,
    /// In seconds since 1970: from, and up to.
    valid: (u64, u64),
    critical: &'a [u8],
    signed: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Certificate<'a> {
    pub(super) fn read(whole: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(whole);
        let kind = reader.text().ok()?.strip_suffix(SUFFIX).filter(|kind| KINDS.contains(kind))?;
        reader.string().ok()?;
        let mut key = Vec::new();
        key.put_string(kind.as_bytes());
        // Ed25519 has a point, ECDSA the name of its curve and a point.
        for _ in 0..if kind == "ssh-ed25519" { 1 } else { 2 } {
            key.put_string(reader.string().ok()?);
        }
        reader.u64().ok()?;
        let purpose = reader.u32().ok()?;
        reader.string().ok()?;
        let mut names = Reader::new(reader.string().ok()?);
        let mut principals = Vec::new();
        while !names.is_empty() {
            principals.push(names.text().ok()?);
        }
        let valid = (reader.u64().ok()?, reader.u64().ok()?);
        let critical = reader.string().ok()?;
        reader.string().ok()?;
        reader.string().ok()?;
        let authority = reader.string().ok()?;
        let signed = &whole[..whole.len() - reader.rest().len()];
        let signature = reader.string().ok()?;
        reader.is_empty().then_some(Self {
            key,
            authority,
            purpose,
            principals,
            valid,
            critical,
            signed,
            signature,
        })
    }

    /// Whether it holds for `host`, or why not, as the rest of a sentence. While the clock is not synchronised, the
    /// beginning is not judged, and the end by the latest time that is known to have passed.
    pub(super) fn judge(&self, host: &str, clock: &Clock) -> Result<(), &'static str> {
        let host = host.to_ascii_lowercase();
        let seconds =
            |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        let (begun, now) = match clock.synchronised() {
            true => (self.valid.0 <= seconds(clock.now()), seconds(clock.now())),
            false => (true, seconds(clock.floor())),
        };
        let fits = |name: &&str| matches(&name.to_ascii_lowercase(), &host);
        let all = [
            (self.purpose == HOST, "is not for hosts"),
            (self.critical.is_empty(), "has critical options that are not understood"),
            (begun, "is not valid yet"),
            (now < self.valid.1, "has expired; sign a new one with ssh-keygen -s"),
            (self.principals.iter().any(fits), "is for other names than this server's"),
            (verify(self.authority, self.signature, self.signed).is_some(), "carries a wrong signature"),
        ];
        all.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, reason)| Err(reason))
    }
}

/// `Some` when `signature` over `data` is by `key`. Certificates must be signed by the kind of signature that the key
/// says, or by RSA with SHA-2.
pub(super) fn verify(key: &[u8], signature: &[u8], data: &[u8]) -> Option<()> {
    let (mut key, mut signature) = (Reader::new(key), Reader::new(signature));
    let (kind, name, signature) = (key.text().ok()?, signature.text().ok()?, signature.string().ok()?);
    if kind == "ssh-rsa" {
        let (e, n) = (key.mpint().ok()?, key.mpint().ok()?);
        let algorithm = match name {
            "rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
            "rsa-sha2-512" => &RSA_PKCS1_2048_8192_SHA512,
            _ => return None,
        };
        return RsaPublicKeyComponents { n, e }.verify(algorithm, data, signature).ok();
    }
    if kind != name {
        return None;
    }
    let (algorithm, size): (&dyn VerificationAlgorithm, _) = match kind {
        "ssh-ed25519" => {
            return UnparsedPublicKey::new(&ED25519, key.string().ok()?).verify(data, signature).ok();
        }
        "ecdsa-sha2-nistp256" => (&ECDSA_P256_SHA256_FIXED, 32),
        "ecdsa-sha2-nistp384" => (&ECDSA_P384_SHA384_FIXED, 48),
        _ => return None,
    };
    key.string().ok()?;
    UnparsedPublicKey::new(algorithm, key.string().ok()?).verify(data, &fixed(signature, size)?).ok()
}

/// The two numbers of a signature of ECDSA, one after the other in `size` bytes each.
fn fixed(signature: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut reader = Reader::new(signature);
    let mut both = Vec::with_capacity(2 * size);
    for _ in 0..2 {
        let number = reader.mpint().ok()?;
        both.resize(both.len() + size.checked_sub(number.len())?, 0);
        both.extend_from_slice(number);
    }
    reader.is_empty().then_some(both)
}
