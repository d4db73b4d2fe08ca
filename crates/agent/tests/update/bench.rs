//! The installer alone: a device's folder, packages for it, orders, and what becomes of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use iot_agent::services::update::package::{Manifest, Sink as _, Writer};
use serde_json::{Value, json};

use crate::made::{self, AGENT, entry, sha256};

/// Files of a package: path and content.
pub(crate) type Files<'a> = &'a [(&'a str, &'a [u8])];

/// A device's folders in one that goes with it, with keys of the real minisign.
pub(crate) struct Bench {
    pub(crate) made: made::Bench,
    target: PathBuf,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let made = made::Bench::new();
        let target = made.path("opt/app");
        Self::with(made, target)
    }

    /// The same, with the software's folder somewhere else.
    pub(crate) fn at(target: PathBuf) -> Self {
        Self::with(made::Bench::new(), target)
    }

    fn with(made: made::Bench, target: PathBuf) -> Self {
        let bench = Self { made, target };
        fs::create_dir(bench.path("state")).unwrap();
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.made.path(name)
    }

    /// The software's folder.
    pub(crate) fn target(&self) -> PathBuf {
        self.target.clone()
    }

    pub(crate) fn key(&self) -> String {
        fs::read_to_string(self.path("release.pub")).unwrap()
    }

    /// A manifest for these files.
    pub(crate) fn manifest(&self, version: &str, files: Files<'_>) -> Value {
        let entries: Vec<Value> = files.iter().map(|(path, content)| entry(path, content)).collect();
        json!({ "schema": 1, "name": "app", "version": version, "hardware_ids": ["board-2"],
            "created": "2026-11-01T12:00:00Z", "kind": "files", "target": self.target(), "entries": entries })
    }

    /// A signed package in a file.
    pub(crate) fn package(&self, name: &str, manifest: &Value, files: Files<'_>) -> PathBuf {
        let text = serde_json::to_vec(manifest).unwrap();
        let signature = self.made.secret().sign(&text, "test").unwrap();
        let mut writer = Writer::new(Vec::new(), 3, &text, Some(&signature)).unwrap();
        for entry in Manifest::parse(&text).unwrap().entries() {
            let (_, content) = files.iter().find(|(path, _)| *path == entry.path.as_str()).unwrap();
            writer.begin(entry).unwrap();
            writer.write(content).unwrap();
            writer.end().unwrap();
        }
        self.made.write(name, writer.finish().unwrap(), 0o644);
        self.path(name)
    }

    /// The package of a version whose files say which it is.
    pub(crate) fn version(&self, version: &str) -> PathBuf {
        let files = content(version);
        let files: Vec<(&str, &[u8])> =
            files.iter().map(|(path, content)| (*path, content.as_bytes())).collect();
        self.package(&format!("{version}.pkg"), &self.manifest(version, &files), &files)
    }

    /// An order to unpack a file, as a request for it would have it.
    pub(crate) fn unpack(&self, file: &Path, version: &str) -> Value {
        let bytes = fs::read(file).unwrap();
        json!({ "op": "unpack", "file": file, "sha256": sha256(&bytes), "size": bytes.len(), "version": version,
            "keys": self.key(), "signature": null, "allow_unsigned": false, "hardware_id": "board-2",
            "stage": self.path("state/stage"), "own": self.path("state/agent"), "installed": {} })
    }

    pub(crate) fn switch(&self, version: &str, staged: &Value) -> Value {
        json!({ "op": "switch", "target": self.target(), "version": version, "staged": staged })
    }

    pub(crate) fn back(&self, version: &str, previous: Option<&str>) -> Value {
        json!({ "op": "back", "target": self.target(), "version": version, "previous": previous })
    }

    pub(crate) fn clean(&self, keep: u32, previous: Option<&str>) -> Value {
        json!({ "op": "clean", "target": self.target(), "keep": keep, "previous": previous })
    }

    /// A version that is in use.
    pub(crate) fn install(&self, version: &str) {
        let unpacked = done(&self.unpack(&self.version(version), version));
        done(&self.switch(version, &unpacked["path"]));
    }

    /// What `current` says.
    pub(crate) fn current(&self) -> Option<String> {
        fs::read_link(self.target().join("current")).ok().map(|link| link.to_str().unwrap().to_owned())
    }

    /// Which version is in use; each of its files has been looked at.
    pub(crate) fn in_use(&self) -> Option<String> {
        whole(&self.target())
    }

    pub(crate) fn versions(&self) -> Vec<String> {
        let names = fs::read_dir(self.target().join("versions")).unwrap();
        let mut names: Vec<String> =
            names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// The files of a version.
pub(crate) fn content(version: &str) -> [(&'static str, String); 3] {
    [
        ("bin/app", format!("#!/bin/sh\necho {version}\n")),
        ("lib/data", version.repeat(3000)),
        ("version", version.to_owned()),
    ]
}

/// The version that `current` leads to: all of it, and nothing else.
pub(crate) fn whole(target: &Path) -> Option<String> {
    let current = target.join("current");
    let version = fs::read_to_string(current.join("version")).ok()?;
    for (path, content) in content(&version) {
        let found = fs::read(current.join(path)).unwrap_or_else(|error| panic!("{version}: {path}: {error}"));
        assert_eq!(found, content.as_bytes(), "{path} of {version}");
    }
    assert_eq!(made::tree(&fs::canonicalize(&current).unwrap()).len(), 5, "something besides in {version}");
    Some(version)
}

/// The installer, with this order.
pub(crate) fn installer(order: &Value) -> Command {
    let mut command = Command::new(AGENT);
    command.args(["installer", &order.to_string()]).env_clear();
    command
}

/// Its report, and whether it ended with 0.
pub(crate) fn run(order: &Value) -> (bool, Value) {
    report(&installer(order).output().unwrap())
}

pub(crate) fn report(output: &Output) -> (bool, Value) {
    let said = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(said.ends_with('\n') && said.lines().count() == 1, "{output:?}");
    (output.status.success(), serde_json::from_str(&said).unwrap())
}

/// What it says of an order that can be followed.
pub(crate) fn done(order: &Value) -> Value {
    match run(order) {
        // Or what it needs instead.
        (true, Value::Object(mut report)) => report.remove("unpacked").unwrap_or(Value::Object(report)),
        (true, report) => report,
        (false, report) => panic!("{order}: {report}"),
    }
}

/// Why it cannot follow an order.
pub(crate) fn refused(order: &Value) -> String {
    let (success, report) = run(order);
    assert!(!success, "{order}: {report}");
    report["error"]["reason"].as_str().unwrap_or_else(|| panic!("{report}")).to_owned()
}
