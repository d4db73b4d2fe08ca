use super::*;

fn pair(cipher: Option<Cipher>) -> (Sealer, Opener) {
    let (mut sealer, mut opener) = (Sealer::plain(), Opener::plain());
    if let Some(cipher) = cipher {
        let key: Vec<u8> = (0..).take(cipher.key_length()).collect();
        // The counter is about to carry.
        let iv = [1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0xff, 0xfe];
        sealer.rekey(cipher, &key, iv, true);
        opener.rekey(cipher, &key, iv, true);
    }
    (sealer, opener)
}

const ALL: [Option<Cipher>; 4] = [None, Some(Cipher::Aes128), Some(Cipher::Aes256), Some(Cipher::ChaCha)];

#[test]
fn what_is_sealed_can_be_opened_however_it_arrives() {
    for cipher in ALL {
        let (mut sealer, mut opener) = pair(cipher);
        let payloads: Vec<Vec<u8>> = (1..70).chain([32_768]).map(|n| vec![n as u8; n]).collect();
        let mut stream = Vec::new();
        for payload in &payloads {
            let mut packet = [&[0xaa; HEADER], &payload[..], &[0xaa; ROOM]].concat();
            let whole = sealer.seal(&mut packet, payload.len());
            stream.extend(&packet[..whole]);
        }
        let mut at = 0;
        for payload in &payloads {
            let mut end = at;
            let whole = loop {
                if let Some((opened, whole)) = opener.open(&mut stream[at..end]).unwrap() {
                    assert_eq!(opened, payload, "{cipher:?}");
                    break whole;
                }
                end += 1;
            };
            assert_eq!(at + whole, end, "opened as soon as it was whole");
            at = end;
        }
        assert_eq!(at, stream.len());
    }
}

#[test]
fn a_changed_bit_is_seen() {
    for cipher in ALL.into_iter().flatten() {
        let (mut sealer, _) = pair(Some(cipher));
        let mut packet = [&[0; HEADER][..], b"payload", &[0; ROOM]].concat();
        let whole = sealer.seal(&mut packet, 7);
        packet.truncate(whole);
        for bit in 0..packet.len() * 8 {
            let (_, mut opener) = pair(Some(cipher));
            let mut changed = packet.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            // One that became longer waits for the rest of it.
            changed.resize(packet.len() + LONGEST + TAG, 0);
            assert_eq!(opener.open(&mut changed), Err(Malformed), "{cipher:?}, bit {bit}");
        }
    }
}

#[test]
fn lengths_that_cannot_be_are_refused_at_once() {
    for (length, padding) in
        [(0_u32, 4_u8), (4, 4), (11, 4), (65_548, 4), (u32::MAX, 4), (12, 3), (12, 12), (12, 200)]
    {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.push(padding);
        bytes.resize(80_000, 0);
        assert_eq!(Opener::plain().open(&mut bytes), Err(Malformed), "{length} {padding}");
    }
}

#[test]
fn a_key_wears_out() {
    let limit = Limit::default();
    for (cipher, most) in [(Cipher::Aes128, 1 << 36), (Cipher::Aes256, 1 << 36), (Cipher::ChaCha, 1 << 30)] {
        let reaches = |packets, bytes| Use { packets, bytes, ..Use::of(Some(cipher)) }.reaches(&limit);
        assert!(!reaches((1 << 31) - 1, most - 1), "{cipher:?}");
        assert!(reaches(1 << 31, 0) && reaches(0, most), "{cipher:?}");
    }
    let (mut sealer, mut opener) = pair(Some(Cipher::Aes128));
    let mut packet = [&[0; HEADER][..], b"payload", &[0; ROOM]].concat();
    let (once, twice) = (Limit { packets: 1, ..limit }, Limit { packets: 2, ..limit });
    let whole = sealer.seal(&mut packet, 7);
    opener.open(&mut packet[..whole]).unwrap();
    assert!(sealer.is_worn(&once) && opener.is_worn(&once));
    assert!(!sealer.is_worn(&twice) && !opener.is_worn(&twice));
}
