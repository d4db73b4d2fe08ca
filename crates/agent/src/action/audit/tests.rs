use std::{collections::BTreeMap, time::Duration};

use tokio::time::timeout;

use super::*;
use crate::{
    clock,
    mqtt::Message,
    outbox::{
        Outbox,
        faulty::{Fault, Faulty},
    },
};

mod story;

const SOON: Duration = Duration::from_secs(20);

/// A process with an audit on a disk that may fail, and an outbox on another.
struct World {
    audit: Audit,
    mqtt: Mqtt,
    outbox: Arc<Faulty>,
    device: watch::Sender<Option<Device>>,
}

fn device() -> Option<Device> {
    Some(Device { device_id: "d1".parse().unwrap(), profile: Default::default() })
}

impl World {
    fn new(disk: &Arc<Faulty>, outbox: &Arc<Faulty>) -> Self {
        let clock = Clock::new(clock::built(), None);
        let device = watch::Sender::new(device());
        let audit = Audit::new(Arc::<Faulty>::clone(disk), clock.clone(), "iot", device.subscribe());
        let mqtt = Mqtt::with_driver_played(Outbox::open(Arc::<Faulty>::clone(outbox), 1 << 20, clock));
        audit.attach(&mqtt);
        Self { audit, mqtt, outbox: Arc::clone(outbox), device }
    }

    async fn note(&self, ids: &[&str]) -> Result<(), Error> {
        timeout(SOON, self.audit.note(ids.iter().map(|id| note(id)).collect())).await.expect("it hangs")
    }

    /// Writes the outbox, as the agent's committer does.
    fn commit(&self) {
        self.mqtt.change_outbox(|outbox| {
            while let Some(plan) = outbox.plan() {
                let written = plan.execute(&*self.outbox);
                outbox.committed(plan, written);
            }
        });
    }

    /// What the broker gets.
    fn published(&self) -> Vec<Message> {
        self.commit();
        self.mqtt.take_published()
    }

