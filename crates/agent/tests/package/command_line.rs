//! `iot-agent package`: create, sign, inspect, verify.

use std::{fs, os::unix::fs::symlink};

use serde_json::Value;

use crate::made::Bench;

fn create<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let fixed = [
        "create",
        "files",
        "-o",
        "app.pkg",
        "--name",
        "app",
        "--version",
        "1.4.0",
        "--hardware-id",
        "board-2",
        "--target",
        "/opt/app",
        "--created",
        "2026-11-01T12:00:00Z",
    ];
    [&fixed[..], more].concat()
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.write("files/bin/app", "#!/bin/sh\n", 0o755);
    bench.write("files/readme", "read me", 0o640);
    bench.write(&format!("files/{}/{}", "d".repeat(160), "f".repeat(120)), "long", 0o644);
    bench
}

#[test]
fn from_a_folder_to_a_verdict() {
    let bench = bench();
    bench.agent(&create(&["--health", "bin/app", "--min-version", "1.0.0"]));
    assert!(bench.agent_refuses(&["verify", "app.pkg", "--key", "release.pub"]).contains("is not signed"));
    assert!(bench.agent(&["inspect", "app.pkg"]).contains("not signed"));
    bench.run("chmod", &["0644", "app.pkg"]);
    bench.agent(&["sign", "app.pkg", "--key", "release.key"]);
    assert_eq!(bench.run("stat", &["-c", "%a", "app.pkg"]).trim(), "644", "who could read it still can");
    let said = bench.agent(&["verify", "app.pkg", "--key", "release.pub", "--hardware-id", "board-2"]);
    assert!(said.contains("app 1.4.0 is whole, signed with key"), "{said}");
    let line = String::from_utf8(bench.read("release.pub")).unwrap().lines().nth(1).unwrap().to_owned();
    bench.agent(&["verify", "app.pkg", "--key", &line]);
    let other = Bench::new();
    let key = other.path("release.pub");
    let both = ["verify", "app.pkg", "--key", key.to_str().unwrap(), "--key", "release.pub"];
    bench.agent(&both);
    assert!(bench.agent_refuses(&both[..4]).contains("which is not trusted here"));
    let wrong =
        bench.agent_refuses(&["verify", "app.pkg", "--key", "release.pub", "--hardware-id", "board-3"]);
    assert!(wrong.contains("the package is for board-2, and this device is board-3"), "{wrong}");
    let no_key = bench.agent_refuses(&["verify", "app.pkg", "--key", "release.key"]);
    assert!(no_key.contains("no public key of minisign"), "{no_key}");

    let shown: Value = serde_json::from_str(&bench.agent(&["inspect", "app.pkg", "--json"])).unwrap();
    let manifest = &shown["manifest"];
    assert_eq!((&manifest["name"], &manifest["min_version"]), (&"app".into(), &"1.0.0".into()));
    assert_eq!(manifest["entries"][0]["mode"], "0755");
    assert_eq!(manifest["entries"][2]["mode"], "0640");
    assert_eq!(manifest["scripts"]["health"], "bin/app");
    assert_eq!(
        (&shown["signature"]["verified"], shown["signature"]["key"].is_string()),
        (&false.into(), true)
    );
    let text = bench.agent(&["inspect", "app.pkg"]);
    assert!(
        text.contains("not checked here: name=app version=1.4.0") && text.contains("3, 21 bytes"),
        "{text}"
    );
}

/// What we write, the tools of everybody read.
#[test]
fn tar_zstd_and_minisign_read_it() {
    let bench = bench();
    bench.agent(&create(&["--level", "19"]));
    bench.agent(&["sign", "app.pkg", "--key", "release.key", "--level", "22"]);
    let list = bench.run("tar", &["--zstd", "-tf", "app.pkg"]);
    assert!(list.starts_with("manifest.json\nmanifest.json.minisig\npayload/"), "{list}");
    fs::create_dir(bench.path("out")).unwrap();
    bench.run("tar", &["--zstd", "-xpf", "app.pkg", "-C", "out"]);
    bench.run("diff", &["-r", "files", "out/payload"]);
    bench.run("minisign", &["-V", "-p", "release.pub", "-m", "out/manifest.json"]);
    bench.run("zstd", &["-q", "-t", "app.pkg"]);
    bench.agent(&["verify", "app.pkg", "--key", "release.pub"]);
}

