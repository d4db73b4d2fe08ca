//! The package's bytes: counted and hashed as they come, decompressed in a single pass.

use std::io::{self, Read};

use ring::digest::{Context, SHA256};
use zstd::stream::raw::{DParameter, Decoder, Operation as _};

use super::{Error, MAX_WINDOW_LOG, Result, frame, read::Whole};

/// How much is read at a time, in bytes.
const CHUNK: usize = 64 << 10;

/// The archive within the frame of a package.
pub(super) struct Inflate<R> {
    source: R,
    input: Box<[u8]>,
    /// What of `input` is still to be decompressed.
    rest: std::ops::Range<usize>,
    decoder: Decoder<'static>,
    hash: Context,
    size: u64,
    /// The frame is over.
    ended: bool,
}

impl<R: Read> Inflate<R> {
    /// Begins to read.
    pub(super) fn new(source: R) -> Result<Self> {
        let damaged = |error: io::Error| Error::Damaged(error.to_string());
        let mut decoder = Decoder::new().map_err(damaged)?;
        decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(damaged)?;
        let (input, hash) = (vec![0; CHUNK].into(), Context::new(&SHA256));
        let mut this = Self { source, input, rest: 0..0, decoder, hash, size: 0, ended: false };
        while this.rest.end < frame::LONGEST && this.more()? {}
        frame::check(&this.input[..this.rest.end])?;
        Ok(this)
    }

    /// Reads more behind what there is. False at the end.
    fn more(&mut self) -> Result<bool> {
        if self.rest.is_empty() {
            self.rest = 0..0;
        }
        let free = &mut self.input[self.rest.end..];
        let count = loop {
            match self.source.read(free) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(Error::Read)?,
            }
        };
        self.hash.update(&free[..count]);
        self.size += count as u64;
        self.rest.end += count;
        Ok(count > 0)
    }

    /// Some of the archive's bytes; none at the end of the frame.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        while !self.ended && !out.is_empty() {
            let status = self
                .decoder
                .run_on_buffers(&self.input[self.rest.clone()], out)
                .map_err(|error| Error::Damaged(error.to_string()))?;
            self.rest.start += status.bytes_read;
            self.ended = status.remaining == 0;
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
            // The decoder has taken all there was, and nothing waits within.
            if !self.ended && self.rest.is_empty() && !self.more()? {
                return Err(Error::Truncated);
            }
        }
        Ok(0)
    }

    /// Behind the last byte of the frame there has to be none.
    pub(super) fn finish(mut self) -> Result<Whole> {
        if !self.rest.is_empty() || self.more()? {
            return Err(Error::AfterFrame);
        }
        Ok(Whole { size: self.size, sha256: digest(self.hash) })
    }
}

/// The bytes of a SHA-256.
pub(super) fn digest(hash: Context) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hash.finish().as_ref());
    bytes
}
