//! A broker's half of MQTT 3.1.1 and 5, as far as the agent needs it. By hand, as all of the testkit's MQTT.

use anyhow::{Context, ensure};

use super::mood::Mood;
use crate::wire::{LEVEL_5, Packet, push_length};

/// Cuts the first packet off; `None` when it is not there yet. Longer ones than `limit` are an error as soon as
/// their length is known.
pub(super) fn cut(bytes: &[u8], limit: usize) -> Result<Option<(Packet, usize)>, TooLarge> {
    let (mut length, mut head) = (0, 1);
    loop {
        let Some(&byte) = bytes.get(head) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * (head - 1));
        head += 1;
        if byte & 0x80 == 0 || head == 5 {
            break;
        }
    }
    if head + length > limit {
        return Err(TooLarge(head + length));
    }
    let Some(body) = bytes.get(head..head + length) else { return Ok(None) };
    Ok(Some((Packet { first: bytes[0], body: body.to_vec() }, head + length)))
}

/// A packet that is longer than the broker wants.
#[derive(Debug)]
pub(super) struct TooLarge(pub(super) usize);

/// Reads the fields of a packet's body one after the other.
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    level: u8,
}

impl<'a> Fields<'a> {
    pub(super) fn new(packet: &'a Packet, level: u8) -> Self {
        Self { rest: &packet.body, level }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn bytes(&mut self, length: usize) -> anyhow::Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length).context("the packet ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn u8(&mut self) -> anyhow::Result<u8> {
        Ok(self.bytes(1)?[0])
    }

    pub(super) fn u16(&mut self) -> anyhow::Result<u16> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn id(&mut self) -> anyhow::Result<u16> {
        let id = self.u16()?;
        ensure!(id != 0, "packet identifier 0");
        Ok(id)
    }

    pub(super) fn binary(&mut self) -> anyhow::Result<&'a [u8]> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    pub(super) fn text(&mut self) -> anyhow::Result<String> {
        Ok(std::str::from_utf8(self.binary()?).context("a string that is no UTF-8")?.to_owned())
    }

    /// The properties of MQTT 5; none in 3.1.1.
    pub(super) fn properties(&mut self) -> anyhow::Result<Self> {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            if self.level != LEVEL_5 {
                break;
            }
            let byte = self.u8()?;
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(Self { rest: self.bytes(length)?, level: self.level })
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// What a CONNECT says that matters here.
#[derive(Debug, Clone)]
pub(super) struct Connect {
    pub(super) level: u8,
    pub(super) client: String,
    pub(super) clean: bool,
    pub(super) persistent: bool,
    pub(super) keep_alive: u16,
    pub(super) receive_maximum: u16,
}

impl Connect {
    pub(super) fn parse(packet: &Packet) -> anyhow::Result<Self> {
        let level = packet.level().context("not a CONNECT")?;
        ensure!(level == 4 || level == LEVEL_5, "protocol level {level}");
        let mut fields = Fields::new(packet, level);
        fields.bytes(7)?;
        let clean = fields.u8()? & 2 != 0;
        let keep_alive = fields.u16()?;
        let (mut receive_maximum, mut persistent) = (u16::MAX, level != LEVEL_5 && !clean);
        let mut properties = fields.properties()?;
        while !properties.is_empty() {
            match properties.u8()? {
                0x11 => persistent = properties.bytes(4)?.iter().any(|byte| *byte > 0),
                0x21 => receive_maximum = properties.u16()?,
                0x27 => drop(properties.bytes(4)?),
                0x22 => drop(properties.bytes(2)?),
                0x17 | 0x19 => drop(properties.bytes(1)?),
                0x15 | 0x16 => drop(properties.binary()?),
                0x26 => drop((properties.binary()?, properties.binary()?)),
                other => anyhow::bail!("property {other:#x} in a CONNECT"),
            }
        }
        Ok(Self { level, client: fields.text()?, clean, persistent, keep_alive, receive_maximum })
    }
}

pub(super) fn connack(level: u8, session_present: bool, code: u8, mood: &Mood) -> Vec<u8> {
    let mut body = vec![u8::from(session_present && code == 0), code];
    if level == LEVEL_5 {
        let mut properties = Vec::new();
        if let Some(maximum) = mood.receive_maximum {
            properties.push(0x21);
            properties.extend_from_slice(&maximum.to_be_bytes());
        }
        if let Some(maximum) = mood.maximum_packet_size {
            properties.push(0x27);
            properties.extend_from_slice(&maximum.to_be_bytes());
        }
        if let Some(maximum @ 0..=1) = mood.maximum_qos {
            properties.extend_from_slice(&[0x24, maximum]);
        }
        push_length(&mut body, properties.len());
        body.extend_from_slice(&properties);
    }
    Packet { first: 0x20, body }.encode()
}

/// PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70). The code is for MQTT 5, and left out when it is 0.
pub(super) fn acknowledgement(first: u8, id: u16, code: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if code > 0 {
        body.push(code);
    }
    Packet { first, body }.encode()
}

/// SUBACK (0x90), or UNSUBACK (0xB0), whose codes MQTT 3.1.1 lacks.
pub(super) fn granted(first: u8, level: u8, id: u16, codes: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == LEVEL_5 {
        body.push(0);
    }
    if level == LEVEL_5 || first == 0x90 {
        body.extend_from_slice(codes);
    }
    Packet { first, body }.encode()
}

pub(super) fn disconnect(code: u8) -> Vec<u8> {
    vec![0xE0, 1, code]
}

pub(super) fn publish(level: u8, out: &super::state::Outbound) -> Vec<u8> {
    let mut body = (out.topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(out.topic.as_bytes());
    if out.qos > 0 {
        body.extend_from_slice(&out.id.to_be_bytes());
    }
    if level == LEVEL_5 {
        body.push(0);
    }
    body.extend_from_slice(out.payload.as_bytes());
    let dup = u8::from(out.qos > 0 && out.sent_on.is_some()) << 3;
    Packet { first: 0x30 | dup | out.qos << 1, body }.encode()
}
