//! An entry that comes as a patch: a zstd frame that was made with the installed file as its prefix, as by
//! `zstd --patch-from=OLD NEW`.
//!
//! The patch itself is not signed; what comes of it is. It is never more than the manifest says, goes on to the disk as
//! it comes, and takes the memory of the installed file and of a window that is known before it is given.

use ring::digest::{Context, SHA256};
use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::{Entry, Error, Result, Sink, frame, inflate::digest};

/// How much is read and written at a time, in bytes.
const CHUNK: usize = 128 << 10;
/// The largest window that zstd can have on this machine.
const WINDOW_LOG: u32 = if usize::BITS < 64 { 30 } else { 31 };

/// The files that are installed.
pub trait Bases {
    /// The content of the file that a patch is for, of which the hash has been looked at.
    ///
    /// # Errors
    /// It is not there, is another, or takes more memory than there may be.
    fn base(&mut self, entry: &Entry) -> Result<Vec<u8>>;
    /// How much memory base and window may take, in bytes.
    fn memory(&self) -> u64;
}

/// Nothing needs a patch that is longer than what it makes, but for what zstd adds to what cannot be compressed.
pub(super) fn bound(entry: &Entry, size: u64) -> Result<()> {
    let most = entry.size.saturating_add(entry.size >> 7).saturating_add(1 << 10);
    if size <= most {
        return Ok(());
    }
    Err(fault(entry)(format!("has {size} bytes, and makes {}: the whole file would be smaller", entry.size)))
}

/// What a patch makes goes to the sink. `next` gives the patch, and nothing at its end.
pub(super) fn apply(
    entry: &Entry,
    bases: &mut dyn Bases,
    mut next: impl FnMut(&mut [u8]) -> Result<usize>,
    sink: &mut impl Sink,
) -> Result<()> {
    let fault = fault(entry);
    let base = bases.base(entry)?;
    let mut input = vec![0; CHUNK];
    let mut rest = 0..0;
    while rest.end < frame::LONGEST {
        match next(&mut input[rest.end..])? {
            0 => break,
            count => rest.end += count,
        }
    }
    room(entry, &base, bases.memory(), &input[..rest.end])?;
    let damaged = |error: std::io::Error| fault(format!("is damaged: {error}"));
    let mut decoder = Decoder::with_ref_prefix(&base).map_err(damaged)?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(damaged)?;
    sink.begin(entry)?;
    let (mut hash, mut left, mut out) = (Context::new(&SHA256), entry.size, vec![0; CHUNK]);
    let mut ended = false;
    while !ended {
        let status = decoder.run_on_buffers(&input[rest.clone()], &mut out).map_err(damaged)?;
        rest.start += status.bytes_read;
        ended = status.remaining == 0;
        let made = &out[..status.bytes_written];
        left = left.checked_sub(made.len() as u64).ok_or_else(|| fault(longer(entry)))?;
        hash.update(made);
        sink.write(made)?;
        if made.is_empty() && !ended && rest.is_empty() {
            rest = 0..next(&mut input)?;
            if rest.is_empty() {
                return Err(fault("ends too early".to_owned()));
            }
        }
    }
    if !rest.is_empty() || next(&mut input)? > 0 {
        return Err(fault("has something behind its zstd frame".to_owned()));
    }
    if left > 0 {
        return Err(fault(format!("makes {} bytes, and not {}", entry.size - left, entry.size)));
    }
    if digest(hash) != entry.sha256 {
        return Err(Error::PatchResult(entry.path.as_str().to_owned()));
    }
    sink.end()
}

/// Whether there may be as much memory as the patch takes, by the header of its frame.
fn room(entry: &Entry, base: &[u8], limit: u64, header: &[u8]) -> Result<()> {
    let fault = fault(entry);
    let header = frame::read(header).map_err(|error| {
        let why = match error {
            Error::NotZstd => "is no zstd stream, as `zstd --patch-from` makes it",
            Error::Dictionary => "needs a dictionary, and not the installed file",
            Error::Truncated => "ends too early",
            _ => "has a frame header with a bit set that no compressor sets",
        };
        fault(why.to_owned())
    })?;
    if header.content.is_some_and(|content| content > entry.size) {
        return Err(fault(longer(entry)));
    }
    let window = header.content.map_or(header.window, |content| content.min(header.window));
    let needed = window.saturating_add(base.len() as u64);
    if needed > limit {
        return Err(Error::PatchMemory { path: entry.path.as_str().to_owned(), needed, limit });
    }
    Ok(())
}

fn longer(entry: &Entry) -> String {
    format!("makes more than {} bytes, which the manifest says", entry.size)
}

fn fault(entry: &Entry) -> impl Fn(String) -> Error {
    let path = entry.path.as_str().to_owned();
    move |why| Error::Patch { path: path.clone(), why }
}
