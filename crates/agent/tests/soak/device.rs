//! A device with all its services on, over TLS, and whatever it talks to: a backend, sshd, a GPS receiver, software.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use testkit::{
    Mosquitto, Process, Rng,
    certs::Pki,
    client::Message,
    downloads::Downloads,
    mosquitto::Tls,
    process::Signal,
    procfs::{self, Usage},
    receiver::{Receiver, lost, moment},
    sshd::Sshd,
};
use tokio::time::{Instant, sleep};

use crate::{
    support::{Home, SOON, backend, backend::Backend, command, wait_status},
    tunnel,
    update::{self, Builder},
};

const ID: &str = "d1";
const COMMANDS: [&str; 7] =
    ["success", "failed", "timed_out", "cancelled", "interrupted", "rejected", "expired"];
/// A thread that waits for the disk goes when it has had nothing to do for ten seconds.
const QUIET: Duration = Duration::from_secs(60);

pub(crate) struct Device {
    broker: Mosquitto,
    backend: Backend,
    server: Sshd,
    home: Home,
    agent: Process,
    receiver: Option<Receiver>,
    software: Vec<Software>,
    echo: u16,
    /// The id of each action, its field, and the states of which it has one.
    asked: Vec<(String, &'static str, &'static [&'static str])>,
    restarts: usize,
    reloads: usize,
    _kept: (Pki, Builder),
}

/// A version, where it is served, and whether it is well.
struct Software {
    request: Value,
    _server: Downloads,
    end: &'static str,
}

/// Zürich, and so many ten-thousandths of a minute to the north.
fn place(north: u64) -> String {
    format!("4722.{:04},N,00832.5020,E", north % 10_000)
}

async fn software(builder: &Builder, target: &Path) -> Vec<Software> {
    let mut all = Vec::new();
    for (version, health, end) in
        [("1.0.0", "exit 0", "success"), ("2.0.0", "exit 0", "success"), ("3.0.0", "exit 1", "rolled_back")]
    {
        let files = [("health", &*format!("#!/bin/sh\n{health}\n")), ("data", &*version.repeat(100_000))];
        let more = ["--target", target.to_str().unwrap(), "--health", "health", "--allow-downgrade"];
        let bytes = fs::read(builder.package(version, &files, &more)).unwrap();
        let (size, sha256) = (bytes.len(), update::sha256(&bytes));
        let server = Downloads::start(bytes).await.unwrap();
        let url = format!("{}app-{version}.pkg", server.url());
        let request = json!({ "version": version, "update_url": url, "sha256": sha256, "size": size });
        all.push(Software { request, _server: server, end });
    }
    all
}

/// All seven of them.
fn services(home: &Home, server: &Sshd, echo: u16) -> String {
    let dir = home.path().display();
    format!(
        "services:\n  \
         registration: {{device_secret_file: psk}}\n  \
         heartbeat: {{interval: 1s}}\n  \
         metrics: {{enabled: true, interval: 1s, process_names: [{{pid_file: '{dir}/test.pid', as: test}}]}}\n  \
         command: {{enabled: true}}\n  \
         location: {{enabled: true, interval: 1s, gps_device_path: {dir}/gps}}\n  \
         ssh: {{enabled: true, backend_host: 127.0.0.1, backend_port: {}, ssh_user: {}, known_hosts: known_hosts, targets: ['127.0.0.1:{echo}']}}\n  \
         update: {{enabled: true, trusted_keys: [release.pub], health: {{timeout: 2s}}}}\n",
        server.port(),
        server.user()
    )
}

async fn broker(pki: &Pki) -> Mosquitto {
    let tls = Tls {
        server: pki.server().unwrap(),
        client_ca: pki.ca_file(),
        require_client_certificate: true,
        only_version: None,
    };
    Mosquitto::builder().tls(tls).persistence().line("max_queued_messages 0").start().await.unwrap()
}

/// The server that tunnels lead to, known to the agent and knowing its key.
async fn meet(home: &Home, server: &Sshd) {
    let known = format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key("ed25519").unwrap());
    home.file("known_hosts", &known, 0o644);
    let key = command::run(home, &["ssh", "key"], "").await;
    assert_eq!(key.code, 0, "{key:#?}");
    server.let_in(&format!("restrict,port-forwarding,permitlisten=\"localhost:*\" {}", key.out)).unwrap();
}

impl Device {
    /// Enrolled, and everything is there that it may be asked for.
    pub(crate) async fn begin() -> Self {
        let pki = Pki::new().unwrap();
        let broker = broker(&pki).await;
        let backend = Backend::start(&broker).await;
        let server = Sshd::builder().line("AddressFamily inet").start().await.unwrap();
        let echo = tunnel::echo().await;
        let builder = Builder::new();
        let client = pki.client("agent").unwrap();
        let home = Home::new(&format!("mqtts://127.0.0.1:{}", broker.tls_port()))
            .mqtt(&format!("ca_certificate: {}", pki.ca_file().display()))
            .mqtt(&format!("client_certificate: {}", client.cert.display()))
            .mqtt(&format!("client_key: {}", client.key.display()));
        // By a file: programs by name would be also those of others on this machine, which come and go.
        home.file("test.pid", &std::process::id().to_string(), 0o644);
        let text = services(&home, &server, echo);
        let home = home.yaml(&text);
        home.file("release.pub", &fs::read_to_string(builder.path("release.pub")).unwrap(), 0o644);
        meet(&home, &server).await;
        let software = software(&builder, &home.path().join("app")).await;
        let agent = home.start();
        backend.enrol(ID).await;
        backend::enrolled(&home, &backend, ID).await;
        Self {
            broker,
            backend,
            server,
            home,
            agent,
            receiver: None,
            software,
            echo,
            asked: Vec::new(),
            restarts: 0,
            reloads: 0,
            _kept: (pki, builder),
        }
    }

