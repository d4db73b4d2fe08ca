//! Keys as ssh-keygen writes them (PROTOCOL.key of OpenSSH), without a passphrase.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rsa::{self, KeyPairComponents, PublicKeyComponents};
use zeroize::Zeroizing;

use super::{CURVE, DAMAGED, Fault, Key};
use crate::services::ssh::wire::{Reader, Write as _};

const MAGIC: &[u8] = b"openssh-key-v1\0";
/// To a multiple of this the private part is filled up.
const BLOCK: usize = 8;
/// Characters of a line of base64.
const LINE: usize = 70;

pub(super) fn read(der: &[u8]) -> Result<Key, Fault> {
    let mut whole = Reader::new(der.strip_prefix(MAGIC).ok_or(DAMAGED)?);
    if whole.text().map_err(|_| DAMAGED)? != "none" {
        return Err(Fault::Encrypted);
    }
    let secret = secret(whole).ok_or(DAMAGED)?;
    let mut secret = Reader::new(secret);
    // The same number twice, for a passphrase to be seen to be wrong.
    if secret.u32().map_err(|_| DAMAGED)? != secret.u32().map_err(|_| DAMAGED)? {
        return Err(DAMAGED);
    }
    match secret.text().map_err(|_| DAMAGED)? {
        "ssh-ed25519" => ed25519(secret),
        "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" => ecdsa(secret),
        "ecdsa-sha2-nistp521" => Err(CURVE),
        "ssh-rsa" => rsa(secret),
        _ => Err(Fault::Because("is of a kind that is not supported: Ed25519, ECDSA and RSA are")),
    }
}

/// The private part, after the names of no cipher and no key derivation, and the public key.
fn secret(mut whole: Reader<'_>) -> Option<&[u8]> {
    whole.string().ok()?;
    whole.string().ok()?;
    (whole.u32().ok()? == 1).then_some(())?;
    whole.string().ok()?;
    whole.string().ok()
}

fn comment(mut rest: Reader<'_>) -> String {
    // It goes on one line with the key.
    rest.text().unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

fn ed25519(mut secret: Reader<'_>) -> Result<Key, Fault> {
    let public = secret.string().map_err(|_| DAMAGED)?;
    let both = secret.string().map_err(|_| DAMAGED)?;
    let seed = both.get(..32).ok_or(DAMAGED)?;
    Key::ed25519(seed, Some(public), comment(secret))
}

fn ecdsa(mut secret: Reader<'_>) -> Result<Key, Fault> {
    secret.string().map_err(|_| DAMAGED)?;
    let point = secret.string().map_err(|_| DAMAGED)?;
    let private = secret.mpint().map_err(|_| DAMAGED)?;
    Key::ecdsa(private, point, comment(secret))
}

fn rsa(mut secret: Reader<'_>) -> Result<Key, Fault> {
    let mut next = || secret.mpint().map_err(|_| DAMAGED);
    let (n, e, d, q_inv, p, q) = (next()?, next()?, next()?, next()?, next()?, next()?);
    // OpenSSH leaves out what can be computed: d modulo p - 1, and q - 1 (RFC 8017, section 3.2).
    let (dp, dq) = (less_one_remainder(d, p)?, less_one_remainder(d, q)?);
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: &*dp,
        dQ: &*dq,
        qInv: q_inv,
    };
    Key::rsa(rsa::KeyPair::from_components(&components), comment(secret))
}

/// `number` modulo (`odd` - 1), bit by bit. Once in a process's life, and nobody can time it.
fn less_one_remainder(number: &[u8], odd: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut modulus = Zeroizing::new(odd.to_vec());
    match modulus.last_mut() {
        Some(last) if *last & 1 == 1 => *last -= 1,
        _ => return Err(DAMAGED),
    }
    // One byte more than the modulus: twice a remainder must fit.
    let modulus = Zeroizing::new([&[0], &modulus[..]].concat());
    let mut remainder = Zeroizing::new(vec![0_u8; modulus.len()]);
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for byte in remainder.iter_mut().rev() {
            let next = *byte >> 7;
            *byte = *byte << 1 | carry;
            carry = next;
        }
        if *remainder >= *modulus {
            subtract(&mut remainder, &modulus);
        }
    }
    let start = remainder.iter().take_while(|byte| **byte == 0).count();
    Ok(Zeroizing::new(remainder[start..].to_vec()))
}

fn subtract(from: &mut [u8], amount: &[u8]) {
    let mut borrow = false;
    for (byte, less) in from.iter_mut().zip(amount).rev() {
        let (difference, first) = byte.overflowing_sub(*less);
        let (difference, second) = difference.overflowing_sub(u8::from(borrow));
        (*byte, borrow) = (difference, first || second);
    }
}

/// The file of an Ed25519 key.
pub(super) fn write(seed: &[u8; 32], blob: &[u8], comment: &str) -> Zeroizing<String> {
    let public = &blob[blob.len() - 32..];
    // Room at once: a vector that grows leaves copies of the key behind.
    let mut secret = Zeroizing::new(Vec::with_capacity(256 + comment.len()));
    // Without a passphrase the two numbers tell nothing.
    secret.extend_from_slice(&[0; 8]);
    secret.put_string(b"ssh-ed25519");
    secret.put_string(public);
    secret.put_string(Zeroizing::new([&seed[..], public].concat()));
    secret.put_string(comment.as_bytes());
    let mut filling = 1;
    while secret.len() % BLOCK != 0 {
        secret.push(filling);
        filling += 1;
    }
    let mut der = Zeroizing::new(Vec::with_capacity(512 + comment.len()));
    der.extend_from_slice(MAGIC);
    der.put_string(b"none");
    der.put_string(b"none");
    der.put_string(b"");
    der.extend_from_slice(&1_u32.to_be_bytes());
    der.put_string(blob);
    der.put_string(&secret);
    let encoded = Zeroizing::new(STANDARD.encode(&der));
    let mut text = Zeroizing::new(String::with_capacity(2 * encoded.len() + 128));
    text.push_str("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for (at, character) in encoded.chars().enumerate() {
        if at > 0 && at % LINE == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str("\n-----END OPENSSH PRIVATE KEY-----\n");
    text
}