#[test]
fn the_same_folder_gives_the_same_bytes() {
    let bench = bench();
    let made = || {
        bench.agent(&create(&[]));
        bench.agent(&["sign", "app.pkg", "--key", "release.key"]);
        bench.read("app.pkg")
    };
    let first = made();
    bench.run("touch", &["files/readme"]);
    assert!(made() == first);
    bench.agent(&["sign", "app.pkg", "--key", "release.key"]);
    assert!(bench.read("app.pkg") == first, "signed again");
    bench.write("files/readme", "read me!", 0o640);
    assert!(made() != first);
}

#[test]
fn what_no_device_would_take_is_not_made() {
    type Change = fn(&Bench);
    let cases: [(&[&str], Change, &str); 8] = [
        (&["--health", "gone"], |_| {}, "script health is \"gone\", which is no entry"),
        (&["--health", "readme"], |_| {}, "which cannot be executed"),
        (&["--min-version", "1"], |_| {}, "min_version \"1\" is no semantic version"),
        (&[], |bench| symlink("readme", bench.path("files/link")).unwrap(), "files/link is a link"),
        (&[], |bench| fs::create_dir(bench.path("files/empty")).unwrap(), "files/empty is an empty folder"),
        (&[], |bench| bench.write("files/su", "x", 0o4755), "su has mode \"4755\", which is setuid"),
        (&[], |bench| drop(bench.run("mkfifo", &["files/fifo"])), "files/fifo is a link, a device"),
        (&[], |bench| bench.write("files/a\nb", "x", 0o644), "has a control character"),
    ];
    for (more, change, reason) in cases {
        let bench = bench();
        change(&bench);
        let said = bench.agent_refuses(&create(more));
        assert!(said.contains(reason), "{said}, not {reason}");
        let left: Vec<_> =
            fs::read_dir(bench.path("")).unwrap().map(|item| item.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_str().unwrap().contains(".pkg")), "{left:?}");
    }
}

/// Replaced by a file, /dev/null would be missed by many.
#[test]
fn only_a_plain_file_is_replaced() {
    let bench = bench();
    bench.run("mkfifo", &["pipe"]);
    let mut arguments = create(&[]);
    let at = arguments.iter().position(|argument| *argument == "app.pkg").unwrap();
    arguments[at] = "pipe";
    let said = bench.agent_refuses(&arguments);
    assert!(said.contains("pipe is no plain file: name another"), "{said}");
}

#[test]
fn a_damaged_package_is_not_signed() {
    let bench = bench();
    bench.agent(&create(&[]));
    let sound = bench.read("app.pkg");
    bench.write("app.pkg", &sound[..sound.len() - 10], 0o644);
    let said = bench.agent_refuses(&["sign", "app.pkg", "--key", "release.key"]);
    assert!(said.contains("ends too early"), "{said}");
    assert_eq!(bench.read("app.pkg"), &sound[..sound.len() - 10], "the file is as it was");
}

/// 256 MiB take no more memory than a few bytes; python3 tells the most that a child had.
#[test]
fn memory_does_not_grow_with_the_package() {
    let bench = bench();
    let peak = |package: &str| -> u64 {
        let script = "import resource, subprocess, sys; subprocess.check_call(sys.argv[1:], \
                      stdout=subprocess.DEVNULL); print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
        let verify = [crate::made::AGENT, "package", "verify", package, "--key", "release.pub"];
        bench.run("python3", &[&["-c", script][..], &verify].concat()).trim().parse().unwrap()
    };
    bench.agent(&create(&[]));
    bench.agent(&["sign", "app.pkg", "--key", "release.key"]);
    let small = peak("app.pkg");
    let mut rng = testkit::Rng::new(1);
    let noise: Vec<u8> = (0..1 << 20).map(|_| u8::try_from(rng.below(256)).unwrap()).collect();
    bench.write("files/large", noise.repeat(256), 0o644);
    bench.agent(&create(&["--level", "1"]));
    bench.agent(&["sign", "app.pkg", "--key", "release.key", "--level", "9"]);
    let large = peak("app.pkg");
    assert!(large <= small + (8 << 10), "{large} KiB for a large package, {small} KiB for a small one");
}
