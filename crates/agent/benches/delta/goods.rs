//! Two builds of a program, and the packages of them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

/// Where code is put in, as parts of the whole.
const PLACES: [f64; 3] = [0.25, 0.4, 0.55];
/// How much, in bytes.
const MORE: usize = 200;
/// One in so many words of four bytes is an address that moves.
const MOVED: usize = 199;

/// The program to measure.
pub(crate) fn program() -> PathBuf {
    std::env::var_os("IOT_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_iot-agent").into()).into()
}

/// A folder with `old/iot-agent`, `new/iot-agent` and packages of the latter.
pub(crate) struct Goods {
    pub(crate) folder: tempfile::TempDir,
    /// Sizes of the two, in bytes.
    pub(crate) old: u64,
    pub(crate) new: u64,
    /// Whether the earlier one is a real build.
    pub(crate) real: bool,
}

impl Goods {
    pub(crate) fn make() -> Self {
        let folder = tempfile::Builder::new().prefix("bench").tempdir().unwrap();
        let new = fs::read(program()).unwrap();
        let given = std::env::var_os("IOT_AGENT_OLD");
        let real = given.is_some();
        let old = given.map_or_else(|| earlier(&new), |path| fs::read(path).unwrap());
        for (name, content) in [("old", &old), ("new", &new)] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("app"), content).unwrap();
        }
        let goods = Self { folder, old: old.len() as u64, new: new.len() as u64, real };
        goods.run(Path::new("minisign"), &["-G", "-W", "-p", "release.pub", "-s", "release.key"]);
        goods.package("first.pkg", "old", "1.0.0", &[]);
        goods.package("whole.pkg", "new", "2.0.0", &[]);
        goods.package("delta.pkg", "new", "2.0.0", &["--delta-from", "old"]);
        goods
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn size(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).unwrap().len()
    }

    pub(crate) fn run(&self, program: &Path, arguments: &[&str]) {
        let done = Command::new(program).args(arguments).current_dir(self.folder.path()).output().unwrap();
        assert!(done.status.success(), "{} {arguments:?}: {done:?}", program.display());
    }

    fn package(&self, out: &str, from: &str, version: &str, more: &[&str]) {
        let target = self.path("app");
        let create = ["package", "create", from, "-o", out, "--name", "app", "--version", version];
        let place = ["--level", "19", "--target", target.to_str().unwrap()];
        self.run(&program(), &[&create[..], &place, more].concat());
        self.run(&program(), &["package", "sign", out, "--key", "release.key", "--level", "19"]);
    }

    /// An order for the installer to unpack that package.
    pub(crate) fn unpack(&self, name: &str, version: &str, memory: u64) -> Value {
        let file = self.path(name);
        let said = Command::new("sha256sum").arg(&file).output().unwrap().stdout;
        let sha256 = String::from_utf8(said).unwrap()[..64].to_owned();
        json!({ "op": "unpack", "file": file, "sha256": sha256, "size": self.size(name), "version": version,
            "keys": fs::read_to_string(self.path("release.pub")).unwrap(), "signature": null, "allow_unsigned": false,
            "hardware_id": null, "stage": self.path("stage"), "own": self.path("own"), "delta_memory": memory,
            "installed": {} })
    }
}

/// A build that differs as one of an earlier source would: less code at some places, and other addresses all over.
fn earlier(new: &[u8]) -> Vec<u8> {
    let mut random = testkit::Rng::new(1);
    let mut old = new.to_vec();
    for word in old.chunks_exact_mut(4).skip(1000).step_by(MOVED) {
        let moved = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_sub(MORE as u32);
        word.copy_from_slice(&moved.to_le_bytes());
    }
    for place in PLACES {
        let at = (old.len() as f64 * place) as usize;
        let mut code = vec![0; MORE];
        random.fill(&mut code);
        drop(old.splice(at..at, code));
    }
    old
}
