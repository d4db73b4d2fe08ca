//! From the message to the end, on a disk that is well.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_order_is_accepted_run_ended_and_told_once() {
    let world = World::new();
    let life = world.start(2, 2).await;
    life.send(wish("a", "hello")).await;
    world.log.hears("a", "hello").await;
    assert_eq!(world.log.of("a"), ["accepted", "begun", "hello"]);
    assert_eq!(world.log.released(), ["a"]);
    life.stop().await;
    assert_eq!(world.states(), [("a".to_owned(), "ended")].into());
    let life = world.start(2, 2).await;
    life.send(wish("b", "bye")).await;
    world.log.hears("b", "bye").await;
    life.stop().await;
    assert_eq!(world.log.ends("a").len(), 1, "not told again by the next one");
    assert_eq!(world.log.ran(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn copies_in_one_batch_run_once() {
    let world = World::new();
    let batch = ["a", "b", "a", "a", "b"].map(|id| wish(id, "wait")).into();
    let life = world.start_with(1, 2, batch).await;
    world.log.hears("b", "accepted").await;
    world.log.go.notify_one();
    world.log.hears("a", "went").await;
    world.log.hears("b", "begun").await;
    life.send(wish("a", "wait")).await;
    world.log.go.notify_one();
    world.log.hears("b", "went").await;
    life.stop().await;
    assert_eq!(world.log.ran(), ["a", "b"]);
    assert!(world.log.ends("a").iter().all(|end| end == "went"));
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_place_is_told_busy() {
    let world = World::new();
    let batch = ["a", "b", "c", "d"].map(|id| wish(id, "wait")).into();
    let life = world.start_with(1, 2, batch).await;
    world.log.hears("d", "rejected: busy").await;
    assert_eq!((world.log.of("a").len(), world.log.of("b")), (2, vec!["accepted".to_owned()]));
    life.stop().await;
    assert_eq!(world.log.ran(), ["a"]);
}

/// However many come at once: not more bytes wait than may.
#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_in_bytes() {
    let world = World::new();
    let long = "x".repeat(200 << 10);
    let batch = (0..40).map(|n| wish(&format!("w{n}"), &format!("{long}{n}"))).collect::<Vec<_>>();
    let first = std::iter::once(wish("first", "wait")).chain(batch).collect();
    let life = world.start_with(1, 1000, first).await;
    world.log.hears("w39", "rejected: busy").await;
    let waiting = (0..40).filter(|n| world.log.of(&format!("w{n}")) == ["accepted"]).count();
    assert_eq!(waiting, WAITING / (200 << 10));
    life.kill().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_done_is_refused_and_stays_so() {
    let world = World::new();
    let life = world.start(1, 1).await;
    life.send(wish("a", "forbidden")).await;
    world.log.hears("a", "rejected: forbidden").await;
    life.send(wish("a", "hello")).await;
    life.send(message(&json!({ "id": "b" }))).await;
    world.log.hears("b", "rejected: no wish").await;
    life.send(message(&json!("nobody"))).await;
    life.stop().await;
    assert_eq!(world.log.ends("a"), ["rejected: forbidden", "rejected: forbidden"]);
    assert!(world.log.ran().is_empty());
}

/// Nobody can mean anything by such an id later: it takes no place among those that are known.
#[tokio::test(start_paused = true)]
async fn what_is_no_id_is_answered_and_not_written() {
    let world = World::new();
    let life = world.start(1, 1).await;
    life.send(message(&json!({ "id": "a/b", "bad id": true }))).await;
    world.log.hears("a/b", "rejected: no wish").await;
    life.send(wish("b", "hello")).await;
    world.log.hears("b", "hello").await;
    life.stop().await;
    assert_eq!(world.states().keys().collect::<Vec<_>>(), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn what_expires_while_it_waits_is_not_run() {
    let world = World::new();
    let now = Timestamp::from_system_time(world.harness.shared.clock.now()).as_millis();
    let late = json!({ "id": "late", "wish": "hello", "expires_at": now - 1 });
    let soon = json!({ "id": "soon", "wish": "hello", "expires_at": now + 300 });
    let life = world.start_with(1, 2, vec![wish("a", "wait"), message(&soon), message(&late)]).await;
    world.log.hears("late", "expired").await;
    world.log.hears("soon", "accepted").await;
    // The wall clock is not paused.
    let passed = || Timestamp::from_system_time(world.harness.shared.clock.now()).as_millis() > now + 300;
    while !passed() {
        std::thread::yield_now();
    }
    world.log.go.notify_one();
    world.log.hears("soon", "expired").await;
    life.stop().await;
    assert_eq!(world.log.ran(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn each_can_be_cancelled_wherever_it_is() {
    let world = World::new();
    let life = world.start_with(1, 4, vec![wish("runs", "wait"), wish("waits", "wait")]).await;
    world.log.hears("waits", "accepted").await;
    assert!(life.cancel("nobody").await.is_err());
    life.send(cancel("waits")).await;
    world.log.hears("waits", "cancelled").await;
    assert_eq!(life.cancel("waits").await, Ok("has ended already"));
    life.send(cancel("runs")).await;
    world.log.hears("runs", "cancelled").await;
    life.send(cancel("unheard")).await;
    life.send(wish("unheard", "hello")).await;
    life.send(wish("last", "bye")).await;
    world.log.hears("last", "bye").await;
    life.stop().await;
    assert_eq!(world.log.ran(), ["runs", "last"]);
    assert!(world.log.ends("unheard").iter().all(|end| end.contains("not known here")));
}

/// The order and the wish to cancel it have come together.
#[tokio::test(start_paused = true)]
async fn what_is_cancelled_in_the_turn_in_which_it_came_is_cancelled() {
    for running in [1, 2] {
        let world = World::new();
        let batch = vec![wish("a", "wait"), wish("b", "wait"), cancel("b")];
        let life = world.start_with(running, 2, batch).await;
        world.log.hears("b", "cancelled").await;
        world.log.go.notify_one();
        world.log.hears("a", "went").await;
        life.stop().await;
        assert_eq!(world.log.ends("b"), ["cancelled"], "{running}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_panics_is_an_end_like_others() {
    let world = World::new();
    let life = world.start(1, 1).await;
    life.send(wish("a", "panic")).await;
    world.log.hears("a", "interrupted").await;
    life.send(wish("b", "hello")).await;
    world.log.hears("b", "hello").await;
    life.stop().await;
}

/// The broker sends it again since its connection was lost: both are there when the turn begins.
#[tokio::test(start_paused = true)]
async fn copies_without_an_id_run_once() {
    let unnamed = |wish: &str, dup| {
        let mut message = message(&json!({ "wish": wish }));
        message.dup = dup;
        message
    };
    let world = World::new();
    let life = world.start_with(8, 8, vec![unnamed("one", false), unnamed("one", true)]).await;
    life.send(unnamed("one", true)).await;
    // Two were on their way.
    for (wish, dup) in [("two", false), ("three", false), ("two", true), ("three", true)] {
        life.send(unnamed(wish, dup)).await;
    }
    life.send(wish("last", "bye")).await;
    world.log.hears("last", "bye").await;
    life.stop().await;
    assert_eq!(world.log.ran().len(), 4, "{:?}", world.log.told());
    // Asked for again, it runs again.
    let life = world.start(8, 8).await;
    life.send(unnamed("three", true)).await;
    life.send(unnamed("three", false)).await;
    life.send(wish("really", "bye")).await;
    world.log.hears("really", "bye").await;
    life.stop().await;
    assert_eq!(world.log.ran().len(), 6, "{:?}", world.log.told());
}

#[tokio::test(start_paused = true)]
async fn what_was_open_is_taken_up_after_a_crash() {
    let world = World::new();
    world.log.held_up.store(true, std::sync::atomic::Ordering::Relaxed);
    let batch = vec![wish("told", "hello"), wish("runs", "wait"), wish("waits", "later")];
    let life = world.start_with(2, 2, batch).await;
    world.log.hears("told", "hello").await;
    world.log.hears("waits", "later").await;
    life.kill().await;
    let life = world.start_with(2, 2, vec![wish("waits", "later"), wish("runs", "wait")]).await;
    world.log.hears("runs", "recovered Some(false)").await;
    life.stop().await;
    assert_eq!(world.log.ran(), ["told", "runs", "waits"]);
    // The outbox had it not when it died: told again, and the same.
    assert_eq!(world.log.ends("told"), ["hello", "hello"]);
}

/// With nothing else to wake it up.
#[tokio::test(start_paused = true)]
async fn what_only_waited_runs_after_a_restart() {
    let world = World::new();
    let life = world.start_with(1, 2, vec![wish("runs", "wait"), wish("waits", "later")]).await;
    world.log.hears("waits", "accepted").await;
    life.stop().await;
    assert_eq!(world.log.ends("runs"), ["recovered None"]);
    let life = world.start(1, 2).await;
    world.log.hears("waits", "later").await;
    life.stop().await;
    assert_eq!(world.log.ran(), ["runs", "waits"]);
    assert_eq!(world.log.ends("runs"), ["recovered None"]);
}

/// It had ended when the service was to end: it was not interrupted.
#[tokio::test(start_paused = true)]
async fn what_has_ended_when_the_service_ends_is_told_as_it_was() {
    for _ in 0..20 {
        let world = World::new();
        let life = world.start(1, 2).await;
        life.send(wish("a", "wait")).await;
        world.log.hears("a", "begun").await;
        // The engine finds both when it looks next.
        world.log.go.notify_one();
        life.stop().await;
        assert_eq!(world.log.ends("a"), ["went"]);
        assert_eq!(world.log.released(), ["a"]);
    }
}
