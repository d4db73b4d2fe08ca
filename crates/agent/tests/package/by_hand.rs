//! The script of docs/packages.md: a package by tar, zstd and minisign alone.

use std::fs;

use crate::made::{Bench, FILES, tree, unpack};

#[test]
fn a_package_made_by_hand_is_one() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/packages.md")).unwrap();
    let script =
        page.split("```sh\n").find(|block| block.starts_with("#!/bin/sh")).expect("a script in the page");
    let script = script.split("```").next().unwrap();
    let bench = Bench::new();
    FILES.iter().for_each(|(path, content)| bench.write(&format!("payload/{path}"), content, 0o755));
    bench.write("make.sh", script, 0o755);
    bench.run("sh", &["make.sh"]);
    let said = bench.agent(&["verify", "app-1.4.0.pkg", "--key", "release.pub", "--hardware-id", "board-2"]);
    assert!(said.contains("app 1.4.0 is whole"), "{said}");
    let staging = tempfile::tempdir().unwrap();
    unpack(&bench.read("app-1.4.0.pkg"), &bench.keys(), staging.path()).unwrap();
    assert_eq!(tree(staging.path()).len(), 3);
    bench.agent(&["sign", "app-1.4.0.pkg", "--key", "release.key"]);
    bench.agent(&["verify", "app-1.4.0.pkg", "--key", "release.pub"]);
}

/// As each format of GNU tar, with owners, times and folders as they are, and what bsdtar and git add.
#[test]
fn whatever_tar_writes_is_read() {
    let bench = Bench::new();
    let manifest = serde_json::to_vec(&crate::made::manifest()).unwrap();
    bench.write("manifest.json", &manifest, 0o644);
    bench.run("minisign", &["-S", "-s", "release.key", "-m", "manifest.json"]);
    FILES.iter().for_each(|(path, content)| bench.write(&format!("payload/{path}"), content, 0o755));
    for format in ["v7", "oldgnu", "gnu", "ustar", "posix"] {
        for level in ["-1", "-16", "-T0"] {
            let format = format!("--format={format}");
            let members = ["manifest.json", "manifest.json.minisig", "payload"];
            bench.run(
                "tar",
                &[&[format.as_str(), "-I", &format!("zstd {level}"), "-cf", "app.pkg"], &members[..]]
                    .concat(),
            );
            bench.agent(&["verify", "app.pkg", "--key", "release.pub"]);
        }
    }
}
