use std::os::unix::fs::symlink;

use serde::Deserialize;
use tempfile::TempDir;

use super::*;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Counter {
    name: String,
    seq: u64,
}

fn counter(seq: u64) -> Counter {
    Counter { name: "pump".into(), seq }
}

fn fresh() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("state")).unwrap();
    (dir, store)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn keeps_what_is_written_privately() {
    let (_dir, store) = fresh();
    assert_eq!(store.read::<Counter>("c.json").unwrap(), None);
    store.write("c.json", &counter(7)).unwrap();
    store.write("c.json", &counter(8)).unwrap();
    assert_eq!(store.read("c.json").unwrap(), Some(counter(8)));
    assert_eq!(names(store.path()), ["c.json", "pid"]);
    assert_eq!(mode(store.path()), 0o700);
    assert_eq!(mode(&store.path().join("c.json")), 0o600);
    assert_eq!(mode(&store.path().join("pid")), 0o600);
}

#[test]
fn a_folder_is_made_by_its_first_write() {
    let (_dir, store) = fresh();
    let folder = store.folder("heartbeat").unwrap();
    assert_eq!(folder.read::<Counter>("c.json").unwrap(), None);
    assert!(!folder.path().exists());
    folder.write("c.json", &counter(1)).unwrap();
    assert_eq!(mode(folder.path()), 0o700);
    assert_eq!(folder.read("c.json").unwrap(), Some(counter(1)));
    assert_eq!(store.read::<Counter>("c.json").unwrap(), None);
}

#[test]
fn refuses_names_that_lead_elsewhere() {
    let (_dir, store) = fresh();
    for name in ["", ".", "..", "a/b", "../x", ".hidden", "pid", "nul\0", "ö"] {
        assert!(matches!(store.write(name, &counter(1)), Err(Error::Name { .. })), "{name:?}");
        assert!(matches!(store.read::<Counter>(name), Err(Error::Name { .. })), "{name:?}");
        assert!(matches!(store.folder(name), Err(Error::Name { .. })), "{name:?}");
    }
}

#[test]
fn refuses_a_value_that_is_no_object() {
    let (_dir, store) = fresh();
    assert!(matches!(store.write("c.json", &7), Err(Error::Encode { .. })));
    assert_eq!(names(store.path()), ["pid"]);
}

#[test]
fn a_second_agent_is_told_who_holds_the_folder() {
    let (_dir, store) = fresh();
    let folder = store.folder("heartbeat").unwrap();
    let refused = Store::open(store.path()).unwrap_err().to_string();
    assert!(
        refused.ends_with(&format!("in use by another iot-agent, process {}", std::process::id())),
        "{refused}"
    );
    let path = store.path().to_owned();
    drop(store);
    assert!(matches!(Store::open(&path), Err(Error::InUse { .. })), "a sub-folder holds the lock too");
    drop(folder);
    Store::open(&path).unwrap();
}

#[test]
fn a_child_that_still_has_the_descriptor_keeps_nobody_out() {
    let (_dir, store) = fresh();
    let _childs = store.shared.lock.as_ref().unwrap().try_clone().unwrap();
    let path = store.path().to_owned();
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn takes_the_folder_from_others() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    Store::open(dir.path()).unwrap();
    assert_eq!(mode(dir.path()), 0o700);
}

#[test]
fn refuses_another_users_folder() {
    if !geteuid().is_root() {
        return; // Nobody else can give a folder away.
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(1234), None).unwrap();
    assert!(matches!(Store::open(dir.path()), Err(Error::Owner { owner: 1234, user: 0, .. })));
}

#[test]
fn says_which_folder_cannot_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("state")] {
        let refused = Store::open(&path).unwrap_err();
        assert!(matches!(&refused, Error::Create { path: named, .. } if *named == path), "{refused:?}");
    }
}

#[test]
fn removes_what_a_power_cut_left() {
    let (_dir, store) = fresh();
    let path = store.path().to_owned();
    let folder = path.join("heartbeat");
    fs::create_dir(&folder).unwrap();
    for left in [path.join(".c.json.tmp"), folder.join(".c.json.tmp")] {
        fs::write(left, "half").unwrap();
    }
    drop(store);
    let store = Store::open(&path).unwrap();
    store.folder("heartbeat").unwrap();
    assert_eq!(names(&path), ["heartbeat", "pid"]);
    assert_eq!(names(&folder), [""; 0]);
    // One that appears while the agent runs is in nobody's way either.
    fs::write(path.join(".c.json.tmp"), "half").unwrap();
    store.write("c.json", &counter(3)).unwrap();
    assert_eq!(names(&path), ["c.json", "heartbeat", "pid"]);
}

