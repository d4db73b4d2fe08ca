//! A minute in which nothing happens, of an agent that sends upon change.
//!
//! No machine that runs benchmarks is quiet: the counters of one that is are written here, and laid over those of `/proc` in a
//! namespace of the agent's own. What an idle Debian does goes on in them: two ticks a second, and the file system's
//! journal every ten seconds, as much as the agent's own messages would have it write.

use std::{fs, path::Path, process::Command, time::Duration};

use tempfile::TempDir;
use testkit::{Mosquitto, Process};
use tokio::time::{interval, sleep};

use crate::{
    agent::Home,
    crowd::Crowd,
    figures::services,
    sent::{now, sent},
    table::Table,
};

const BYTES: f64 = 400.0;
/// Compilers come and go beside it; among so many they are no change.
const CROWD: usize = 600;
/// The first sample, of everything, and what a start moves.
const SETTLE: Duration = Duration::from_secs(45);
const MINUTE: Duration = Duration::from_secs(60);

/// Lays each file of a folder over that of `/proc`, then becomes the agent.
const MOUNT: &str = r#"cd "$0" && for file in *; do mount --bind "$file" "/proc/$(echo "$file" | tr . /)" || exit; done && exec "$@""#;

pub(crate) async fn measure(program: &Path, table: &mut Table) {
    let broker = Mosquitto::plain().await.unwrap();
    let crowd = Crowd::new(CROWD);
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let services = services("10s", ", on_change: {enabled: true}");
    let home = Home::serving(program, "quiet", (&url, None), &services);
    let machine = Machine::new();
    let agent = Process::run(machine.run(&home).into()).unwrap();
    let passing = tokio::spawn(async move { machine.pass().await });
    sleep(SETTLE).await;
    let first = sent(&broker, "iot/quiet/metrics", 0);
    assert_ne!(first.messages, 0, "{:#?}", agent.stderr.all());
    let skip = now(&broker);
    sleep(MINUTE).await;
    let sent = sent(&broker, "iot/quiet/metrics", skip);
    let beside = format!("{} messages; the first, of everything, has {} bytes", sent.messages, first.largest);
    table.limit("a quiet minute upon change, bytes", BYTES, sent.bytes as f64, beside);
    passing.abort();
    drop(crowd);
}

/// One on which nothing happens.
struct Machine {
    folder: TempDir,
    cores: usize,
    disks: Vec<String>,
    boot: String,
}

impl Machine {
    /// With the cores and disks of this one, and its network, which cannot be laid over.
    fn new() -> Self {
        let read = |file: &str| fs::read_to_string(Path::new("/proc").join(file)).unwrap();
        let stat = read("stat");
        let diskstats = read("diskstats");
        let disks = diskstats.lines().filter_map(|line| line.split_whitespace().nth(2));
        let machine = Self {
            folder: tempfile::tempdir().unwrap(),
            cores: stat.lines().filter(|line| line.starts_with("cpu")).count() - 1,
            disks: disks.map(str::to_owned).collect(),
            boot: stat.lines().find(|line| line.starts_with("btime")).unwrap().to_owned(),
        };
        machine.write("loadavg", "0.02 0.03 0.00 1/200 4242\n");
        machine.write("meminfo", &read("meminfo"));
        for resource in ["cpu", "memory", "io"] {
            let line = |who: &str| format!("{who} avg10=0.10 avg60=0.10 avg300=0.10 total=1000\n");
            machine.write(&format!("pressure.{resource}"), &(line("some") + &line("full")));
        }
        machine.at(0);
        machine
    }

    /// In place, as what is mounted is this very file; the numbers are of one width, so that nobody reads half of one.
    fn write(&self, file: &str, text: &str) {
        use std::os::unix::fs::FileExt;
        let file =
            fs::File::options().create(true).write(true).truncate(false).open(self.folder.path().join(file));
        file.unwrap().write_all_at(text.as_bytes(), 0).unwrap();
    }

    /// As it stands after so many seconds.
    fn at(&self, seconds: usize) {
        let line = |name: &str, cores: usize| {
            let (busy, idle) = (cores * seconds, cores * 98 * seconds + 1_000_000);
            format!("{name} {busy:012} 0 {busy:012} {idle:012} 0 0 0 0 0 0\n")
        };
        let cores: String = (0..self.cores).map(|core| line(&format!("cpu{core}"), 1)).collect();
        self.write("stat", &format!("{}{cores}{}\n", line("cpu ", self.cores), self.boot));
        let journal = seconds / 10;
        let (writes, sectors) = (100_000 + 8 * journal, 10_000_000 + 80 * journal);
        let disk = |name: &String| format!("8 0 {name} 0 0 0 0 {writes:012} 0 {sectors:012} 0 0 0 0\n");
        self.write("diskstats", &self.disks.iter().map(disk).collect::<String>());
    }

    /// Time passes.
    async fn pass(self) {
        let mut ticks = interval(Duration::from_secs(1));
        for second in 1.. {
            ticks.tick().await;
            self.at(second);
        }
    }

    /// The agent on it.
    fn run(&self, home: &Home) -> Command {
        let agent = home.command();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", MOUNT]).arg(self.folder.path());
        command.arg(agent.get_program()).args(agent.get_args());
        command
    }
}
