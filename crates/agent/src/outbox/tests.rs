mod trouble;

use super::*;
use crate::clock;

struct World {
    dir: tempfile::TempDir,
    disk: Arc<Folder>,
    cap: u64,
}

impl World {
    fn new(cap: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = Arc::new(Folder::new(dir.path().join("outbox")));
        Self { dir, disk, cap }
    }

    fn open(&self) -> Outbox {
        let disk: Arc<dyn Disk> = Arc::clone(&self.disk) as _;
        Outbox::open(disk, self.cap, Clock::new(clock::built(), None))
    }

    fn commit(&self, outbox: &mut Outbox) {
        while let Some(plan) = outbox.plan() {
            let result = plan.execute(&*self.disk);
            outbox.committed(plan, result);
        }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.disk.list().unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        names
    }
}

fn push(outbox: &mut Outbox, class: Class, topic: &str, size: usize) -> Arc<Tally> {
    let tally = Arc::new(Tally::default());
    let mut payload = |seq: u64| format!("{seq:0size$}").into_bytes();
    let draft =
        Draft { class, topic: topic.into(), qos: Qos::AtLeastOnce, retain: false, payload: &mut payload };
    outbox.push(draft, Some(&tally));
    tally
}

/// Takes everything and says the broker has it; gives the numbers.
fn drain(outbox: &mut Outbox, class: Class) -> Vec<u64> {
    let mut numbers = Vec::new();
    while let Some((key, record)) = outbox.take(class) {
        numbers.push(std::str::from_utf8(&record.payload).unwrap().parse().unwrap());
        outbox.settle(key, Fate::Sent);
    }
    outbox.note();
    numbers
}

#[test]
fn what_is_pushed_comes_back_in_order_after_a_restart() {
    let world = World::new(1 << 20);
    let mut outbox = world.open();
    let tallies: Vec<_> = (0..3).map(|_| push(&mut outbox, Class::Event, "t", 100)).collect();
    assert!(outbox.take(Class::Event).is_none(), "nothing is sent before it is on disk");
    world.commit(&mut outbox);
    assert!(tallies.iter().all(|tally| tally.counts().on_disk == 1));
    assert_eq!(outbox.stats(Class::Event).messages, 3);
    drop(outbox);
    let mut outbox = world.open();
    assert_eq!(outbox.stats(Class::Event).messages, 3);
    assert_eq!(outbox.list(Class::Event, 1, 9).unwrap().len(), 2);
    assert_eq!(drain(&mut outbox, Class::Event), [1, 2, 3]);
    push(&mut outbox, Class::Event, "t", 100);
    world.commit(&mut outbox);
    drop(outbox);
    let mut outbox = world.open();
    assert_eq!(drain(&mut outbox, Class::Event), [4], "numbers go on, and none comes twice");
    assert_eq!(outbox.total(), Stats { sent: 4, ..Stats::default() });
    assert!(world.names().len() <= 3, "{:?}", world.names());
    assert!(world.dir.path().join("outbox").exists());
}

#[test]
fn acknowledgements_in_any_order_survive() {
    let world = World::new(1 << 20);
    let mut outbox = world.open();
    for _ in 0..10 {
        push(&mut outbox, Class::Metrics, "t", 50);
    }
    world.commit(&mut outbox);
    let mut taken: Vec<_> = std::iter::from_fn(|| outbox.take(Class::Metrics)).collect();
    for at in [7, 4, 4, 0] {
        let (key, _) = taken.remove(at);
        outbox.settle(key, Fate::Sent);
    }
    outbox.note();
    drop(outbox);
    let mut outbox = world.open();
    assert_eq!(outbox.total().messages, 6);
    assert_eq!(drain(&mut outbox, Class::Metrics), [2, 3, 4, 7, 9, 10]);
}

#[test]
fn a_full_outbox_drops_the_least_important_and_oldest_and_counts_it() {
    let world = World::new(64 << 10);
    let mut outbox = world.open();
    for _ in 0..400 {
        push(&mut outbox, Class::Metrics, "m", 400);
        world.commit(&mut outbox);
    }
    push(&mut outbox, Class::Audit, "a", 400);
    for _ in 0..100 {
        push(&mut outbox, Class::Command, "c", 400);
    }
    world.commit(&mut outbox);
    let used: u64 = world.disk.list().unwrap().iter().map(|(_, size)| plan::pages(*size)).sum();
    assert!(used <= 64 << 10, "{used}");
    let (metrics, command) = (outbox.stats(Class::Metrics), outbox.stats(Class::Command));
    assert_eq!(metrics.dropped + metrics.messages, 400);
    assert_eq!((outbox.stats(Class::Audit).messages, command.messages + command.dropped), (1, 100));
    assert_eq!(metrics.messages, 0, "all of it is less important");
    let kept = drain(&mut outbox, Class::Command);
    assert_eq!(kept, (100 - kept.len() as u64 + 1..=100).collect::<Vec<_>>(), "the oldest are gone");
    let own = push(&mut outbox, Class::Metrics, "m", 400);
    world.commit(&mut outbox);
    assert_eq!(own.counts().on_disk, 1, "there is room again");
}

