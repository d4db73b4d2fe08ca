//! Why a package is refused, or could not be made: a variant for each reason.
//! Long because each reason has its own name, subject and sentence.

use std::{io, path::PathBuf};

use super::KeyId;

/// Why a package is refused, or could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // The stream.
    /// The package's bytes cannot be had.
    #[error("cannot read the package")]
    Read(#[source] io::Error),
    /// Its first bytes are not those of zstd.
    #[error("not a package: it is no zstd stream")]
    NotZstd,
    /// It wants more memory than this agent gives.
    #[error(
        "it is compressed with a window of {0} bytes, more than 4 MiB (window log 22): compress with `zstd -16`, or add \
         `--zstd=wlog=22` to a higher level"
    )]
    Window(u64),
    /// It cannot be decompressed without a dictionary.
    #[error("it is compressed with a dictionary, which a package cannot be")]
    Dictionary,
    /// A bit of the frame's header that has to be 0.
    #[error("the header of the zstd frame has a bit set that no compressor sets: the file is damaged")]
    FrameHeader,
    /// Decompression fails.
    #[error("the zstd stream is damaged: {0}")]
    Damaged(String),
    /// It ends too early.
    #[error("the package ends too early: it was not copied or downloaded whole")]
    Truncated,
    /// There is more behind the frame.
    #[error(
        "there is something behind the zstd frame: a package is one frame, as `zstd` makes it (not `pzstd`, nor two joined)"
    )]
    AfterFrame,

    // The archive.
    /// A tar header's sum is not its sum, or there is none.
    #[error("byte {at} of the archive should begin a tar header, and does not")]
    Header {
        /// Where in the archive.
        at: u64,
    },
    /// A number in a header is none.
    #[error("the tar header at byte {at} has no proper {field}")]
    HeaderField {
        /// Where in the archive.
        at: u64,
        /// What.
        field: &'static str,
    },
    /// An extended header is too long or is none.
    #[error("the extended tar header at byte {at} is too long or malformed")]
    Extended {
        /// Where in the archive.
        at: u64,
    },
    /// More members than a package can have.
    #[error("the archive has more members besides the entries than any package")]
    TooManyMembers,
    /// Behind a member's content something else than zeroes fills up its block.
    #[error("the archive has something in the padding behind {0}")]
    Padding(String),
    /// Behind the archive's end is something else than zeroes.
    #[error("there is something behind the end of the archive")]
    AfterArchive,
    /// A member's name is no UTF-8, or could lead out of a folder.
    #[error("the archive has a member {name:?}, which {why}")]
    MemberName {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A link, a device and the like.
    #[error(
        "the archive's member {path} is {what}; only plain files, and folders for them, can be in a package"
    )]
    MemberKind {
        /// The member.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A file that takes on somebody's rights.
    #[error("the archive's member {0} is setuid, setgid or sticky")]
    MemberMode(String),
    /// Members in the wrong order, or something else than a package.
    #[error("not a package: its {place} member is {found:?}, not {wanted}")]
    Order {
        /// Which.
        place: &'static str,
        /// What it is.
        found: String,
        /// What it has to be.
        wanted: &'static str,
    },
    /// The archive ends before the manifest.
    #[error("not a package: the archive is empty")]
    Empty,
    /// A manifest or signature over its limit.
    #[error("{what} has {size} bytes, at most {limit}")]
    TooLong {
        /// Which.
        what: &'static str,
        /// Its size.
        size: u64,
        /// What is allowed.
        limit: u64,
    },

    // The signature.
    /// There is none.
    #[error("the package is not signed")]
    Unsigned,
    /// No signature file of minisign.
    #[error("the signature is not one of minisign")]
    SignatureFormat,
    /// The signature of an old minisign, over the content instead of its hash.
    #[error(
        "the signature is of minisign's old kind: sign with `minisign -S -H`, or a minisign of 0.10 or later"
    )]
    Legacy,
    /// By a key that is none of ours.
    #[error("signed with key {0}, which is not trusted here")]
    UntrustedKey(KeyId),
    /// By one of ours, but not over this.
    #[error(
        "the signature of key {0} does not fit: this is not what was signed, or the trusted comment was changed"
    )]
    BadSignature(KeyId),
    /// What should be a public key is none.
    #[error("{0:?} is no public key of minisign: it is the line that begins with RW in a .pub file")]
    PublicKey(String),
    /// No key at all.
    #[error("no trusted key: nothing can be verified")]
    NoKeys,

    // The manifest.
    /// No JSON, or not of the right shape.
    #[error("the manifest cannot be read")]
    Manifest(#[source] serde_json::Error),
    /// Of a later format.
    #[error("the manifest has schema {0}, and this agent knows schema 1: update the agent first")]
    Schema(u64),
    /// A kind that this agent does not know.
    #[error("the package is of kind {0:?}, and this agent knows files, command, module, rauc and agent")]
    Kind(String),
    /// A value that must not stand where it stands.
    #[error("the manifest's {field} {value:?} {why}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it is.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something that this kind needs, or cannot have.
    #[error("the manifest is of kind {kind} and {what}")]
    KindLacks {
        /// Which kind.
        kind: &'static str,
        /// What is the matter.
        what: &'static str,
    },
    /// An entry's path could lead out of the folder, or cannot be a file's.
    #[error("the entry {path:?} {why}")]
    EntryPath {
        /// The path.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two entries of one path.
    #[error("the entry {0} is there twice")]
    EntryTwice(String),
    /// A path is a file's and a folder's.
    #[error("the entry {path} lies below {file}, which is a file")]
    EntryBelowFile {
        /// The entry.
        path: String,
        /// The file that would have to be a folder.
        file: String,
    },
    /// No SHA-256.
    #[error("the entry {0} has no SHA-256 of 64 small hexadecimal digits")]
    EntryDigest(String),
    /// A base that is no SHA-256.
    #[error("the entry {0} has a base that is not 64 small hexadecimal digits")]
    EntryBase(String),
    /// No mode, or one that gives somebody's rights away.
    #[error("the entry {path} has mode {mode:?}, which {why}")]
    EntryMode {
        /// The entry.
        path: String,
        /// The mode.
        mode: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// More than any device has room for.
    #[error("the entries have more than {} bytes together", super::MAX_PAYLOAD)]
    PayloadSize,
    /// A script that is no entry, or cannot be executed.
    #[error("the script {name} is {path:?}, which {why}")]
    Script {
        /// Which.
        name: &'static str,
        /// The entry that it names.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// For other hardware.
    #[error("the package is for {wanted}, and this device is {device}")]
    Hardware {
        /// What it is for.
        wanted: String,
        /// What this is.
        device: String,
    },
    /// For some hardware, and this device does not know what it is.
    #[error("the package is for {0}, and this device has no hardware_id")]
    HardwareUnset(String),

    // The payload.
    /// A file that the manifest does not have.
    #[error("the archive has a file {0} that is not in the manifest")]
    Extra(String),
    /// A file that was there already.
    #[error("the archive has the file {0} twice")]
    Twice(String),
    /// A file that is longer or shorter than the manifest says.
    #[error("{path} has {found} bytes, and {wanted} in the manifest")]
    Size {
        /// The entry.
        path: String,
        /// In the archive.
        found: u64,
        /// In the manifest.
        wanted: u64,
    },
    /// A file with another content.
    #[error("{0} has another content than the manifest says: its SHA-256 differs")]
    Content(String),
    /// A file of the manifest that is not there.
    #[error("{0} is in the manifest, but not in the archive")]
    Missing(String),

    // Patches.
    /// What a patch is against is not there.
    #[error("{0} is a patch, and the file that it is for is not installed")]
    BaseMissing(String),
    /// Another file is there.
    #[error("{path} is a patch for the file of SHA-256 {wanted}, and {found} is installed")]
    BaseDiffers {
        /// The entry.
        path: String,
        /// In the manifest.
        wanted: String,
        /// On the device.
        found: String,
    },
    /// It takes more memory than this device gives.
    #[error("{path} is a patch that takes {needed} bytes of memory, and delta_memory is {limit}")]
    PatchMemory {
        /// The entry.
        path: String,
        /// What it takes: the installed file and the window.
        needed: u64,
        /// What it may take.
        limit: u64,
    },
    /// The patch is none, or does not end where it should.
    #[error("the patch for {path} {why}")]
    Patch {
        /// The entry.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// What comes of it is not what the manifest says.
    #[error("what the patch for {0} makes has another SHA-256 than the manifest says")]
    PatchResult(String),
    /// A patch where whole files are needed.
    #[error("{0} is a patch, and there is nothing to apply it to")]
    Unapplied(String),

    // A plain file and its signature.
    /// A trusted comment that does not say what is signed.
    #[error("the signature's trusted comment {0}")]
    Comment(String),
    /// Not the file that was signed.
    #[error("the file has another SHA-256 than its signature says")]
    FileContent,

    // Unpacking.
    /// There is not enough room.
    #[error("there is no room for the package: it takes {needed} {unit}, {free} are free")]
    Space {
        /// What it takes.
        needed: u64,
        /// What there is.
        free: u64,
        /// Bytes, or files.
        unit: &'static str,
    },
    /// Something was in the way in the staging folder.
    #[error("{path} is in the staging folder already")]
    Occupied {
        /// What, below the staging folder.
        path: String,
    },
    /// Something could not be written into the staging folder.
    #[error("cannot {what} {path} in the staging folder")]
    Stage {
        /// What was to be done.
        what: &'static str,
        /// With what, below the staging folder.
        path: String,
        /// What the system said.
        source: io::Error,
    },

    // Making.
    /// A file that is to go into a package, or the package itself.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that no package can have.
    #[error("{} {why}", path.display())]
    Unfit {
        /// Which.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// The package cannot be written.
    #[error("cannot write the package")]
    Write(#[source] io::Error),
    /// No secret key of minisign.
    #[error("the secret key is not one of minisign: {0}")]
    SecretKey(&'static str),
    /// The password does not open the key.
    #[error("wrong password for the secret key")]
    Password,
}

impl Error {
    /// The package may be sound, but this device needs the one without patches.
    pub fn needs_full(&self) -> bool {
        matches!(self, Self::BaseMissing(_) | Self::BaseDiffers { .. } | Self::PatchMemory { .. })
    }
}
