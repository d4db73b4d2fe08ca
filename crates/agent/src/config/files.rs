//! Values whose meaning depends on where they were written: paths, secrets and files with secrets.
//!
//! A secret is never shown, never taken from the environment or the command line, and never read from a file that
//! others than its owner can read.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use super::node::At;
use super::values::schema;

pub(super) const SECRET: &str = "config::Secret";
pub(super) const SECRET_IF_IT_HAS_A_USER: &str = "config::Proxy";
const FILE_PATH: &str = "config::FilePath";
const INPUT_FILE: &str = "config::InputFile";
const SECRET_FILE: &str = "config::SecretFile";
pub(super) const KEY_OR_FILE: &str = "config::KeyOrFile";

/// What stands for a secret wherever it is shown.
pub(super) const MASK: &str = "********";

/// The longest secret read from a file.
const MAX_SECRET: u64 = 64 * 1024;

/// Whether the deserializer has to treat the newtype `name` by the rules of this module.
pub(super) fn is_special(name: &str) -> bool {
    [SECRET, SECRET_IF_IT_HAS_A_USER, FILE_PATH, INPUT_FILE, SECRET_FILE, KEY_OR_FILE].contains(&name)
}

/// Whether a secret may stand at `at`: an error, a remark or nothing.
pub(super) fn judge_secret(at: &At) -> Result<Option<String>, String> {
    match &at.layer.file {
        None => {
            Err("is a secret and is refused here, where other processes can see it; write it in a file, \
                     or give the name of a file with the key that ends in _file"
                .to_owned())
        }
        Some(file) if file.exposed => {
            Ok(Some("is a secret in a file that group or others can read; chmod 600 that file".to_owned()))
        }
        Some(_) => Ok(None),
    }
}

/// The file that `text`, written at `at`, names.
pub(super) fn locate(kind: &str, text: &str, at: &At, note: impl Fn(String)) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err(format!("expected a path, found {text:?}"));
    }
    let path = resolve(text, at, &note);
    if kind == FILE_PATH {
        return Ok(path);
    }
    match fs::metadata(&path) {
        Ok(found) if kind == SECRET_FILE && exposed(&found) => Err(exposure(&path, &found)),
        Ok(_) => Ok(path),
        Err(error) => {
            note(format!("{} cannot be read now: {error}", path.display()));
            Ok(path)
        }
    }
}

/// A relative path starts in the folder of the file that has it; where nothing is there, in the working directory.
fn resolve(text: &str, at: &At, note: &impl Fn(String)) -> PathBuf {
    let here = std::path::absolute(text).unwrap_or_else(|_| text.into());
    let Some(file) = &at.layer.file else { return here };
    let there = file.folder.join(text);
    if there.exists() || there == here || !here.exists() {
        return there;
    }
    note(format!("{} is not there; using {}", there.display(), here.display()));
    here
}

/// Opens a file for reading. Nothing else: a pipe would keep the agent waiting until somebody writes to it.
pub(crate) fn open(path: &Path) -> io::Result<(fs::File, fs::Metadata)> {
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if found.is_file() { Ok((file, found)) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Whether group or others can read it.
pub(super) fn exposed(found: &fs::Metadata) -> bool {
    found.mode() & 0o044 != 0
}

fn exposure(path: &Path, found: &fs::Metadata) -> String {
    let (path, mode) = (path.display(), found.mode() & 0o7777);
    format!("{path} holds a secret, but group or others can read it (mode {mode:04o}); chmod 600 it")
}

/// A password, a key, a token. It cannot be printed, and is wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Wraps `bytes`.
    pub fn new(bytes: Vec<u8>) -> Self {
        Secret(Zeroizing::new(bytes))
    }

    /// The secret itself.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret itself, if it is UTF-8.
    pub fn text(&self) -> Option<&str> {
        str::from_utf8(&self.0).ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a secret of at least one character")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
        if text.is_empty() {
            return Err(E::custom("must not be empty"));
        }
        Ok(Secret::new(text.into()))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(SECRET, SecretVisitor)
    }
}

struct PathVisitor;

impl Visitor<'_> for PathVisitor {
    type Value = PathBuf;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path")
    }

    fn visit_bytes<E: de::Error>(self, path: &[u8]) -> Result<PathBuf, E> {
        Ok(OsStr::from_bytes(path).into())
    }
}

macro_rules! path_type {
    ($(#[$doc:meta])* $name:ident, $kind:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(PathBuf);

        impl Deref for $name {
            type Target = Path;

            fn deref(&self) -> &Path {
                &self.0
            }
        }

        impl AsRef<Path> for $name {
            fn as_ref(&self) -> &Path {
                &self.0
            }
        }

        impl From<PathBuf> for $name {
            fn from(path: PathBuf) -> Self {
                $name(path)
            }
        }

        impl From<$name> for PathBuf {
            fn from(path: $name) -> Self {
                path.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&self.0.display())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_newtype_struct($kind, PathVisitor).map($name)
            }
        }
    };
}

