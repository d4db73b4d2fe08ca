//! U6: a package that is not what was signed, by a bit or by its end, is none.

use std::collections::BTreeMap;

use iot_agent::services::update::package::{Error, Package, Trust, Unkept, Whole};
use testkit::{Rng, seed};

use crate::made::{Bench, package};

fn verdict(bytes: &[u8], trust: Trust<'_>) -> Result<Whole, Error> {
    Package::open(bytes, trust)?.payload(&mut Unkept)
}

/// All bits of a small package, then as many at random as make ten thousand. An update is asked for with the SHA-256 of its
/// file. Without that, a bit may be one of those that say how the same archive is compressed, and which nobody signs.
#[test]
#[allow(clippy::print_stdout, reason = "`make prove` gathers it")]
fn prove_u6_no_flipped_bit_is_accepted() {
    let bench = Bench::new();
    let (sound, keys, start) = (package(&bench), bench.keys(), seed());
    let trust = Trust::Keys(&keys);
    let archive = zstd::decode_all(&sound[..]).unwrap();
    let asked_for = verdict(&sound, trust).unwrap().sha256;
    let mut rng = Rng::new(start);
    let (bits, mut reasons, mut same) = (sound.len() * 8, BTreeMap::<String, u32>::new(), 0);
    let runs = bits.max(10_000);
    for run in 0..runs {
        let mut bytes = sound.clone();
        let more = if run < bits { 0 } else { 2 + rng.below(3) };
        let at_random = (0..more).map(|_| usize::try_from(rng.below(bits as u64)).unwrap());
        for bit in at_random.chain((run < bits).then_some(run)) {
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        let reason = match verdict(&bytes, trust) {
            Err(error) => format!("{error:?}").split(['(', ' ']).next().unwrap().to_owned(),
            Ok(whole) => {
                assert!(whole.sha256 != asked_for || bytes == sound, "run {run}: not what was asked for");
                assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), archive, "run {run}: another archive");
                same += 1;
                "SHA-256".to_owned()
            }
        };
        *reasons.entry(reason).or_default() += 1;
    }
    assert!(reasons.len() >= 3 && same < 100, "{reasons:?}");
    println!("proof U6 wanted=0-accepted flips={runs} accepted=0 reasons={reasons:?} seed={start}");
}

#[test]
fn every_truncation_is_one() {
    let bench = Bench::new();
    let (sound, keys) = (package(&bench), bench.keys());
    for length in 0..sound.len() {
        match verdict(&sound[..length], Trust::Keys(&keys)) {
            Err(Error::Truncated) => {}
            other => panic!("{length} of {} bytes: {other:?}", sound.len()),
        }
    }
}

#[test]
fn what_is_behind_is_refused() {
    let bench = Bench::new();
    let (sound, keys) = (package(&bench), bench.keys());
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, b'x'];
    for behind in [&b"x"[..], b"\0", &sound, &skippable, &zstd::encode_all(&b""[..], 1).unwrap()] {
        match verdict(&[&sound, behind].concat(), Trust::Keys(&keys)) {
            Err(Error::AfterFrame) => {}
            other => panic!("{behind:?}: {other:?}"),
        }
    }
    let tar = zstd::decode_all(&sound[..]).unwrap();
    for (behind, fine) in [(vec![0; 10_240], true), (b"x".to_vec(), false), (vec![0; (1 << 20) + 1], false)] {
        let again = zstd::encode_all(&[&tar[..], &behind].concat()[..], 1).unwrap();
        match verdict(&again, Trust::Keys(&keys)) {
            Ok(_) if fine => {}
            Err(Error::AfterArchive) if !fine => {}
            other => panic!("{}: {other:?}", behind.len()),
        }
    }
}

#[test]
fn memory_is_asked_for_in_vain() {
    use std::io::Write as _;
    let bench = Bench::new();
    let tar = zstd::decode_all(&package(&bench)[..]).unwrap();
    let keys = bench.keys();
    let with_window = |log| {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    verdict(&with_window(22), Trust::Keys(&keys)).unwrap();
    match verdict(&with_window(23), Trust::Keys(&keys)) {
        Err(Error::Window(8_388_608)) => {}
        other => panic!("{other:?}"),
    }
    assert!(matches!(verdict(&tar, Trust::Keys(&keys)), Err(Error::NotZstd)));
}
