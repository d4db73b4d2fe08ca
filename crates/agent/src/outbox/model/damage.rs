//! Every bit of every file flipped, and every file cut short at every byte (D5).

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use super::{
    super::{
        Class, Draft, Fate, Outbox, Qos, Record,
        faulty::{Fault, Faulty},
        format,
        segment::Segment,
    },
    tier,
};

const CAP: u64 = 256 << 10;
const CLASSES: [Class; 3] = [Class::Command, Class::Location, Class::Metrics];

/// An outbox as a process left it: what waits in it, and where.
struct Left {
    files: BTreeMap<String, Vec<u8>>,
    records: Vec<Lain>,
    /// The last number of each topic.
    numbers: HashMap<String, u64>,
}

struct Lain {
    class: Class,
    record: Record,
    seq: u64,
    /// Sent before.
    sent: bool,
    /// Its bytes in the file.
    place: Option<(String, std::ops::Range<usize>)>,
}

#[derive(Clone, Copy)]
enum Harm {
    Flip(usize, u8),
    Truncate(usize),
}

fn push(outbox: &mut Outbox, class: Class, topic: &str, filler: &[u8]) -> (Record, u64) {
    let (mut made, qos) = ((Vec::new(), 0), Qos::AtLeastOnce);
    let mut payload = |seq: u64| {
        made = ([seq.to_string().as_bytes(), filler].concat(), seq);
        made.0.clone()
    };
    let draft = Draft { class, topic: topic.to_owned(), qos, retain: false, payload: &mut payload };
    outbox.push(draft, None);
    (Record { topic: topic.to_owned(), payload: made.0, qos, retain: false }, made.1)
}

fn commit(outbox: &mut Outbox, disk: &Faulty) {
    while let Some(plan) = outbox.plan() {
        let result = plan.execute(disk);
        assert!(result.is_ok(), "{result:?}");
        outbox.committed(plan, result);
    }
}

fn open(disk: &Arc<Faulty>) -> Outbox {
    Outbox::open(disk.clone(), CAP, super::clock())
}

impl Left {
    /// Thirty-three records, in two segments each, of which some have been sent.
    fn make() -> Self {
        let disk = Faulty::new(0);
        let (mut records, mut numbers) = (Vec::new(), HashMap::new());
        let mut outbox = open(&disk);
        for round in 0..11_u8 {
            for class in CLASSES {
                let topic = format!("t/{}/{}", class as u8, round % 2);
                let filler: &[u8] = match round {
                    4 => &[0xa5; 9],
                    _ => b" of a few",
                };
                let (record, seq) =
                    push(&mut outbox, class, &topic, &filler[..filler.len() - usize::from(round) % 3]);
                numbers.insert(topic, seq);
                records.push(Lain { class, record, seq, sent: round < 2 || round == 6, place: None });
            }
            if round == 7 {
                // Goes on in new files.
                disk.fail(0, Fault::Sync);
                let plan = outbox.plan().unwrap();
                let result = plan.execute(&*disk);
                assert!(result.is_err());
                outbox.committed(plan, result);
            }
            commit(&mut outbox, &disk);
        }
        let mut taken: Vec<_> = CLASSES.into_iter().flat_map(|class| take_all(&mut outbox, class)).collect();
        for (key, record) in taken.drain(..) {
            if records.iter().any(|lain| lain.record == record && lain.sent) {
                outbox.settle(key, Fate::Sent);
                outbox.note();
            }
        }
        commit(&mut outbox, &disk);
        outbox.note();
        records.sort_by_key(|lain| lain.class);
        let mut left = Self { files: disk.files(), records, numbers };
        left.find_places();
        left
    }

    /// Follows the records through the files of their class.
    fn find_places(&mut self) {
        for class in CLASSES {
            let mut segments: Vec<_> = self.files.keys().filter_map(|name| Segment::parse(name, 0)).collect();
            segments.retain(|(of, _)| *of == class);
            assert_eq!(segments.len(), 2);
            let second = segments[1].1.first as usize;
            let mut at = format::FILE_HEAD.len();
            for (index, lain) in self.records.iter_mut().filter(|lain| lain.class == class).enumerate() {
                if index == second {
                    at = format::FILE_HEAD.len();
                }
                let name = segments[usize::from(index >= second)].1.name(class);
                let end = at + format::size(&lain.record);
                assert!(self.files[&name][at..end].ends_with(&lain.record.payload));
                (lain.place, at) = (Some((name, at..end)), end);
            }
        }
    }

    /// What this may cost at most.
    fn may_lose(&self, name: &str, harm: Harm, lain: &Lain) -> bool {
        lain.place.as_ref().is_some_and(|(file, place)| {
            file == name
                && match harm {
                    Harm::Flip(at, _) => place.contains(&at),
                    Harm::Truncate(at) => place.end > at,
                }
        })
    }

