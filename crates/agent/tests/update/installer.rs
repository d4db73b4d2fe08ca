//! Each order to the installer, and each reason not to follow it.
//! Long because each reason has its own case.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use serde_json::{Value, json};

use crate::{
    bench::{Bench, Files, done, installer, refused, run},
    made::{AGENT, FILES, sha256, tree},
};

/// An order with one thing changed.
fn with(mut order: Value, key: &str, value: impl Into<Value>) -> Value {
    assert!(order.get(key).is_some(), "{key}");
    order[key] = value.into();
    order
}

fn installed(version: &str, sha256: &str, floor: &str) -> Value {
    json!({ "app": { "version": version, "sha256": sha256, "floor": floor } })
}

#[test]
fn a_version_comes_and_is_taken_back() {
    let bench = Bench::new();
    bench.install("1.0.0");
    assert_eq!(
        (bench.in_use().as_deref(), bench.current().as_deref()),
        (Some("1.0.0"), Some("versions/1.0.0"))
    );
    let file = bench.version("2.0.0");
    let unpacked = done(&bench.unpack(&file, "2.0.0"));
    let staged =
        bench.target().join(format!("versions/.staging-{}", &sha256(&fs::read(&file).unwrap())[..16]));
    let expected = json!({ "name": "app", "version": "2.0.0", "kind": "files", "target": bench.target(), "path": staged,
        "scripts": { "pre_install": null, "post_install": null, "health": null }, "downgrade": false,
        "previous": "versions/1.0.0", "already": false, "content": unpacked["content"] });
    assert_eq!(unpacked["content"].as_str().map(str::len), Some(64));
    assert_eq!(unpacked, expected);
    assert_eq!(bench.in_use().as_deref(), Some("1.0.0"));
    // Everything may be done twice.
    assert_eq!(done(&bench.unpack(&file, "2.0.0")), expected);
    for _ in 0..2 {
        assert_eq!(done(&bench.switch("2.0.0", &unpacked["path"])), "done");
        assert_eq!(bench.in_use().as_deref(), Some("2.0.0"));
    }
    for path in ["", "versions", "versions/2.0.0", "versions/2.0.0/bin", "versions/2.0.0/bin/app"] {
        let mode = fs::metadata(bench.target().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "{path}");
    }
    for _ in 0..2 {
        assert_eq!(done(&bench.back("2.0.0", Some("versions/1.0.0"))), "done");
        assert_eq!(bench.in_use().as_deref(), Some("1.0.0"));
        assert_eq!(bench.versions(), ["1.0.0"]);
    }
    // And to nothing, which the first one came from.
    for _ in 0..2 {
        done(&bench.back("1.0.0", None));
        assert_eq!((bench.current(), bench.versions().len()), (None, 0));
    }
}

#[test]
fn so_many_versions_are_kept() {
    let bench = Bench::new();
    for version in ["1.2.0", "1.10.0", "1.3.0", "1.9.0", "1.1.0"] {
        // What is in use is the least that may come where nobody knows more.
        fs::remove_file(bench.target().join("current")).ok();
        bench.install(version);
    }
    for other in [".staging-0123456789abcdef", "notes", "lost+found"] {
        fs::create_dir(bench.target().join("versions").join(other)).unwrap();
        fs::write(bench.target().join("versions").join(other).join("x"), "x").unwrap();
    }
    // It led somewhere when the installer was killed.
    symlink("versions/9.9.9", bench.target().join(".current.next")).unwrap();
    done(&bench.clean(3, Some("versions/1.2.0")));
    assert_eq!(bench.versions(), ["1.1.0", "1.10.0", "1.2.0", "lost+found", "notes"]);
    assert!(!bench.target().join(".current.next").is_symlink());
    done(&bench.clean(0, Some("versions/1.2.0")));
    assert_eq!(bench.versions(), ["1.1.0", "1.2.0", "lost+found", "notes"]);
    done(&bench.clean(0, None));
    assert_eq!((bench.versions().len(), bench.in_use().as_deref()), (3, Some("1.1.0")));
}

#[test]
fn no_link_is_followed_when_something_is_removed() {
    let bench = Bench::new();
    bench.install("1.0.0");
    bench.install("2.0.0");
    bench.made.write("outside/kept", "kept", 0o644);
    let (outside, old) = (bench.path("outside"), bench.target().join("versions/1.0.0"));
    symlink(&outside, old.join("out")).unwrap();
    symlink(&outside, old.join("bin/out")).unwrap();
    symlink(&outside, bench.target().join("versions/1.5.0")).unwrap();
    symlink(&outside, bench.target().join("versions/.staging-1")).unwrap();
    let before = tree(&outside);
    done(&bench.clean(1, None));
    assert_eq!(bench.versions(), ["2.0.0"]);
    assert_eq!(tree(&outside), before);
}

