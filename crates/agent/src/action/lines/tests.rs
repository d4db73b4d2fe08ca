use super::*;
use crate::outbox::faulty::{Fault, Faulty};

fn open(disk: &Arc<Faulty>) -> (Lines, Damage, Vec<String>) {
    let mut found = Vec::new();
    let disk: Arc<dyn Disk> = Arc::<Faulty>::clone(disk);
    let (lines, damage) = Lines::open(disk, &mut |_, line| found.push(line.to_owned())).unwrap();
    (lines, damage, found)
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!(r#"{{"n":{n},"text":"{}"}}"#, "x".repeat(n % 50))).collect()
}

#[test]
fn what_was_appended_is_found_again() {
    let disk = Faulty::new(1);
    let (mut lines, ..) = open(&disk);
    let places = lines.append(&numbered(0..3)).unwrap();
    let more = lines.append_unsynced(&numbered(3..5)).unwrap();
    assert_eq!(lines.read(places[1]).unwrap(), numbered(1..2)[0]);
    assert_eq!(lines.read(more[1]).unwrap(), numbered(4..5)[0]);
    disk.kill();
    let (lines, damage, found) = open(&disk);
    assert_eq!((damage, found), (Damage::default(), numbered(0..5)));
    assert_eq!(lines.read(places[2]).unwrap(), numbered(2..3)[0]);
}

#[test]
fn what_is_synced_survives_a_power_cut() {
    for seed in 0..200 {
        let disk = Faulty::new(seed);
        let (mut lines, ..) = open(&disk);
        lines.append(&numbered(0..2)).unwrap();
        lines.append_unsynced(&numbered(2..4)).unwrap();
        disk.cut();
        let (mut lines, _, found) = open(&disk);
        assert_eq!(found[..2], numbered(0..2), "seed {seed}");
        lines.append(&numbered(9..10)).unwrap();
        disk.cut();
        let (_, _, found) = open(&disk);
        assert_eq!(found.last(), numbered(9..10).last(), "seed {seed}");
    }
}

#[test]
fn segments_are_dropped_from_the_oldest_on() {
    let disk = Faulty::new(3);
    let (mut lines, ..) = open(&disk);
    let long = |n: usize| vec![format!("\"{n}{}\"", "y".repeat(600 << 10))];
    (0..6).for_each(|n| drop(lines.append(&long(n)).unwrap()));
    assert_eq!(lines.segments(), 3);
    let mut first = Vec::new();
    lines.read_first(&mut |_, line| first.push(line.to_owned())).unwrap();
    assert_eq!(first, [long(0), long(1)].concat());
    let before = lines.bytes();
    lines.drop_first().unwrap();
    assert!(before - lines.bytes() > 1200 << 10);
    let (lines, damage, found) = open(&disk);
    assert_eq!((damage, found.len(), lines.segments()), (Damage::default(), 4, 2));
}

/// Whatever byte is changed or missing: its line is lost, at most the next one with it, and nothing is made up.
#[test]
fn damage_costs_only_the_damaged_lines() {
    let disk = Faulty::new(4);
    let (mut lines, ..) = open(&disk);
    lines.append(&numbered(0..6)).unwrap();
    let files = disk.files();
    let (name, content) = files.first_key_value().unwrap();
    for at in 0..content.len() {
        for change in [0x01, 0x20, 0x80, content[at] ^ b'\n'] {
            let mut changed = content.clone();
            changed[at] ^= change;
            let disk = Faulty::with(5, &[(name.clone(), changed)].into());
            let (mut lines, damage, found) = open(&disk);
            assert!(found.len() >= 4 && found.iter().all(|line| numbered(0..6).contains(line)));
            assert!(found.len() == 6 || damage != Damage::default());
            lines.append(&numbered(7..8)).unwrap();
            assert_eq!(open(&disk).2.last(), numbered(7..8).last());
        }
        let disk = Faulty::with(6, &[(name.clone(), content[..at].to_vec())].into());
        let (mut lines, _, found) = open(&disk);
        assert_eq!(found, numbered(0..6)[..found.len()]);
        lines.append(&numbered(7..8)).unwrap();
        assert_eq!(open(&disk).2.last(), numbered(7..8).last());
    }
}

#[test]
fn after_a_failed_write_another_file_is_begun() {
    for fault in [Fault::Full, Fault::ReadOnly, Fault::Sync] {
        let disk = Faulty::new(7);
        let (mut lines, ..) = open(&disk);
        lines.append(&numbered(0..1)).unwrap();
        disk.fail(0, fault);
        lines.append(&numbered(1..2)).unwrap_err();
        lines.append(&numbered(2..3)).unwrap();
        assert_eq!(lines.segments(), 2);
        disk.cut();
        let (.., found) = open(&disk);
        assert_eq!((found.first(), found.last()), (numbered(0..1).first(), numbered(2..3).first()));
    }
}

#[test]
fn a_later_version_is_read_and_never_written() {
    let mut content = String::new();
    push(&mut content, r#"{"version":2,"new":true}"#);
    push(&mut content, "17");
    let before: std::collections::BTreeMap<_, _> = [(name_of(4), content.into_bytes())].into();
    let disk = Faulty::with(9, &before);
    let (mut lines, damage, found) = open(&disk);
    assert_eq!((damage.newer, found), (1, vec!["17".to_owned()]));
    lines.append(&numbered(0..1)).unwrap();
    assert_eq!(disk.files()[&name_of(4)], before[&name_of(4)]);
}