path_type! {
    /// A file or folder that may or may not be there.
    FilePath, FILE_PATH
}
path_type! {
    /// A file to read. It may come later, but that it is not there is worth a notice.
    InputFile, INPUT_FILE
}
path_type! {
    /// A file with a secret, which only its owner may read.
    SecretFile, SECRET_FILE
}

/// A public key of minisign, or a file with some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOrFile {
    /// The key.
    Key(String),
    /// The file, as `minisign -G` writes it.
    File(PathBuf),
}

/// Whether it is a key and no path: 42 bytes in base64, of which the first two say that it is one of Ed25519.
pub(super) fn is_key(text: &str) -> bool {
    let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    text.len() == 56 && text.starts_with("RW") && text.bytes().all(base64)
}

struct KeyOrFileVisitor;

impl Visitor<'_> for KeyOrFileVisitor {
    type Value = KeyOrFile;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a public key of minisign, or the path of a file with one")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<KeyOrFile, E> {
        Ok(KeyOrFile::Key(key.to_owned()))
    }

    fn visit_bytes<E: de::Error>(self, path: &[u8]) -> Result<KeyOrFile, E> {
        PathVisitor.visit_bytes(path).map(KeyOrFile::File)
    }
}

impl<'de> Deserialize<'de> for KeyOrFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_newtype_struct(KEY_OR_FILE, KeyOrFileVisitor)
    }
}

impl Serialize for KeyOrFile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Key(key) => serializer.serialize_str(key),
            Self::File(path) => serializer.collect_str(&path.display()),
        }
    }
}

/// Why a secret file was not read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It is not there, or the system refuses.
    #[error("cannot read the secret file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Group or others can read it.
    #[error("{0}")]
    Exposed(String),
    /// Nothing but white space.
    #[error("the secret file {} is empty", .0.display())]
    Empty(PathBuf),
    /// No secret is that long.
    #[error("the secret file {} is longer than 64 KiB", .0.display())]
    TooLong(PathBuf),
}

impl SecretFile {
    /// Reads the secret, less trailing white space. Permissions are judged again, on the open file.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let failed = |source| SecretError::Read { path: self.0.clone(), source };
        let (file, found) = open(&self.0).map_err(failed)?;
        if exposed(&found) {
            return Err(SecretError::Exposed(exposure(&self.0, &found)));
        }
        // With its final capacity, so that growing leaves no copies behind in memory.
        let mut bytes =
            Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_SECRET + 1).unwrap_or_default()));
        file.take(MAX_SECRET + 1).read_to_end(&mut bytes).map_err(failed)?;
        let secret = bytes.trim_ascii_end();
        match secret.len() as u64 {
            0 => Err(SecretError::Empty(self.0.clone())),
            1..=MAX_SECRET => Ok(Secret::new(secret.to_vec())),
            _ => Err(SecretError::TooLong(self.0.clone())),
        }
    }
}

schema!(Secret, { "type": "string", "minLength": 1, "writeOnly": true });
schema!(FilePath, { "type": "string", "minLength": 1 });
schema!(InputFile, { "type": "string", "minLength": 1 });
schema!(KeyOrFile, { "type": "string", "minLength": 1 });
schema!(SecretFile, { "type": "string", "minLength": 1 });

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_secret_cannot_be_printed() {
        let secret = Secret::new(b"hunter2".to_vec());
        assert_eq!(format!("{secret:?}"), MASK);
        assert_eq!(serde_json::to_string(&secret).unwrap(), format!("\"{MASK}\""));
        assert_eq!(secret.text(), Some("hunter2"));
        assert_eq!(Secret::new(vec![0xff]).text(), None);
    }

    #[test]
    fn a_secret_file_is_read_only_if_it_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("psk");
        let file = SecretFile::from(path.clone());
        let missing = file.read().unwrap_err();
        assert!(matches!(missing, SecretError::Read { .. }), "{missing}");
        assert!(
            std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&path).status().unwrap().success()
        );
        let pipe = file.read().unwrap_err();
        assert!(matches!(pipe, SecretError::Read { .. }), "a pipe must not make the agent wait: {pipe}");
        for (content, mode, outcome) in [
            (&b"s3cret \r\n"[..], 0o600, Ok(&b"s3cret"[..])),
            (b"s3cret", 0o400, Ok(b"s3cret")),
            (b"s3cret", 0o640, Err("(mode 0640); chmod 600 it")),
            (b"s3cret", 0o604, Err("(mode 0604); chmod 600 it")),
            (b" \n", 0o600, Err("is empty")),
            (&[b'x'; 65 * 1024], 0o600, Err("is longer than 64 KiB")),
        ] {
            drop(fs::remove_file(&path));
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match (file.read(), outcome) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret.bytes(), expected),
                (Err(error), Err(expected)) => assert!(error.to_string().ends_with(expected), "{error}"),
                (outcome, expected) => panic!("{outcome:?} is not {expected:?}"),
            }
        }
    }
}
