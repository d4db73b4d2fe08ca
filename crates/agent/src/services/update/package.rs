//! The package of an update: one file, made and signed somewhere else, that this device is to trust or refuse.
//!
//! It is tar within one zstd frame, with members in this order: `manifest.json`, `manifest.json.minisig`, `payload/…`.
//! The signature is minisign's, over the exact bytes of the manifest, and is checked before they are parsed; the manifest
//! has the size and SHA-256 of each entry. So nothing is believed that was not signed, and nothing is decompressed
//! beyond what was.
//!
//! Everything is a stream in bounded memory: a window of 4 MiB, a manifest of 1 MiB, a few buffers. Nothing here ever
//! looks up a path from a package but beneath an opened folder ([`Staging`]), and nothing is kept of a package that
//! turns out to be wrong at its last byte but what the caller then throws away.

mod claim;
mod content;
mod delta;
mod entries;
mod error;
mod folder;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod inflate;
mod kind;
mod manifest;
mod members;
mod patch;
mod pax;
mod place;
mod read;
mod secret;
mod signature;
mod staging;
mod tar;
mod write;

pub use claim::{Claim, PlainFile};
pub use delta::Patches;
pub(super) use entries::hex;
pub use error::Error;
pub use folder::Draft;
pub use kind::{Kind, MetaData};
pub use manifest::{Entry, Full, Manifest, Mode, Scripts};
pub use patch::Bases;
pub use place::Place;
pub use read::{Package, Sink, Trust, Unkept, Whole, begins, whole};
pub use secret::{Password, Sealed, SecretKey};
pub use signature::{KeyId, Keys, Signed};
pub use staging::Staging;
pub use write::{Writer, sign};

/// A [`Result`](std::result::Result) of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// The manifest's name in the archive: its first member.
pub const MANIFEST: &str = "manifest.json";
/// The signature's name in the archive: its second member.
pub const SIGNATURE: &str = "manifest.json.minisig";
/// What the names of all other members begin with.
pub const PAYLOAD: &str = "payload/";
/// The longest manifest, in bytes. It bounds the number of entries, too: none takes less than a hundred.
pub const MAX_MANIFEST: u64 = 1 << 20;
/// The longest signature, in bytes.
pub const MAX_SIGNATURE: u64 = 4 << 10;
/// The binary logarithm of the largest window of a zstd frame, in bytes: what unpacking takes in memory.
pub const MAX_WINDOW_LOG: u32 = 22;
/// The most that the entries of one package may hold together, in bytes.
pub const MAX_PAYLOAD: u64 = 1 << 40;
