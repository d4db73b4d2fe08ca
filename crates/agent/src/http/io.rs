//! The runtime's streams as the library wants them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::mqtt::transport::Stream;

/// A stream of ours. What is read is copied once, which saves the library's own wrapper and its `unsafe`.
pub(super) struct Adapted {
    stream: Stream,
    /// The most of one read.
    chunk: Box<[u8]>,
}

impl Adapted {
    /// Reads no more than this many bytes at once.
    pub(super) fn new(stream: Stream, most: usize) -> Self {
        Self { stream, chunk: vec![0; most].into() }
    }
}

impl Read for Adapted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, chunk } = self.get_mut();
        let length = room.remaining().min(chunk.len());
        let mut chunk = ReadBuf::new(&mut chunk[..length]);
        ready!(Pin::new(stream).poll_read(cx, &mut chunk))?;
        room.put_slice(chunk.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Adapted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
