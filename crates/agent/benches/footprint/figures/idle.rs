//! A minute of heartbeats over TLS: memory, processor time, threads and what wakes them, and peers doing the same.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use testkit::{
    Mosquitto, Process,
    certs::Pki,
    mosquitto::Tls,
    procfs::{self, Usage},
};
use tokio::time::sleep;

use super::{agent::Home, table::Table};

/// Of heartbeats alone. It was 4 while there was nothing else in the program, of whose pages most of it consists.
const PSS_MB: f64 = 6.0;
/// With every service on.
const ALL_PSS_MB: f64 = 7.0;
const CPU_MS: f64 = 20.0;
/// Of the watchdog, in a minute.
const WAKEUPS: f64 = 6.0;
/// Heartbeats in a minute: six, and whoever sends fewer has no figures.
const BEATS: usize = 5;
/// Agents; the others are peers.
const OURS: usize = 3;
/// Threads: the runtime and the watchdog.
const THREADS: f64 = 2.0;
/// Until everything that a start needs has ended, the thread that asked DNS too.
const SETTLE: Duration = Duration::from_secs(20);
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) async fn measure(program: &Path, table: &mut Table) {
    let pki = Pki::new().unwrap();
    let broker = broker(&pki).await;
    let url = format!("mqtts://localhost:{}", broker.tls_port());
    let own = Home::new(program, "own", &url, Some(&pki.ca_file()));
    let system = Home::new(program, "system", &url, None);
    let mut trusting = system.command();
    trusting.env("SSL_CERT_FILE", bundle(&system, &pki)).env_remove("SSL_CERT_DIR");

    let all = everything(program, &url, &pki);

    let mut running = vec![
        Running::start("own CA", "iot/own/heartbeat", own.command()).unwrap(),
        Running::start("system's authorities", "iot/system/heartbeat", trusting).unwrap(),
        Running::start("all services", "iot/all/heartbeat", all.command()).unwrap(),
    ];
    running.extend(peers(&broker, &pki));
    sleep(SETTLE).await;
    running.iter_mut().for_each(|one| one.begin(&broker));
    sleep(MINUTE).await;
    let figures: Vec<Figures> = running.iter().map(|one| one.end(&broker)).collect();
    for figures in &figures[..OURS] {
        detail(figures);
    }
    fill(table, &figures);
}

fn fill(table: &mut Table, figures: &[Figures]) {
    let (own, system, all, peers) = (&figures[0], &figures[1], &figures[2], &figures[OURS..]);
    let of = |one: fn(&Figures) -> f64| {
        let cells: Vec<_> = peers.iter().map(|peer| format!("{} {:.1}", peer.name, one(peer))).collect();
        if cells.is_empty() { "peers absent".to_owned() } else { cells.join("; ") }
    };
    table.limit("PSS, own CA, MB", PSS_MB, own.pss, of(|peer| peer.pss));
    table.limit("PSS, system's authorities, MB", PSS_MB, system.pss, "");
    table.figure("private memory, own CA, MB", own.private, of(|peer| peer.private));
    table.figure("peak RSS, own CA, MB", own.peak(), of(Figures::peak));
    table.figure("peak RSS, system's authorities, MB", system.peak(), "");
    table.limit("CPU, ms a minute", CPU_MS, own.cpu, of(|peer| peer.cpu));
    table.limit("CPU, system's authorities, ms a minute", CPU_MS, system.cpu, "");
    table.limit("threads", THREADS, own.usage.threads as f64, of(|peer| peer.usage.threads as f64));
    table.limit("child processes", 0.0, own.children as f64, of(|peer| peer.children as f64));
    table.limit("wake-ups a minute, watchdog", WAKEUPS, own.watchdog, "");
    table.figure("wake-ups a minute, all threads", own.wakeups, of(|peer| peer.wakeups));
    table.figure("open files", own.usage.fds as f64, of(|peer| peer.usage.fds as f64));
    table.limit("PSS, all services, MB", ALL_PSS_MB, all.pss, "");
    table.figure("private memory, all services, MB", all.private, "");
    table.figure("peak RSS, all services, MB", all.peak(), "");
    table.figure("CPU, all services, ms a minute", all.cpu, "");
    table.figure("threads, all services", all.usage.threads as f64, "");
}

