//! Processes that come and go on a disk that fails.

use std::collections::BTreeMap;

use testkit::{Rng, seed};

use super::*;

/// Whatever fails and dies whenever: what was acknowledged is there, in order, in one whole chain; and the broker gets
/// each of it, under one number.
#[test]
fn whatever_happens_the_chain_is_whole() {
    let seed = seed();
    for round in 0..50 {
        let mut story = Story::new(seed.wrapping_add(round));
        for process in 0..4 {
            story.process(process);
            // What was cut short is found by the next process.
            story.run(async |_, _| {});
            story.disk.kill();
            story.outbox.kill();
            // What died while it was written may be there, too.
            let found = ids(&story.disk);
            let acknowledged: Vec<_> =
                found.iter().filter(|id| story.recorded.contains(id)).cloned().collect();
            assert_eq!(acknowledged, story.recorded, "seed {seed} round {round}: {found:?}");
        }
        story.run(async |story, world| {
            world.note(&["end"]).await.unwrap();
            world.idle().await;
            story.send(world);
        });
        let mut verifier = Verifier::default();
        for record in story.sent.values() {
            verifier.take(record).unwrap_or_else(|fault| panic!("seed {seed} round {round}: {fault}"));
        }
        assert_eq!(verifier.records(), ids(&story.disk).len(), "seed {seed} round {round}");
    }
}

/// A few processes, one after the other, on one disk.
struct Story {
    rng: Rng,
    disk: Arc<Faulty>,
    outbox: Arc<Faulty>,
    /// Acknowledged, in order.
    recorded: Vec<String>,
    /// What the broker has, by number.
    sent: BTreeMap<u64, Vec<u8>>,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (disk, outbox) = (Faulty::new(rng.next_u64()), Faulty::new(rng.next_u64()));
        Self { rng, disk, outbox, recorded: Vec::new(), sent: BTreeMap::new() }
    }

    /// A process whose tasks all end with it.
    fn run(&mut self, life: impl AsyncFnOnce(&mut Self, &World)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new(&self.disk, &self.outbox);
            world.audit.resume();
            life(self, &world).await;
            world.idle().await;
        });
    }

    /// One with which something may go wrong.
    fn process(&mut self, process: u64) {
        let mut cut = self.rng.below(2) == 0;
        let faults = [None, Some(Fault::Full), Some(Fault::ReadOnly), Some(Fault::Sync), Some(Fault::Crash)];
        let fault = *self.rng.pick(&faults);
        // What a failed sync has left can be read, also by the next process, and is lost by a power cut after that: of
        // such a disk nothing can be promised. So the power cut comes at once, and what was found is safe before.
        cut |= fault == Some(Fault::Sync);
        self.run(async |story, world| {
            if fault == Some(Fault::Sync) {
                world.idle().await;
            }
            let after = story.rng.below(8);
            fault.into_iter().for_each(|fault| story.disk.fail(after, fault));
            for n in 0..story.rng.below(6) {
                let id = format!("{process}-{n}");
                if world.note(&[&id]).await.is_ok() {
                    story.recorded.push(id);
                }
                if story.rng.below(3) == 0 {
                    story.send(world);
                }
            }
        });
        self.disk.heal();
        if cut {
            self.disk.cut()
        } else {
            self.disk.kill()
        }
        self.outbox.kill();
    }

    /// To the broker, which gets one record for a number.
    fn send(&mut self, world: &World) {
        for Message { payload, .. } in world.published() {
            let seq = serde_json::from_slice::<Record>(&payload).unwrap().seq;
            let known = self.sent.insert(seq, payload.clone());
            assert!(known.is_none_or(|known| known == payload), "forked at {seq}");
        }
    }
}
