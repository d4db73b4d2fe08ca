//! A stream of bytes cut into lines, in bounded memory. What comes after the last line end is no line: whoever wrote
//! it died before it was done.

use std::io;

use protocol::data;
use serde_json::value::RawValue;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line, in bytes without its end.
pub const MAX_LINE: usize = 1 << 20;

/// How much is read at a time.
const READ: usize = 64 << 10;

/// A line that is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfit {
    /// Its number, from 1.
    pub(super) line: u64,
    /// What is wrong with it.
    pub(super) reason: &'static str,
}

/// The reader. Its two halves take turns: [`Lines::fill`], then [`Lines::next`] until there is none.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
    /// How much of the buffer has been handed out.
    start: usize,
    /// How much of it holds no line end for sure.
    searched: usize,
    /// In the middle of a line that is too long.
    skipping: bool,
    /// Lines so far.
    number: u64,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), start: 0, searched: 0, skipping: false, number: 0 }
    }

    /// The number of the line last returned.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Reads until there is a line; false at the end. May be cancelled.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        while self.line_end().is_none() {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
            if self.buffer.is_empty() && self.buffer.capacity() > 2 * READ {
                // What one long line took is not kept for the rest of the day.
                self.buffer = Vec::new();
            }
            self.buffer.reserve(READ);
            if self.input.read_buf(&mut self.buffer).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next line that has been read, as the value it stands for.
    pub(super) fn next(&mut self) -> Option<Result<Box<RawValue>, Unfit>> {
        let end = self.line_end()?;
        let line = &self.buffer[self.start..end];
        self.number += 1;
        let text = match std::str::from_utf8(line) {
            _ if self.skipping || line.len() > MAX_LINE => Err("longer than 1 MiB"),
            Ok(text) => Ok(data::value(text)),
            Err(_) => Err("not UTF-8"),
        };
        self.skipping = false;
        self.start = end + 1;
        self.searched = self.start;
        Some(text.map_err(|reason| Unfit { line: self.number, reason }))
    }

    /// Where the line that begins at `start` ends. Of one that is already too long only that is remembered.
    fn line_end(&mut self) -> Option<usize> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        if let Some(at) = found {
            self.searched += at;
            return Some(self.searched);
        }
        self.searched = self.buffer.len();
        if self.searched - self.start > MAX_LINE {
            self.skipping = true;
            self.start = self.searched;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    /// Bytes that come in pieces of these sizes.
    struct Pieces<'a>(&'a [u8], Vec<usize>);

    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let size = self.1.pop().unwrap_or(usize::MAX).min(self.0.len()).min(buf.remaining());
            let (piece, rest) = self.0.split_at(size);
            buf.put_slice(piece);
            self.0 = rest;
            Poll::Ready(Ok(()))
        }
    }

    type Read = Vec<Result<String, (u64, &'static str)>>;

    async fn read(bytes: &[u8], pieces: Vec<usize>) -> (Read, usize) {
        let mut lines = Lines::new(Pieces(bytes, pieces));
        let (mut read, mut most) = (Vec::new(), 0);
        while lines.fill().await.unwrap() {
            most = most.max(lines.buffer.capacity());
            while let Some(line) = lines.next() {
                read.push(line.map(|value| value.get().to_owned()).map_err(|e| (e.line, e.reason)));
            }
        }
        (read, most)
    }

    fn value(text: &str) -> Result<String, (u64, &'static str)> {
        Ok(text.to_owned())
    }

    #[tokio::test]
    async fn what_is_no_line_is_told_by_its_number_and_the_rest_goes_on() {
        let (read, _) = read(b"{\"a\": 1.0}\nplain\n\n\xff\xfe\n7\nunfinished", vec![]).await;
        let not_utf8 = Err((4, "not UTF-8"));
        assert_eq!(read, [value("{\"a\": 1.0}"), value("\"plain\""), value("\"\""), not_utf8, value("7")]);
    }

    #[tokio::test]
    async fn a_line_may_be_as_long_as_that_and_no_longer() {
        let digits = |length| "1".repeat(length);
        let text = format!(
            "{}\n{}\n{}\nafter\n{}",
            digits(MAX_LINE),
            digits(MAX_LINE + 1),
            digits(20 << 20),
            digits(2 << 20)
        );
        let (read, most) = read(text.as_bytes(), vec![]).await;
        assert_eq!(read.len(), 4);
        assert_eq!(read[0], value(&digits(MAX_LINE)));
        assert_eq!(
            read[1..],
            [Err((2, "longer than 1 MiB")), Err((3, "longer than 1 MiB")), value("\"after\"")]
        );
        assert!(most <= 3 * MAX_LINE, "{most} bytes of memory");
    }

    proptest! {
        /// However the bytes are cut on their way.
        #[test]
        fn pieces_make_no_difference(
            lines in proptest::collection::vec("[a-c\u{e4}]{0,9}", 0..9),
            pieces in proptest::collection::vec(1_usize..5, 0..99),
        ) {
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (read, _) = runtime.block_on(read(text.as_bytes(), pieces));
            let expected: Read = lines.iter().map(|line| Ok(format!("\"{line}\""))).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
