//! The state folder on a disk that is full, read-only or failing: each error names its file, the old content
//! stands, nothing is left behind, and once the disk is well again so is the agent (E6).
//!
//! Not a usual test binary: each story is told in a process of its own, which has a disk to itself.

#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use iot_agent::identity::{EnrolError, Identity};
use iot_agent::store::{Error, Store};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--told-on", "a-small-disk", dir] => on_a_small_disk(Path::new(dir)),
        ["--told-on", "a-failing-disk", dir] => on_a_failing_disk(Path::new(dir)),
        ["--list", ..] => {}
        _ => return tell(),
    }
    ExitCode::SUCCESS
}

fn tell() -> ExitCode {
    let root = rustix::process::geteuid().is_root();
    let unshare: &[&str] = if root { &["unshare", "-m"] } else { &["unshare", "-rm"] };
    let strace = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=fsync",
        "-e",
        "inject=fsync:error=EIO:when=2+",
    ];
    let mut well = true;
    for (story, prefix) in [("a-small-disk", unshare), ("a-failing-disk", &strace[..])] {
        assert!(
            runs(prefix),
            "{story} needs `{}`: run as root, with util-linux and strace",
            prefix.join(" ")
        );
        let dir = tempfile::tempdir().unwrap();
        let told = Command::new(prefix[0])
            .args(&prefix[1..])
            .arg(std::env::current_exe().unwrap())
            .args(["--told-on", story])
            .arg(dir.path())
            .status()
            .unwrap();
        eprintln!("{story}: {}", if told.success() { "ok" } else { "FAILED" });
        well &= told.success();
    }
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn runs(prefix: &[&str]) -> bool {
    Command::new(prefix[0]).args(&prefix[1..]).arg("true").status().is_ok_and(|status| status.success())
}

fn mount(arguments: &[&str], dir: &Path) {
    assert!(Command::new("mount").args(arguments).arg(dir).status().unwrap().success());
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn os_error(error: &Error) -> Option<i32> {
    match error {
        Error::Write { source, .. } | Error::SetAside { source, .. } => source.raw_os_error(),
        other => panic!("unexpected: {other:?}"),
    }
}

fn on_a_small_disk(dir: &Path) {
    mount(&["-t", "tmpfs", "-o", "size=64k,mode=700", "none"], dir);
    fills_up(dir);
    becomes_read_only(dir);
}

fn fills_up(dir: &Path) {
    let store = Store::open(dir).unwrap();
    let device_file = dir.join("device.json");
    store.write("c.json", &json!({"seq": 1})).unwrap();
    let identity = Identity::load(&store, &device_file, "", None).unwrap();

    let mut filler = fs::File::create(dir.join("filler")).unwrap();
    while filler.write_all(&[0; 1024]).is_ok() {}
    let before = names(dir);
    let full = store.write("c.json", &json!({"seq": 2})).unwrap_err();
    assert_eq!(os_error(&full), Some(libc::ENOSPC));
    assert!(full.to_string().ends_with("/c.json"), "{full}");
    assert!(matches!(identity.enrol("d1".parse().unwrap()), Err(EnrolError::NotKept { .. })));
    assert!(identity.device().borrow().is_some(), "the id is used all the same");
    assert_eq!(names(dir), before, "nothing is left behind");
    assert_eq!(store.read("c.json").unwrap(), Some(json!({"seq": 1})));

    drop(filler);
    fs::remove_file(dir.join("filler")).unwrap();
    identity.keep().unwrap();
    drop((identity, store));
    let store = Store::open(dir).unwrap();
    let identity = Identity::load(&store, &device_file, "", None).unwrap();
    assert!(identity.device().borrow().is_some(), "kept once there was room");
}

fn becomes_read_only(dir: &Path) {
    fs::write(dir.join("damaged.json"), "{").unwrap();
    mount(&["-o", "remount,ro"], dir);
    let before = names(dir);
    let store = Store::open(dir).unwrap();
    assert_eq!(os_error(&store.write("c.json", &json!({"seq": 3})).unwrap_err()), Some(libc::EROFS));
    assert_eq!(os_error(&store.set_aside("c.json", "for a test").unwrap_err()), Some(libc::EROFS));
    assert_eq!(store.read("c.json").unwrap(), Some(json!({"seq": 1})));
    assert_eq!(store.read::<Value>("damaged.json").unwrap(), None);
    assert_eq!(store.folder("heartbeat").unwrap().read::<Value>("c.json").unwrap(), None);
    let identity = Identity::load(&store, &dir.join("device.json"), "", None).unwrap();
    assert!(identity.device().borrow().is_some());
    assert_eq!(names(dir), before);

    mount(&["-o", "remount,rw"], dir);
    store.write("c.json", &json!({"seq": 4})).unwrap();
    assert_eq!(store.read("c.json").unwrap(), Some(json!({"seq": 4})));
}

/// Each fsync but the very first, which is that of the first file written, fails.
fn on_a_failing_disk(dir: &Path) {
    let store = Store::open(dir).unwrap();
    fs::write(dir.join("c.json"), r#"{"version": 1, "seq": 1}"#).unwrap();
    let before = names(dir);
    let folder_not_synced = store.write("c.json", &json!({"seq": 2})).unwrap_err();
    assert_eq!(os_error(&folder_not_synced), Some(libc::EIO));
    assert_eq!(store.read("c.json").unwrap(), Some(json!({"seq": 2})));
    let file_not_synced = store.write("c.json", &json!({"seq": 3})).unwrap_err();
    assert_eq!(os_error(&file_not_synced), Some(libc::EIO));
    assert_eq!(names(dir), before, "nothing is left behind");
    assert_eq!(store.read("c.json").unwrap(), Some(json!({"seq": 2})), "the old content stands");
}
