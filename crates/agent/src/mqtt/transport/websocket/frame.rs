//! WebSocket frames (RFC 6455, section 5.2): headers in, masked frames out.

use std::io;

/// The longest payload of a control frame.
pub(super) const CONTROL: usize = 125;
/// The longest header that a server may send: it does not mask.
pub(super) const HEADER: usize = 10;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation = 0,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    fn is_control(self) -> bool {
        self as u8 >= Self::Close as u8
    }
}

/// The header of a frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) last: bool,
    pub(super) opcode: Opcode,
    pub(super) length: u64,
}

/// How long the header is that begins with `start`, as far as can be told; more than `start` has, until it is
/// complete.
pub(super) fn header_length(start: &[u8]) -> usize {
    match start.get(1).map(|byte| byte & !MASKED) {
        Some(126) => 4,
        Some(127) => HEADER,
        _ => 2,
    }
}

impl Header {
    /// Reads a complete header, refusing what a server must not send.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let (first, second) = (bytes[0], bytes[1]);
        if first & RESERVED != 0 {
            return Err("a frame with reserved bits");
        }
        if second & MASKED != 0 {
            return Err("a masked frame");
        }
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 => return Err("a text frame"),
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err("a frame of unknown kind"),
        };
        let length = match bytes.len() {
            2 => u64::from(second),
            _ => bytes[2..].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        if length > i64::MAX as u64 {
            return Err("a frame of impossible length");
        }
        let last = first & FIN != 0;
        if opcode.is_control() && (!last || length > CONTROL as u64) {
            return Err("a control frame that is fragmented or too long");
        }
        Ok(Self { last, opcode, length })
    }
}

/// Appends a whole frame of ours, masked with `key`.
pub(super) fn append(out: &mut Vec<u8>, opcode: Opcode, key: [u8; 4], payload: &[u8]) {
    out.push(FIN | opcode as u8);
    match payload.len() {
        length @ ..=125 => out.push(MASKED | length as u8),
        length @ 126..=0xffff => {
            out.push(MASKED | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(MASKED | 127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&key);
    out.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Unpredictable masks (RFC 6455, section 10.3), taken from the kernel a few at a time.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pool: [[u8; 4]; 16],
    left: usize,
}

impl Keys {
    pub(super) fn next(&mut self) -> io::Result<[u8; 4]> {
        if self.left == 0 {
            getrandom::fill(self.pool.as_flattened_mut())?;
            self.left = self.pool.len();
        }
        self.left -= 1;
        Ok(self.pool[self.left])
    }
}
