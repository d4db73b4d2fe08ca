//! A plain file, no package, with a signature beside it: its trusted comment says what the file is.

use std::io;

use ring::digest::{Context, SHA256};
use semver::Version;

use super::{
    Error, Keys, Result, Whole, entries,
    inflate::digest,
    manifest::{fits, hardware_ids, name, version},
    signature,
};

/// What the trusted comment of a plain file's signature says:
/// `name=… version=… hardware=… sha256=…` and optionally `downgrade=allow`, separated by blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What the software is called.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// For which hardware, in the comment separated by commas; none means for any.
    pub hardware_ids: Vec<String>,
    /// Of the file.
    pub sha256: [u8; 32],
    /// Whether it may be older than what it replaces.
    pub allow_downgrade: bool,
}

/// The signature of a plain file.
pub struct PlainFile<'a> {
    keys: &'a Keys,
    signature: signature::Read,
}

impl Claim {
    /// Reads a trusted comment. What is no `key=value`, and keys of a newer signer, are passed over.
    ///
    /// # Errors
    /// [`Error::Comment`] for what is missing or there twice, [`Error::Field`] for what is malformed.
    pub fn parse(comment: &str) -> Result<Self> {
        let pairs: Vec<(&str, &str)> =
            comment.split_ascii_whitespace().filter_map(|word| word.split_once('=')).collect();
        let optional = |key: &str| {
            let mut values = pairs.iter().filter(|(name, _)| *name == key).map(|(_, value)| *value);
            match (values.next(), values.next()) {
                (_, Some(_)) => Err(Error::Comment(format!("has {key}= twice"))),
                (value, None) => Ok(value),
            }
        };
        let required = |key: &str| optional(key)?.ok_or_else(|| Error::Comment(format!("has no {key}=")));
        let hardware = required("hardware")?;
        let ids = hardware.split(',').filter(|_| !hardware.is_empty()).map(str::to_owned).collect();
        let no_digest = || Error::Comment("has a sha256= that is not 64 small hexadecimal digits".to_owned());
        let allow_downgrade = match optional("downgrade")? {
            None => false,
            Some("allow") => true,
            Some(_) => return Err(Error::Comment("has a downgrade= that is not downgrade=allow".to_owned())),
        };
        Ok(Self {
            name: name("name", required("name")?.to_owned())?,
            version: version("version", required("version")?.to_owned())?,
            hardware_ids: hardware_ids(ids)?,
            sha256: entries::digest(required("sha256")?).ok_or_else(no_digest)?,
            allow_downgrade,
        })
    }

    /// Whether it is for this device.
    ///
    /// # Errors
    /// It names hardware, and this is other or does not know what it is.
    pub fn fits(&self, hardware_id: Option<&str>) -> Result<()> {
        fits(&self.hardware_ids, hardware_id)
    }
}

impl<'a> PlainFile<'a> {
    /// Takes the text of a `.minisig` file. Before the file itself is read, nothing it says is proved.
    ///
    /// # Errors
    /// It is no signature, of the old kind, or by none of these keys.
    pub fn new(keys: &'a Keys, signature: &str) -> Result<Self> {
        let this = Self { keys, signature: signature::Read::new(signature)? };
        this.keys.begin(&this.signature)?;
        Ok(this)
    }

    /// Reads the file to its end, and tells what is then proved of it.
    ///
    /// # Errors
    /// The signature does not fit, or says nothing of use, or the file cannot be read.
    pub fn check(&self, mut file: impl io::Read) -> Result<(Claim, Whole)> {
        let mut verifier = self.keys.begin(&self.signature)?;
        let (mut hash, mut size, mut chunk) = (Context::new(&SHA256), 0, vec![0; 64 << 10]);
        loop {
            let count = match file.read(&mut chunk) {
                Ok(0) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(Error::Read)?,
            };
            verifier.update(&chunk[..count]);
            hash.update(&chunk[..count]);
            size += count as u64;
        }
        verifier.finalize().map_err(|_| Error::BadSignature(self.signature.key))?;
        let whole = Whole { size, sha256: digest(hash) };
        let claim = Claim::parse(&self.signature.signed().trusted_comment)?;
        if claim.sha256 == whole.sha256 { Ok((claim, whole)) } else { Err(Error::FileContent) }
    }
}
