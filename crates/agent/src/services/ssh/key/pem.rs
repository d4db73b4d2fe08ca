//! Keys as OpenSSL writes them: PEM (RFC 7468) around PKCS#8 (RFC 5208) or SEC1 (RFC 5915).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::rsa;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use zeroize::Zeroizing;

use super::{CURVE, DAMAGED, Fault, Key};

const NONE: Fault = Fault::Because("holds no private key: it must be a file of OpenSSH, or PEM");
/// The algorithms of PKCS#8, by the bytes of their object identifiers (RFC 3279, 5480, 8410).
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const BITS: u8 = 0x03;
/// The public key within SEC1: context-specific, constructed, number 1.
const PUBLIC: u8 = 0xa1;

/// The first private key of the file: its label, and what is in it.
pub(super) fn private(text: &[u8]) -> Result<(&str, Zeroizing<Vec<u8>>), Fault> {
    let text = std::str::from_utf8(text).map_err(|_| NONE)?;
    let mut lines = text.lines().map(str::trim);
    let label = lines
        .by_ref()
        .find_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
        .filter(|label| !label.is_empty());
    let label = match label {
        // openssl ecparam -genkey puts the curve before the key.
        Some(label) if !label.ends_with("PRIVATE KEY") => lines
            .by_ref()
            .filter_map(|line| line.strip_prefix("-----BEGIN ")?.strip_suffix("-----"))
            .find(|label| label.ends_with("PRIVATE KEY")),
        label => label,
    }
    .ok_or(NONE)?;
    let mut inside = Zeroizing::new(String::with_capacity(text.len()));
    for line in lines {
        if line.starts_with("-----END ") {
            let der = STANDARD.decode(inside.as_bytes()).map_err(|_| DAMAGED)?;
            return Ok((label, Zeroizing::new(der)));
        }
        // Headers are of the old way to encrypt (RFC 1421).
        if line.starts_with("Proc-Type:") && line.contains("ENCRYPTED") {
            return Err(Fault::Encrypted);
        }
        inside.push_str(line);
    }
    Err(DAMAGED)
}

pub(super) fn pkcs8(der: &[u8]) -> Result<Key, Fault> {
    let (algorithm, curve) = algorithm(der).ok_or(DAMAGED)?;
    let random = SystemRandom::new();
    let ecdsa = |pair: Result<EcdsaKeyPair, _>| {
        pair.map(|pair| Key::of_ecdsa(pair, String::new()))
            .map_err(|_| Fault::Because("is damaged, or lacks its public half; convert it with openssl pkey"))
    };
    match (algorithm, curve) {
        (ED25519, _) => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
            .map(|pair| Key::of_ed25519(pair, String::new()))
            .map_err(|_| DAMAGED),
        (RSA, _) => Key::rsa(rsa::KeyPair::from_pkcs8(der), String::new()),
        (_, Some(P256)) => ecdsa(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random)),
        (_, Some(P384)) => ecdsa(EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der, &random)),
        _ => Err(CURVE),
    }
}

/// The two identifiers in front of a key of PKCS#8; RSA has no second.
fn algorithm(der: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let mut whole = der;
    let mut key = element(&mut whole, SEQUENCE)?;
    element(&mut key, INTEGER)?;
    let mut names = element(&mut key, SEQUENCE)?;
    let first = element(&mut names, OBJECT)?;
    Some((first, element(&mut names, OBJECT)))
}

pub(super) fn sec1(der: &[u8]) -> Result<Key, Fault> {
    let (private, point) = halves(der).ok_or(DAMAGED)?;
    let point = point.ok_or(Fault::Because("lacks its public half; convert it with openssl ec"))?;
    Key::ecdsa(private, point, String::new())
}

fn halves(der: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let mut whole = der;
    let mut key = element(&mut whole, SEQUENCE)?;
    element(&mut key, INTEGER)?;
    let private = element(&mut key, OCTETS)?;
    while let Some(tag) = key.first().copied() {
        let mut content = element(&mut key, tag)?;
        if tag == PUBLIC {
            // The first byte counts the bits that are none.
            return Some((private, element(&mut content, BITS)?.strip_prefix(&[0])));
        }
    }
    Some((private, None))
}

/// The content of the next element of DER, which must be a `tag`.
fn element<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&found, rest) = der.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    if found != tag {
        return None;
    }
    *der = rest;
    Some(content)
}
