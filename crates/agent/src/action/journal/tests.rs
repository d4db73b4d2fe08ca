use serde_json::{json, value::to_raw_value};

use super::{known::UNNAMED, *};
use crate::outbox::faulty::{Fault, Faulty};

fn brief(outcome: &RawValue) -> Box<RawValue> {
    let mut value: serde_json::Value = serde_json::from_str(outcome.get()).unwrap();
    value.as_object_mut().unwrap().remove("text");
    to_raw_value(&value).unwrap()
}

const SMALL: Kept = Kept { ids: 50, bytes: 3 << 20 };

fn open(disk: &Arc<Faulty>) -> Journal {
    Journal::open(Arc::<Faulty>::clone(disk), SMALL, brief).unwrap()
}

fn time(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000).unwrap()
}

fn accepted(id: &str, started: bool) -> Line {
    let request = to_raw_value(&json!({ "do": id })).unwrap();
    let (id, boot_id) = (id.to_owned(), "b1".to_owned());
    Line::Accepted { id, n: 0, at: time(0), boot_id, unnamed: false, started, expires_at: None, request }
}

fn ended(id: &str, text: &str, at: Timestamp) -> Line {
    let outcome = to_raw_value(&json!({ "how": format!("well {id}"), "text": text })).unwrap();
    Line::Ended { id: id.to_owned(), n: 0, at, outcome, brief: false, told: false }
}

fn started(id: &str) -> Line {
    Line::Started { id: id.to_owned() }
}

fn told(id: &str) -> Line {
    Line::Told { id: id.to_owned() }
}

fn ids(journal: &Journal) -> (Vec<(String, bool)>, Vec<String>) {
    let (open, untold) = journal.unfinished().unwrap();
    let untold: Vec<String> = untold.into_iter().map(|(id, _)| id).collect();
    (open.into_iter().map(|open| (open.id, open.started)).collect(), untold)
}

#[test]
fn what_was_written_is_known_after_a_crash() {
    let disk = Faulty::new(1);
    let mut journal = open(&disk);
    journal.commit(vec![accepted("a", true), accepted("b", false), accepted("c", false)]).unwrap();
    journal.commit(vec![ended("a", "x", time(5)), started("b")]).unwrap();
    disk.cut();
    let mut journal = open(&disk);
    assert_eq!(journal.state("a"), Some(State::Ended { told: false }));
    assert_eq!((journal.state("b"), journal.state("c")), (Some(State::Started), Some(State::Waiting)));
    assert_eq!(journal.state("d"), None);
    assert_eq!(ids(&journal), (vec![("b".into(), true), ("c".into(), false)], vec!["a".into()]));
    assert!(journal.outcome("a").unwrap().unwrap().get().contains("well a"));
    assert!(journal.outcome("b").unwrap().is_none());
    journal.note(&[told("a")]).unwrap();
    disk.kill();
    assert_eq!(ids(&open(&disk)).1, Vec::<String>::new());
}

#[test]
fn what_could_not_be_written_is_not_known() {
    let disk = Faulty::new(2);
    let mut journal = open(&disk);
    for fault in [Fault::Full, Fault::ReadOnly, Fault::Sync] {
        disk.fail(0, fault);
        journal.commit(vec![accepted("a", true)]).unwrap_err();
        assert_eq!(journal.state("a"), None);
    }
    journal.commit(vec![accepted("a", true)]).unwrap();
    assert_eq!(journal.state("a"), Some(State::Started));
}

/// A damaged line of the past must not make something run again, or be told twice.
#[test]
fn a_line_whose_beginning_is_lost_still_counts() {
    let disk = Faulty::new(3);
    let mut journal = open(&disk);
    journal.commit(vec![started("a")]).unwrap();
    journal.commit(vec![told("b")]).unwrap();
    let journal = open(&disk);
    assert_eq!(journal.state("a"), Some(State::Started));
    assert_eq!(journal.state("b"), Some(State::Ended { told: true }));
    assert_eq!(ids(&journal), (vec![("a".into(), true)], vec![]));
    assert!(journal.outcome("b").unwrap().is_none());
}

/// Many ids with long outcomes: the disk stays bounded, the ids are known, also after a restart.
#[test]
fn ids_outlive_their_segment() {
    let disk = Faulty::new(4);
    let mut journal = open(&disk);
    let long = "x".repeat(200 << 10);
    journal.commit(vec![accepted("open", true), accepted("waits", false)]).unwrap();
    for n in 0..48 {
        let id = format!("id-{n}");
        journal.commit(vec![accepted(&id, true)]).unwrap();
        journal.commit(vec![ended(&id, &long, time(n))]).unwrap();
        journal.note(&[told(&id)]).unwrap();
        assert!(journal.lines.bytes() < 6 << 20, "{}", journal.lines.bytes());
    }
    let check = |journal: &Journal, synced: i64| {
        for n in 0..48 {
            let id = format!("id-{n}");
            let told = journal.state(&id) == Some(State::Ended { told: true });
            assert!(told || n > synced, "{id}");
            assert!(journal.outcome(&id).unwrap().unwrap().get().contains(&format!("well {id}")));
        }
        assert_eq!(ids(journal).0, [("open".into(), true), ("waits".into(), false)]);
    };
    check(&journal, 47);
    disk.cut();
    let journal = open(&disk);
    // The last mark was not synced.
    check(&journal, 46);
    assert!(journal.outcome("id-47").unwrap().unwrap().get().contains(&long));
    assert!(!journal.outcome("id-0").unwrap().unwrap().get().contains('x'), "only in brief");
}

