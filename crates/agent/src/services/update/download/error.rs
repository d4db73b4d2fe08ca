//! Why there is no file.

use std::{fmt, io, path::PathBuf, time::Duration};

use hyper::StatusCode;

use crate::{
    http::{self, Response},
    services::update::package::hex,
};

/// Why a try has ended without the file.
#[derive(Debug)]
pub(in crate::services::update) struct Error {
    why: Why,
    progressed: u64,
}

impl Error {
    pub(super) fn new(why: Why, progressed: u64) -> Self {
        Self { why, progressed }
    }

    /// Whether every other try would end like this one.
    pub(in crate::services::update) fn is_final(&self) -> bool {
        matches!(self.why, Why::Url(_) | Why::TooLarge { .. })
    }

    /// Bytes by which this try has brought more than there ever was of the file.
    pub(in crate::services::update) fn progressed(&self) -> u64 {
        self.progressed
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.why)
    }
}

impl From<Why> for Error {
    fn from(why: Why) -> Self {
        Self::new(why, 0)
    }
}

/// The reason. None repeats a URL: its path or query may be a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum Why {
    #[error("the URL of the file cannot be used: {0}")]
    Url(String),
    #[error("the file has {size} bytes, more than the {max} that download.max_size allows")]
    TooLarge { size: u64, max: u64 },
    #[error(transparent)]
    Http(#[from] http::Error),
    #[error("{host} answers {status}: {}", what_to_do(*.status))]
    Status { host: String, status: StatusCode },
    #[error("{host} leads on more than {limit} times: see where its redirects end")]
    Redirects { host: String, limit: usize },
    #[error("{host} leads on, but does not say where to")]
    Nowhere { host: String },
    #[error("{host} leads on to what is no URL for a file: {reason}")]
    Redirect { host: String, reason: String },
    #[error("{host} leads on from https:// to http://, where everyone on the way could change the file")]
    Downgrade { host: String },
    #[error("{host} sends the file encoded ({encoding}), which was not asked for")]
    Encoding { host: String, encoding: String },
    #[error("the file at {host} has the wrong length: {said} bytes instead of {size}")]
    Length { host: String, said: u64, size: u64 },
    #[error("{host} does not say how long the file is: name full_size in the package that has patches")]
    NoLength { host: String },
    #[error("{host} sends more than the {size} bytes of the file")]
    More { host: String, size: u64 },
    #[error("{host} ends the file after {there} of {size} bytes")]
    Fewer { host: String, there: u64, size: u64 },
    #[error("stalled: no byte for {} s after {there} of {size} bytes", .limit.as_secs_f64())]
    Stalled { limit: Duration, there: u64, size: u64 },
    #[error("stalled: only {bytes} bytes in {} s, {there} of {size} are there", .within.as_secs_f64())]
    Trickle { bytes: u64, within: Duration, there: u64, size: u64 },
    #[error("broken off after {there} of {size} bytes")]
    Broken { there: u64, size: u64, source: http::Error },
    #[error("the file has another SHA-256: {} instead of {}", hex(.found), hex(.wanted))]
    Sha256 { wanted: [u8; 32], found: [u8; 32] },
    #[error("no room on the disk: {needed} bytes are needed in {}, {free} are free", .folder.display())]
    Room { folder: PathBuf, needed: u64, free: u64 },
    #[error("no room on the disk: make some for {}", .folder.display())]
    Full { folder: PathBuf, source: io::Error },
    #[error("cannot keep the file in {}", .folder.display())]
    Disk { folder: PathBuf, source: io::Error },
    #[error("an earlier download still waits for the disk")]
    Busy,
}

impl Why {
    pub(super) fn status(response: &Response) -> Self {
        Self::Status { host: response.host().to_owned(), status: response.status() }
    }

    /// What has become of a body, of which so much is there.
    pub(super) fn broken(error: http::Error, there: u64, size: u64) -> Self {
        match error {
            http::Error::Silent { limit, .. } => Self::Stalled { limit, there, size },
            source => Self::Broken { there, size, source },
        }
    }

    pub(super) fn disk(folder: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { folder, source },
            _ => Self::Disk { folder, source },
        }
    }
}

fn what_to_do(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 | 403 | 407 => "the URL asks for a login, or is no longer valid",
        404 | 410 => "there is no such file",
        429 | 500..=599 => "the server cannot serve it now",
        _ => "that is no file",
    }
}
