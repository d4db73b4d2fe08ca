//! The file in which a keeper leaves what its agent may not live to hear: the same frames as on the socket, of the heads
//! of the output as they come and of the outcome at the end, when nobody has taken it.
//!
//! A keeper that is killed together with its agent, as systemd does it, leaves at least the heads.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};

use super::{
    frame::{Decoder, Frame, Stream},
    job::{End, Kept, Report},
};

/// A file longer than this was written by nobody we know.
const MAX: u64 = 1 << 30;

/// Makes it, for a keeper to be started, or empties what is left of an earlier one.
///
/// The file is locked here and handed to the keeper locked: at no moment can a successor of this agent find it free
/// while the job may still run.
pub(super) fn make(path: &Path) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    file.set_len(0)?;
    Ok(file)
}

/// The keeper's side.
#[derive(Debug)]
pub(super) struct Spool {
    file: File,
    /// How much of it is whole frames.
    length: u64,
    /// Whether a write has failed: what is missing then is written with the outcome, if there is room again.
    torn: bool,
}

impl Spool {
    pub(super) fn new(file: File) -> Self {
        Self { file, length: 0, torn: false }
    }

    /// Adds a frame, without waiting for the disk.
    pub(super) fn add(&mut self, frame: &[u8]) {
        if self.torn {
            return;
        }
        match self.file.write_all(frame) {
            Ok(()) => self.length += frame.len() as u64,
            Err(_) => {
                self.torn = true;
                // What cannot be cut off either ends the reading there.
                self.file.set_len(self.length).ok();
            }
        }
    }

    /// Adds the outcome, and waits until it is on disk.
    ///
    /// # Errors
    /// When there is no room for it, or no disk.
    pub(super) fn finish(&mut self, report: &Report, ended: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.set_len(0)?;
            self.file.rewind()?;
            for (stream, kept) in [(Stream::Stdout, &report.stdout), (Stream::Stderr, &report.stderr)] {
                self.file.write_all(&Frame::Head(stream, kept.head.clone()).encode())?;
            }
        }
        self.file.write_all(ended)?;
        self.file.sync_all()
    }
}

/// What a keeper has left: its report, or, where it could write none, the heads as those of a lost one; `None` where
/// there is neither.
pub(super) fn read(file: File) -> Option<Report> {
    let mut bytes = Vec::new();
    file.take(MAX).read_to_end(&mut bytes).ok()?;
    let mut decoder = Decoder::new(bytes.len());
    decoder.push(&bytes);
    let mut heads = [Vec::new(), Vec::new()];
    loop {
        match decoder.next() {
            Ok(Some(Frame::Head(stream, bytes))) => {
                heads[usize::from(stream == Stream::Stderr)].extend(bytes);
            }
            Ok(Some(Frame::Ended(mut report))) => {
                [report.stdout.head, report.stderr.head] = heads;
                return Some(report);
            }
            _ => return lost(heads),
        }
    }
}

fn lost(heads: [Vec<u8>; 2]) -> Option<Report> {
    if heads.iter().all(Vec::is_empty) {
        return None;
    }
    let [stdout, stderr] = heads.map(|head| Kept { head, ..Kept::default() });
    Some(Report { end: End::Lost, stdout, stderr, duration: Duration::ZERO })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let kept = |head: &[u8], tail: &[u8]| Kept { head: head.into(), tail: tail.into(), dropped: 7 };
        let (stdout, stderr) = (kept(b"one two", b"end"), kept(b"err", b""));
        Report { end: End::TimedOut, stdout, stderr, duration: Duration::from_millis(5) }
    }

    /// As the keeper sends it.
    fn bare(report: &Report) -> Vec<u8> {
        let bare = |kept: &Kept| Kept { head: Vec::new(), ..kept.clone() };
        let (stdout, stderr) = (bare(&report.stdout), bare(&report.stderr));
        Frame::Ended(Report { stdout, stderr, ..report.clone() }).encode()
    }

    fn written(torn: bool, finish: bool) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool");
        let mut spool = Spool::new(make(&path).unwrap());
        for (stream, bytes) in [(Stream::Stdout, "one "), (Stream::Stderr, "err"), (Stream::Stdout, "two")] {
            spool.add(&Frame::Head(stream, bytes.into()).encode());
            spool.torn |= torn;
        }
        if finish {
            spool.finish(&report(), &bare(&report())).unwrap();
        }
        std::fs::read(path).unwrap()
    }

    fn read_back(bytes: &[u8]) -> Option<Report> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.rewind().unwrap();
        read(file)
    }

    #[test]
    fn the_outcome_is_found_also_after_a_write_that_failed() {
        for torn in [false, true] {
            assert_eq!(read_back(&written(torn, true)), Some(report()), "torn: {torn}");
        }
        let left = read_back(&written(false, false)).unwrap();
        assert_eq!(
            (left.end, left.stdout.head, left.stderr.head),
            (End::Lost, b"one two".into(), b"err".into())
        );
    }

    #[test]
    fn cut_anywhere_it_is_the_beginning_of_the_same() {
        let (bytes, whole) = (written(false, true), report());
        for length in 0..bytes.len() {
            let Some(left) = read_back(&bytes[..length]) else {
                assert!(length < 20, "{length} bytes");
                continue;
            };
            assert_eq!(left.end, End::Lost);
            assert!(whole.stdout.head.starts_with(&left.stdout.head));
            assert!(whole.stderr.head.starts_with(&left.stderr.head));
        }
    }
}
