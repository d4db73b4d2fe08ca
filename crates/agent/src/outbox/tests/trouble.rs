//! Disks that fail, and files that are not as they were written.

use super::*;

#[test]
fn a_disk_that_cannot_be_written_degrades_to_memory_and_back() {
    let world = World::new(1 << 20);
    let mut outbox = world.open();
    push(&mut outbox, Class::Event, "t", 10);
    world.commit(&mut outbox);
    let stored = push(&mut outbox, Class::Event, "t", 10);
    let plan = outbox.plan().unwrap();
    outbox.committed(plan, Err(io::Error::from_raw_os_error(libc::ENOSPC)));
    assert_eq!(stored.counts(), Counts { taken: 1, in_memory: 1, ..Counts::default() });
    assert!(outbox.degraded().unwrap().contains("No space left"));
    let taken = push(&mut outbox, Class::Event, "t", 10);
    let keys: Vec<_> = (0..2).map(|_| outbox.take(Class::Event).unwrap().0).collect();
    assert!(matches!(keys[..], [Key::Disk { .. }, Key::Memory { .. }]), "the oldest first");
    world.commit(&mut outbox);
    assert_eq!(outbox.degraded(), None);
    assert_eq!(taken.counts(), Counts { taken: 1, on_disk: 1, ..Counts::default() });
    keys.into_iter().for_each(|key| outbox.settle(key, Fate::Sent));
    assert!(stored.counts().is_settled());
    drop(outbox);
    let mut outbox = world.open();
    assert_eq!(drain(&mut outbox, Class::Event), [1, 3], "no process has noted that the first was sent");
}

#[test]
fn memory_is_bounded_while_nothing_can_be_written() {
    let world = World::new(16 << 20);
    let mut outbox = world.open();
    for _ in 0..3 {
        push(&mut outbox, Class::Audit, "a", 1000);
    }
    for _ in 0..5000 {
        push(&mut outbox, Class::Metrics, "m", 1000);
    }
    let metrics = outbox.stats(Class::Metrics);
    assert!(outbox.total().bytes <= super::PENDING);
    assert_eq!((metrics.messages + metrics.dropped, outbox.stats(Class::Audit).messages), (5000, 3));
}