#[test]
fn a_package_for_the_owners_command_lies_in_the_agents_folder() {
    let bench = Bench::new();
    bench.made.write("state/stage/left", "of an earlier one", 0o644);
    let mut manifest = bench.manifest("1.0.0", &FILES);
    (manifest["kind"], manifest["scripts"]) = ("command".into(), json!({ "pre_install": "a" }));
    let file = bench.package("app.pkg", &manifest, &FILES);
    let unpacked = done(&bench.unpack(&file, "1.0.0"));
    assert_eq!((&unpacked["kind"], &unpacked["target"]), (&"command".into(), &Value::Null));
    assert_eq!((&unpacked["scripts"]["pre_install"], &unpacked["previous"]), (&"a".into(), &Value::Null));
    let stage = bench.path("state/stage");
    assert_eq!(unpacked["path"], json!(stage));
    assert_eq!(fs::metadata(&stage).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(tree(&stage).len(), 3);
    assert!(!bench.target().exists());
}

#[test]
fn a_plain_file_is_what_its_signer_says() {
    let bench = Bench::new();
    for (name, copied) in [("state/image", false), ("stick/image", true)] {
        bench.made.write(name, "an image", 0o644);
        let order = bench.unpack(&bench.path(name), "3.0.0");
        assert!(refused(&order).contains("no package because not a package: it is no zstd stream"));
        let unsigned = done(&with(order.clone(), "allow_unsigned", true));
        assert_eq!((&unsigned["name"], &unsigned["kind"]), (&"unsigned".into(), &"plain".into()));
        let sign = |comment: &str| {
            let comment = format!("{comment} sha256={}", sha256(b"an image"));
            bench.made.run("minisign", &["-S", "-s", "release.key", "-m", name, "-t", &comment]);
            String::from_utf8(bench.made.read(&format!("{name}.minisig"))).unwrap()
        };
        let signed = |comment: &str| with(order.clone(), "signature", sign(comment));
        let firmware = done(&signed("name=firmware version=3.0.0 hardware=board-2"));
        assert_eq!((&firmware["name"], &firmware["version"]), (&"firmware".into(), &"3.0.0".into()));
        let path = if copied { bench.path("state/stage/image") } else { bench.path(name) };
        assert_eq!(firmware["path"], json!(path));
        assert_eq!(fs::read(path).unwrap(), b"an image");
        let table = [
            (
                "name=firmware version=3.0.1 hardware=board-2",
                "the file is version 3.0.1, and 3.0.0 in the request",
            ),
            ("name=firmware version=3.0.0 hardware=board-3", "is for board-3, and this device is board-2"),
            ("name=firmware hardware=board-2", "trusted comment has no version="),
        ];
        for (comment, reason) in table {
            let said = refused(&signed(comment));
            assert!(said.contains(reason), "{said}, not {reason}");
            assert!(!bench.path("state/stage").exists(), "{reason}");
        }
        let floor = json!({ "firmware": { "version": "4.0.0", "sha256": "00", "floor": "4.0.0" } });
        let old = with(signed("name=firmware version=3.0.0 hardware="), "installed", floor.clone());
        assert!(refused(&old).contains("firmware 3.0.0 is older than 4.0.0"));
        let allowed = signed("name=firmware version=3.0.0 hardware= downgrade=allow");
        assert_eq!(done(&with(allowed, "installed", floor))["downgrade"], true);
    }
}

/// What is wrong with the file, or with what is asked of it.
#[test]
fn each_mistake_has_its_reason() {
    let bench = Bench::new();
    let file = bench.version("1.4.0");
    let order = bench.unpack(&file, "1.4.0");
    let other = Bench::new().key();
    bench.made.run("mkfifo", &["pipe"]);
    symlink(&file, bench.path("link")).unwrap();
    let bytes = fs::read(&file).unwrap();
    bench.made.write("short", &bytes[..bytes.len() - 40], 0o644);
    let short = bench.unpack(&bench.path("short"), "1.4.0");
    let hash = "ab".repeat(32);
    let hash_wanted = format!("and {hash} in the request");
    let old = installed("1.0.0", "00", "1.0.0");
    let floor = installed("1.0.0", "00", "1.5.0");
    let table: Vec<(Value, &str)> = vec![
        (json!({ "op": "explode" }), "the installer's order cannot be read: unknown variant `explode`"),
        (with(order.clone(), "file", json!(bench.path("pipe"))), "pipe is no plain file"),
        (with(order.clone(), "file", json!(bench.path("link"))), "link is no plain file"),
        (with(order.clone(), "file", json!(bench.path("state"))), "state is no plain file"),
        (with(order.clone(), "file", json!(bench.path("none"))), "cannot open"),
        (with(order.clone(), "size", bytes.len() + 1), "bytes, and"),
        (with(order.clone(), "sha256", hash.clone()), &hash_wanted),
        (with(order.clone(), "version", "1.4.1"), "the file is version 1.4.0, and 1.4.1 in the request"),
        (with(order.clone(), "version", "latest"), "\"latest\" of the request is no semantic version"),
        (with(order.clone(), "keys", ""), "no trusted key: set trusted_keys"),
        (with(order.clone(), "keys", "RWnonsense"), "trusted_keys: \"RWnonsense\" is no public key"),
        (with(order.clone(), "keys", other), "which is not trusted here"),
        (with(order.clone(), "hardware_id", "board-9"), "is for board-2, and this device is board-9"),
        (with(order.clone(), "hardware_id", Value::Null), "and this device has no hardware_id"),
        (short, "the package ends too early"),
        (with(order.clone(), "installed", floor), "app 1.4.0 is older than 1.5.0"),
        (
            with(order.clone(), "installed", installed("1.4.0", &hash, "1.4.0")),
            "installed with another content",
        ),
        (
            with(order.clone(), "installed", installed("one", &hash, "1.4.0")),
            "has \"one\" for app, which is no",
        ),
    ];
    for (order, reason) in table {
        let said = refused(&order);
        assert!(said.contains(reason), "{said}, not {reason}");
        let left = if bench.target().exists() { bench.versions() } else { Vec::new() };
        assert!(left.is_empty(), "{reason}: {left:?}");
    }
    assert_eq!(done(&with(order, "installed", old))["downgrade"], false);
}

#[test]
fn what_the_signer_says_of_versions_holds() {
    let bench = Bench::new();
    let files: Files<'_> = &FILES;
    let package = |name: &str, key: &str, value: Value| {
        let mut manifest = bench.manifest("1.4.0", files);
        manifest[key] = value;
        bench.unpack(&bench.package(name, &manifest, files), "1.4.0")
    };
    let min = package("min.pkg", "min_version", "1.2.0".into());
    done(&min);
    done(&with(min.clone(), "installed", installed("1.2.0", "00", "1.0.0")));
    let said = refused(&with(min, "installed", installed("1.1.0", "00", "1.0.0")));
    assert!(said.contains("app 1.4.0 can only replace 1.2.0 or later, and 1.1.0 is installed"), "{said}");
    let allowed = package("allowed.pkg", "allow_downgrade", true.into());
    let down = done(&with(allowed.clone(), "installed", installed("2.0.0", "00", "2.0.0")));
    assert_eq!(down["downgrade"], true);
    let rebuilt = done(&with(allowed, "installed", installed("1.4.0", "00", "1.4.0")));
    assert_eq!((&rebuilt["downgrade"], &rebuilt["already"]), (&false.into(), &false.into()));
}

#[test]
fn what_is_installed_already_is_not_unpacked_again() {
    let bench = Bench::new();
    let order = bench.unpack(&bench.version("1.0.0"), "1.0.0");
    let hash = order["sha256"].as_str().unwrap().to_owned();
    bench.install("1.0.0");
    let again = with(order.clone(), "installed", installed("1.0.0", &hash, "1.0.0"));
    let unpacked = done(&again);
    assert_eq!((&unpacked["already"], &unpacked["version"]), (&true.into(), &"1.0.0".into()));
    assert_eq!(bench.versions(), ["1.0.0"]);
    // The record says so, but somebody has removed it.
    done(&bench.back("1.0.0", None));
    assert_eq!(done(&again)["already"], false);
}

/// Two are never at work on the same software, and none without its keeper.
#[cfg(target_os = "linux")]
#[test]
fn one_waits_for_another_and_ends_with_its_parent() {
    use std::{
        io::Read as _,
        process::{Command, Stdio},
        time::{Duration, Instant},
    };
    fn until(what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(15);
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    }
    let waits = |pid: &str| {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("-> FLOCK") && line.split_whitespace().any(|word| word == pid))
    };
    let bench = Bench::new();
    ["1.0.0", "2.0.0"].iter().for_each(|version| bench.install(version));
    let other = fs::File::open(bench.target().join("versions")).unwrap();
    other.lock().unwrap();
    let order = bench.back("2.0.0", Some("versions/1.0.0"));
    let mut waiting = installer(&order).stdout(Stdio::piped()).spawn().unwrap();
    until("it does not wait", || waits(&waiting.id().to_string()));
    assert_eq!(bench.in_use().as_deref(), Some("2.0.0"));
    // The same in the care of a shell.
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$@\" & echo $!; wait", "sh", AGENT, "installer", &order.to_string()]);
    let mut shell = shell.stdout(Stdio::piped()).spawn().unwrap();
    let (mut pid, mut out) = (String::new(), shell.stdout.take().unwrap());
    while !pid.ends_with('\n') {
        let mut byte = [0];
        out.read_exact(&mut byte).unwrap();
        pid.push(char::from(byte[0]));
    }
    let pid = pid.trim();
    until("it does not wait", || waits(pid));
    shell.kill().unwrap();
    shell.wait().unwrap();
    until("it goes on without its parent", || !waits(pid));
    assert_eq!(bench.in_use().as_deref(), Some("2.0.0"));
    other.unlock().unwrap();
    assert!(waiting.wait().unwrap().success());
    assert_eq!(bench.in_use().as_deref(), Some("1.0.0"));
}

