//! A sound package comes out as its manifest has it, and only that.

use std::{fs, os::unix::fs::symlink};

use iot_agent::services::update::package::{Error, Manifest, Staging};

use crate::made::{Bench, FILES, package, sha256, tree, unpack};

#[test]
fn files_come_out_as_the_manifest_says() {
    let bench = Bench::new();
    let (package, staging) = (package(&bench), tempfile::tempdir().unwrap());
    // As the daemon has it: modes are those of the manifest all the same. It is the whole program's, so it is not set back.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let whole = unpack(&package, &bench.keys(), staging.path()).unwrap();
    assert_eq!(whole.size, package.len() as u64);
    let hex: String = whole.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, sha256(&package));
    let found = tree(staging.path());
    let expected = [
        (staging.path().join("a"), 0o100_755, FILES[0].1.to_vec()),
        (staging.path().join("d"), 0o040_755, Vec::new()),
        (staging.path().join("d/b"), 0o100_755, FILES[1].1.to_vec()),
    ];
    assert_eq!(found, expected);
}

/// Somebody was in the staging folder before.
#[test]
fn what_lies_there_already_is_not_touched() {
    let bench = Bench::new();
    let package = package(&bench);
    type Trap = fn(&std::path::Path, &std::path::Path);
    let traps: [(&str, Trap); 6] = [
        ("a", |staging, outside| symlink(outside.join("new"), staging.join("a")).unwrap()),
        ("a", |staging, outside| symlink(outside.join("kept"), staging.join("a")).unwrap()),
        ("a", |staging, outside| fs::hard_link(outside.join("kept"), staging.join("a")).unwrap()),
        ("d", |staging, outside| symlink(outside, staging.join("d")).unwrap()),
        ("d", |staging, _| fs::create_dir(staging.join("d")).unwrap()),
        ("d", |staging, _| fs::write(staging.join("d"), "a file").unwrap()),
    ];
    for (number, (name, trap)) in traps.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (staging, outside) = (dir.path().join("staging"), dir.path().join("outside"));
        fs::create_dir(&staging).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        trap(&staging, &outside);
        let before = tree(&outside);
        match unpack(&package, &bench.keys(), &staging) {
            Err(Error::Occupied { path }) => assert_eq!(path, name, "trap {number}"),
            other => panic!("trap {number}: {other:?}"),
        }
        assert_eq!(tree(&outside), before, "trap {number}");
    }
}

#[test]
fn no_room_is_known_beforehand() {
    let mut manifest = crate::made::manifest();
    manifest["entries"][0]["size"] = (1_u64 << 39).into();
    let parsed = Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let staging = Staging::new(fs::File::open(dir.path()).unwrap().into());
    match staging.room(&parsed) {
        Err(Error::Space { needed, free, .. }) => assert!(needed > 1 << 39 && free < needed),
        other => panic!("{other:?}"),
    }
}
