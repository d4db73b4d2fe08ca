//! Reading a package from its first byte to its last, once.

use std::io::{self, Read};

use ring::digest::{Context, SHA256};

use super::{
    Entry, Error, Keys, MANIFEST, MAX_MANIFEST, MAX_SIGNATURE, Manifest, PAYLOAD, Result, SIGNATURE, Signed,
    entries,
    inflate::{Inflate, digest},
    members::{Member, Members},
    patch::{self, Bases},
    signature,
};

/// How much of an entry is handed on at a time, in bytes.
const CHUNK: usize = 128 << 10;

/// Whose packages are read.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// Only those that one of these keys has signed.
    Keys(&'a Keys),
    /// Anybody's, also unsigned ones: to show one, or to sign it. What it says may be a lie.
    UnsafeAnyone,
}

/// A package whose manifest was read. Its payload comes next, and once.
pub struct Package<R> {
    members: Members<R>,
    manifest: Manifest,
    text: Vec<u8>,
    signed: Option<Signed>,
    /// The member that was read already, of an unsigned package; none where the archive is over with that.
    next: Next,
}

enum Next {
    Unread,
    Read(Member),
    End,
}

/// Where entries go as they are read. What it was given is only sound when [`Package::payload`] has returned.
pub trait Sink {
    /// An entry begins.
    ///
    /// # Errors
    /// It cannot be taken.
    fn begin(&mut self, entry: &Entry) -> Result<()>;
    /// Some of its content, never more than its size in all.
    ///
    /// # Errors
    /// It cannot be taken.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;
    /// An entry begins of which a patch of that size comes, not the content.
    ///
    /// # Errors
    /// It is none of those that can do something with that.
    fn begin_patch(&mut self, entry: &Entry, _size: u64) -> Result<()> {
        Err(Error::Unapplied(entry.path.as_str().to_owned()))
    }
    /// It was whole, and what the manifest says.
    ///
    /// # Errors
    /// It cannot be kept.
    fn end(&mut self) -> Result<()>;
}

/// Keeps nothing: the package is only checked.
pub struct Unkept;

/// A file that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// In bytes.
    pub size: u64,
    /// Of all of them.
    pub sha256: [u8; 32],
}

impl Sink for Unkept {
    fn begin_patch(&mut self, _: &Entry, _: u64) -> Result<()> {
        Ok(())
    }

    fn begin(&mut self, _: &Entry) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Reads a file to its end.
///
/// # Errors
/// It cannot be read.
pub fn whole(mut source: impl Read) -> io::Result<Whole> {
    let (mut hash, mut size, mut chunk) = (Context::new(&SHA256), 0, vec![0; CHUNK]);
    loop {
        let count = match source.read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            result => result?,
        };
        if count == 0 {
            return Ok(Whole { size, sha256: digest(hash) });
        }
        hash.update(&chunk[..count]);
        size += count as u64;
    }
}

/// Whether a file begins as a package does: zstd, tar, a first member `manifest.json`.
///
/// # Errors
/// What it is instead.
pub fn begins(source: impl Read) -> Result<()> {
    first(&mut Members::new(Inflate::new(source)?)).map(drop)
}

fn first<R: Read>(members: &mut Members<R>) -> Result<Member> {
    let first = members.next()?.ok_or(Error::Empty)?;
    if first.path != MANIFEST {
        return Err(Error::Order { place: "first", found: first.path, wanted: MANIFEST });
    }
    Ok(first)
}

impl<R: Read> Package<R> {
    /// Reads up to the payload: verifies the signature, then reads the manifest.
    ///
    /// # Errors
    /// It is no package, not signed by who is trusted, or its manifest does not hold what it must.
    pub fn open(source: R, trust: Trust<'_>) -> Result<Self> {
        let mut members = Members::new(Inflate::new(source)?);
        let first = first(&mut members)?;
        let text = short(&mut members, &first, MAX_MANIFEST)?;
        let second = members.next()?;
        let (signed, next) = match (second, trust) {
            (Some(member), trust) if member.path == SIGNATURE => {
                let signature = short(&mut members, &member, MAX_SIGNATURE)?;
                (verify(&text, &signature, trust)?, Next::Unread)
            }
            (Some(member), Trust::UnsafeAnyone) => (None, Next::Read(member)),
            (None, Trust::UnsafeAnyone) => (None, Next::End),
            (Some(member), Trust::Keys(_)) if !member.path.starts_with(PAYLOAD) => {
                return Err(Error::Order { place: "second", found: member.path, wanted: SIGNATURE });
            }
            (_, Trust::Keys(_)) => return Err(Error::Unsigned),
        };
        // Only what was signed is looked into.
        let manifest = Manifest::parse(&text)?;
        Ok(Self { members, manifest, text, signed, next })
    }

