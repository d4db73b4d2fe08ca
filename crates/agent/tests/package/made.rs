//! What the tests here have in common: keys of the real minisign, a small package, what comes of one.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use iot_agent::services::update::package::{
    Keys, Package, Result, Sealed, SecretKey, Staging, Trust, Whole, Writer,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a pair of keys without a password, made by `minisign`.
pub(crate) struct Bench {
    dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        bench.run("minisign", &["-G", "-W", "-p", "release.pub", "-s", "release.key"]);
        bench
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn try_run(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.dir.path()).stdin(std::process::Stdio::null());
        command.output().unwrap_or_else(|error| panic!("{program}: {error}"))
    }

    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.try_run(program, arguments);
        let (out, error) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success(), "{program} {arguments:?}: {out}{error}");
        out.into_owned()
    }

    pub(crate) fn agent(&self, arguments: &[&str]) -> String {
        self.run(AGENT, &[&["package"], arguments].concat())
    }

    /// Exit code 1, and what it says.
    pub(crate) fn agent_refuses(&self, arguments: &[&str]) -> String {
        let Output { status, stderr, .. } = self.try_run(AGENT, &[&["package"], arguments].concat());
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}: {said}");
        said
    }

    pub(crate) fn keys(&self) -> Keys {
        let mut keys = Keys::default();
        keys.add(&fs::read_to_string(self.path("release.pub")).unwrap()).unwrap();
        keys
    }

    pub(crate) fn secret(&self) -> SecretKey {
        Sealed::parse(&fs::read_to_string(self.path("release.key")).unwrap()).unwrap().open(None).unwrap()
    }
}

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_iot-agent");

/// Hexadecimal SHA-256.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn entry(path: &str, content: &[u8]) -> Value {
    json!({"path": path, "size": content.len(), "sha256": sha256(content), "mode": "0755"})
}

/// Two files, one of them in a folder.
pub(crate) const FILES: [(&str, &[u8]); 2] = [("a", b"hello"), ("d/b", b"#!/bin/sh\nexit 0\n")];

pub(crate) fn manifest() -> Value {
    json!({
        "schema": 1, "name": "app", "version": "1.4.0", "hardware_ids": ["board-2"],
        "created": "2026-11-01T12:00:00.000Z", "kind": "files", "target": "/opt/app",
        "entries": FILES.map(|(path, content)| entry(path, content)),
        "scripts": {"health": "d/b"},
    })
}

/// A sound package of [`FILES`], by our own writer.
pub(crate) fn package(bench: &Bench) -> Vec<u8> {
    use iot_agent::services::update::package::{Manifest, Sink as _};
    let manifest = serde_json::to_vec(&manifest()).unwrap();
    let signature = bench.secret().sign(&manifest, "test").unwrap();
    let mut writer = Writer::new(Vec::new(), 3, &manifest, Some(&signature)).unwrap();
    for (entry, (_, content)) in Manifest::parse(&manifest).unwrap().entries().iter().zip(FILES) {
        writer.begin(entry).unwrap();
        writer.write(content).unwrap();
        writer.end().unwrap();
    }
    writer.finish().unwrap()
}

/// Verified and unpacked, as an update would be.
pub(crate) fn unpack(package: &[u8], keys: &Keys, staging: &Path) -> Result<Whole> {
    let package = Package::open(package, Trust::Keys(keys))?;
    let mut staging = Staging::new(File::open(staging).unwrap().into());
    staging.room(package.manifest())?;
    let whole = package.payload(&mut staging)?;
    staging.finish()?;
    Ok(whole)
}

/// All that is below a folder: path, mode and content of each, links by their target.
pub(crate) fn tree(folder: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.permissions().mode();
        if metadata.is_dir() {
            found.push((path.clone(), mode, Vec::new()));
            found.extend(tree(&path));
        } else if metadata.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            found.push((path, mode, target.into_os_string().into_encoded_bytes()));
        } else {
            found.push((path.clone(), mode, fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}