/// The agent has lost its memory, or the version came with the device.
#[test]
fn a_version_that_is_in_use_is_taken_as_it_is_or_not_at_all() {
    let bench = Bench::new();
    let order = bench.unpack(&bench.version("1.0.0"), "1.0.0");
    bench.install("1.0.0");
    let folder = bench.target().join("versions/1.0.0");
    let before = tree(&folder);
    let found = done(&order);
    assert_eq!((&found["already"], &found["path"]), (&false.into(), &json!(folder)));
    assert_eq!(found["previous"], "versions/1.0.0");
    // The rest of the update changes nothing, whichever way it goes.
    for order in [
        bench.switch("1.0.0", &found["path"]),
        bench.back("1.0.0", Some("versions/1.0.0")),
        bench.clean(1, Some("versions/1.0.0")),
    ] {
        done(&order);
        assert_eq!((tree(&folder), bench.current().as_deref()), (before.clone(), Some("versions/1.0.0")));
    }
    let data = folder.join("lib/data");
    let content = fs::read(&data).unwrap();
    type Change = fn(&Path, &[u8]);
    let changes: [Change; 4] = [
        |data, content| fs::write(data, [content, b"x"].concat()).unwrap(),
        |data, content| fs::write(data, vec![b'x'; content.len()]).unwrap(),
        |data, _| fs::set_permissions(data, fs::Permissions::from_mode(0o4755)).unwrap(),
        |data, _| fs::remove_file(data).unwrap(),
    ];
    for change in changes {
        change(&data, &content);
        let changed = tree(&folder);
        let said = refused(&order);
        assert!(said.contains("versions/1.0.0 is in use, and its lib/data is another"), "{said}");
        assert_eq!(tree(&folder), changed);
        fs::write(&data, &content).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // What is damaged in a package that could be judged by itself is said of the package.
    let mut damaged = fs::read(bench.path("1.0.0.pkg")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    bench.made.write("damaged.pkg", damaged, 0o644);
    let said = refused(&bench.unpack(&bench.path("damaged.pkg"), "1.0.0"));
    assert!(!said.contains("is in use"), "{said}");
}

#[test]
fn what_stands_in_the_way_is_said() {
    let bench = Bench::new();
    let order = bench.unpack(&bench.version("1.0.0"), "1.0.0");
    let staged = json!(bench.target().join("versions/.staging-0"));
    fs::create_dir_all(bench.target().join("versions")).unwrap();
    assert!(refused(&bench.switch("1.0.0", &staged)).contains("has to be unpacked again"));
    for version in ["", ".", "..", "../../x", ".staging-0", "a/b"] {
        assert!(
            refused(&bench.switch(version, &staged)).contains("cannot be a version's folder"),
            "{version}"
        );
        assert!(refused(&bench.back(version, None)).contains("cannot be a version's folder"), "{version}");
    }
    assert!(refused(&bench.back("1.0.0", Some("versions/0.9.0"))).contains("is not there any more"));
    let current = bench.target().join("current");
    fs::create_dir(&current).unwrap();
    for order in [order.clone(), bench.switch("1.0.0", &staged), bench.back("1.0.0", None)] {
        let said = refused(&order);
        assert!(said.contains("current is no link, and is left as it is"), "{said}");
    }
    fs::remove_dir(&current).unwrap();
    fs::remove_dir_all(bench.target()).unwrap();
    fs::create_dir(bench.target()).unwrap();
    symlink(bench.path("state"), bench.target().join("versions")).unwrap();
    let said = refused(&order);
    assert!(said.contains("cannot open") && said.contains("versions: "), "{said}");
    assert!(Path::new(&bench.path("state")).read_dir().unwrap().next().is_none());
    // In place of the file there is nothing that could be read for long.
    let (success, report) = run(&with(order, "file", "/dev/zero"));
    assert!(!success && report["error"]["reason"] == "/dev/zero is no plain file", "{report}");
}
