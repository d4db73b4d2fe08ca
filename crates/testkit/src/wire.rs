//! Just enough MQTT framing for probes and for hostile servers. By hand on purpose: the testkit must not share the
//! agent's codec, or a mistake in it would agree with itself.

use tokio::io::{AsyncRead, AsyncReadExt};

/// The packet types that matter here: the upper four bits of the first byte.
pub(crate) mod kind {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const PINGREQ: u8 = 12;
}

/// The protocol level of MQTT 5; that of 3.1.1 is 4.
pub(crate) const LEVEL_5: u8 = 5;

/// DISCONNECT, the same in both versions.
pub(crate) const DISCONNECT: [u8; 2] = [0xE0, 0x00];
/// PINGRESP, the same in both versions.
pub(crate) const PINGRESP: [u8; 2] = [0xD0, 0x00];
/// What a broker of MQTT 3.1.1 answers to a later version: unacceptable protocol version.
pub(crate) const CONNACK_UNACCEPTABLE: [u8; 4] = [0x20, 0x02, 0x00, 0x01];

/// A control packet: its first byte, and what follows the length.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

impl Packet {
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// The protocol level of a CONNECT.
    pub(crate) fn level(&self) -> Option<u8> {
        let is_connect = self.kind() == kind::CONNECT && self.body.starts_with(b"\0\x04MQTT");
        is_connect.then(|| self.body.get(6).copied())?
    }

    pub(crate) fn qos(&self) -> u8 {
        self.first >> 1 & 3
    }

    /// The packet as it came. A length is written in the fewest bytes, as every sender must.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![self.first];
        push_length(&mut bytes, self.body.len());
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The protocol level of the CONNECT that these bytes begin with.
pub(crate) fn level_of(bytes: &[u8]) -> Option<u8> {
    let (&first, rest) = bytes.split_first()?;
    let length = 1 + rest.iter().position(|byte| byte & 0x80 == 0)?;
    Packet { first, body: rest.get(length..)?.to_vec() }.level()
}

/// Reads one packet of at most `limit` bytes; `None` at the end of the stream, on an error, or when it is longer.
pub(crate) async fn read_packet(from: &mut (impl AsyncRead + Unpin), limit: usize) -> Option<Packet> {
    let first = from.read_u8().await.ok()?;
    let mut length = 0usize;
    for shift in [0, 7, 14, 21] {
        let byte = from.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if length > limit {
        return None;
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await.ok()?;
    Some(Packet { first, body })
}

/// A 3.1.1 CONNECT with a clean session.
pub(crate) fn connect_311(client_id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x02\0\x3c\0".to_vec();
    body.push(client_id.len() as u8);
    body.extend_from_slice(client_id.as_bytes());
    Packet { first: 0x10, body }.encode()
}

/// A CONNACK that accepts, without a session. MQTT 5 can be given a reason string, which makes it long.
pub(crate) fn connack(level: u8, reason: &str) -> Vec<u8> {
    let mut body = vec![0, 0];
    if level == LEVEL_5 {
        let mut properties = Vec::new();
        if !reason.is_empty() {
            properties.push(0x1F);
            properties.extend_from_slice(&(reason.len() as u16).to_be_bytes());
            properties.extend_from_slice(reason.as_bytes());
        }
        push_length(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    Packet { first: 0x20, body }.encode()
}

/// A SUBACK that grants every filter what it asks for; `None` when the SUBSCRIBE is malformed.
pub(crate) fn suback(level: u8, subscribe: &Packet) -> Option<Vec<u8>> {
    let (id, mut rest) = subscribe.body.split_at_checked(2)?;
    let mut body = id.to_vec();
    if level == LEVEL_5 {
        // Properties: a subscription identifier and user properties; below 128 bytes, as a test's are.
        let length = usize::from(*rest.first()?);
        rest = rest.get(1 + length..)?;
        body.push(0);
    }
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        body.push(rest.get(2 + length)? & 3);
        rest = rest.get(3 + length..)?;
    }
    Some(Packet { first: 0x90, body }.encode())
}

/// A PUBACK for a QoS 1 PUBLISH; `None` when it is malformed.
pub(crate) fn puback(publish: &Packet) -> Option<Vec<u8>> {
    let topic = usize::from(u16::from_be_bytes([*publish.body.first()?, *publish.body.get(1)?]));
    let id = publish.body.get(2 + topic..4 + topic)?;
    Some(Packet { first: 0x40, body: id.to_vec() }.encode())
}

pub(crate) fn push_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length > 0x7F {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}
