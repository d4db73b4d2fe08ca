//! Cuts the byte stream into packets, in bounded memory: a PUBLISH larger than we take is discarded while it
//! streams in, and only its packet identifier is kept so that it can be acknowledged and never comes again.

use super::Qos;

/// Capacity the buffer falls back to after a large packet.
const RESTING: usize = 4 * 1024;

/// One step of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A whole packet: its first byte; the body is [`Framer::body`] until the next step.
    Packet(u8),
    /// A PUBLISH over the limit went by, unread.
    Oversized { qos: Qos, id: Option<u16>, size: u64 },
    /// More bytes are needed.
    Incomplete,
}

/// The stream is no MQTT.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("malformed packet length")]
    Length,
    #[error("packet of type {kind} with {size} bytes: over the limit of {limit}")]
    TooLarge { kind: u8, size: u64, limit: usize },
}

/// Buffer and state of one connection's input.
#[derive(Debug)]
pub(super) struct Framer {
    limit: usize,
    buffer: Vec<u8>,
    /// Where the last packet's body begins, and where the packet ends.
    current: (usize, usize),
    discard: Option<Discard>,
}

/// Progress through a PUBLISH that is not kept.
#[derive(Debug)]
struct Discard {
    size: u64,
    left: u64,
    qos: Qos,
    /// Bytes before the packet identifier; unknown until the topic's length has been read.
    head: Vec<u8>,
    topic_left: Option<u64>,
    id: Vec<u8>,
}

impl Framer {
    pub(super) fn new(limit: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { limit, buffer: Vec::with_capacity(RESTING), current: (0, 0), discard: None }
    }

    /// The buffer to read into, after what it holds.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        self.release();
        &mut self.buffer
    }

    /// The body of the packet that [`Frame::Packet`] announced.
    pub(super) fn body(&self) -> &[u8] {
        &self.buffer[self.current.0..self.current.1]
    }

    fn release(&mut self) {
        if self.current.1 > 0 {
            self.buffer.drain(..self.current.1);
            self.current = (0, 0);
        }
        if self.buffer.capacity() > RESTING && self.buffer.len() < RESTING {
            self.buffer.shrink_to(RESTING);
        }
    }

    /// The next packet in the buffer.
    pub(super) fn next(&mut self) -> Result<Frame, FrameError> {
        self.release();
        if let Some(mut discard) = self.discard.take() {
            discard.feed(&mut self.buffer);
            return Ok(self.settle(discard));
        }
        let Some((length, header)) = remaining_length(&self.buffer)? else { return Ok(Frame::Incomplete) };
        let first = self.buffer[0];
        let size = header as u64 + length;
        if size > self.limit as u64 {
            if first >> 4 != 3 {
                return Err(FrameError::TooLarge { kind: first >> 4, size, limit: self.limit });
            }
            self.buffer.drain(..header);
            let mut discard = Discard::new(first, size, length);
            discard.feed(&mut self.buffer);
            return Ok(self.settle(discard));
        }
        let end = header + usize::try_from(length).map_err(|_| FrameError::Length)?;
        if self.buffer.len() < end {
            self.buffer.reserve(end - self.buffer.len());
            return Ok(Frame::Incomplete);
        }
        self.current = (header, end);
        Ok(Frame::Packet(first))
    }

    fn settle(&mut self, discard: Discard) -> Frame {
        if discard.left > 0 {
            self.discard = Some(discard);
            return Frame::Incomplete;
        }
        let id = match discard.id[..] {
            [high, low] => Some(u16::from_be_bytes([high, low])).filter(|id| *id != 0),
            _ => None,
        };
        Frame::Oversized { qos: discard.qos, id, size: discard.size }
    }
}

impl Discard {
    fn new(first: u8, size: u64, left: u64) -> Self {
        let qos = match (first >> 1) & 3 {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        };
        Self { size, left, qos, head: Vec::new(), topic_left: None, id: Vec::new() }
    }

    /// Swallows what belongs to the packet.
    fn feed(&mut self, buffer: &mut Vec<u8>) {
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let mut bytes = &buffer[..take];
        while self.topic_left.is_none() {
            let Some((&byte, rest)) = bytes.split_first() else { break };
            bytes = rest;
            self.head.push(byte);
            if let [high, low] = self.head[..] {
                self.topic_left = Some(u64::from(u16::from_be_bytes([high, low])));
            }
        }
        if let Some(topic_left) = &mut self.topic_left {
            let skip = usize::try_from(*topic_left).unwrap_or(usize::MAX).min(bytes.len());
            *topic_left -= skip as u64;
            bytes = &bytes[skip..];
            if self.qos != Qos::AtMostOnce && *topic_left == 0 {
                let missing = 2 - self.id.len();
                self.id.extend_from_slice(&bytes[..missing.min(bytes.len())]);
            }
        }
        buffer.drain(..take);
        self.left -= take as u64;
    }
}