/// All seven services, with nothing asked of them.
fn everything(program: &Path, url: &str, pki: &Pki) -> Home {
    let services = "heartbeat: {interval: 10s}, metrics: {enabled: true}, command: {enabled: true}, \
        location: {enabled: true, fixed: {latitude: 47.37, longitude: 8.54}}, \
        ssh: {enabled: true, backend_host: 127.0.0.1, ssh_user: device, known_hosts: known_hosts, targets: ['127.0.0.1:22']}, \
        update: {enabled: true, trusted_keys: [release.pub]}, registration: {device_secret_file: psk}";
    let home = Home::serving(program, "all", (url, Some(&pki.ca_file())), services);
    let key = home.path().join("host");
    testkit::sshd::keygen(&key, "ed25519", 0).unwrap();
    let key = fs::read_to_string(key.with_extension("pub")).unwrap();
    fs::write(home.path().join("known_hosts"), format!("127.0.0.1 {key}")).unwrap();
    let secret = home.path().join("psk");
    fs::write(&secret, "0123456789abcdef").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let mut minisign = Command::new("minisign");
    minisign.args(["-G", "-W", "-p", "release.pub", "-s", "release.key"]).current_dir(home.path());
    let made = minisign.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    home
}

async fn broker(pki: &Pki) -> Mosquitto {
    let tls = Tls {
        server: pki.server().unwrap(),
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    Mosquitto::builder().tls(tls).start().await.unwrap()
}

/// The authorities of a whole system, and the one that matters at the end.
fn bundle(home: &Home, pki: &Pki) -> PathBuf {
    let system = fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
    println!("the system trusts {} authorities", system.matches("BEGIN CERTIFICATE").count());
    let file = home.path().join("bundle.pem");
    fs::write(&file, system + &fs::read_to_string(pki.ca_file()).unwrap()).unwrap();
    file
}

/// Those that are there.
fn peers(broker: &Mosquitto, pki: &Pki) -> Vec<Running> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/footprint");
    let python = std::env::var("PAHO_PYTHON").unwrap_or_else(|_| "python3".into());
    let paho = Command::new(&python).args(["-c", "import paho.mqtt"]).output();
    let mut found = Vec::new();
    let mut add = |name: &str, id: &str, program: &str, script: Option<&str>| {
        let mut command = Command::new(program);
        command.args(script.map(|script| here.join(script)));
        command.arg(broker.tls_port().to_string()).arg(pki.ca_file());
        found.extend(Running::start(name, &format!("peer/{id}/heartbeat"), command));
    };
    if paho.is_ok_and(|output| output.status.success()) {
        add("paho-mqtt", "script", &python, Some("heartbeat.py"));
    } else {
        println!("peer absent: {python} has no paho-mqtt");
    }
    add("shell loop", "shell", "sh", Some("heartbeat.sh"));
    match std::env::var("PEER") {
        Ok(peer) => add(peer.rsplit('/').next().unwrap_or(&peer), "other", &peer, None),
        Err(_) => println!("peer absent: PEER names none"),
    }
    found
}

/// A process and what it had used when its minute began.
struct Running {
    name: String,
    topic: String,
    process: Process,
    before: Option<Spent>,
}

/// What only grows.
struct Spent {
    cpu: Duration,
    wakeups: u64,
    watchdog: u64,
    beats: usize,
}

struct Figures {
    name: String,
    usage: Usage,
    pss: f64,
    private: f64,
    cpu: f64,
    wakeups: f64,
    watchdog: f64,
    children: usize,
    pid: u32,
}

impl Figures {
    fn peak(&self) -> f64 {
        self.usage.peak_rss as f64 / 1e6
    }
}