#[test]
fn what_is_in_flight_when_it_is_dropped_counts_once() {
    let world = World::new(32 << 10);
    let mut outbox = world.open();
    let first = push(&mut outbox, Class::Metrics, "m", 1000);
    world.commit(&mut outbox);
    let (key, _) = outbox.take(Class::Metrics).unwrap();
    for _ in 0..50 {
        push(&mut outbox, Class::Metrics, "m", 1000);
        world.commit(&mut outbox);
    }
    let before = outbox.stats(Class::Metrics);
    assert_eq!(before.dropped + before.messages, 51);
    outbox.settle(key, Fate::Sent);
    assert_eq!(outbox.stats(Class::Metrics).dropped, before.dropped - 1);
    assert!(first.counts().is_settled());
}

#[test]
fn a_refused_message_is_set_aside_and_blocks_nothing() {
    let world = World::new(1 << 20);
    let mut outbox = world.open();
    let tally = push(&mut outbox, Class::Event, "t", 10);
    push(&mut outbox, Class::Event, "t", 10);
    world.commit(&mut outbox);
    let (key, record) = outbox.take(Class::Event).unwrap();
    outbox.settle(key, Fate::Refused { record, reason: "not authorised (0x87)".into() });
    world.commit(&mut outbox);
    assert_eq!((tally.counts().failed, outbox.total().refused), (1, 1));
    drop(outbox);
    let mut outbox = world.open();
    assert_eq!(drain(&mut outbox, Class::Event), [2]);
    assert_eq!(outbox.total().refused, 1);
    let line = std::fs::read_to_string(world.dir.path().join("outbox/refused.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["reason"], &line["payload"]), (&"not authorised (0x87)".into(), &"0000000001".into()));
    outbox.purge_refused();
    world.commit(&mut outbox);
    assert!(!world.names().contains(&"refused.jsonl".to_owned()));
}

#[test]
fn purging_forgets_what_waits() {
    let world = World::new(1 << 20);
    let mut outbox = world.open();
    for class in [Class::Event, Class::Metrics] {
        for _ in 0..20 {
            push(&mut outbox, class, "t", 10);
        }
    }
    world.commit(&mut outbox);
    push(&mut outbox, Class::Metrics, "t", 10);
    assert_eq!(outbox.purge(&[Class::Metrics]), 21);
    assert_eq!((outbox.stats(Class::Metrics).messages, outbox.stats(Class::Metrics).dropped), (0, 21));
    push(&mut outbox, Class::Metrics, "t", 10);
    world.commit(&mut outbox);
    drop(outbox);
    let mut outbox = world.open();
    assert_eq!(drain(&mut outbox, Class::Metrics), [42]);
    assert_eq!(drain(&mut outbox, Class::Event).len(), 20);
}

/// Two that publish by turns, and a broker that is away: no time or memory for each of their messages.
#[test]
fn senders_that_take_turns_cost_no_more_than_one() {
    let mut followers = followers::Followers::default();
    let tallies = [Arc::new(Tally::default()), Arc::new(Tally::default())];
    let began = std::time::Instant::now();
    for index in 0..200_000 {
        followers.follow(index, Arc::clone(&tallies[index as usize % 2]));
    }
    (0..200_000).for_each(|index| followers.tell(index, End::Sent));
    assert!(tallies.iter().all(|tally| tally.counts().acknowledged == 100_000));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
}

/// A disk that the outbox alone has filled: what the broker has goes, and makes room.
#[test]
fn a_list_of_large_messages_is_short() {
    let world = World::new(64 << 20);
    let mut outbox = world.open();
    for _ in 0..40 {
        push(&mut outbox, Class::Event, "t", 60_000);
    }
    world.commit(&mut outbox);
    let listed = outbox.list(Class::Event, 0, 256).unwrap();
    assert!((1..12).contains(&listed.len()), "{}", listed.len());
}

/// Whoever put them there: they are no reason to end.
#[test]
fn what_is_set_aside_keeps_to_the_size_too() {
    for cap in [64 << 10, 256 << 10, 8 << 20] {
        let disk = faulty::Faulty::new(1);
        let mut outbox = Outbox::open(disk.clone(), cap, Clock::new(clock::built(), None));
        let commit = |outbox: &mut Outbox| {
            while let Some(plan) = outbox.plan() {
                let result = plan.execute(&*disk);
                outbox.committed(plan, result);
            }
        };
        while outbox.total().dropped == 0 {
            push(&mut outbox, Class::Metrics, "t", 1000);
            commit(&mut outbox);
        }
        for round in 0..400 {
            push(&mut outbox, Class::Metrics, "t", 1000);
            if let Some((key, record)) = outbox.take(Class::Metrics) {
                outbox.settle(key, Fate::Refused { record, reason: "no".into() });
            }
            if round % 20 == 0 {
                commit(&mut outbox);
            }
        }
        commit(&mut outbox);
        assert!(disk.peak() <= cap, "{} of {cap}", disk.peak());
    }
}

/// There was nothing else to write.
#[test]
fn what_was_dropped_at_once_is_counted_for_good() {
    let world = World::new(64 << 10);
    let mut outbox = world.open();
    push(&mut outbox, Class::Metrics, "m", 40_000);
    world.commit(&mut outbox);
    assert_eq!(outbox.total().dropped, 1);
    drop(outbox);
    assert_eq!(world.open().total().dropped, 1);
}