    /// Some commands, tunnels and an update at once, on a device that moves; now and then the broker is away, the
    /// receiver is unplugged, or the settings are read again.
    pub(crate) async fn round(&mut self, n: usize, rng: &mut Rng) {
        match rng.below(4) {
            0 => self.restart_broker().await,
            1 => self.reload().await,
            _ => {}
        }
        self.move_about(n, rng).await;
        let n_software = n % self.software.len();
        let (a, b, c) = (format!("r{n}-a"), format!("r{n}-b"), format!("r{n}-c"));
        let (t, u, v) = (format!("r{n}-t"), format!("r{n}-u"), format!("r{n}-v"));
        tokio::join!(
            self.runs(&a, "echo well; seq 2000", "success"),
            self.runs(&b, "exit 3", "failed"),
            self.runs(&c, "sleep 60 & sleep 60", "timed_out"),
            self.tunnels(&t, false),
            self.tunnels(&u, true),
            self.updates(&v, n_software),
        );
        for id in [a, b, c] {
            self.asked.push((id, "execution_id", &COMMANDS));
        }
        for id in [t, u] {
            self.asked.push((id, "request_id", &tunnel::FINAL));
        }
        self.asked.push((v, "update_id", &update::FINAL));
    }

    async fn send(&self, service: &str, payload: Value) {
        let topic = format!("iot/{ID}/{service}");
        testkit::client::publish(&self.broker, &topic, payload.to_string(), 1, false).await.unwrap();
    }

    /// What is said of an id in this field, once it is in one of these states; `status` is what commands call it.
    async fn hears(&self, field: &str, id: &str, wanted: &[&str]) -> Value {
        let quoted = format!("\"{id}\"");
        let matching = |message: &Message| {
            // Most are of others.
            if !std::str::from_utf8(&message.payload).is_ok_and(|text| text.contains(&quoted)) {
                return false;
            }
            let said = message.json().unwrap_or_default();
            said[field] == id && state(&said).is_some_and(|state| wanted.contains(&state))
        };
        let found = self.backend.watcher.messages().find(matching, SOON * 4).await;
        found.unwrap_or_else(|error| panic!("{id}: {error}: {:#?}", self.agent.stderr.all())).json().unwrap()
    }

    async fn runs(&self, id: &str, command: &str, end: &str) {
        self.send("command", json!({ "execution_id": id, "command": command, "timeout_s": 1 })).await;
        let said = self.hears("execution_id", id, &COMMANDS).await;
        assert_eq!(state(&said), Some(end), "{said}");
    }

    /// One with traffic, which is closed, or whose time is over.
    async fn tunnels(&self, id: &str, expires: bool) {
        let mut request = json!({ "request_id": id, "lport": self.echo, "rport": 0 });
        if expires {
            request["ttl_s"] = json!(1);
        }
        self.send("ssh", request).await;
        let said = self.hears("request_id", id, &["open", "refused", "failed"]).await;
        assert_eq!(said["state"], "open", "{said}");
        tunnel::answers(tunnel::port(&said), &"hello ".repeat(2000)).await;
        if !expires {
            self.send("ssh", json!({ "request_id": id, "close": true })).await;
        }
        let said = self.hears("request_id", id, &tunnel::FINAL).await;
        assert_eq!(said["state"], "closed", "{said}");
    }

    async fn updates(&self, id: &str, number: usize) {
        let software = &self.software[number];
        let mut request = software.request.clone();
        request["update_id"] = json!(id);
        self.send("update", request).await;
        let said = self.hears("update_id", id, &update::FINAL).await;
        assert_eq!(said["state"], software.end, "{said}");
    }

