use serde_json::{json, value::to_raw_value};

use super::*;
use crate::outbox::faulty::{Fault, Faulty};

fn brief(outcome: &RawValue) -> Box<RawValue> {
    let mut value: serde_json::Value = serde_json::from_str(outcome.get()).unwrap();
    value.as_object_mut().unwrap().remove("text");
    to_raw_value(&value).unwrap()
}

const SMALL: Kept = Kept { ids: 50, age: Duration::from_secs(3600), bytes: 3 << 20 };

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
    (open.into_iter().map(|open| (open.id, open.started)).collect(), untold)
}

#[test]
fn what_was_written_is_known_after_a_crash() {
    let disk = Faulty::new(1);
    let mut journal = open(&disk);
    journal.commit(vec![accepted("a", true), accepted("b", false), accepted("c", false)], None).unwrap();
    journal.commit(vec![ended("a", "x", time(5)), started("b")], None).unwrap();
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
        journal.commit(vec![accepted("a", true)], None).unwrap_err();
        assert_eq!(journal.state("a"), None);
    }
    journal.commit(vec![accepted("a", true)], None).unwrap();
    assert_eq!(journal.state("a"), Some(State::Started));
}

/// A damaged line of the past must not make something run again, or be told twice.
#[test]
fn a_line_whose_beginning_is_lost_still_counts() {
    let disk = Faulty::new(3);
    let mut journal = open(&disk);
    journal.commit(vec![started("a")], None).unwrap();
    journal.commit(vec![told("b")], None).unwrap();
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
    journal.commit(vec![accepted("open", true), accepted("waits", false)], None).unwrap();
    for n in 0..48 {
        let id = format!("id-{n}");
        journal.commit(vec![accepted(&id, true)], None).unwrap();
        journal.commit(vec![ended(&id, &long, time(n))], Some(time(n))).unwrap();
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
    journal.commit(vec![ended("a", "precious", time(0))], None).unwrap();
    for n in 0..30 {
        let id = format!("id-{n}");
        journal.commit(vec![ended(&id, &long, time(0))], None).unwrap();
        journal.note(&[told(&id)]).unwrap();
    }
    assert!(journal.lines.bytes() < 6 << 20);
    assert!(journal.outcome("a").unwrap().unwrap().get().contains("precious"));
    assert_eq!(ids(&open(&disk)).1, ["a"]);
}

#[test]
fn ids_are_forgotten_when_there_are_many_newer_or_they_are_old() {
    let long = "x".repeat(300 << 10);
    // By number, whatever the clock says: 200 ids where 50 are kept.
    let disk = Faulty::new(6);
    let mut journal = open(&disk);
    for n in 0..200 {
        let id = format!("id-{n}");
        journal.commit(vec![ended(&id, &long, time(n)), told(&id)], None).unwrap();
    }
    let known = (0..200).filter(|n| journal.state(&format!("id-{n}")).is_some()).count();
    assert!((50..70).contains(&known), "{known}");
    assert!((150..200).all(|n| journal.state(&format!("id-{n}")).is_some()));
    // By age, where the time is known.
    for (now, gone) in [(None, false), (Some(time(3000)), false), (Some(time(4000)), true)] {
        let disk = Faulty::new(7);
        let mut journal = open(&disk);
        for n in 0..40 {
            let id = format!("id-{n}");
            journal.commit(vec![ended(&id, &long, time(0)), told(&id)], now).unwrap();
        }
        assert_eq!(journal.state("id-0").is_none(), gone, "{now:?}");
    }
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
            if journal.commit(vec![line], None).is_ok() {
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