/// An end that nobody has been told keeps what it has to tell.
#[test]
fn an_end_that_is_not_told_stays_whole() {
    let disk = Faulty::new(5);
    let mut journal = open(&disk);
    let long = "x".repeat(300 << 10);
    journal.commit(vec![ended("a", "precious", time(0))]).unwrap();
    for n in 0..30 {
        let id = format!("id-{n}");
        journal.commit(vec![ended(&id, &long, time(0))]).unwrap();
        journal.note(&[told(&id)]).unwrap();
    }
    assert!(journal.lines.bytes() < 6 << 20);
    assert!(journal.outcome("a").unwrap().unwrap().get().contains("precious"));
    assert_eq!(ids(&open(&disk)).1, ["a"]);
}

/// 200 ids where 50 are kept.
#[test]
fn ids_are_forgotten_when_there_are_many_newer() {
    let long = "x".repeat(300 << 10);
    let disk = Faulty::new(6);
    let mut journal = open(&disk);
    for n in 0..200 {
        let id = format!("id-{n}");
        journal.commit(vec![ended(&id, &long, time(n)), told(&id)]).unwrap();
    }
    let known = (0..200).filter(|n| journal.state(&format!("id-{n}")).is_some()).count();
    assert!((50..70).contains(&known), "{known}");
    assert!((150..200).all(|n| journal.state(&format!("id-{n}")).is_some()));
}

/// Power cuts at any time, on a disk that fails at times: what was committed is known, nothing is known that was not asked.
#[test]
fn a_model_of_crashes() {
    for seed in 0..80 {
        let (mut rng, disk) = (testkit::Rng::new(seed), Faulty::new(seed));
        let (mut journal, mut sure) = (open(&disk), Vec::<String>::new());
        for step in 0..60 {
            let id = format!("{step}");
            if rng.below(8) == 0 {
                disk.fail(rng.below(3), [Fault::Full, Fault::Sync, Fault::Crash][rng.below(3) as usize]);
            }
            let text = "y".repeat(rng.below(40 << 10) as usize);
            let line = if rng.below(3) == 0 { ended(&id, &text, time(0)) } else { accepted(&id, false) };
            if journal.commit(vec![line]).is_ok() {
                sure.push(id);
            }
            if rng.below(10) == 0 || disk.is_crashed() {
                if rng.below(2) == 0 {
                    disk.cut()
                } else {
                    disk.kill()
                }
                disk.heal();
                journal = open(&disk);
            }
            assert!(
                sure.iter().rev().take(45).all(|id| journal.state(id).is_some()),
                "seed {seed}, step {step}"
            );
            journal.unfinished().unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
        }
    }
}

/// A process wrote it and was killed before it was safe; the next one reads it, and acts on it.
#[test]
fn what_was_found_is_safe() {
    for seed in 0..100 {
        let disk = Faulty::new(seed);
        let mut journal = open(&disk);
        journal.commit(vec![accepted("a", true)]).unwrap();
        disk.fail(0, Fault::Crash);
        journal.commit(vec![ended("a", "x", time(5))]).unwrap_err();
        disk.kill();
        let found = open(&disk).state("a");
        disk.cut();
        assert_eq!(open(&disk).state("a"), found, "seed {seed}");
    }
}

/// Some of a batch got to a full disk: none of it counts, also for the next process.
#[test]
fn what_was_written_in_part_is_taken_back() {
    for seed in 0..200 {
        let disk = Faulty::new(seed);
        let mut journal = open(&disk);
        journal.commit(vec![accepted("a", true)]).unwrap();
        disk.fail(0, [Fault::Full, Fault::Sync][seed as usize % 2]);
        let batch = (0..10).map(|n| accepted(&n.to_string(), false)).collect();
        journal.commit(batch).unwrap_err();
        if seed % 3 == 0 {
            disk.cut();
        }
        let mut journal = open(&disk);
        assert_eq!(ids(&journal).0, [("a".to_owned(), true)], "seed {seed}");
        journal.commit(vec![accepted("b", false)]).unwrap();
        assert_eq!(ids(&open(&disk)).0.len(), 2);
    }
}

#[test]
fn what_has_no_id_is_known_by_what_it_asks() {
    let disk = Faulty::new(8);
    let mut journal = open(&disk);
    let unnamed = |id: &str, what: usize| Line::Accepted {
        id: id.to_owned(),
        n: 0,
        at: time(0),
        boot_id: String::new(),
        unnamed: true,
        started: true,
        expires_at: None,
        request: to_raw_value(&what).unwrap(),
    };
    journal.commit((0..=UNNAMED).map(|n| unnamed(&format!("id-{n}"), n)).collect()).unwrap();
    journal.commit(vec![unnamed("another", 5)]).unwrap();
    for journal in [&journal, &open(&disk)] {
        assert_eq!((journal.unnamed("0"), journal.unnamed("7")), (None, Some(("id-7", None))));
        assert_eq!(journal.unnamed("5"), Some(("another", None)));
    }
    // What has ended says when, and goes first.
    let (n, outcome) = (0, RawValue::NULL.to_owned());
    let ended = Line::Ended { id: "id-7".to_owned(), n, at: time(9), outcome, brief: false, told: false };
    journal.commit(vec![ended]).unwrap();
    assert_eq!(journal.unnamed("7"), Some(("id-7", Some(time(9)))));
    assert_eq!(open(&disk).unnamed("7"), Some(("id-7", Some(time(9)))));
    journal.commit(vec![unnamed("one more", 10_000)]).unwrap();
    assert_eq!((journal.unnamed("7"), journal.unnamed("8")), (None, Some(("id-8", None))));
}
