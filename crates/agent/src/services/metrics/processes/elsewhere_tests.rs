//! Linux programs as the library sees them.

use std::process::{Child, Command};

use serde_json::json;

use super::*;
use crate::services::metrics::processes::Selectors;

struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The parameters of this look are real, those of the tree are not used.
fn root() -> Root {
    Root::system()
}

const ALL: Wanted = Wanted { cpu: true, memory: true, io: true };

#[test]
fn each_kind_of_selector_finds_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (path, pid_file) = (folder.path().join("m-elsewhere"), folder.path().join("x.pid"));
    fs::copy("/bin/sleep", &path).unwrap();
    let program = Program(Command::new(&path).arg("615").spawn().unwrap());
    fs::write(&pid_file, format!("{}\nmore\n", program.0.id())).unwrap();
    let list = json!(["m-elsewhere", "m-elsew*", {"cmdline": "m-elsewhere 615$", "as": "line"},
        {"pid_file": pid_file, "as": "file"}, {"pid_file": "/none.pid", "as": "none"}, {"unit": "x"}, "m-nobody"]);
    let selectors = serde_json::from_value::<Selectors>(list).unwrap().0;
    let mut processes = Processes::new(&root(), selectors, ALL);
    let (mut found, second) = (BTreeMap::new(), Some(Duration::from_secs(1)));
    // Between fork and exec it has another name.
    let started = std::time::Instant::now();
    loop {
        processes.collect(second, &mut found);
        if found["m-elsewhere"].count == 1 || started.elapsed() > Duration::from_secs(10) {
            break;
        }
        std::thread::yield_now();
    }
    let counts: Vec<(&str, u64)> = found.iter().map(|(key, process)| (key.as_str(), process.count)).collect();
    assert_eq!(
        counts,
        [("file", 1), ("line", 1), ("m-elsew*", 1), ("m-elsewhere", 1), ("m-nobody", 0), ("none", 0)]
    );
    let seen = &found["m-elsewhere"];
    assert!(
        seen.memory.unwrap() > 4096 && seen.fds.unwrap() > 0 && seen.cpu_usage.unwrap() >= 0.0,
        "{seen:?}"
    );
    assert!(seen.started.unwrap() > 1e9 && seen.read_bytes.is_some() && seen.threads.is_none(), "{seen:?}");
    assert_eq!(found["m-nobody"], Process::default());
    drop(program);
    processes.look_again();
    processes.collect(second, &mut found);
    assert_eq!(found["m-elsewhere"], Process::default());
}

#[test]
fn only_what_is_wanted_is_known() {
    let pid_file = tempfile::NamedTempFile::new().unwrap();
    fs::write(pid_file.path(), std::process::id().to_string()).unwrap();
    let list = json!([{"pid_file": pid_file.path(), "as": "me"}]);
    let selectors = serde_json::from_value::<Selectors>(list).unwrap().0;
    let none = Wanted { cpu: false, memory: false, io: false };
    let mut found = BTreeMap::new();
    Processes::new(&root(), selectors.clone(), none).collect(Some(Duration::from_secs(1)), &mut found);
    let me = &found["me"];
    assert_eq!((me.count, me.cpu_usage, me.memory, me.read_bytes), (1, None, None, None));
    Processes::new(&root(), selectors, ALL).collect(None, &mut found);
    assert!(found["me"].cpu_usage.is_none() && found["me"].memory.is_some(), "the first look has no rates");
}
