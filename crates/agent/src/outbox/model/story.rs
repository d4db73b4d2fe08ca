//! A short story that is interrupted at each of its writes: by a kill, a power cut and every error of a disk.

use super::{
    super::faulty::Fault,
    Op::{self, *},
    play, tier,
    world::World,
};

const CAP: u64 = 80 << 10;

fn push(class: usize, size: usize) -> Op {
    Push { class, topic: (size % 3) as u8, size }
}

/// New segments, several in one plan; acknowledgements out of order; a refusal; a segment that is done with; a full
/// outbox that drops; a purge; two restarts.
fn story() -> Vec<Op> {
    let mut story =
        vec![push(4, 10), push(4, 300), push(1, 40), Commit, push(4, 3000), push(4, 2500), Commit];
    story.extend([
        Take(4),
        Take(4),
        Settle { which: 1, refused: false },
        Note,
        push(0, 77),
        Plan,
        push(0, 78),
    ]);
    story.extend([
        Execute,
        push(4, 1),
        Committed,
        Settle { which: 0, refused: true },
        Commit,
        Take(1),
        Take(4),
    ]);
    story.extend([
        Settle { which: 1, refused: false },
        Settle { which: 0, refused: false },
        Note,
        Commit,
        Kill,
    ]);
    story.extend([push(3, 900), push(2, 5), Commit]);
    story.extend((0..9).flat_map(|round| [push(4, 9000 + round), Commit, Take(4)]));
    story.extend([Settle { which: 2, refused: false }, push(1, 12_000), push(1, 9_000), Commit, Note]);
    story.extend([
        push(3, 50),
        push(3, 51),
        Commit,
        Purge(3),
        Commit,
        push(3, 52),
        Commit,
        Cut,
        Take(4),
        Commit,
    ]);
    story
}

/// Plays the story with this fault at the `n`-th write; whether it was met.
fn interrupt(n: u64, fault: Fault, cut: bool, seed: u64) -> Result<bool, String> {
    let mut world = World::new(seed, CAP);
    world.disk.fail(n, fault);
    let mut met = false;
    for op in story() {
        if matches!(op, Kill | Cut) && !world.disk.is_well() {
            // The disk would be well afterwards, with the fault still to come.
            let mutations = world.disk.mutations();
            world.step(op).map_err(|error| format!("{op:?}: {error}"))?;
            world.disk.fail(n.saturating_sub(mutations), fault);
            continue;
        }
        world.step_over_a_crash(op, cut).map_err(|error| format!("{op:?}: {error}"))?;
        met |= world.disk.is_well();
        if met && fault != Fault::Crash {
            world.step(if cut { Cut } else { Heal }).map_err(|error| format!("after {op:?}: {error}"))?;
        }
    }
    world.drain().map_err(|error| format!("at the end: {error}"))?;
    Ok(met)
}

#[test]
fn prove_outbox_crash_at_every_write() {
    let seed = testkit::seed();
    let world = play(seed, CAP, &story()).unwrap();
    let writes = world.disk.mutations();
    let (mut interrupted, mut failed) = (0, Vec::new());
    let seeds = [1, 20, 100][tier().min(3) as usize - 1];
    for (fault, cut) in [
        (Fault::Crash, false),
        (Fault::Crash, true),
        (Fault::Sync, false),
        (Fault::Sync, true),
        (Fault::Full, false),
        (Fault::Full, true),
        (Fault::ReadOnly, false),
    ] {
        for (n, seed) in (0..writes).flat_map(|n| (seed..seed + seeds).map(move |seed| (n, seed))) {
            match interrupt(n, fault, cut, seed) {
                Ok(met) => interrupted += u64::from(met),
                Err(error) => failed.push(format!("{fault:?} at {n}, cut: {cut}, seed {seed}: {error}")),
            }
        }
    }
    println!(
        "proof outbox-crash tier={} wanted=0-lost writes={writes} interrupted={interrupted} failed={} seed={seed}",
        tier(),
        failed.len()
    );
    assert!(failed.is_empty(), "{}: {:#?}", failed.len(), &failed[..failed.len().min(8)]);
    assert!(interrupted > writes * seeds * 4, "{interrupted} of {writes} writes interrupted");
}