    /// Waits until nothing is done any more.
    async fn idle(&self) {
        timeout(SOON, async {
            while lock(&self.audit.shared.queue).busy {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it goes on and on");
    }
}

fn note(id: &str) -> Note {
    Note {
        action: "command",
        id: id.to_owned(),
        decision: Decision::Asked,
        rule: None,
        detail: "true".to_owned(),
    }
}

/// The ids on disk, in order, of a chain that is whole.
#[track_caller]
fn ids(disk: &Arc<Faulty>) -> Vec<String> {
    let disk: Arc<dyn Disk> = Arc::<Faulty>::clone(disk);
    let (_, fault) = verify(&disk).unwrap();
    assert_eq!(fault, None);
    let records = Log::read(disk).unwrap().records;
    records.iter().map(|record| serde_json::from_str::<Record>(record).unwrap().id).collect()
}

fn payload_ids(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| serde_json::from_slice::<Record>(&message.payload).unwrap().id).collect()
}

#[tokio::test]
async fn a_record_is_on_disk_and_goes_up_as_it_is_there() {
    let (disk, outbox) = (Faulty::new(1), Faulty::new(2));
    let world = World::new(&disk, &outbox);
    world.note(&["a", "b"]).await.unwrap();
    let refused = Note {
        decision: Decision::Refused,
        rule: Some("command.named.x".to_owned()),
        detail: "é".repeat(1000),
        ..note("c")
    };
    world.audit.note(vec![refused]).await.unwrap();
    let on_disk = Log::read(Arc::<Faulty>::clone(&disk)).unwrap().records;
    world.idle().await;
    let sent = world.published();
    assert!(sent.iter().all(|message| message.topic == "iot/d1/audit" && message.qos == Qos::AtLeastOnce));
    let payloads: Vec<_> =
        sent.iter().map(|message| String::from_utf8(message.payload.clone()).unwrap()).collect();
    assert_eq!(payloads, on_disk);
    let last: Record = serde_json::from_str(&payloads[2]).unwrap();
    assert_eq!((last.seq, last.detail), (3, "é".repeat(512)));
    assert_eq!(last.prev, protocol::audit::digest(payloads[1].as_bytes()));
    assert_eq!((last.decision, last.rule.as_deref()), (Decision::Refused, Some("command.named.x")));
    assert_eq!(ids(&disk), ["a", "b", "c"]);
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart_and_nothing_goes_up_twice() {
    let (disk, outbox) = (Faulty::new(1), Faulty::new(2));
    for round in 0..3 {
        let world = World::new(&disk, &outbox);
        world.audit.resume();
        world.note(&[&format!("a{round}")]).await.unwrap();
        world.note(&[&format!("b{round}")]).await.unwrap();
        world.idle().await;
        assert_eq!(payload_ids(&world.published()), [format!("a{round}"), format!("b{round}")]);
        // Until the mark is written.
        timeout(SOON, async {
            while !lock(&world.audit.shared.desk).flights.is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        world.idle().await;
        disk.kill();
        outbox.kill();
    }
    assert_eq!(ids(&disk), ["a0", "b0", "a1", "b1", "a2", "b2"]);
}

/// Recorded, and the agent dies before the outbox has it on disk.
#[tokio::test]
async fn what_the_outbox_never_wrote_is_handed_to_it_again() {
    let (disk, outbox) = (Faulty::new(1), Faulty::new(2));
    let world = World::new(&disk, &outbox);
    world.note(&["a", "b"]).await.unwrap();
    let before = Log::read(Arc::<Faulty>::clone(&disk)).unwrap().records;
    world.idle().await;
    drop(world);
    disk.kill();
    outbox.kill();
    let world = World::new(&disk, &outbox);
    world.audit.resume();
    world.idle().await;
    let sent = world.published();
    assert_eq!(
        sent.iter().map(|message| message.payload.clone()).collect::<Vec<_>>(),
        before.iter().map(|record| record.clone().into_bytes()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn without_an_id_nothing_is_recorded() {
    let (disk, outbox) = (Faulty::new(1), Faulty::new(2));
    let world = World::new(&disk, &outbox);
    world.device.send_replace(None);
    assert!(matches!(world.note(&["a"]).await, Err(Error::NotEnrolled)));
    world.audit.resume();
    world.device.send_replace(device());
    world.note(&["b"]).await.unwrap();
    assert_eq!(ids(&disk), ["b"]);
}

#[tokio::test]
async fn what_could_not_be_written_was_not_recorded() {
    for fault in [Fault::Full, Fault::ReadOnly, Fault::Sync] {
        for (seed, after) in (0..20).flat_map(|seed| [(seed, 0), (seed, 1)]) {
            let (disk, outbox) = (Faulty::new(seed), Faulty::new(seed));
            let world = World::new(&disk, &outbox);
            let mut recorded = Vec::new();
            if after == 0 {
                world.note(&["a"]).await.unwrap();
                recorded.push("a".to_owned());
            }
            disk.fail(after, fault);
            for id in ["b", "c", "d"] {
                match world.note(&[id, "x"]).await {
                    Ok(()) => recorded.extend([id.to_owned(), "x".to_owned()]),
                    Err(error) => assert!(matches!(error, Error::Log(_)), "{error}"),
                }
            }
            world.idle().await;
            assert!(recorded.ends_with(&["d".to_owned(), "x".to_owned()]), "it recovers by itself");
            assert_eq!(ids(&disk), recorded, "{fault:?} seed {seed}");
            assert_eq!(payload_ids(&world.published()), recorded);
            disk.cut();
            assert_eq!(ids(&disk), recorded, "{fault:?} seed {seed} after a power cut");
        }
    }
}

/// A disk that is full for long, and tried again and again.
#[tokio::test]
async fn a_full_disk_does_not_grow() {
    let (disk, outbox) = (Faulty::new(3), Faulty::new(3));
    let world = World::new(&disk, &outbox);
    world.note(&["a"]).await.unwrap();
    disk.set_budget(disk.size());
    for n in 0..500 {
        if world.note(&["b"]).await.is_err() && n > 450 {
            break;
        }
    }
    assert!(disk.files().len() <= 3, "{:?}", disk.files().keys());
    disk.heal();
    world.note(&["c"]).await.unwrap();
    let found = ids(&disk);
    assert_eq!((found.first().map(String::as_str), found.last().map(String::as_str)), (Some("a"), Some("c")));
}

#[tokio::test]
async fn notes_of_many_are_written_together() {
    let (disk, outbox) = (Faulty::new(1), Faulty::new(2));
    let world = World::new(&disk, &outbox);
    world.note(&["first"]).await.unwrap();
    let before = disk.mutations();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..1000 {
        let audit = world.audit.clone();
        tasks.spawn(async move { audit.note(vec![note(&format!("{n}"))]).await });
    }
    while let Some(done) = timeout(SOON, tasks.join_next()).await.expect("it hangs") {
        done.unwrap().unwrap();
    }
    assert!(disk.mutations() - before < 1000, "{}", disk.mutations() - before);
    assert_eq!(ids(&disk).len(), 1001);
}

#[tokio::test]
async fn the_log_is_bounded_and_says_what_is_gone() {
    let (disk, outbox) = (Faulty::new(1), Faulty::new(2));
    let world = World::new(&disk, &outbox);
    let long = Note { detail: "x".repeat(1024), ..note("a") };
    for _ in 0..40 {
        timeout(SOON, world.audit.note(vec![long.clone(); 200])).await.unwrap().unwrap();
        assert!(disk.size() <= 8 << 20, "{}", disk.size());
        drop(world.published());
    }
    let log: Arc<dyn Disk> = Arc::<Faulty>::clone(&disk);
    let (verifier, fault) = verify(&log).unwrap();
    assert_eq!(fault, None);
    assert!(verifier.records() > 3000 && verifier.summary().contains("older ones are not here"));
    drop(world);
    let world = World::new(&disk, &outbox);
    world.note(&["after"]).await.unwrap();
    let last = Log::read(Arc::clone(&log)).unwrap().records.pop().unwrap();
    assert_eq!(serde_json::from_str::<Record>(&last).unwrap().seq, 40 * 200 + 1);
}

fn with(files: &BTreeMap<String, Vec<u8>>, name: &str, content: Vec<u8>) -> Arc<dyn Disk> {
    let mut files = files.clone();
    files.insert(name.to_owned(), content);
    Faulty::with(1, &files)
}

/// Whoever changes, cuts or repeats any byte is found out.
#[tokio::test]
async fn no_byte_can_be_changed_unnoticed() {
    let (disk, outbox) = (Faulty::new(1), Faulty::new(2));
    let world = World::new(&disk, &outbox);
    world.note(&["a", "b"]).await.unwrap();
    world.published();
    world.note(&["c"]).await.unwrap();
    world.idle().await;
    let files = disk.files();
    assert_eq!((files.len(), ids(&disk).len()), (1, 3));
    for (name, content) in &files {
        for at in 0..content.len() {
            for change in [0x01, 0x20, 0x80] {
                let mut changed = content.clone();
                changed[at] ^= change;
                let (_, fault) = verify(&with(&files, name, changed)).unwrap();
                assert!(fault.is_some(), "{name}: byte {at}, {change:#x}");
            }
            if content[at] == b'\n' {
                // An empty line is none.
                continue;
            }
            let mut longer = content.clone();
            longer.insert(at, content[at]);
            assert!(verify(&with(&files, name, longer)).unwrap().1.is_some(), "{name}: byte {at} twice");
        }
    }
}

/// What a failed write has left is not a part of the chain, and can be anything; all else is.
#[tokio::test]
async fn what_was_never_recorded_does_not_count() {
    let (disk, outbox) = (Faulty::new(1), Faulty::new(2));
    let world = World::new(&disk, &outbox);
    world.note(&["a", "b"]).await.unwrap();
    disk.fail(0, Fault::Sync);
    world.note(&["never"]).await.unwrap_err();
    world.note(&["c"]).await.unwrap();
    world.idle().await;
    let files = disk.files();
    assert_eq!((files.len(), ids(&disk)), (2, ["a", "b", "c"].map(str::to_owned).to_vec()));
    let (before, whole) = (Log::read(Arc::<Faulty>::clone(&disk)).unwrap().records, &mut 0);
    for (name, content) in &files {
        for at in 0..content.len() {
            let mut changed = content.clone();
            changed[at] ^= 1;
            let changed = with(&files, name, changed);
            if verify(&changed).unwrap().1.is_none() {
                assert_eq!(Log::read(changed).unwrap().records, before, "{name}: byte {at}");
                *whole += 1;
            }
        }
    }
    assert!(*whole > 0 && *whole < 500, "{whole}");
}

/// A damaged record costs itself: the chain goes on, and the gap shows.
#[tokio::test]
async fn damage_is_told_and_the_chain_goes_on() {
    let (disk, outbox) = (Faulty::new(1), Faulty::new(2));
    let world = World::new(&disk, &outbox);
    world.note(&["a", "b", "c"]).await.unwrap();
    world.idle().await;
    drop(world);
    let (name, content) = disk.files().pop_first().unwrap();
    let text = String::from_utf8(content).unwrap();
    let disk = Faulty::with(1, &[(name, text.replace("\"b\"", "\"B\"").into_bytes())].into());
    let world = World::new(&disk, &outbox);
    world.note(&["d"]).await.unwrap();
    let log: Arc<dyn Disk> = disk;
    let (verifier, fault) = verify(&log).unwrap();
    assert_eq!(verifier.records(), 1);
    assert_eq!(fault.as_deref(), Some("record 3 follows record 1: what was between them is missing"));
    let records = Log::read(log).unwrap().records;
    let last: Record = serde_json::from_str(records.last().unwrap()).unwrap();
    assert_eq!((last.seq, last.prev), (4, protocol::audit::digest(records[1].as_bytes())));
}
