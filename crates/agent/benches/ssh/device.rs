//! The device's end in a process of its own: ours, or `ssh -R`.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::Sshd;
use testkit::ports::free_port;

/// The first argument of this program when it is to be a device.
pub(crate) const ROLE: &str = "--device";
const CIPHER: &str = "aes128-gcm@openssh.com";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Openssh,
}

/// A device and the ports at the server that lead to it. Killed when dropped.
pub(crate) struct Device {
    child: Child,
    pub(crate) ports: Vec<u16>,
}

/// A server that takes one cipher, and the key `key` in its folder.
pub(crate) async fn server() -> Sshd {
    let sshd = Sshd::builder().line(&format!("Ciphers {CIPHER}")).start().await.unwrap();
    testkit::sshd::keygen(&sshd.path("key"), "ed25519", 0).unwrap();
    sshd.let_in(&fs::read_to_string(sshd.path("key.pub")).unwrap()).unwrap();
    sshd
}

impl Device {
    pub(crate) fn start(kind: Kind, sshd: &Sshd, targets: &[u16]) -> Self {
        match kind {
            Kind::Ours => Self::ours(sshd, targets),
            Kind::Openssh => Self::openssh(sshd, targets),
        }
    }

    fn ours(sshd: &Sshd, targets: &[u16]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args([ROLE, &sshd.port().to_string(), &sshd.user()]).arg(sshd.path("key"));
        command.arg(sshd.host_key("ed25519").unwrap());
        command.args(targets.iter().map(u16::to_string));
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ports = lines.take(targets.len()).map(|line| line.unwrap().parse().unwrap()).collect();
        Self { child, ports }
    }

    fn openssh(sshd: &Sshd, targets: &[u16]) -> Self {
        let known = format!("[127.0.0.1]:{} {}\n", sshd.port(), sshd.host_key("ed25519").unwrap());
        fs::write(sshd.path("known_hosts"), known).unwrap();
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-N", "-T", "-c", CIPHER, "-o", "ExitOnForwardFailure=yes"]);
        command.arg("-o").arg(format!("UserKnownHostsFile={}", sshd.path("known_hosts").display()));
        command.arg("-i").arg(sshd.path("key")).args(["-p", &sshd.port().to_string()]);
        let ports: Vec<u16> = targets.iter().map(|_| free_port()).collect();
        for (port, target) in ports.iter().zip(targets) {
            command.arg("-R").arg(format!("127.0.0.1:{port}:127.0.0.1:{target}"));
        }
        let child = command.arg(format!("{}@127.0.0.1", sshd.user())).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()) {
            assert!(Instant::now() < deadline, "ssh -R does not come up");
            std::thread::yield_now();
        }
        Self { child, ports }
    }

    /// Processor time used so far, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        let stat = self.proc("stat");
        let after = stat.rsplit_once(')').unwrap().1;
        let ticks: Vec<f64> =
            after.split_whitespace().skip(11).take(2).map(|word| word.parse().unwrap()).collect();
        ticks.iter().sum::<f64>() / rustix::param::clock_ticks_per_second() as f64
    }

    /// A line of `smaps_rollup`, in KiB: `Pss`, `Anonymous`.
    pub(crate) fn memory(&self, name: &str) -> f64 {
        self.number("smaps_rollup", name)
    }

    /// How often it was woken.
    pub(crate) fn wakes(&self) -> f64 {
        self.number("status", "voluntary_ctxt_switches")
    }

    fn number(&self, file: &str, name: &str) -> f64 {
        let text = self.proc(file);
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn proc(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What the process of a device of ours does.
pub(crate) async fn be(arguments: &[String]) {
    let [port, user, key, host_key, targets @ ..] = arguments else { panic!("{arguments:?}") };
    let targets: Vec<u16> = targets.iter().map(|target| target.parse().unwrap()).collect();
    let say = |port| {
        println!("{port}");
        std::io::stdout().flush().unwrap();
    };
    let keys = (Path::new(key), host_key.as_str());
    iot_agent::services::ssh::hold(port.parse().unwrap(), user.clone(), keys, &targets, say).await.unwrap();
}
