//! Orders without an id, where their content stands for one.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;
use crate::clock::{Clock, Reading, built};

/// So long after its end: what tunnels have.
const STANDS: u64 = 60;

/// A world whose clock the test sets, in seconds.
fn world() -> (World, Arc<AtomicU64>) {
    let (mut world, clock) = (World::new(), Arc::new(AtomicU64::new(1000)));
    let set = Arc::clone(&clock);
    let read = move || Reading { time: built() + Duration::from_secs(set.load(Relaxed)), synchronised: true };
    let shared = Arc::get_mut(&mut world.harness.shared).expect("nobody else has it yet");
    shared.clock = Clock::with_source(built(), read);
    (world, clock)
}

fn unnamed(wish: &str) -> Inbound {
    message(&json!({ "wish": wish }))
}

impl World {
    /// Ends a life when it has looked at all that was sent.
    async fn catch_up(&self, life: &Life, last: &str) {
        life.send(wish(last, "seen")).await;
        self.log.hears(last, "seen").await;
    }
}

#[tokio::test(start_paused = true)]
async fn it_stands_for_its_copies_while_it_runs() {
    let (world, clock) = world();
    let life = world.start_of::<STANDS>(4, 0, vec![unnamed("wait"), unnamed("wait")]).await;
    world.catch_up(&life, "first").await;
    clock.fetch_add(3600, Relaxed);
    let mut copy = unnamed("wait");
    copy.dup = true;
    life.send(copy).await;
    life.send(unnamed("wait")).await;
    world.catch_up(&life, "second").await;
    let [id, _, _] = &world.log.ran()[..] else { panic!("{:?}", world.log.ran()) };
    assert_eq!(world.log.of(id), ["accepted", "begun", "begun", "begun", "begun"]);
    // What is asked otherwise is something else.
    life.send(unnamed("hello")).await;
    world.catch_up(&life, "third").await;
    assert_eq!(world.log.ran().len(), 5);
    life.kill().await;
}

#[tokio::test(start_paused = true)]
async fn and_for_a_minute_after_its_end_in_the_next_life_too() {
    let (world, clock) = world();
    let life = world.start_of::<STANDS>(4, 0, vec![unnamed("hello")]).await;
    world.catch_up(&life, "first").await;
    let id = world.log.ran()[0].clone();
    clock.fetch_add(STANDS - 1, Relaxed);
    life.send(unnamed("hello")).await;
    world.catch_up(&life, "second").await;
    life.kill().await;
    let life = world.start_of::<STANDS>(4, 0, vec![unnamed("hello")]).await;
    world.catch_up(&life, "third").await;
    // Its end was told three times, or a fourth time to be safe.
    assert!(world.log.ends(&id).len() >= 3 && world.log.ends(&id).iter().all(|end| end == "hello"));
    assert_eq!(world.log.ran().iter().filter(|ran| **ran == id).count(), 1);
    assert_eq!(world.log.ran().len(), 4, "{:?}", world.log.ran());
    // A clock that is set back does not make it younger than it is for longer than that.
    clock.fetch_sub(2 * STANDS, Relaxed);
    life.send(unnamed("hello")).await;
    world.catch_up(&life, "fourth").await;
    assert_eq!(world.log.ran().len(), 6, "{:?}", world.log.ran());
    life.stop().await;
}

/// Its name is taken by then, so it gets another.
#[tokio::test(start_paused = true)]
async fn later_the_same_is_another_order() {
    let (world, clock) = world();
    let life = world.start_of::<STANDS>(4, 0, vec![unnamed("hello")]).await;
    world.catch_up(&life, "first").await;
    clock.fetch_add(STANDS, Relaxed);
    life.send(unnamed("hello")).await;
    world.catch_up(&life, "second").await;
    life.stop().await;
    let ran = world.log.ran();
    assert_eq!(ran.len(), 4);
    assert_ne!(ran[0], ran[2]);
    for id in [&ran[0], &ran[2]] {
        assert_eq!(world.log.ends(id), ["hello"]);
    }
}