#[test]
fn a_damaged_segment_costs_its_damaged_records_and_is_kept_aside() {
    let world = World::new(1 << 20);
    let mut outbox = world.open();
    for _ in 0..300 {
        push(&mut outbox, Class::Event, "t", 100);
        world.commit(&mut outbox);
    }
    drop(outbox);
    let segments: Vec<_> = world.names().into_iter().filter(|name| name.starts_with("event")).collect();
    assert!(segments.len() > 2, "{segments:?}");
    let path = world.dir.path().join("outbox").join(&segments[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    for at in [8 + 3 * 133 + 4, 8 + 6 * 133 + 50] {
        bytes[at] ^= 1;
    }
    std::fs::write(&path, bytes).unwrap();
    let mut outbox = world.open();
    let numbers = drain(&mut outbox, Class::Event);
    assert_eq!(numbers, (1..=300).filter(|n| ![4, 7].contains(n)).collect::<Vec<_>>());
    assert_eq!(outbox.total().damaged, 2);
    world.commit(&mut outbox);
    assert!(world.names().contains(&format!("{}.damaged", segments[0])), "{:?}", world.names());
}

/// With several segments, and with a single one that has the whole disk.
#[test]
fn a_disk_that_is_too_small_is_not_full_for_ever() {
    for (cap, budget) in (100..164).flat_map(|budget| [(8 << 20, budget), (64 << 20, budget)]) {
        let disk = faulty::Faulty::new(1);
        let mut outbox = Outbox::open(disk.clone(), cap, Clock::new(clock::built(), None));
        disk.set_budget(budget * 4096);
        let commit = |outbox: &mut Outbox| {
            if let Some(plan) = outbox.plan() {
                let result = plan.execute(&*disk);
                outbox.committed(plan, result);
            }
        };
        while outbox.degraded().is_none() {
            for _ in 0..40 {
                push(&mut outbox, Class::Metrics, "t", 1000);
            }
            commit(&mut outbox);
        }
        for _ in 0..9 {
            drain(&mut outbox, Class::Metrics);
            commit(&mut outbox);
        }
        assert_eq!(outbox.degraded(), None, "{budget} pages, {cap} wanted");
    }
}

#[test]
fn a_purge_of_what_was_set_aside_outlives_a_failure() {
    let world = World::new(1 << 20);
    let mut outbox = world.open();
    push(&mut outbox, Class::Event, "t", 10);
    world.commit(&mut outbox);
    let (key, record) = outbox.take(Class::Event).unwrap();
    outbox.settle(key, Fate::Refused { record, reason: "no".into() });
    world.commit(&mut outbox);
    outbox.purge_refused();
    let plan = outbox.plan().unwrap();
    outbox.committed(plan, Err(io::Error::from_raw_os_error(libc::EROFS)));
    world.commit(&mut outbox);
    assert!(!world.names().contains(&"refused.jsonl".to_owned()));
}

#[test]
fn what_is_being_written_is_not_overtaken_in_memory() {
    let world = World::new(1 << 20);
    let mut outbox = world.open();
    push(&mut outbox, Class::Event, "t", 10);
    let plan = outbox.plan().unwrap();
    outbox.committed(plan, Err(io::Error::from_raw_os_error(libc::ENOSPC)));
    let plan = outbox.plan().unwrap();
    push(&mut outbox, Class::Event, "t", 10);
    assert!(outbox.take(Class::Event).is_none(), "the first may be on disk in a moment");
    outbox.committed(plan, Err(io::Error::from_raw_os_error(libc::ENOSPC)));
    assert_eq!(drain(&mut outbox, Class::Event), [1, 2]);
}

#[test]
fn refused_messages_block_nothing_while_the_disk_is_not_even_looked_at() {
    let disk = faulty::Faulty::new(1);
    let mut outbox = Outbox::open(disk.clone(), 8 << 20, Clock::new(clock::built(), None));
    for _ in 0..600 {
        push(&mut outbox, Class::Event, "t", 10);
    }
    while let Some(plan) = outbox.plan() {
        let result = plan.execute(&*disk);
        outbox.committed(plan, result);
    }
    push(&mut outbox, Class::Event, "t", 2000);
    let plan = outbox.plan().unwrap();
    outbox.committed(plan, Err(io::Error::from_raw_os_error(libc::EIO)));
    // Its files cannot be listed.
    disk.fail(0, faulty::Fault::Read);
    let mut refused = 0;
    for _ in 0..4 {
        while let Some((key, record)) = outbox.take(Class::Event) {
            outbox.settle(key, Fate::Refused { record, reason: "no".into() });
            refused += 1;
        }
        disk.fail(0, faulty::Fault::Read);
        assert!(outbox.plan().is_none());
    }
    assert_eq!(refused, 601);
}

#[test]
fn files_with_impossible_numbers_are_survived() {
    for names in [
        &["event-00000000-ffffffffffffffff-00000000.log"][..],
        &["event-00000000-0000000000001000-00000000.log", "event-00000001-0000000000000005-00000000.log"],
        &["event-ffffffff-0000000000000000-00000000.log"],
    ] {
        let world = World::new(1 << 20);
        world.disk.list().unwrap();
        names.iter().for_each(|name| world.disk.write(name, 0, &format::FILE_HEAD).unwrap());
        let mut outbox = world.open();
        for _ in 0..3 {
            push(&mut outbox, Class::Event, "t", 10);
            world.commit(&mut outbox);
        }
        drop(outbox);
        let mut outbox = world.open();
        assert_eq!(drain(&mut outbox, Class::Event), [1, 2, 3], "{names:?}");
    }
}

/// Whoever reads is to try again until it works, or until there is nothing left to read.
#[test]
fn a_read_that_fails_is_known_until_there_is_no_need_of_it() {
    let world = World::new(1 << 20);
    let mut outbox = world.open();
    push(&mut outbox, Class::Event, "t", 10);
    world.commit(&mut outbox);
    let path = |name: &str| world.dir.path().join("outbox").join(name);
    let segment = world.names().into_iter().find(|name| name.starts_with("event")).unwrap();
    // No link is followed.
    std::fs::rename(path(&segment), path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(path("elsewhere"), path(&segment)).unwrap();
    assert!(outbox.take(Class::Event).is_none() && outbox.is_unreadable());
    assert!(outbox.take(Class::Metrics).is_none() && outbox.is_unreadable(), "of another class");
    std::fs::rename(path("elsewhere"), path(&segment)).unwrap();
    let (key, _) = outbox.take(Class::Event).unwrap();
    assert!(!outbox.is_unreadable());
    outbox.settle(key, Fate::Sent);

    push(&mut outbox, Class::Event, "t", 10);
    world.commit(&mut outbox);
    std::fs::rename(path(&segment), path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(path("elsewhere"), path(&segment)).unwrap();
    assert!(outbox.take(Class::Event).is_none() && outbox.is_unreadable());
    outbox.purge(&[Class::Event]);
    assert!(outbox.take(Class::Event).is_none() && !outbox.is_unreadable());
}
