//! MQTT's bytes inside WebSocket frames (RFC 6455), as a stream: the payloads of binary messages pass through as
//! they arrive, however they are cut into frames, and no frame is ever held whole.

mod frame;
mod upgrade;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use self::frame::{CONTROL, HEADER, Header, Keys, Opcode};
use super::{Endpoint, Error, Stream};

/// The most that goes into one of our frames; it bounds the one buffer there is.
const CHUNK: usize = 4096;
/// Close codes (RFC 6455, section 7.4.1) as they stand in a frame.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();
const PROTOCOL_ERROR: [u8; 2] = 1002_u16.to_be_bytes();

/// Upgrades `stream` to WebSocket.
pub(super) async fn open(mut stream: Stream, endpoint: &Endpoint) -> Result<WebSocket<Stream>, Error> {
    upgrade::upgrade(&mut stream, endpoint).await?;
    Ok(WebSocket::new(stream))
}

/// The client's end of an open WebSocket. Reading may write (a pong), so one task must do both.
pub(super) struct WebSocket<S> {
    io: S,
    inbound: Inbound,
    /// Whether the message that is arriving has frames to come.
    in_message: bool,
    keys: Keys,
    /// Frames of ours on their way out, and how much of them has gone.
    out: Vec<u8>,
    sent: usize,
    /// The answer to the last ping or close; it waits until `out` is empty.
    answer: Option<(Opcode, Vec<u8>)>,
    flushed: bool,
    /// A close frame is in `answer`, in `out` or gone: nothing may follow it.
    closing: bool,
}

/// Where in the server's stream of frames we are.
#[derive(Debug)]
enum Inbound {
    Header { bytes: [u8; HEADER], have: usize },
    Payload { left: u64 },
    Control { opcode: Opcode, bytes: [u8; CONTROL], have: usize, length: usize },
    Closed,
}

impl Inbound {
    const START: Self = Self::Header { bytes: [0; HEADER], have: 0 };
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    fn new(io: S) -> Self {
        Self {
            io,
            inbound: Inbound::START,
            in_message: false,
            keys: Keys::default(),
            out: Vec::new(),
            sent: 0,
            answer: None,
            flushed: true,
            closing: false,
        }
    }

    /// Decides what follows a complete header.
    fn begin(&mut self, header: &Header) -> Result<Inbound, &'static str> {
        match header.opcode {
            Opcode::Binary if self.in_message => Err("a message inside another"),
            Opcode::Continuation if !self.in_message => Err("the continuation of nothing"),
            Opcode::Binary | Opcode::Continuation => {
                self.in_message = !header.last;
                Ok(Inbound::Payload { left: header.length })
            }
            opcode => {
                let length = header.length as usize; // at most CONTROL, as Header::parse saw to
                Ok(Inbound::Control { opcode, bytes: [0; CONTROL], have: 0, length })
            }
        }
    }

    /// Acts on a complete control frame.
    fn obey(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        self.inbound = Inbound::START;
        match opcode {
            // Of several unanswered pings only the last needs its pong (RFC 6455, section 5.5.3).
            Opcode::Ping if !self.closing => self.answer = Some((Opcode::Pong, payload.to_vec())),
            Opcode::Close => {
                self.close(payload.get(..2).unwrap_or_default());
                farewell(payload)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses to read on: the server breaks the protocol.
    fn refuse(&mut self, what: &str) -> io::Error {
        self.close(&PROTOCOL_ERROR);
        io::Error::new(io::ErrorKind::InvalidData, format!("the WebSocket server sent {what}"))
    }

    fn close(&mut self, code: &[u8]) {
        self.inbound = Inbound::Closed;
        if !self.closing {
            self.answer = Some((Opcode::Close, code.to_vec()));
            self.closing = true;
        }
    }

    /// Sends what reading has found to answer, as far as that goes without waiting. A failure is left for the
    /// writer to meet: what the server has said before it hung up is still worth reading.
    fn answer(&mut self, cx: &mut Context<'_>) {
        let idle = self.answer.is_none() && self.out.is_empty() && self.flushed;
        if !idle && matches!(self.poll_out(cx), Poll::Ready(Err(_))) {
            self.answer = None;
        }
    }

    /// Hands frames of ours to the layer below; ready when none is left.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.out.len() {
                let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.sent..]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += written;
                self.flushed = false;
            }
            self.out.clear();
            self.sent = 0;
            let Some((opcode, payload)) = self.answer.take() else { return Poll::Ready(Ok(())) };
            self.enqueue(opcode, &payload)?;
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        if !self.flushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn enqueue(&mut self, opcode: Opcode, payload: &[u8]) -> io::Result<()> {
        let key = self.keys.next()?;
        frame::append(&mut self.out, opcode, key, payload);
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocket<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while buf.remaining() > 0 {
            this.answer(cx);
            let Self { io, inbound, .. } = &mut *this;
            match inbound {
                Inbound::Header { bytes, have } => {
                    let need = frame::header_length(&bytes[..*have]);
                    if *have < need {
                        match ready!(poll_some(io, cx, &mut bytes[*have..need]))? {
                            0 if *have == 0 => return Poll::Ready(Ok(())),
                            0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                            got => *have += got,
                        }
                        continue;
                    }
                    let header = Header::parse(&bytes[..need]);
                    match header.and_then(|header| this.begin(&header)) {
                        Ok(next) => this.inbound = next,
                        Err(what) => return Poll::Ready(Err(this.refuse(what))),
                    }
                }
                Inbound::Payload { left: 0 } => this.inbound = Inbound::START,
                Inbound::Payload { left } => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.remaining());
                    let got = ready!(poll_some(io, cx, buf.initialize_unfilled_to(most)))?;
                    if got == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    *left -= got as u64;
                    buf.advance(got);
                    return Poll::Ready(Ok(()));
                }
                Inbound::Control { opcode, bytes, have, length } if have == length => {
                    let (opcode, bytes, length) = (*opcode, *bytes, *length);
                    this.obey(opcode, &bytes[..length])?;
                }
                Inbound::Control { bytes, have, length, .. } => {
                    match ready!(poll_some(io, cx, &mut bytes[*have..*length]))? {
                        0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                        got => *have += got,
                    }
                }
                Inbound::Closed => return Poll::Ready(Ok(())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocket<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if this.closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let chunk = &data[..data.len().min(CHUNK)];
        if chunk.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.enqueue(Opcode::Binary, chunk)?;
        match this.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(chunk.len())), // what did not go yet goes with the next write or flush
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_out(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closing {
            this.closing = true;
            this.answer = Some((Opcode::Close, NORMAL.to_vec()));
        }
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

fn poll_some<S: AsyncRead + Unpin>(
    io: &mut S,
    cx: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut part = ReadBuf::new(into);
    ready!(Pin::new(io).poll_read(cx, &mut part))?;
    Poll::Ready(Ok(part.filled().len()))
}

/// What the payload of a close frame means to a reader: the end, or the reason that the server gives.
fn farewell(payload: &[u8]) -> io::Result<()> {
    let Some((code, reason)) = payload.split_first_chunk() else { return Ok(()) };
    match u16::from_be_bytes(*code) {
        1000 | 1001 => Ok(()), // it is done; it goes away
        code => {
            let reason: String =
                String::from_utf8_lossy(reason).chars().filter(|c| !c.is_control()).collect();
            let text = format!("the server closed the WebSocket: {code} {reason}");
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, text.trim_end().to_owned()))
        }
    }
}

#[cfg(test)]
mod tests;
