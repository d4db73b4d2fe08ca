use super::*;

fn read(disk: &Faulty, name: &str) -> Option<Vec<u8>> {
    disk.files().remove(name)
}

#[test]
fn what_was_synced_survives_and_the_rest_may() {
    let (mut kept, mut lost, mut torn, mut gone) = (0, 0, 0, 0);
    for seed in 0..200 {
        let disk = Faulty::new(seed);
        disk.write_synced("a", 0, b"safe").unwrap();
        disk.sync_names().unwrap();
        disk.write("a", 4, b"written").unwrap();
        disk.write_synced("b", 0, b"without a name").unwrap();
        disk.cut();
        let a = read(&disk, "a").unwrap();
        assert!(a.starts_with(b"safe"), "seed {seed}");
        match &a[4..] {
            b"written" => kept += 1,
            b"" => lost += 1,
            _ => torn += 1,
        }
        gone += i32::from(read(&disk, "b").is_none());
    }
    assert!(kept > 20 && lost > 20 && torn > 20 && gone > 20, "{kept} {lost} {torn} {gone}");
}

#[test]
fn names_return_unless_synced() {
    let (mut back, mut moved) = (0, 0);
    for seed in 0..100 {
        let disk = Faulty::new(seed);
        disk.replace("a", b"1").unwrap();
        disk.replace("b", b"2").unwrap();
        disk.remove("a").unwrap();
        disk.rename("b", "c").unwrap();
        disk.cut();
        back += i32::from(read(&disk, "a").is_some());
        moved += i32::from(read(&disk, "c").is_some());
        assert!(read(&disk, "b").is_some() != read(&disk, "c").is_some(), "seed {seed}");
        disk.remove("a").unwrap();
        disk.sync_names().unwrap();
        disk.cut();
        assert_eq!(read(&disk, "a"), None, "seed {seed}");
    }
    assert!((20..80).contains(&back) && (20..80).contains(&moved), "{back} {moved}");
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let mut lost = 0;
    for seed in 0..100 {
        let disk = Faulty::new(seed);
        disk.replace("a", b"").unwrap();
        disk.fail(0, Fault::Sync);
        assert_eq!(disk.write_synced("a", 0, b"bytes").unwrap_err().raw_os_error(), Some(libc::EIO));
        disk.write_synced("a", 5, b"").unwrap();
        disk.cut();
        lost += i32::from(read(&disk, "a").unwrap() != b"bytes");
    }
    assert!((20..80).contains(&lost), "{lost}");
}

#[test]
fn each_fault_is_met_once() {
    let disk = Faulty::new(1);
    disk.fail(1, Fault::Full);
    disk.write("a", 0, b"1").unwrap();
    assert_eq!(disk.write("a", 1, b"2").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    disk.write("a", 1, b"2").unwrap();
    disk.fail(0, Fault::Crash);
    disk.write("a", 2, b"3").unwrap_err();
    disk.read("a", 0, &mut [0]).unwrap_err();
    disk.kill();
    assert!(read(&disk, "a").unwrap().starts_with(b"12"));
    disk.set_budget(2 * PAGE);
    assert_eq!(disk.write("a", 0, &[0; 9000]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!((disk.size(), disk.peak()), (2 * PAGE, 2 * PAGE));
    disk.set_read_only(true);
    assert_eq!(disk.remove("a").unwrap_err().raw_os_error(), Some(libc::EROFS));
}
