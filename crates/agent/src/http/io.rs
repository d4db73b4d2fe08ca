//! The runtime's streams as the library wants them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::mqtt::transport::Stream;

/// The most bytes of one read. They are copied once, which saves the library's own wrapper and its `unsafe`.
const CHUNK: usize = 8 << 10;

/// A stream of ours.
pub(super) struct Adapted(pub(super) Stream);

impl Read for Adapted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut room: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; CHUNK];
        let length = room.remaining().min(CHUNK);
        let mut chunk = ReadBuf::new(&mut bytes[..length]);
        ready!(Pin::new(&mut self.0).poll_read(cx, &mut chunk))?;
        room.put_slice(chunk.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Adapted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
