//! What must hold for whatever comes as a patch.

use std::io::Read as _;

use ring::digest::{SHA256, digest};

use super::super::{
    Bases, Entry, Error, Mode, Place, Result, Sink,
    patch::{apply, bound},
};

/// What stands before the patch: the size that the manifest says, the binary logarithm of the memory, bytes in a piece.
const HEAD: usize = 4;
/// No more than this in memory, whatever a patch says.
const MEMORY_LOG: u8 = 21;

/// What is installed; the seeds were made with it.
fn installed() -> Vec<u8> {
    (0..400)
        .flat_map(|n: u32| format!("line {n} of {}\n", n.wrapping_mul(2_654_435_761)).into_bytes())
        .collect()
}

struct Installed {
    content: Vec<u8>,
    memory: u64,
}

impl Bases for Installed {
    fn base(&mut self, _: &Entry) -> Result<Vec<u8>> {
        Ok(self.content.clone())
    }

    fn memory(&self) -> u64 {
        self.memory
    }
}

#[derive(Default)]
struct Kept {
    begun: bool,
    bytes: Vec<u8>,
    ended: bool,
}

impl Sink for Kept {
    fn begin(&mut self, _: &Entry) -> Result<()> {
        assert!(!std::mem::replace(&mut self.begun, true), "begun twice");
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        assert!(self.begun && !self.ended, "out of turn");
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        assert!(self.begun && !std::mem::replace(&mut self.ended, true), "ended out of turn");
        Ok(())
    }
}

/// A patch makes what its manifest says, in the memory that there may be, or is refused for a reason.
pub fn patch(data: &[u8]) {
    let Some((&[low, high, memory, piece], patch)) = data.split_first_chunk::<HEAD>() else { return };
    let path = Place::new("file".to_owned()).expect("a path");
    let mut entry = Entry {
        path,
        size: u64::from(u16::from_le_bytes([low, high])),
        sha256: [0; 32],
        mode: Mode::new(0o644).expect("a mode"),
        base: Some([0; 32]),
    };
    let memory = 1_u64 << (memory % (MEMORY_LOG + 1));
    let applied = |entry: &Entry, piece: usize| {
        let (mut left, mut kept) = (patch, Kept::default());
        let next = |out: &mut [u8]| {
            let count = piece.min(left.len()).min(out.len());
            let (now, then) = left.split_at(count);
            out[..count].copy_from_slice(now);
            left = then;
            Ok(count)
        };
        let mut bases = Installed { content: installed(), memory };
        let done = apply(entry, &mut bases, next, &mut kept);
        assert!(kept.bytes.len() as u64 <= entry.size, "more than the manifest says");
        assert_eq!(kept.ended, done.is_ok(), "what is refused is not kept");
        (done, kept)
    };
    if let Err(error) = bound(&entry, patch.len() as u64) {
        assert!(!error.to_string().is_empty(), "no reason");
    }
    match applied(&entry, usize::from(piece).max(1)) {
        (Ok(()), _) => panic!("it makes what has the SHA-256 0"),
        (Err(Error::PatchResult(_)), first) => {
            assert_eq!(first.bytes.len() as u64, entry.size);
            assert_eq!(first.bytes, made(patch), "as libzstd makes it");
            entry.sha256.copy_from_slice(digest(&SHA256, &first.bytes).as_ref());
            let (done, again) = applied(&entry, usize::MAX);
            done.expect("it makes what the manifest says");
            assert_eq!(again.bytes, first.bytes, "however it comes");
        }
        (Err(Error::PatchMemory { needed, limit, .. }), kept) => {
            assert!(needed > limit && !kept.begun, "known before it is given");
        }
        (Err(error), _) => assert!(!error.to_string().is_empty(), "no reason"),
    }
}

/// What the library makes of one frame that it takes.
fn made(patch: &[u8]) -> Vec<u8> {
    let base = installed();
    let mut decoder =
        zstd::stream::read::Decoder::with_ref_prefix(patch, &base).expect("memory").single_frame();
    decoder.window_log_max(u32::from(MEMORY_LOG)).expect("a window");
    let mut bytes = Vec::new();
    decoder.read_to_end(&mut bytes).expect("it was read before");
    bytes
}