    /// The receiver is somewhere else, has no fix, or is plugged in again; when it has one, the device says where.
    async fn move_about(&mut self, n: usize, rng: &mut Rng) {
        if rng.below(4) == 0
            && let Some(receiver) = self.receiver.take()
        {
            receiver.unplug().await;
        }
        let link = self.home.path().join("gps");
        let receiver = self
            .receiver
            .get_or_insert_with(|| Receiver::plug(&link, lost).unwrap_or_else(|error| panic!("{error:#}")));
        let here = place(n as u64);
        receiver.says(move |number| moment(&here, number));
        let latitude = 47.0 + (22.0 + (n % 10_000) as f64 / 10_000.0) / 60.0;
        let is_here = |message: &Message| {
            message.topic == format!("iot/{ID}/location")
                && message.json().is_ok_and(|said| {
                    said["latitude"].as_f64().is_some_and(|said| (said - latitude).abs() < 5e-7)
                })
        };
        let found = self.backend.watcher.messages().find(is_here, SOON * 2).await;
        found.unwrap_or_else(|error| panic!("round {n}: {error}: {:#?}", self.agent.stderr.all()));
    }

    async fn restart_broker(&mut self) {
        let before = self.backend.watcher.subscriptions();
        self.broker.stop().await.unwrap();
        wait_status(&self.home, |status| status["connection"]["state"] != "connected").await;
        self.broker.start().await.unwrap();
        self.backend.watcher.wait_resubscribed(before, SOON).await.unwrap();
        wait_status(&self.home, |status| status["connection"]["state"] == "connected").await;
        self.restarts += 1;
    }

    async fn reload(&mut self) {
        self.agent.stderr.skip_to_end();
        self.agent.signal(Signal::HUP).unwrap();
        self.agent.wait_line("configuration ", SOON).await.unwrap();
        self.reloads += 1;
    }

    /// What speaks by the clock has done so since now: it has opened what it reads.
    async fn speaks_again(&self) {
        let now = Instant::now();
        for service in ["metrics", "location"] {
            let topic = format!("iot/{ID}/{service}");
            let newer = |message: &Message| message.topic == topic && message.at > now;
            self.backend.watcher.messages().find(newer, SOON * 2).await.unwrap();
        }
    }

    /// From now on what goes by the clock is this seldom; the file that says so.
    async fn seldom(&mut self, interval: &str) -> PathBuf {
        let text =
            format!("services: {{metrics: {{interval: {interval}}}, location: {{interval: {interval}}}}}\n");
        let file = self.home.file("conf.d/seldom.yaml", &text, 0o600);
        self.reload().await;
        file
    }

    /// What it uses when that has not changed for a second, and no tunnel is open.
    async fn steady(&self, threads: usize) -> Usage {
        let usage = || procfs::usage(self.agent.pid()).unwrap();
        let deadline = Instant::now() + QUIET;
        let mut now = usage();
        // Files, too, are opened when they are first needed.
        let mut steady = 0;
        while now.threads > threads || !self.server.connections().is_empty() || steady < 10 {
            assert!(Instant::now() < deadline, "not idle after {QUIET:?}: {now:?}");
            sleep(Duration::from_millis(100)).await;
            let next = usage();
            steady = if next.fds == now.fds { steady + 1 } else { 0 };
            now = next;
        }
        now
    }

    /// What it uses when it has nothing to do: all that it does by the clock is set to hours meanwhile.
    pub(crate) async fn idle(&mut self, threads: usize) -> Usage {
        let overlay = self.home.path().join("conf.d");
        fs::create_dir_all(&overlay).unwrap();
        // Twice: what comes after the second time is not the last word of those who spoke every second.
        self.seldom("2h").await;
        self.steady(usize::MAX).await;
        let file = self.seldom("1h").await;
        self.speaks_again().await;
        let now = self.steady(threads).await;
        fs::remove_file(file).unwrap();
        self.reload().await;
        now
    }

    /// Nothing that was asked was left without an end, and nothing has two.
    pub(crate) fn each_has_one_end(&self) {
        let said: Vec<Value> =
            self.backend.watcher.all().iter().filter_map(|message| message.json().ok()).collect();
        for (id, field, finals) in &self.asked {
            let mut ends: Vec<&str> = said
                .iter()
                .filter(|said| said[field] == *id)
                .filter_map(state)
                .filter(|state| finals.contains(state))
                .collect();
            ends.dedup();
            assert_eq!(ends.len(), 1, "{id}: {ends:?}");
        }
    }

    /// How much it has done.
    pub(crate) fn done(&self) -> String {
        let count = |wanted| self.asked.iter().filter(|(_, field, _)| *field == wanted).count();
        format!(
            "commands={} tunnels={} updates={} broker_restarts={} reloads={}",
            count("execution_id"),
            count("request_id"),
            count("update_id"),
            self.restarts,
            self.reloads
        )
    }
}

/// Commands have a status, the others a state.
fn state(said: &Value) -> Option<&str> {
    said["state"].as_str().or(said["status"].as_str())
}
