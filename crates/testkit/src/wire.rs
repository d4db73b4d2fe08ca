//! Just enough MQTT framing for probes. By hand on purpose: the testkit must not share the
//! agent's codec, or a mistake in it would agree with itself.

/// A 3.1.1 CONNECT with a clean session.
pub(crate) fn connect_311(client_id: &str) -> Vec<u8> {
    let mut packet = vec![0x10, (12 + client_id.len()) as u8];
    packet.extend_from_slice(b"\0\x04MQTT\x04\x02\0\x3c\0");
    packet.push(client_id.len() as u8);
    packet.extend_from_slice(client_id.as_bytes());
    packet
}

/// DISCONNECT, the same in both versions.
pub(crate) const DISCONNECT: [u8; 2] = [0xE0, 0x00];
