//! The certificate and key files: read whole, checked, and told apart from their earlier selves.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::TlsFiles;
use crate::{config, mqtt::transport::Error};

/// Larger than any bundle of authorities, smaller than the device's memory.
const SIZE_LIMIT: u64 = 1 << 20;

/// What changes when a file is written or replaced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// One stamp for each file that is named.
pub(super) fn stamps(files: &TlsFiles) -> Result<Vec<Stamp>, Error> {
    [&files.ca, &files.certificate, &files.key].into_iter().flatten().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Result<Stamp, Error> {
    let metadata = path.metadata().map_err(|source| unreadable(path, source))?;
    Ok(Stamp {
        inode: metadata.ino(),
        size: metadata.len(),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(path, &open(path)?.0)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(bad(path, "holds no PEM certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(not_pem(path, &error)),
    }
}

/// The first private key of a PEM file that nobody but its owner can read.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let (file, found) = open(path)?;
    if found.mode() & 0o077 != 0 {
        return Err(bad(path, "can be read by group or others; make it 0600"));
    }
    let text = read(path, &file)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) if contains(&text, b"ENCRYPTED PRIVATE KEY") => {
            Err(bad(path, "is encrypted, and there is nobody here to ask for the passphrase"))
        }
        Err(pem::Error::NoItemsFound) => Err(bad(path, "holds no PEM private key")),
        Err(error) => Err(not_pem(path, &error)),
    }
}

fn open(path: &Path) -> Result<(File, Metadata), Error> {
    config::open(path).map_err(|source| unreadable(path, source))
}

fn read(path: &Path, file: &File) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut text = Zeroizing::new(Vec::new());
    file.take(SIZE_LIMIT + 1).read_to_end(&mut text).map_err(|source| unreadable(path, source))?;
    if text.len() as u64 > SIZE_LIMIT { Err(bad(path, "is larger than 1 MiB")) } else { Ok(text) }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn unreadable(path: &Path, source: io::Error) -> Error {
    Error::ReadFile { path: path.to_owned(), source }
}

fn not_pem(path: &Path, error: &pem::Error) -> Error {
    bad(path, &format!("is damaged: {error}"))
}

fn bad(path: &Path, reason: &str) -> Error {
    Error::BadFile { path: path.to_owned(), reason: reason.to_owned() }
}
