//! Writing a package: the same entries give the same bytes, on whatever machine and day.

use std::io::{Read, Write};

use zstd::stream::write::Encoder;

use super::{
    Entry, Error, MANIFEST, MAX_WINDOW_LOG, Manifest, PAYLOAD, Package, Result, SIGNATURE, SecretKey, Sink,
    Trust, pax,
    tar::{self, BLOCK},
};

/// From this level on the compressor would take a larger window than a device gives.
const LARGE_WINDOWS: i32 = 17;

/// A package as it is written. The entries come through [`Sink`].
pub struct Writer<W: Write> {
    archive: Encoder<'static, W>,
    /// What fills up the last block of the present entry, in bytes.
    padding: usize,
}

impl<W: Write> Writer<W> {
    /// Begins with the manifest and, where there is one, its signature. `level` is one of zstd's, 1 to 22.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(out: W, level: i32, manifest: &[u8], signature: Option<&str>) -> Result<Self> {
        let entries = Manifest::parse(manifest)?.entries;
        let mut archive = Encoder::new(out, level).map_err(Error::Write)?;
        // Both help to find damage, and a small package then needs no more memory than it is large.
        archive.include_checksum(true).map_err(Error::Write)?;
        // How long patches are is not in the manifest.
        if entries.iter().all(|entry| entry.base.is_none()) {
            let size = archive_size(manifest, signature, &entries);
            archive.set_pledged_src_size(Some(size)).map_err(Error::Write)?;
        }
        if level >= LARGE_WINDOWS {
            archive.window_log(MAX_WINDOW_LOG).map_err(Error::Write)?;
        }
        let mut this = Self { archive, padding: 0 };
        this.short(MANIFEST, manifest)?;
        if let Some(signature) = signature {
            this.short(SIGNATURE, signature.as_bytes())?;
        }
        Ok(this)
    }

    fn short(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.header(name, content.len() as u64, 0o644)?;
        self.bytes(content)?;
        self.pad()
    }

    fn header(&mut self, name: &str, size: u64, mode: u32) -> Result<()> {
        if let Some(records) = extended(name, size) {
            self.bytes(&tar::header("pax", b'x', records.len() as u64, 0o644))?;
            self.bytes(records.as_bytes())?;
            self.padding = padding(records.len() as u64);
            self.pad()?;
        }
        self.padding = padding(size);
        // Where the records say it all, the field need not.
        let shown = if tar::fits("", size) { size } else { 0 };
        self.bytes(&tar::header(name, b'0', shown, mode))
    }

    fn pad(&mut self) -> Result<()> {
        let padding = std::mem::take(&mut self.padding);
        self.bytes(&[0; BLOCK][..padding])
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.archive.write_all(bytes).map_err(Error::Write)
    }

    /// Ends the archive and gives the file back, which is not synced yet.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> Result<W> {
        self.bytes(&[0; 2 * BLOCK])?;
        self.archive.finish().map_err(Error::Write)
    }
}

impl<W: Write> Sink for Writer<W> {
    fn begin(&mut self, entry: &Entry) -> Result<()> {
        self.header(&format!("{PAYLOAD}{}", entry.path.as_str()), entry.size, entry.mode.bits())
    }

    fn begin_patch(&mut self, entry: &Entry, size: u64) -> Result<()> {
        self.header(&format!("{PAYLOAD}{}", entry.path.as_str()), size, entry.mode.bits())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes(bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.pad()
    }
}

/// Writes the package again, with this key's signature in place of whatever there was. A package that is not whole is not
/// signed. `progress` is told how many bytes of the entries were written, as they are.
///
/// # Errors
/// The package is not what its manifest says, or one of the two cannot be read or written.
pub fn sign<R: Read, W: Write>(
    source: R,
    out: W,
    key: &SecretKey,
    level: i32,
    progress: &mut dyn FnMut(u64),
) -> Result<W> {
    let package = Package::open(source, Trust::UnsafeAnyone)?;
    let (text, manifest) = (package.manifest_bytes().to_vec(), package.manifest());
    let comment = format!("name={} version={}", manifest.name(), manifest.version());
    let signature = key.sign(&text, &comment)?;
    let mut sink = Told { writer: Writer::new(out, level, &text, Some(&signature))?, progress };
    package.payload(&mut sink)?;
    sink.writer.finish()
}

struct Told<'a, W: Write> {
    writer: Writer<W>,
    progress: &'a mut dyn FnMut(u64),
}

impl<W: Write> Sink for Told<'_, W> {
    fn begin(&mut self, entry: &Entry) -> Result<()> {
        self.writer.begin(entry)
    }

    fn begin_patch(&mut self, entry: &Entry, size: u64) -> Result<()> {
        self.writer.begin_patch(entry, size)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        (self.progress)(bytes.len() as u64);
        self.writer.write(bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.writer.end()
    }
}

/// The records of a member whose header has no room for all of it.
fn extended(name: &str, size: u64) -> Option<String> {
    let path = (!tar::fits(name, 0)).then(|| pax::record("path", name));
    let size = (!tar::fits("", size)).then(|| pax::record("size", &size.to_string()));
    (path.is_some() || size.is_some()).then(|| path.unwrap_or_default() + &size.unwrap_or_default())
}

fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - over) % BLOCK
}

/// The size of the whole archive, in bytes.
fn archive_size(manifest: &[u8], signature: Option<&str>, entries: &[Entry]) -> u64 {
    let whole = |size: u64| BLOCK as u64 + size.next_multiple_of(BLOCK as u64);
    let member = |entry: &Entry| {
        let records = extended(&format!("{PAYLOAD}{}", entry.path.as_str()), entry.size);
        whole(entry.size) + records.map_or(0, |records| whole(records.len() as u64))
    };
    whole(manifest.len() as u64)
        + signature.map_or(0, |signature| whole(signature.len() as u64))
        + entries.iter().map(member).sum::<u64>()
        + 2 * BLOCK as u64
}
