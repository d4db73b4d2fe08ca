use proptest::prelude::*;

use super::*;
use crate::mqtt::Delivery;

fn message(qos: Qos) -> Message {
    Message { topic: "a/b".into(), payload: b"x".to_vec(), qos, retain: true, delivery: Delivery::Memory }
}

/// Splits an encoded packet into its first byte and its body (all of them are short).
fn split(packet: &[u8]) -> (u8, &[u8]) {
    (packet[0], &packet[2..])
}

#[test]
fn what_is_written_can_be_read() {
    for wire in [Wire::V5, Wire::V311] {
        for (qos, id) in [(Qos::AtMostOnce, None), (Qos::AtLeastOnce, Some(7)), (Qos::ExactlyOnce, Some(9))] {
            let packet = wire.publish(&message(qos), id, false).unwrap();
            let (first, body) = split(&packet);
            let Incoming::Publish { topic, payload, qos: read, id: read_id, retain, dup } =
                wire.decode(first, body).unwrap()
            else {
                panic!("no PUBLISH")
            };
            assert_eq!((topic.as_str(), payload.as_slice(), read, read_id), ("a/b", &b"x"[..], qos, id));
            assert!(retain && !dup);
        }
    }
}

#[test]
fn a_connack_of_3_1_1_to_a_connect_of_5_is_understood() {
    assert_eq!(Wire::V5.decode(0x20, &[0, 1]).unwrap(), Incoming::Refused(Refusal::Version));
    assert_eq!(Wire::V5.decode(0x20, &[0, 0]).unwrap(), Incoming::Refused(Refusal::Version));
}

#[test]
fn a_message_without_identifier_or_topic_is_refused() {
    for wire in [Wire::V5, Wire::V311] {
        let no_id = [&[0, 1, b'a', 0, 0][..], if wire == Wire::V5 { &[0] } else { &[] }].concat();
        assert!(wire.decode(0x32, &no_id).is_err());
        assert!(wire.decode(0x30, &[0, 0, 0]).is_err());
    }
}

proptest! {
    /// Whatever a broker sends, decoding ends in a packet or an error.
    #[test]
    fn nothing_panics(first in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..80)) {
        for wire in [Wire::V5, Wire::V311] {
            drop(wire.decode(first, &body));
        }
    }

    /// Nor does a valid packet with a damaged byte.
    #[test]
    fn damage_does_not_panic(at in 0usize..40, flip in 1u8.., cut in 0usize..40) {
        for wire in [Wire::V5, Wire::V311] {
            let filters = [("a/#".to_owned(), Qos::AtLeastOnce)];
            for mut packet in [
                wire.publish(&message(Qos::AtLeastOnce), Some(7), true).unwrap(),
                wire.subscribe(7, &filters).unwrap(),
                vec![0x20, 9, 0, 0, 6, 0x21, 0, 20, 0x24, 1, 0],
                vec![0x90, 4, 0, 7, 0, 1],
                vec![0xe0, 2, 0x8e, 0],
            ] {
                let last = packet.len() - 1;
                packet[at.min(last)] ^= flip;
                packet.truncate(packet.len().saturating_sub(cut).max(2));
                let (first, body) = split(&packet);
                drop(wire.decode(first, body));
            }
        }
    }
}
