//! Signing with a secret key of `minisign`, on the machine where packages are made. No device has such a key.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use blake2::{Blake2b, Blake2b512, Digest as _, digest::consts::U32};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::{Error, KeyId, Result};

/// A secret key's bytes: two letters each for the algorithms of key, password and sum, salt, the two costs, then what
/// the password hides: number, secret and public half, sum.
const LENGTH: usize = 2 + 2 + 2 + 32 + 8 + 8 + HIDDEN;
const HIDDEN: usize = 8 + 64 + 32;
/// 1 GiB, which is what minisign takes.
const MAX_LOG_N: u8 = 20;

/// What opens a secret key.
pub struct Password(Zeroizing<Vec<u8>>);

/// A secret key as it lies in its file.
pub struct Sealed(Zeroizing<[u8; LENGTH]>);

/// A key that can sign.
pub struct SecretKey {
    id: KeyId,
    number: [u8; 8],
    pair: Ed25519KeyPair,
}

impl Password {
    /// The password itself, without what ends its line.
    pub fn new(mut bytes: Vec<u8>) -> Self {
        while bytes.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            bytes.pop();
        }
        Self(Zeroizing::new(bytes))
    }
}

impl Sealed {
    /// Reads the file that `minisign -G` has made.
    ///
    /// # Errors
    /// [`Error::SecretKey`] where it is none, or one of a kind unknown here.
    pub fn parse(text: &str) -> Result<Self> {
        let line =
            text.lines().find(|line| !line.starts_with("untrusted comment:") && !line.trim().is_empty());
        let line = line.ok_or(Error::SecretKey("it is empty"))?;
        let bytes = STANDARD.decode(line.trim()).map_err(|_| Error::SecretKey("it is not base64"))?;
        let bytes = Zeroizing::new(bytes);
        let bytes: [u8; LENGTH] =
            bytes.as_slice().try_into().map_err(|_| Error::SecretKey("its length is another"))?;
        if &bytes[..2] != b"Ed" || &bytes[4..6] != b"B2" || !matches!(&bytes[2..4], b"Sc" | b"\0\0") {
            return Err(Error::SecretKey("its algorithms are others"));
        }
        Ok(Self(Zeroizing::new(bytes)))
    }

    /// Whether it takes a password to open it.
    pub fn has_password(&self) -> bool {
        &self.0[2..4] == b"Sc"
    }

    /// The key itself. With a password this takes seconds and as much memory as the key was made with, 1 GiB as a rule.
    ///
    /// # Errors
    /// The password is missing or another, or the key is damaged.
    pub fn open(&self, password: Option<&Password>) -> Result<SecretKey> {
        let mut hidden = Zeroizing::new([0; HIDDEN]);
        if self.has_password() {
            let password = password.ok_or(Error::SecretKey("it needs its password"))?;
            self.mask(password, &mut hidden)?;
        }
        hidden.iter_mut().zip(&self.0[LENGTH - HIDDEN..]).for_each(|(byte, masked)| *byte ^= masked);
        let sum = Blake2b::<U32>::new().chain_update(&self.0[..2]).chain_update(&hidden[..72]).finalize();
        let sum_fits = sum[..] == hidden[72..];
        // Without a password minisign leaves the sum away. Whether the halves fit is seen below.
        let without = !self.has_password() && hidden[72..] == [0; 32];
        if !sum_fits && !without {
            return Err(if self.has_password() {
                Error::Password
            } else {
                Error::SecretKey("it is damaged")
            });
        }
        let number: [u8; 8] = std::array::from_fn(|at| hidden[at]);
        let pair = Ed25519KeyPair::from_seed_and_public_key(&hidden[8..40], &hidden[40..72])
            .map_err(|_| Error::SecretKey("its halves do not belong together"))?;
        Ok(SecretKey { id: KeyId::new(number), number, pair })
    }

    /// What the password makes of salt and costs.
    fn mask(&self, password: &Password, out: &mut [u8; HIDDEN]) -> Result<()> {
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|byte| self.0[at + byte]));
        let (log_n, p) = costs(number(38), number(46));
        let unknown = |_| Error::SecretKey("its password takes more memory or time than minisign would");
        if log_n > MAX_LOG_N || p > 16 {
            return Err(unknown(()));
        }
        let params =
            scrypt::Params::new(log_n, 8, p, scrypt::Params::RECOMMENDED_LEN).map_err(|_| unknown(()))?;
        scrypt::scrypt(&password.0, &self.0[6..38], &params, out).map_err(|_| unknown(()))
    }
}

/// The costs of scrypt as libsodium picks them from its limits on operations and memory
/// (`pickparams` of crypto_pwhash_scryptsalsa208sha256), with r = 8.
fn costs(operations: u64, memory: u64) -> (u8, u32) {
    let operations = operations.max(32_768);
    let log = |most: u64| (1..63).find(|log| 1_u64 << log > most / 2).unwrap_or(63);
    if operations < memory / 32 {
        return (log(operations / 32), 1);
    }
    let log_n = log(memory / 1024);
    let p = ((operations / 4) >> log_n).min(0x3fff_ffff) / 8;
    (log_n, u32::try_from(p).unwrap_or(u32::MAX).max(1))
}

impl SecretKey {
    /// Its number.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The line that a device trusts.
    pub fn public(&self) -> String {
        STANDARD.encode([&b"Ed"[..], &self.number, self.pair.public_key().as_ref()].concat())
    }

    /// A signature file for these bytes. What it says of them, in one line, is signed as well.
    ///
    /// # Errors
    /// [`Error::Comment`] where that is more than a line.
    pub fn sign(&self, bytes: &[u8], comment: &str) -> Result<String> {
        if comment.chars().any(char::is_control) {
            return Err(Error::Comment("has a control character".to_owned()));
        }
        let signature = self.pair.sign(&Blake2b512::digest(bytes));
        let all = self.pair.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let first = STANDARD.encode([&b"ED"[..], &self.number, signature.as_ref()].concat());
        let second = STANDARD.encode(all.as_ref());
        let key = self.id;
        Ok(format!(
            "untrusted comment: signature of key {key}\n{first}\ntrusted comment: {comment}\n{second}\n"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// libsodium's own figures for what it calls sensitive and interactive.
    #[test]
    fn costs_are_those_of_libsodium() {
        assert_eq!(costs(33_554_432, 1_073_741_824), (20, 1));
        assert_eq!(costs(524_288, 16_777_216), (14, 1));
        assert_eq!(costs(1_048_576, 33_554_432), (15, 1));
    }
}