    /// Opens what is left after the harm, adds a record of each class, and drains all; tells how many were lost.
    fn suffer(&self, name: &str, harm: Harm) -> u64 {
        let mut files = self.files.clone();
        let bytes = files.get_mut(name).unwrap();
        match harm {
            Harm::Flip(at, bit) => bytes[at] ^= 1 << bit,
            Harm::Truncate(at) => bytes.truncate(at),
        }
        let disk = Faulty::with(0, &files);
        let mut outbox = open(&disk);
        assert_eq!(outbox.degraded(), None);
        let mut added: Vec<Record> = Vec::new();
        for (class, (topic, last)) in CLASSES.into_iter().zip(&self.numbers) {
            let (record, seq) = push(&mut outbox, class, topic, b"");
            let numbers = self.records.iter().filter(|lain| lain.record.topic == *topic);
            let lost_count = numbers.clone().filter(|lain| self.may_lose(name, harm, lain)).count() as u64;
            assert!(*last - lost_count < seq && seq <= last + 1, "number {seq} of {topic} after {last}");
            added.push(record);
        }
        commit(&mut outbox, &disk);
        let mut lost = 0;
        for (class, added) in CLASSES.into_iter().zip(added) {
            lost += self.drain(&mut outbox, class, &added, (name, harm));
        }
        outbox.note();
        commit(&mut outbox, &disk);
        let total = outbox.total();
        assert_eq!((total.messages, total.damaged, total.dropped, total.refused), (0, lost, 0, 0));
        assert_eq!(open(&disk).total(), total);
        lost
    }

    fn drain(&self, outbox: &mut Outbox, class: Class, added: &Record, (name, harm): (&str, Harm)) -> u64 {
        let mut drained = take_all(outbox, class).into_iter().peekable();
        let mut lost = 0;
        for lain in self.records.iter().filter(|lain| lain.class == class) {
            match drained.next_if(|(_, record)| *record == lain.record) {
                Some((key, _)) => outbox.settle(key, Fate::Sent),
                None if lain.sent => {}
                None => {
                    assert!(self.may_lose(name, harm, lain), "number {} of {class} is lost", lain.seq);
                    lost += 1;
                }
            }
        }
        let (key, last) = drained.next().unwrap();
        assert_eq!(last, *added);
        outbox.settle(key, Fate::Sent);
        assert!(drained.next().is_none());
        lost
    }
}

fn take_all(outbox: &mut Outbox, class: Class) -> Vec<(super::super::Key, Record)> {
    std::iter::from_fn(|| outbox.take(class)).collect()
}

#[test]
fn prove_d5_damage_costs_only_what_it_hits() {
    let left = Left::make();
    let harms: Vec<(&String, Harm)> = left
        .files
        .iter()
        .flat_map(|(name, bytes)| {
            let flips = (0..bytes.len() * 8).map(|bit| Harm::Flip(bit / 8, (bit % 8) as u8));
            flips.chain((0..bytes.len()).map(Harm::Truncate)).map(move |harm| (name, harm))
        })
        .collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let results: Vec<(u64, Vec<String>)> = thread::scope(|scope| {
        let parts = (0..threads).map(|part| {
            let (left, harms) = (&left, &harms);
            scope.spawn(move || {
                let (mut lost, mut failed) = (0, Vec::new());
                for (name, harm) in harms.iter().skip(part).step_by(threads) {
                    match catch_unwind(AssertUnwindSafe(|| left.suffer(name, *harm))) {
                        Ok(records) => lost += records,
                        Err(_) => failed.push(match harm {
                            Harm::Flip(at, bit) => format!("{name}: byte {at} bit {bit} flipped"),
                            Harm::Truncate(at) => format!("{name}: truncated to {at}"),
                        }),
                    }
                }
                (lost, failed)
            })
        });
        parts.collect::<Vec<_>>().into_iter().map(|part| part.join().unwrap()).collect()
    });
    let lost: u64 = results.iter().map(|(lost, _)| lost).sum();
    let failed: Vec<&String> = results.iter().flat_map(|(_, failed)| failed).collect();
    let truncations = harms.iter().filter(|(_, harm)| matches!(harm, Harm::Truncate(_))).count();
    println!(
        "proof D5 tier={} wanted=0-panics,only-the-damaged-lost records={} flips={} truncations={truncations} lost={lost} panics={}",
        tier(),
        left.records.len(),
        harms.len() - truncations,
        failed.len()
    );
    assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), harms.len(), &failed[..failed.len().min(20)]);
}
