//! What becomes of orders while the journal cannot be written or read.

use std::sync::atomic::Ordering;

use super::*;

const REFUSED: &str = "the journal cannot be written";

fn is_refused(end: &str) -> bool {
    end.starts_with("rejected: ") && end.contains(REFUSED)
}

impl Log {
    async fn is_refused(&self, id: &str) {
        let heard = async {
            loop {
                let changed = self.changed.notified();
                if self.ends(id).iter().any(|end| is_refused(end)) {
                    return;
                }
                changed.await;
            }
        };
        timeout(SOON, heard).await.unwrap_or_else(|_| panic!("{id} refused: {:?}", self.told()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_refused_until_it_can_be() {
    let world = World::new();
    let life = world.start(1, 2).await;
    life.send(wish("before", "hello")).await;
    world.log.hears("before", "hello").await;
    world.disk.set_read_only(true);
    life.send(wish("a", "hello")).await;
    world.log.is_refused("a").await;
    // A known one is still known, and a copy of the refused one is refused.
    life.send(wish("before", "hello")).await;
    life.send(wish("a", "hello")).await;
    life.send(wish("b", "hello")).await;
    world.log.is_refused("b").await;
    world.disk.heal();
    tokio::time::sleep(2 * AGAIN).await;
    life.send(wish("a", "hello")).await;
    life.send(wish("c", "hello")).await;
    world.log.hears("c", "hello").await;
    life.stop().await;
    assert_eq!(world.log.ran(), ["before", "c"]);
    assert!(world.log.ends("a").iter().all(|end| is_refused(end)), "{:?}", world.log.told());
    assert!(world.log.ends("before").iter().all(|end| end == "hello"));
    assert_eq!(world.states()["a"], "ended");
}

/// It has ended while the disk was full: told when it can be written, whatever else comes meanwhile.
#[tokio::test(start_paused = true)]
async fn an_end_that_cannot_be_written_is_told_later() {
    // What else comes: nothing, something that needs no writing, something that can be written again.
    for meanwhile in [None, Some(Inbound::detached("t", b"garbage")), Some(wish("c", "hello"))] {
        let world = World::new();
        let life = world.start(1, 2).await;
        life.send(wish("a", "wait")).await;
        world.log.hears("a", "begun").await;
        world.disk.set_read_only(true);
        world.log.go.notify_one();
        life.send(wish("b", "hello")).await;
        world.log.is_refused("b").await;
        assert!(world.log.ends("a").is_empty(), "not told before it is written");
        assert!(world.log.released().is_empty(), "nor given up");
        world.disk.heal();
        if let Some(meanwhile) = meanwhile {
            life.send(meanwhile).await;
        }
        world.log.hears("a", "went").await;
        life.stop().await;
        assert_eq!(world.log.ends("a"), ["went"]);
        assert!(world.log.released().contains(&"a".to_owned()));
        assert_eq!(world.states()["a"], "ended");
    }
}

/// For longer than anybody waits: told once, and not again when it can be written.
#[tokio::test(start_paused = true)]
async fn an_end_that_cannot_be_written_for_long_is_told_once() {
    let world = World::new();
    let life = world.start(1, 2).await;
    life.send(wish("a", "wait")).await;
    world.log.hears("a", "begun").await;
    world.disk.set_read_only(true);
    world.log.go.notify_one();
    world.log.hears("a", "went").await;
    world.disk.heal();
    tokio::time::sleep(2 * AGAIN).await;
    life.stop().await;
    assert_eq!(world.log.ends("a"), ["went"]);
    let life = world.start(1, 2).await;
    life.send(wish("b", "hello")).await;
    world.log.hears("b", "hello").await;
    life.stop().await;
    assert_eq!(world.log.ends("a"), ["went"]);
}

/// Whoever was accepted and is cancelled while nothing can be written: one end, also when the process dies then.
#[tokio::test(start_paused = true)]
async fn a_cancel_that_cannot_be_written_is_not_told_before_it_is() {
    let world = World::new();
    let life = world.start_with(1, 2, vec![wish("a", "wait"), wish("b", "hello")]).await;
    world.log.hears("b", "accepted").await;
    world.disk.set_read_only(true);
    life.send(cancel("b")).await;
    life.send(wish("c", "hello")).await;
    world.log.is_refused("c").await;
    assert!(world.log.ends("b").is_empty(), "{:?}", world.log.told());
    world.disk.heal();
    world.log.hears("b", "cancelled").await;
    life.stop().await;
    assert_eq!((world.log.ends("b").len(), world.log.ran()), (1, vec!["a".to_owned()]));
}

/// Orders keep coming: the journal is tried again all the same.
#[tokio::test(start_paused = true)]
async fn a_journal_that_cannot_be_read_is_tried_again_whatever_comes() {
    let world = World::new();
    world.disk.fail(0, Fault::Read);
    let life = world.start(1, 2).await;
    for n in 0..20 {
        life.send(wish(&format!("a{n}"), "hello")).await;
        tokio::time::sleep(AGAIN / 2).await;
    }
    world.log.is_refused("a0").await;
    world.log.hears("a19", "hello").await;
    life.stop().await;
}

/// What was known all along, and not to the engine when it was asked for again: it has one end, and no effect after it.
#[tokio::test(start_paused = true)]
async fn what_was_refused_while_the_journal_could_not_be_read_is_not_run() {
    let world = World::new();
    let life = world.start_with(1, 2, vec![wish("runs", "wait"), wish("waits", "later")]).await;
    world.log.hears("waits", "accepted").await;
    life.stop().await;
    world.disk.fail(0, Fault::Read);
    let life = world.start(1, 2).await;
    life.send(wish("waits", "later")).await;
    world.log.is_refused("waits").await;
    tokio::time::sleep(2 * AGAIN).await;
    life.send(wish("last", "bye")).await;
    world.log.hears("last", "bye").await;
    life.stop().await;
    assert_eq!(world.log.ran(), ["runs", "last"]);
    assert_eq!(world.log.ends("waits").len(), 1, "{:?}", world.log.told());
}

/// The disk is full in the middle of a turn: what of it got there counts as little as what did not.
#[tokio::test(start_paused = true)]
async fn what_was_refused_is_not_found_by_the_next_process() {
    for seed in 0..20 {
        let world = World { disk: Faulty::new(seed), ..World::new() };
        let life = world.start(1, 100).await;
        life.send(wish("first", "wait")).await;
        world.log.hears("first", "begun").await;
        world.disk.fail(0, Fault::Full);
        for n in 0..8 {
            life.inbox.try_send(wish(&format!("a{n}"), "hello")).unwrap();
        }
        world.log.is_refused("a0").await;
        world.disk.set_read_only(true);
        life.kill().await;
        world.disk.heal();
        let refused: Vec<String> =
            (0..8).map(|n| format!("a{n}")).filter(|id| !world.log.ends(id).is_empty()).collect();
        let life = world.start(1, 100).await;
        world.log.hears("first", "recovered Some(false)").await;
        life.send(wish("last", "bye")).await;
        world.log.hears("last", "bye").await;
        life.stop().await;
        let ran = world.log.ran();
        assert!(refused.iter().all(|id| !ran.contains(id)), "seed {seed}: {refused:?} {ran:?}");
    }
}

/// Refusals in any number do not push out an end that was not told yet.
#[tokio::test(start_paused = true)]
async fn a_flood_of_refusals_does_not_lose_an_end() {
    let world = World::new();
    let life = world.start(1, 2).await;
    life.send(wish("a", "wait")).await;
    world.log.hears("a", "begun").await;
    world.disk.set_read_only(true);
    world.log.go.notify_one();
    for n in 0..=UNWRITTEN {
        life.send(wish(&format!("f{n}"), "hello")).await;
    }
    world.log.is_refused(&format!("f{UNWRITTEN}")).await;
    world.disk.heal();
    world.log.hears("a", "went").await;
    life.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_keeps_its_order_when_it_cannot_begin() {
    let world = World::new();
    let batch = ["a", "b", "c", "d"].map(|id| wish(id, "wait")).into();
    let life = world.start_with(2, 4, batch).await;
    world.log.hears("d", "accepted").await;
    world.disk.set_read_only(true);
    world.log.go.notify_waiters();
    world.log.hears("a", "went").await;
    world.disk.heal();
    world.log.hears("d", "begun").await;
    life.kill().await;
    assert_eq!(world.log.ran(), ["a", "b", "c", "d"]);
}

/// The one before it may still wait for the disk: they must not write at the same place.
#[tokio::test(start_paused = true)]
async fn an_engine_that_was_left_behind_writes_no_more() {
    let world = World::new();
    let old = world.start(1, 2).await;
    old.send(wish("a", "hello")).await;
    world.log.hears("a", "hello").await;
    let new = world.start(1, 2).await;
    new.send(wish("b", "hello")).await;
    world.log.hears("b", "hello").await;
    old.send(wish("c", "hello")).await;
    world.log.is_refused("c").await;
    old.kill().await;
    new.stop().await;
    assert_eq!(world.states().into_keys().collect::<Vec<_>>(), ["a", "b"]);
}

/// What waits for a disk that cannot be written is tried again and again, and nobody is told that all is well meanwhile.
#[tokio::test(start_paused = true)]
async fn nothing_is_well_before_something_was_written() {
    let world = World::new();
    let life = world.start_with(0, 1, vec![wish("a", "hello")]).await;
    world.log.hears("a", "accepted").await;
    life.kill().await;
    world.disk.set_read_only(true);
    let life = world.start(1, 1).await;
    tokio::time::sleep(4 * AGAIN).await;
    // The two starts, which could read it.
    assert_eq!(world.log.well.load(Ordering::Relaxed), 2);
    world.disk.heal();
    world.log.hears("a", "hello").await;
    tokio::time::sleep(2 * AGAIN).await;
    assert_eq!(world.log.well.load(Ordering::Relaxed), 3);
    life.stop().await;
}
