//! Why a step of an update cannot be done: a variant for each reason.

use std::{io, path::PathBuf};

use protocol::update::Sha256;
use semver::Version;

use crate::services::update::package;

/// A [`Result`](std::result::Result) of this module.
pub(super) type Result<T> = std::result::Result<T, Error>;

/// Why a step cannot be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the installer's order cannot be read")]
    Order(#[source] serde_json::Error),

    // The file against the request.
    #[error("{} is no plain file", .0.display())]
    NoFile(PathBuf),
    #[error("the file has {found} bytes, and {wanted} in the request")]
    Size { found: u64, wanted: u64 },
    #[error("the file has the SHA-256 {found}, and {wanted} in the request")]
    Digest { found: Sha256, wanted: Sha256 },
    #[error("the file is version {found}, and {wanted} in the request")]
    Version { found: Version, wanted: Version },
    #[error("the version {0:?} of the request is no semantic version such as 1.2.3")]
    NoVersion(String),

    // Whose it is.
    #[error("trusted_keys")]
    Keys(#[source] package::Error),
    #[error("no trusted key: set trusted_keys, or nothing can be installed")]
    NoKeys,
    #[error(
        "a plain file without a signature, which allow_unsigned does not allow; no package because {why}"
    )]
    Unsigned { why: String },
    #[error(transparent)]
    Package(#[from] package::Error),

    // In place of a package with patches.
    #[error("{}", .0.reason)]
    NeedsFull(Box<super::Full>),
    #[error("{0}; the package has no full_url to have it whole from")]
    NoFull(package::Error),
    #[error("the package at full_url has patches itself, and has to be without")]
    FullIsDelta,
    #[error(
        "the package at full_url is another software than the one with patches: {found}, and not {wanted}"
    )]
    FullOther { found: String, wanted: String },

    // Against what is on this device.
    #[error("{name} {version} is older than {floor}, and its signer does not allow going back")]
    Older { name: String, version: Version, floor: Version },
    #[error("{what} can only replace {min} or later, and {installed} is installed")]
    TooFar { what: String, min: Version, installed: Version },
    #[error("{name} {version} is installed with another content: a new content needs a new version")]
    Rebuilt { name: String, version: Version },
    #[error(
        "{} is in use, and its {other} is another: a new content needs a new version", path.display()
    )]
    InUse { path: PathBuf, other: String },
    #[error("{0}")]
    Module(String),
    #[error("the record of what is installed has {found:?} for {name}, which is no semantic version")]
    Record { name: String, found: String },

    // The folders.
    #[error("{} is where {other} lies: {name} needs a target of its own", path.display())]
    Taken { path: PathBuf, name: String, other: String },
    #[error(
        "{} is no link, and is left as it is: move it away, so that it can lead to the version in use", .0.display()
    )]
    NoLink(PathBuf),
    #[error("{} leads to a name that is no UTF-8", .0.display())]
    LinkName(PathBuf),
    #[error("neither {} nor {} is there: it has to be unpacked again", staged.display(), version.display())]
    Gone { staged: PathBuf, version: PathBuf },
    #[error("{} is not there any more, so there is no way back to it", .0.display())]
    NoWayBack(PathBuf),
    #[error("{0:?} cannot be a version's folder")]
    Name(String),
    #[error("cannot {what} {}", path.display())]
    Disk { what: &'static str, path: PathBuf, source: io::Error },
}

/// What the system said of a file or folder.
pub(super) fn disk<E: Into<io::Error>>(
    what: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> Error {
    let path = path.into();
    move |error| Error::Disk { what, path, source: error.into() }
}
