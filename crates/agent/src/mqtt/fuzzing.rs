//! The bytes of a broker, through [`frame`](super::frame) and [`codec`](super::codec). See [`crate::fuzzing`].

use super::{
    Delivery, Message,
    codec::{Incoming, Wire},
    frame::{Frame, FrameError, Framer},
};

/// As small as `mqtt.max_packet_size` can be.
const LIMIT: u32 = 1024;

/// The first byte says in what pieces the others arrive. The pieces make no difference, what is kept is bounded, and
/// a message that was understood can be written and is understood as the same again.
pub fn packets(data: &[u8]) {
    let Some((step, stream)) = data.split_first() else { return };
    let whole = cut(stream, usize::MAX);
    assert_eq!(cut(stream, usize::from(*step).max(1)), whole, "in pieces of {step}");
    for (first, body) in &whole.0 {
        assert!(body.len() <= LIMIT as usize, "{} bytes", body.len());
        for wire in [Wire::V5, Wire::V311] {
            match wire.decode(*first, body) {
                Ok(incoming) => sound(wire, &incoming, body.len()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

type Packets = (Vec<(u8, Vec<u8>)>, Vec<Frame>, Option<FrameError>);

/// The packets in a stream that arrives in pieces; what else there was, and how it ended.
fn cut(stream: &[u8], step: usize) -> Packets {
    let mut framer = Framer::new(LIMIT);
    let (mut packets, mut oversized) = (Vec::new(), Vec::new());
    for piece in stream.chunks(step) {
        framer.buffer().extend_from_slice(piece);
        loop {
            match framer.next() {
                Ok(Frame::Incomplete) => break,
                Ok(Frame::Packet(first)) => packets.push((first, framer.body().to_vec())),
                Ok(Frame::Oversized { qos, id, size }) => {
                    assert!(size > u64::from(LIMIT) && id != Some(0), "{size} bytes, {id:?}");
                    oversized.push(Frame::Oversized { qos, id, size });
                }
                Err(error) => return (packets, oversized, Some(error)),
            }
        }
        let kept = framer.buffer().len();
        assert!(kept <= LIMIT as usize, "{kept} bytes wait for the rest of a packet");
    }
    (packets, oversized, None)
}

fn sound(wire: Wire, incoming: &Incoming, size: usize) {
    let Incoming::Publish { topic, payload, qos, retain, dup, id } = incoming else { return };
    assert!(!topic.is_empty() && topic.len() + payload.len() <= size);
    assert_eq!(id.is_some(), *qos != super::Qos::AtMostOnce, "an identifier for what is acknowledged");
    assert_ne!(*id, Some(0));
    let message = Message {
        topic: topic.clone(),
        payload: payload.clone(),
        qos: *qos,
        retain: *retain,
        delivery: Delivery::Live,
    };
    // A topic that a broker may not send is none that we could.
    let Ok(written) = wire.publish(&message, *id, *dup) else { return };
    let mut framer = Framer::new(LIMIT + 16);
    framer.buffer().extend_from_slice(&written);
    let Ok(Frame::Packet(first)) = framer.next() else { panic!("our own packet: {written:02x?}") };
    let again = wire.decode(first, framer.body()).expect("our own packet");
    assert_eq!(again, *incoming);
}
