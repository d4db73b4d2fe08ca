//! Processes to be among, and the three that are asked for by name. Ended with it.

use std::{
    fs,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// The names of the three.
pub(crate) const NAMES: [&str; 3] = ["bench-a", "bench-b", "bench-c"];

const PATIENCE: Duration = Duration::from_secs(60);

/// All of them.
pub(crate) struct Crowd {
    folder: TempDir,
    children: Vec<Child>,
}

impl Crowd {
    /// So many, of which three have names.
    pub(crate) fn new(many: usize) -> Self {
        let mut crowd = Self { folder: tempfile::tempdir().unwrap(), children: Vec::new() };
        for name in NAMES {
            let path = crowd.folder.path().join(name);
            symlink("/bin/sleep", &path).unwrap();
            crowd.start(&path);
        }
        crowd.grow(many);
        crowd
    }

    /// Starts more, until there are so many.
    pub(crate) fn grow(&mut self, many: usize) {
        while self.children.len() < many {
            self.start(Path::new("/bin/sleep"));
        }
        self.wait_until_asleep();
    }

    fn start(&mut self, program: &Path) {
        let mut command = Command::new(program);
        // Of a group of its own, which a Ctrl-C at the terminal does not reach before us.
        command.arg("3600").process_group(0).stdin(Stdio::null()).env_clear();
        self.children.push(command.spawn().unwrap());
    }

    /// Until each has begun to sleep, hence has done all that it will.
    fn wait_until_asleep(&self) {
        let deadline = Instant::now() + PATIENCE;
        for child in &self.children {
            let stat = PathBuf::from(format!("/proc/{}/stat", child.id()));
            while !fs::read_to_string(&stat).unwrap().contains(") S ") {
                assert!(Instant::now() < deadline, "a sleeper does not sleep");
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().expect("it is ours");
        }
        for child in &mut self.children {
            child.wait().expect("it is ours");
        }
    }
}

/// How many processes the machine has.
pub(crate) fn processes() -> usize {
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.as_encoded_bytes()[0].is_ascii_digit()).count()
}
