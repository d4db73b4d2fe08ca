//! A disk that is full, or can only be read: the state folder is a small tmpfs in a mount namespace, which the agent and
//! the test share.

use std::{fs, io::Write as _, path::PathBuf};

use testkit::Process;
use tokio::{process::Command, time::Instant};

use super::{Home, SOON};

const DEVICE: &str = "{\"device_id\": \"d1\"}";

/// What befalls it.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// No byte fits on it.
    Full,
    /// Nothing can be written.
    ReadOnly,
}

/// A mount namespace in which the state folder is a file system of its own.
pub struct Disk {
    holder: Process,
    state: PathBuf,
}

impl Disk {
    /// Makes it for the state of an agent, of a size as mount(8) reads it.
    pub async fn mount(home: &Home, size: &str) -> Self {
        let state = home.path().join("state");
        fs::create_dir(&state).unwrap();
        let script =
            r#"mount -t tmpfs -o size="$1",mode=700 state "$0" && echo mounted && exec sleep infinity"#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&state).arg(size);
        let holder = Process::run(command).unwrap();
        holder.stdout.find(|line| line == "mounted", SOON).await.unwrap();
        let disk = Self { holder, state };
        fs::write(disk.path().join("device.json"), DEVICE).unwrap();
        disk
    }

    /// The folder, as it is seen from outside.
    pub fn path(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.pid());
        PathBuf::from(root).join(self.state.strip_prefix("/").unwrap())
    }

    /// A command that runs inside.
    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.pid()));
        command
    }

    /// Runs the daemon inside.
    pub fn start(&self, home: &Home) -> Process {
        let mut command = self.command();
        command.arg(env!("CARGO_BIN_EXE_iot-agent")).args(["run", "--config"]).arg(home.write());
        Process::run(command).unwrap()
    }

    async fn remount(&self, how: &str) {
        // A file that is being written keeps it busy for a moment.
        let deadline = Instant::now() + SOON;
        loop {
            let mut mount = self.command();
            let output = mount.args(["mount", "-o", how]).arg(&self.state).output().await.unwrap();
            if output.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "{output:?}");
        }
    }

    /// Breaks it.
    pub async fn break_by(&self, fault: Fault) {
        match fault {
            Fault::Full => {
                let filler = self.path().join("filler");
                let mut filler = fs::OpenOptions::new().create(true).append(true).open(filler).unwrap();
                while filler.write_all(&[0; 4096]).is_ok() {}
            }
            Fault::ReadOnly => self.remount("remount,ro").await,
        }
    }

    /// Makes it well again.
    pub async fn mend(&self, fault: Fault) {
        match fault {
            Fault::Full => fs::remove_file(self.path().join("filler")).unwrap(),
            Fault::ReadOnly => self.remount("remount,rw").await,
        }
    }
}