    /// What the package is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's own bytes, which are what is signed.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.text
    }

    /// Who has signed it; only said, not proved, under [`Trust::UnsafeAnyone`].
    pub fn signed(&self) -> Option<&Signed> {
        self.signed.as_ref()
    }

    /// Reads the rest, to the last byte of the file: each entry once, as the manifest has it, and nothing else.
    ///
    /// # Errors
    /// Anything is not as it should be, or the sink does not take it.
    pub fn payload(self, sink: &mut impl Sink) -> Result<Whole> {
        self.entries(sink, None)
    }

    /// The same; of entries that are patches the sink gets what they make of the files that are installed.
    ///
    /// # Errors
    /// Those of [`Package::payload`]; some file is not there, or not what a patch is for.
    pub fn patched(self, sink: &mut impl Sink, bases: &mut dyn Bases) -> Result<Whole> {
        self.entries(sink, Some(bases))
    }

    fn entries(mut self, sink: &mut impl Sink, mut bases: Option<&mut dyn Bases>) -> Result<Whole> {
        let mut seen = vec![false; self.manifest.entries.len()];
        let mut chunk = vec![0; CHUNK];
        while let Some(member) = self.next_member()? {
            let at = self.find(&member, &mut seen)?;
            let entry = self.manifest.entries[at].clone();
            match (&mut bases, entry.base) {
                (_, None) => self.entry(&member, &entry, &mut chunk, sink)?,
                (None, Some(_)) => self.carried(&member, &entry, &mut chunk, sink)?,
                (Some(bases), Some(_)) => {
                    let next = |out: &mut [u8]| self.members.content(out, &member.path);
                    patch::apply(&entry, &mut **bases, next, sink)?;
                }
            }
        }
        if let Some(at) = seen.iter().position(|seen| !seen) {
            return Err(Error::Missing(self.manifest.entries[at].path.as_str().to_owned()));
        }
        self.members.finish()
    }

    fn next_member(&mut self) -> Result<Option<Member>> {
        match std::mem::replace(&mut self.next, Next::Unread) {
            Next::Unread => self.members.next(),
            Next::Read(member) => Ok(Some(member)),
            Next::End => Ok(None),
        }
    }

    /// Which entry a member is.
    fn find(&self, member: &Member, seen: &mut [bool]) -> Result<usize> {
        let extra = || Error::Extra(member.path.clone());
        let path = member.path.strip_prefix(PAYLOAD).ok_or_else(extra)?;
        let at = entries::find(&self.manifest.entries, path).ok_or_else(extra)?;
        if std::mem::replace(&mut seen[at], true) {
            return Err(Error::Twice(member.path.clone()));
        }
        let wanted = self.manifest.entries[at].size;
        if self.manifest.entries[at].base.is_some() {
            patch::bound(&self.manifest.entries[at], member.size)?;
        } else if member.size != wanted {
            return Err(Error::Size { path: member.path.clone(), found: member.size, wanted });
        }
        Ok(at)
    }

    /// A patch as it is, which is looked at by whoever applies it.
    fn carried(
        &mut self,
        member: &Member,
        entry: &Entry,
        chunk: &mut [u8],
        sink: &mut impl Sink,
    ) -> Result<()> {
        sink.begin_patch(entry, member.size)?;
        loop {
            match self.members.content(chunk, &member.path)? {
                0 => return sink.end(),
                count => sink.write(&chunk[..count])?,
            }
        }
    }

    fn entry(
        &mut self,
        member: &Member,
        entry: &Entry,
        chunk: &mut [u8],
        sink: &mut impl Sink,
    ) -> Result<()> {
        let mut hash = Context::new(&SHA256);
        sink.begin(entry)?;
        loop {
            let count = self.members.content(chunk, &member.path)?;
            if count == 0 {
                break;
            }
            hash.update(&chunk[..count]);
            sink.write(&chunk[..count])?;
        }
        if digest(hash) != entry.sha256 {
            return Err(Error::Content(member.path.clone()));
        }
        sink.end()
    }
}

/// A member that is small enough to be kept whole.
fn short<R: Read>(members: &mut Members<R>, member: &Member, limit: u64) -> Result<Vec<u8>> {
    if member.size > limit {
        let what = if member.path == MANIFEST { "the manifest" } else { "the signature" };
        return Err(Error::TooLong { what, size: member.size, limit });
    }
    members.all(&member.path)
}

/// Where nothing is verified, a signature of another kind is none.
fn verify(text: &[u8], signature: &[u8], trust: Trust<'_>) -> Result<Option<Signed>> {
    let signature = std::str::from_utf8(signature).map_err(|_| Error::SignatureFormat);
    match trust {
        Trust::Keys(keys) => keys.verify(text, signature?).map(Some),
        Trust::UnsafeAnyone => Ok(signature.and_then(signature::Read::new).ok().map(|read| read.signed())),
    }
}