#[test]
fn every_truncation_and_every_flip_reads_as_something_whole() {
    let (_dir, store) = fresh();
    store.write("c.json", &counter(12345)).unwrap();
    let path = store.path().join("c.json");
    let good = fs::read(&path).unwrap();
    for length in 0..good.len() {
        fs::write(&path, &good[..length]).unwrap();
        // All but the closing newline matters.
        let expected = (length == good.len() - 1).then(|| counter(12345));
        assert_eq!(store.read::<Counter>("c.json").unwrap(), expected, "{length} bytes");
        assert!(names(store.path()).len() <= 2 + KEPT_ASIDE);
    }
    for at in 0..good.len() {
        for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            fs::write(&path, &bad).unwrap();
            let read = store.read::<Counter>("c.json").unwrap();
            assert_eq!(
                read.is_some(),
                path.exists(),
                "byte {at} flipped by {flip:#x}: unread, but not set aside"
            );
            store.write("c.json", &counter(1)).unwrap();
            assert_eq!(store.read("c.json").unwrap(), Some(counter(1)));
        }
    }
}

#[test]
fn keeps_the_latest_damaged_files_only() {
    let (_dir, store) = fresh();
    for n in 1..=5 {
        fs::write(store.path().join("c.json"), format!("bad {n}")).unwrap();
        assert_eq!(store.read::<Counter>("c.json").unwrap(), None);
    }
    assert_eq!(names(store.path()), ["c.json.damaged-3", "c.json.damaged-4", "c.json.damaged-5", "pid"]);
    assert_eq!(fs::read_to_string(store.path().join("c.json.damaged-5")).unwrap(), "bad 5");
}

#[test]
fn what_is_no_file_is_set_aside() {
    let (_dir, store) = fresh();
    let path = store.path().join("c.json");
    fs::create_dir(&path).unwrap();
    assert_eq!(store.read::<Counter>("c.json").unwrap(), None);
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert_eq!(store.read::<Counter>("c.json").unwrap(), None, "a pipe must not make the agent wait");
    fs::write(&path, vec![b' '; MAX_SIZE as usize + 1]).unwrap();
    assert_eq!(store.read::<Counter>("c.json").unwrap(), None);
    assert!(!path.exists());
}

#[test]
fn a_newer_file_is_kept_and_read_as_far_as_possible() {
    let (_dir, store) = fresh();
    let path = store.path().join("c.json");
    let newer = r#"{"version": 2, "name": "pump", "seq": 4, "new": true}"#;
    fs::write(&path, newer).unwrap();
    for _ in 0..2 {
        assert_eq!(store.read("c.json").unwrap(), Some(counter(4)));
    }
    assert_eq!(names(store.path()), ["c.json", "c.json.version-2", "pid"]);
    let kept: Value =
        serde_json::from_slice(&fs::read(store.path().join("c.json.version-2")).unwrap()).unwrap();
    assert_eq!(kept, serde_json::from_str::<Value>(newer).unwrap());
}

#[test]
fn a_newer_file_of_another_shape_reads_as_absent() {
    let (_dir, store) = fresh();
    fs::write(store.path().join("c.json"), r#"{"version": 3, "counters": []}"#).unwrap();
    assert_eq!(store.read::<Counter>("c.json").unwrap(), None);
    assert_eq!(names(store.path()), ["c.json.version-3", "pid"]);
}

#[test]
fn a_file_without_a_version_is_damaged() {
    let (_dir, store) = fresh();
    for bad in [r#"{"name":"pump","seq":1}"#, r#"{"version":0,"name":"pump","seq":1}"#, r#"{"version":"1"}"#]
    {
        fs::write(store.path().join("c.json"), bad).unwrap();
        assert_eq!(store.read::<Counter>("c.json").unwrap(), None);
    }
    assert_eq!(names(store.path()).len(), 1 + KEPT_ASIDE);
}

#[test]
fn an_error_names_its_file() {
    let (_dir, store) = fresh();
    let folder = store.folder("taken").unwrap();
    fs::write(store.path().join("taken"), "").unwrap();
    let refused = chain(&folder.write("c.json", &counter(1)).unwrap_err());
    assert!(refused.contains("/state/taken: "), "{refused}");
    let refused = chain(&folder.read::<Counter>("c.json").unwrap_err());
    assert!(refused.starts_with("cannot read ") && refused.contains("/taken/c.json: "), "{refused}");
}

#[test]
fn a_link_leads_to_the_place_its_owner_chose() {
    let (dir, store) = fresh();
    let (link, target) = (dir.path().join("device.json"), dir.path().join("elsewhere.json"));
    fs::write(&target, "{}").unwrap();
    symlink(&target, &link).unwrap();
    let object = Map::from_iter([("device_id".to_owned(), Value::from("d1"))]);
    store.write_object(&link, &object).unwrap();
    assert!(link.is_symlink());
    assert_eq!(store.read_object(&target).unwrap(), Some(object));
}