/// The variable byte integer behind the first byte: (remaining length, bytes of the fixed header).
fn remaining_length(buffer: &[u8]) -> Result<Option<(u64, usize)>, FrameError> {
    let mut value = 0u64;
    for (index, byte) in buffer.iter().skip(1).enumerate() {
        if index == 4 {
            return Err(FrameError::Length);
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 2)));
        }
    }
    if buffer.len() > 4 { Err(FrameError::Length) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(first: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        let mut length = body.len();
        loop {
            let byte = u8::try_from(length & 0x7f).unwrap();
            length >>= 7;
            bytes.push(if length > 0 { byte | 0x80 } else { byte });
            if length == 0 {
                break;
            }
        }
        bytes.extend_from_slice(body);
        bytes
    }

    fn publish(qos: u8, topic: &str, id: u16, payload: usize) -> Vec<u8> {
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(topic.as_bytes());
        if qos > 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        body.resize(body.len() + payload, b'x');
        encoded(0x30 | qos << 1, &body)
    }

    /// Feeds `stream` in pieces of `step` bytes and tells each finished step and the largest buffer.
    fn run(limit: u32, stream: &[u8], step: usize) -> (Vec<(Frame, Vec<u8>)>, usize) {
        let mut framer = Framer::new(limit);
        let (mut frames, mut peak) = (Vec::new(), 0);
        for piece in stream.chunks(step) {
            framer.buffer().extend_from_slice(piece);
            peak = peak.max(framer.buffer.capacity());
            loop {
                match framer.next().unwrap() {
                    Frame::Incomplete => break,
                    frame @ Frame::Packet(_) => frames.push((frame, framer.body().to_vec())),
                    frame @ Frame::Oversized { .. } => frames.push((frame, Vec::new())),
                }
            }
        }
        (frames, peak)
    }

    proptest! {
        #[test]
        fn any_slicing_gives_the_same_packets(
            sizes in proptest::collection::vec((0u8..3, 1usize..40, 1u16.., 0usize..3000), 1..8),
            step in 1usize..900,
        ) {
            let mut stream = Vec::new();
            let mut wanted = Vec::new();
            for (qos, topic, id, payload) in sizes {
                let packet = publish(qos, &"t".repeat(topic), id, payload);
                if packet.len() > 1000 {
                    let kind = [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][usize::from(qos)];
                    let id = (qos > 0).then_some(id);
                    wanted.push(Frame::Oversized { qos: kind, id, size: packet.len() as u64 });
                } else {
                    wanted.push(Frame::Packet(packet[0]));
                }
                stream.extend(packet);
            }
            let (frames, _) = run(1000, &stream, step);
            prop_assert_eq!(frames.into_iter().map(|(frame, _)| frame).collect::<Vec<_>>(), wanted);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut framer = Framer::new(100);
            framer.buffer().extend_from_slice(&bytes);
            for _ in 0..600 {
                match framer.next() {
                    Ok(Frame::Incomplete) | Err(_) => break,
                    Ok(_) => {}
                }
            }
        }
    }

    #[test]
    fn a_huge_message_goes_by_in_constant_memory() {
        let mut stream = publish(1, "iot/d/command", 7, 20 << 20);
        stream.extend(encoded(0xd0, &[]));
        let (frames, peak) = run(256 * 1024, &stream, 8192);
        assert!(
            matches!(frames[0].0, Frame::Oversized { qos: Qos::AtLeastOnce, id: Some(7), .. }),
            "{frames:?}"
        );
        assert_eq!(frames[1].0, Frame::Packet(0xd0));
        assert!(peak <= 64 * 1024, "{peak}");
    }

    #[test]
    fn a_length_of_five_bytes_is_refused() {
        let mut framer = Framer::new(100);
        framer.buffer().extend_from_slice(&[0x30, 0xff, 0xff, 0xff, 0xff, 0x01]);
        assert_eq!(framer.next(), Err(FrameError::Length));
    }

    #[test]
    fn only_a_publish_may_be_discarded() {
        let mut framer = Framer::new(100);
        framer.buffer().extend_from_slice(&[0x90, 0xff, 0x7f]);
        assert!(matches!(framer.next(), Err(FrameError::TooLarge { kind: 9, .. })));
    }
}
