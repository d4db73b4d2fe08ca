//! A broker, and an agent that is connected to it.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testkit::Mosquitto;

use crate::client::{Client, Orders, connect};

const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);

/// A broker that takes a backlog of any length, and writes no line for each message.
pub(crate) fn broker() -> Mosquitto {
    let builder = Mosquitto::builder().line("max_queued_messages 0");
    let builder = builder.line("log_type none").line("log_type information");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(builder.start()).unwrap()
}

/// On tmpfs.
pub(crate) fn memory() -> PathBuf {
    "/dev/shm".into()
}

/// On a disk.
pub(crate) fn disk() -> PathBuf {
    std::env::var_os("COMMAND_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from)
}

/// An agent in a folder of its own.
pub(crate) struct Device {
    name: &'static str,
    home: TempDir,
    child: Child,
    tracer: bool,
}

impl Device {
    /// Its state is below `folder`; `services` is the section of that name.
    pub(crate) fn start(name: &'static str, folder: &Path, broker: &Mosquitto, services: &str) -> Self {
        Self::traced(name, folder, broker, services, None)
    }

    /// Under strace, which writes a file for each thread, beginning with `traces`.
    pub(crate) fn traced(
        name: &'static str,
        folder: &Path,
        broker: &Mosquitto,
        services: &str,
        traces: Option<&Path>,
    ) -> Self {
        let home = tempfile::Builder::new().prefix("bench").tempdir_in(folder).unwrap();
        let (at, port) = (home.path(), broker.port());
        let config = format!(
            "mqtt: {{broker: \"mqtt://127.0.0.1:{port}\"}}\npaths: {{state: {0}/state, run: {0}/run}}\n\
             services:\n  heartbeat: {{interval: 10s}}\n  metrics: {{enabled: false}}\n{services}",
            at.display()
        );
        fs::write(at.join("config.yaml"), config).unwrap();
        fs::create_dir(at.join("state")).unwrap();
        fs::write(at.join("state/device.json"), format!(r#"{{"device_id": "{name}"}}"#)).unwrap();
        // A copy of its own: memory is counted by how many processes share it.
        let program = at.join("iot-agent");
        let built = std::env::var_os("IOT_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_iot-agent").into());
        fs::copy(built, &program).unwrap();
        let mut command = match traces {
            Some(traces) => {
                let mut strace = Command::new("strace");
                strace.args(["-ff", "-qq", "-o"]).arg(traces).arg(program);
                strace
            }
            None => Command::new(program),
        };
        command.arg("run").arg("--config").arg(at.join("config.yaml")).process_group(0);
        let log = fs::File::create(at.join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let device = Self { name, home, child, tracer: traces.is_some() };
        device.wait_until("it is connected", || {
            fs::read_to_string(device.path("log")).unwrap().contains("connected")
        });
        device
    }

    /// Somebody who orders and listens; the first order has been carried out.
    pub(crate) fn operator(&self, broker: &Mosquitto) -> (Orders, Client) {
        let (mut orders, mut client) = connect(broker.port(), self.name);
        orders.order("first", "true");
        client.success("first");
        (orders, client)
    }

    pub(crate) fn pid(&self) -> u32 {
        let own = self.child.id();
        if self.tracer { testkit::procfs::children(own).unwrap()[0] } else { own }
    }

    /// A file in its folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{what}: {}", fs::read_to_string(self.path("log")).unwrap());
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // Its keepers end with it.
        if let Some(pid) = Pid::from_raw(self.pid().cast_signed()) {
            kill_process(pid, Signal::TERM).ok();
        }
        self.child.wait().ok();
    }
}