impl Running {
    fn start(name: &str, topic: &str, command: Command) -> Option<Self> {
        match Process::run(command.into()) {
            Ok(process) => Some(Self { name: name.into(), topic: topic.into(), process, before: None }),
            Err(error) => {
                println!("peer absent: {name}: {error:#}");
                None
            }
        }
    }

    fn spent(&self, broker: &Mosquitto) -> Spent {
        let pid = self.process.pid();
        let usage = procfs::usage(pid).unwrap_or_else(|error| {
            panic!("{} does not run: {error:#}: {:#?}", self.name, self.process.stderr.all())
        });
        let log = broker.log();
        let beat = |line: &&str| line.contains("Received PUBLISH") && line.contains(&self.topic);
        Spent {
            cpu: usage.cpu + cpu_of_children(pid),
            wakeups: usage.wakeups,
            watchdog: threads(pid).iter().find(|(name, _)| name == "watchdog").map_or(0, |(_, woken)| *woken),
            beats: log.lines().filter(beat).count(),
        }
    }

    fn begin(&mut self, broker: &Mosquitto) {
        self.before = Some(self.spent(broker));
    }

    fn end(&self, broker: &Mosquitto) -> Figures {
        let pid = self.process.pid();
        let (before, after) = (self.before.as_ref().unwrap(), self.spent(broker));
        assert!(
            after.beats >= before.beats + BEATS,
            "{} is silent: {:#?}",
            self.name,
            self.process.stderr.all()
        );
        let usage = procfs::usage(pid).unwrap();
        let mappings = mappings(pid);
        let private = mappings.iter().map(|mapping| mapping.private).sum::<u64>();
        Figures {
            name: self.name.clone(),
            usage,
            pss: usage.pss as f64 / 1e6,
            private: private as f64 / 1e6,
            cpu: (after.cpu - before.cpu).as_secs_f64() * 1e3,
            wakeups: (after.wakeups - before.wakeups) as f64,
            watchdog: (after.watchdog - before.watchdog) as f64,
            children: procfs::children(pid).unwrap().len(),
            pid,
        }
    }
}

/// Processor time of children that have ended, to the tick.
pub(crate) fn cpu_of_children(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = text.rsplit_once(')').unwrap().1;
    let ticks: u64 =
        after.split_whitespace().skip(13).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Where the memory is.
fn detail(figures: &Figures) {
    println!("\n{}: {:.2} MB PSS, {} threads", figures.name, figures.pss, figures.usage.threads);
    let mut mappings = mappings(figures.pid);
    mappings.sort_by_key(|mapping| std::cmp::Reverse(mapping.pss));
    for mapping in mappings.iter().take(8) {
        let Mapping { name, pss, private } = mapping;
        println!("{:>8} kB PSS {:>8} kB private  {name}", pss / 1024, private / 1024);
    }
}

/// Name and voluntary context switches of each thread since its start.
fn threads(pid: u32) -> Vec<(String, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end between the listing and here.
    let texts = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let field =
        |text: &str, name| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    texts
        .map(|text| (field(&text, "Name:"), field(&text, "voluntary_ctxt_switches:").parse().unwrap()))
        .collect()
}

/// What is mapped from one file, or from none.
struct Mapping {
    name: String,
    pss: u64,
    private: u64,
}

fn mappings(pid: u32) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    let mut current = 0;
    for line in fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap().lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words[0].ends_with(':') {
            let bytes = || words[1].parse::<u64>().unwrap() * 1024;
            match words[0] {
                "Pss:" => found[current].pss += bytes(),
                "Private_Clean:" | "Private_Dirty:" => found[current].private += bytes(),
                _ => {}
            }
        } else {
            let name = words.get(5).copied().unwrap_or("anonymous");
            current = found.iter().position(|mapping| mapping.name == name).unwrap_or(found.len());
            if current == found.len() {
                found.push(Mapping { name: name.into(), pss: 0, private: 0 });
            }
        }
    }
    found
}
