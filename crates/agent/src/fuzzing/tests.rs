//! I1 at the size of `make test`: every body over its seeds and over seeded mutations of them. `make prove` runs the
//! same bodies under cargo-fuzz besides; see `scripts/fuzz`.

use std::{
    fs, panic,
    path::Path,
    time::{Duration, Instant},
};

use testkit::{Rng, seed};

use super::{TARGETS, Target};

/// What each boundary is given to chew on.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(name);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Bytes that mean something somewhere.
const PIECES: &[&[u8]] = &[
    b"\n",
    b"\0",
    b"\xff",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b": ",
    b"- ",
    b"&a ",
    b"*a",
    b"null",
    b"true",
    b"-1",
    b"1e309",
    b"0.1",
    b"18446744073709551616",
    b"\\ud800",
    b"\xc3\x28",
    b"{device_id}",
    b"{prefix}",
    b"{client_id}",
    b"+",
    b"#",
    b"$",
    b"/",
    b"\xff\xff\xff\x7f",
    b"\x30\x80",
    b"\x80",
    b"\x7f",
    b"<<: ",
    b"!!str ",
    b"---\n",
    b"|\n",
    b"\x1b[2J",
];

/// A few edits of `data`, or of what it and `other` make together.
fn mutate(rng: &mut Rng, mut data: Vec<u8>, other: &[u8]) -> Vec<u8> {
    let below = |rng: &mut Rng, limit: usize| usize::try_from(rng.below(limit as u64 + 1)).unwrap();
    for _ in 0..=rng.below(4) {
        let (at, end) = (below(rng, data.len()), below(rng, data.len()));
        let (from, to) = (at.min(end), at.max(end));
        match rng.below(7) {
            0 if from < data.len() => data[from] ^= 1 << rng.below(8),
            1 if from < data.len() => data[from] = u8::try_from(rng.below(256)).unwrap(),
            2 => data.truncate(to),
            3 => drop(data.drain(from..to.min(from + 16))),
            4 => drop(data.splice(from..from, rng.pick(PIECES).iter().copied())),
            5 => {
                let copy = data[from..to.min(from + 64)].to_vec();
                data.splice(from..from, copy);
            }
            _ => {
                let cut = below(rng, other.len());
                data.truncate(from);
                data.extend_from_slice(&other[cut..]);
            }
        }
        data.truncate(1 << 16);
    }
    data
}

/// Runs the body, and says on which input it failed.
fn run(target: &Target, data: &[u8]) {
    let (name, body) = *target;
    if let Err(why) = panic::catch_unwind(|| body(data)) {
        eprintln!("{name} failed on {:?}", data.escape_ascii().to_string());
        panic::resume_unwind(why);
    }
}

#[test]
#[allow(clippy::print_stdout, reason = "`make prove` gathers it")]
fn prove_i1_no_bytes_break_a_boundary() {
    let tier: u64 = std::env::var("IOT_AGENT_TIER").map_or(1, |tier| tier.parse().unwrap());
    let each = Duration::from_millis(if tier > 1 { 5_000 } else { 1_200 });
    let start = seed();
    for (number, target) in TARGETS.iter().enumerate() {
        let seeds = seeds(target.0);
        assert!(seeds.len() >= 6, "{}: {} seeds", target.0, seeds.len());
        seeds.iter().for_each(|data| run(target, data));
        let mut rng = Rng::new(start.wrapping_add(number as u64));
        let (began, mut runs) = (Instant::now(), seeds.len());
        while began.elapsed() < each {
            let (data, other) = (rng.pick(&seeds).clone(), rng.pick(&seeds));
            run(target, &mutate(&mut rng, data, other));
            runs += 1;
        }
        println!(
            "proof I1 tier={tier} wanted=0-crashes target={} runs={runs} crashes=0 seed={start}",
            target.0
        );
    }
}

/// A body that cannot fail would prove nothing.
#[test]
fn a_broken_promise_is_found() {
    let broken: Target = ("broken", |data| assert!(!data.contains(&0xff)));
    let mut rng = Rng::new(seed());
    let found = (0..10_000).any(|_| {
        let data = mutate(&mut rng, b"a seed".to_vec(), b"another");
        panic::catch_unwind(|| run(&broken, &data)).is_err()
    });
    assert!(found);
}
