//! The outbox against a model of it, over a disk that fails ([`Faulty`]): whatever is done to it, and wherever it is
//! killed or loses its power, what it said to be on disk is there, in order and unchanged, and is counted.

mod damage;
mod story;
mod world;

use proptest::{
    prelude::*,
    test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

use super::faulty::Fault;
use crate::clock::{self, Clock};
use world::World;

/// What is done to an outbox. Numbers that choose among what there is wrap round.
#[derive(Debug, Clone, Copy)]
enum Op {
    Push {
        class: usize,
        topic: u8,
        size: usize,
    },
    /// Plans, executes and tells.
    Commit,
    /// The first step of a commit, the second, the third.
    Plan,
    Execute,
    Committed,
    Take(usize),
    Settle {
        which: usize,
        refused: bool,
    },
    Note,
    Purge(usize),
    Kill,
    Cut,
    Fail(u64, Fault),
    /// No room but for so many pages more.
    Fill(u64),
    ReadOnly,
    /// The disk is well again.
    Heal,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 1..200_usize, 2 => 200..5000_usize, 1 => 5000..90_000_usize]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        1 => Just(Fault::Full),
        1 => Just(Fault::ReadOnly),
        1 => Just(Fault::Sync),
        1 => Just(Fault::Read),
        2 => Just(Fault::Crash),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let class = 0..5_usize;
    prop_oneof![
        24 => (class.clone(), 0..3_u8, size()).prop_map(|(class, topic, size)| Op::Push { class, topic, size }),
        14 => Just(Op::Commit),
        3 => Just(Op::Plan),
        3 => Just(Op::Execute),
        3 => Just(Op::Committed),
        12 => class.clone().prop_map(Op::Take),
        10 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, refused)| Op::Settle { which, refused }),
        4 => Just(Op::Note),
        1 => class.prop_map(Op::Purge),
        3 => Just(Op::Kill),
        3 => Just(Op::Cut),
        4 => (0..6_u64, fault()).prop_map(|(after, fault)| Op::Fail(after, fault)),
        1 => (0..3_u64).prop_map(Op::Fill),
        1 => Just(Op::ReadOnly),
        4 => Just(Op::Heal),
    ]
}

fn clock() -> Clock {
    Clock::new(clock::built(), None)
}

fn tier() -> u32 {
    std::env::var("IOT_AGENT_TIER").map_or(1, |tier| tier.parse().unwrap())
}

/// Plays the operations, then lets all drain; an error says what did not hold.
fn play(seed: u64, cap: u64, ops: &[Op]) -> Result<World, String> {
    let mut world = World::new(seed, cap);
    for (at, op) in ops.iter().enumerate() {
        world.step(*op).map_err(|error| format!("after operation {at}, {op:?}: {error}"))?;
    }
    world.drain().map_err(|error| format!("at the end: {error}"))?;
    Ok(world)
}

#[test]
fn prove_outbox_model() {
    let seed = testkit::seed();
    let cases = [256, 10_000, 100_000][tier().min(3) as usize - 1];
    let mut bytes = [0; 32];
    testkit::Rng::new(seed).fill(&mut bytes);
    let config =
        ProptestConfig { cases, source_file: Some(file!()), max_shrink_iters: 20_000, ..Default::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let caps = prop_oneof![Just(64 << 10), Just(160 << 10), Just(1 << 20), Just(64 << 20)];
    let case = (any::<u64>(), caps, prop::collection::vec(op(), 1..120));
    let (mut operations, mut lives, mut handed) = (0, 0, 0);
    let done = {
        let figures = std::cell::RefCell::new((&mut operations, &mut lives, &mut handed));
        runner.run(&case, |(seed, cap, ops)| {
            let world = play(seed, cap, &ops).map_err(TestCaseError::fail)?;
            let mut figures = figures.borrow_mut();
            *figures.0 += ops.len();
            *figures.1 += world.lives;
            *figures.2 += world.sent;
            Ok(())
        })
    };
    if let Err(error) = done {
        panic!("{error}");
    }
    println!(
        "proof outbox-model tier={} wanted=0-differences cases={cases} operations={operations} lives={lives} sent={handed} seed={seed}",
        tier()
    );
}

/// What the model has found, each at its smallest.
#[test]
fn what_was_lost_once_is_not_again() {
    use Op::*;
    let push = |class, topic, size| Push { class, topic, size };
    let settle = |which| Settle { which, refused: false };
    let found = [
        // Two segments in one plan.
        (65_536, vec![push(2, 0, 3987), push(2, 0, 22), push(0, 0, 1), Plan, Purge(2), Execute, Committed]),
        // Written without a sync, sent by the next process, gone with the power.
        (
            65_536,
            vec![
                push(1, 0, 1),
                Fail(1, Fault::Crash),
                Commit,
                Kill,
                Take(1),
                Cut,
                push(1, 0, 1),
                Commit,
                Take(1),
            ],
        ),
        // The sync of the cursor fails, and takes with it what had been noted.
        (
            1 << 20,
            vec![
                push(3, 0, 1),
                Commit,
                Take(3),
                settle(0),
                push(3, 0, 16_278),
                Commit,
                Fail(0, Fault::Sync),
                Commit,
                Note,
                Kill,
            ],
        ),
        // Files of a failed plan are removed, and the power goes in between.
        (
            65_536,
            vec![
                push(0, 0, 1),
                push(0, 0, 1),
                push(1, 0, 3806),
                Commit,
                push(1, 0, 187),
                push(1, 0, 4041),
                Fill(2),
                Commit,
                Commit,
                Commit,
                Cut,
            ],
        ),
        // The cursor is torn, and at the second try again.
        (
            1 << 20,
            vec![
                push(0, 0, 1),
                Commit,
                push(0, 0, 1),
                Take(0),
                settle(0),
                Commit,
                Note,
                Take(0),
                settle(0),
                Fail(0, Fault::Full),
                Note,
                Fail(0, Fault::Crash),
                Note,
            ],
        ),
        // A failed plan was to remove the file that alone knew a number.
        (
            65_536,
            vec![
                push(3, 0, 1),
                Commit,
                push(1, 2, 1),
                Commit,
                Take(3),
                ReadOnly,
                Take(1),
                settle(1),
                push(0, 0, 1),
                Commit,
                Commit,
                Heal,
                settle(0),
                Fail(1, Fault::Crash),
                Commit,
                Kill,
                push(0, 2, 1),
            ],
        ),
        // A file that was removed without a sync, by a process before, comes back and hides a later one's.
        (
            163_840,
            vec![
                push(3, 0, 1),
                push(4, 0, 1),
                push(1, 0, 1),
                Note,
                Commit,
                Cut,
                push(2, 0, 1),
                Fail(1, Fault::Full),
                Fill(1),
                Commit,
                Commit,
                push(4, 0, 1),
                Fail(2, Fault::ReadOnly),
                Commit,
                Commit,
                Plan,
                Kill,
                Commit,
                push(4, 0, 1),
                Commit,
                Kill,
                Purge(1),
                push(0, 0, 5000),
                Fill(0),
                Commit,
                Commit,
                Commit,
                Cut,
            ],
        ),
    ];
    let mut again = Vec::new();
    for (at, (cap, ops)) in found.iter().enumerate() {
        again.extend(
            (5941320110863442103..5941320110863442104_u64)
                .filter_map(|seed| Some(format!("{at}: {}", play(seed, *cap, ops).err()?))),
        );
    }
    assert!(again.is_empty(), "{again:#?}");
}
