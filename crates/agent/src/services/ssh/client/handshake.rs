//! The start of a connection: version lines, keys, and being let in. One message after the other, without channels.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Error, How, auth,
    cipher::{HEADER, Opener, ROOM, Sealer},
    kex::{Exchange, Session},
    wire::{Reader, msg},
};

/// The line that we begin with.
const VERSION: &str = concat!("SSH-2.0-iot-agent_", env!("CARGO_PKG_VERSION"));
/// Most bytes that a server may say before its own (RFC 4253, section 4.2, has no limit).
const GREETING: usize = 8 << 10;
/// Most bytes of its line.
const LINE: usize = 255;
/// Room for what comes in at the start.
const INPUT: usize = 8 << 10;

/// A stream of packets, and what protects them.
pub(super) struct Transport {
    pub(super) stream: TcpStream,
    /// What has come in and was not looked at yet.
    pub(super) input: Vec<u8>,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
    pub(super) session: Session,
}

/// Makes a stream a connection on which the server has let us in. Without a deadline: that is the caller's.
pub(super) async fn shake(mut stream: TcpStream, how: &How<'_>) -> Result<Transport, Error> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("{VERSION}\r\n").as_bytes()).await?;
    let mut input = Vec::with_capacity(INPUT);
    let theirs = version(&mut stream, &mut input).await?;
    let session = Session {
        versions: (VERSION.to_owned(), theirs),
        id: None,
        host_key: Vec::new(),
        strict: false,
        host_keys: how.expected.algorithms(),
    };
    let (sealer, opener) = (Sealer::plain(), Opener::plain());
    let mut transport = Transport { stream, input, sealer, opener, session };
    transport.agree(how).await?;
    auth::enter(&mut transport, how).await?;
    Ok(transport)
}

/// The server's line, without its end; what it says before is passed over.
async fn version(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<String, Error> {
    let mut passed = 0;
    loop {
        while let Some(end) = input.iter().position(|byte| *byte == b'\n') {
            let rest = input.split_off(end + 1);
            let line = std::mem::replace(input, rest);
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-") {
                let text = str::from_utf8(line).ok().filter(|text| text.len() <= LINE);
                return Ok(text.ok_or_else(|| no_server(line))?.to_owned());
            }
            passed += end;
            if line.starts_with(b"SSH-") || passed > GREETING {
                return Err(no_server(line));
            }
        }
        if input.len() > LINE.max(GREETING - passed.min(GREETING)) {
            return Err(no_server(input));
        }
        if stream.read_buf(input).await? == 0 {
            return Err(if input.is_empty() { Error::Closed } else { no_server(input) });
        }
    }
}

fn no_server(line: &[u8]) -> Error {
    let text = String::from_utf8_lossy(line);
    Error::NoServer(text.chars().filter(|c| !c.is_control()).take(60).collect())
}

impl Transport {
    /// The first exchange of keys, and whether the server is to be believed.
    async fn agree(&mut self, how: &How<'_>) -> Result<(), Error> {
        let theirs = self.next().await?;
        if theirs[0] != msg::KEXINIT {
            return Err(Error::Unexpected(theirs[0]));
        }
        let (exchange, messages) = Exchange::begin(&mut self.session, &theirs)?;
        for message in messages {
            self.send(&message).await?;
        }
        if exchange.skip {
            self.of_exchange().await?;
        }
        let reply = self.of_exchange().await?;
        let keys = exchange.finish(&mut self.session, &reply)?;
        how.expected.judge(&self.session.host_key, how.clock)?;
        self.send(&[msg::NEWKEYS]).await?;
        keys.seal(&mut self.sealer, self.session.strict);
        let last = self.of_exchange().await?;
        if last != [msg::NEWKEYS] {
            return Err(Error::Unexpected(last[0]));
        }
        keys.open(&mut self.opener, self.session.strict);
        Ok(())
    }

    /// The next message of an exchange. With strict key exchange nothing else may come in between.
    async fn of_exchange(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            let message = self.next().await?;
            match message[0] {
                msg::IGNORE | msg::DEBUG if !self.session.strict => {}
                msg::NEWKEYS | 30..=49 => return Ok(message),
                msg::DISCONNECT => return Err(disconnected(&message)),
                other => return Err(Error::Unexpected(other)),
            }
        }
    }

    /// The next message that is about anything.
    pub(super) async fn of_service(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            let message = self.next().await?;
            match message[0] {
                msg::IGNORE | msg::DEBUG | msg::UNIMPLEMENTED => {}
                msg::DISCONNECT => return Err(disconnected(&message)),
                _ => return Ok(message),
            }
        }
    }

    /// The next message. It is not empty.
    async fn next(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            if let Some((payload, whole)) = self.opener.open(&mut self.input)? {
                let payload = payload.to_vec();
                self.input.drain(..whole);
                return Ok(payload);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(Error::Closed);
            }
        }
    }

    pub(super) async fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        let mut packet = [&[0; HEADER], payload, &[0; ROOM]].concat();
        let whole = self.sealer.seal(&mut packet, payload.len());
        Ok(self.stream.write_all(&packet[..whole]).await?)
    }
}

/// What a server says when it ends a connection.
pub(super) fn disconnected(message: &[u8]) -> Error {
    let mut reader = Reader::new(&message[1..]);
    let text = reader.u32().and_then(|_| reader.text()).unwrap_or_default();
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    if text.is_empty() { Error::Closed } else { Error::Disconnected(text) }
}
