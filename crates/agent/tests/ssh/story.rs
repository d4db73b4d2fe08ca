//! A device that opens tunnels, the server they come from, and whoever asks for them.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::{Value, json};
use testkit::{Mosquitto, Process, Proxy, Watcher, sshd::Sshd};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::support::{Home, SOON, command};

/// The states of which each id has exactly one.
pub(crate) const FINAL: [&str; 3] = ["closed", "refused", "failed"];

pub(crate) struct Story {
    pub(crate) broker: Mosquitto,
    pub(crate) watcher: Watcher,
    pub(crate) server: Sshd,
    pub(crate) home: Home,
    /// Where something answers with what it is told.
    pub(crate) echo: u16,
    pub(crate) topic: &'static str,
}

/// The section of the service; `more` are further keys of it.
pub(crate) fn services(server: &Sshd, echo: u16, more: &str) -> String {
    let mut keys = format!(
        "enabled: true, backend_host: 127.0.0.1, backend_port: {}, ssh_user: {}, known_hosts: known_hosts",
        server.port(),
        server.user()
    );
    if !more.contains("targets:") {
        keys.push_str(&format!(", targets: ['127.0.0.1:{echo}']"));
    }
    format!(
        "services:\n  registration: {{device_secret_file: psk}}\n  heartbeat: {{interval: 1s}}\n  \
         metrics: {{enabled: false}}\n  ssh: {{{keys}{more}}}\n"
    )
}

impl Story {
    pub(crate) async fn begin(more: &str) -> Self {
        Self::with(more, "", "").await
    }

    /// With more keys of the service, more sections, and a line of sshd's settings.
    pub(crate) async fn with(more: &str, sections: &str, line: &str) -> Self {
        let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
        let watcher = Watcher::start(&broker, "#").await.unwrap();
        // Of localhost's two addresses sshd is content with one, if another program has its port on the other.
        let server = Sshd::builder().line("AddressFamily inet").line(line).start().await.unwrap();
        let echo = echo().await;
        let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port()));
        let home = home.device("d1").yaml(&format!("{}{sections}", services(&server, echo, more)));
        let known = format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key("ed25519").unwrap());
        home.file("known_hosts", &known, 0o644);
        let story = Self { broker, watcher, server, home, echo, topic: "iot/d1/ssh" };
        // Nothing is allowed by a policy that says nothing.
        story.home.file("policy.yaml", "ssh: {allow: false}\n", 0o644);
        let key = command::run(&story.home, &["ssh", "key"], "").await;
        assert_eq!(key.code, 0, "{key:#?}");
        story
            .server
            .let_in(&format!("restrict,port-forwarding,permitlisten=\"localhost:*\" {}", key.out))
            .unwrap();
        story
    }

    /// Lays settings over those of the file, for the next life of the agent.
    fn overlay(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.home.path().join("conf.d")).unwrap();
        self.home.file(&format!("conf.d/{name}.yaml"), text, 0o600);
    }

    /// The agent looks for sshd there, and finds its key if it is.
    pub(crate) fn reach(&self, server: SocketAddr) {
        let (host, port) = (server.ip(), server.port());
        self.overlay(
            "server",
            &format!("services: {{ssh: {{backend_host: {host}, backend_port: {port}}}}}\n"),
        );
        let known = format!("[{host}]:{port} {}\n", self.server.host_key("ed25519").unwrap());
        self.home.file("known_hosts", &known, 0o644);
    }

    /// The only line on which the agent reaches sshd from its next life on.
    pub(crate) async fn line_to_server(&self) -> Proxy {
        let line = Proxy::start(self.server.addr()).await.unwrap();
        self.reach(line.addr());
        line
    }

    /// The same to the broker.
    pub(crate) async fn line_to_broker(&self) -> Proxy {
        let line = Proxy::start((Ipv4Addr::LOCALHOST, self.broker.port()).into()).await.unwrap();
        self.overlay("broker", &format!("mqtt: {{broker: \"mqtt://127.0.0.1:{}\"}}\n", line.port()));
        line
    }

    /// Connected, and subscribed.
    pub(crate) async fn online(&self) -> Process {
        self.home.online().await
    }

    pub(crate) async fn send(&self, payload: impl AsRef<[u8]>) {
        testkit::client::publish(&self.broker, self.topic, payload, 1, false).await.unwrap();
    }

    /// Asks for a tunnel to the echo, at any port.
    pub(crate) async fn ask(&self, id: &str, more: Value) {
        let mut request = json!({ "request_id": id, "lport": self.echo, "rport": 0 });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.send(request.to_string()).await;
    }

    /// The same, and waits until it is open; its port.
    pub(crate) async fn open(&self, id: &str, more: Value) -> u16 {
        self.ask(id, more).await;
        let said = self.wait(id, |_| true).await;
        assert_eq!(said["state"], "open", "{said}");
        port(&said)
    }

    pub(crate) async fn close(&self, id: &str) {
        self.send(json!({ "request_id": id, "close": true }).to_string()).await;
    }

    /// Waits until all that was sent before has been looked at.
    pub(crate) async fn caught_up(&self, id: &str, limit: Duration) {
        self.ask(id, json!({ "expires_at": "2020-01-01T00:00:00Z" })).await;
        self.end_within(id, limit).await;
    }

    /// Waits for the end of an id.
    pub(crate) async fn end(&self, id: &str) -> Value {
        self.wait(id, |said| FINAL.contains(&said)).await
    }

    /// The same, however much is before it.
    pub(crate) async fn end_within(&self, id: &str, limit: Duration) -> Value {
        self.wait_within(id, |said| FINAL.contains(&said), limit).await
    }

    pub(crate) async fn wait(&self, id: &str, wanted: impl Fn(&str) -> bool) -> Value {
        self.wait_within(id, wanted, SOON).await
    }

    async fn wait_within(&self, id: &str, wanted: impl Fn(&str) -> bool, limit: Duration) -> Value {
        let matching = |message: &testkit::client::Message| {
            if !message.mentions(id) {
                return false;
            }
            let said = message.json().unwrap_or_default();
            said["request_id"] == id && said["state"].as_str().is_some_and(&wanted)
        };
        let found = self.watcher.messages().find(matching, limit).await;
        found.unwrap_or_else(|error| panic!("{id}: {error}")).json().unwrap()
    }

    /// Every status so far, of one id or of all.
    pub(crate) fn said(&self, id: Option<&str>) -> Vec<Value> {
        let all = self.watcher.messages().matching(|message| message.mentions(id.unwrap_or("request_id")));
        let all = all.into_iter().filter_map(|message| message.json().ok());
        all.filter(|said| said["state"].is_string() && said["request_id"].is_string())
            .filter(|said| id.is_none_or(|id| said["request_id"] == id))
            .collect()
    }

    /// Waits until so much was said, of one id or of all.
    pub(crate) async fn hears(&self, id: Option<&str>, wanted: usize) {
        let deadline = Instant::now() + SOON;
        while self.said(id).len() < wanted {
            assert!(Instant::now() < deadline, "{wanted} of {id:?}: {:#?}", self.said(id));
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// The states that were told of an id, in order.
    pub(crate) fn states(&self, id: &str) -> Vec<String> {
        self.said(Some(id)).iter().map(|said| said["state"].as_str().unwrap().to_owned()).collect()
    }

    /// The different ends that were told of an id.
    pub(crate) fn ends(&self, id: &str) -> Vec<Value> {
        let mut ends: Vec<Value> = Vec::new();
        for said in self.said(Some(id)) {
            if FINAL.contains(&said["state"].as_str().unwrap()) && !ends.contains(&said) {
                ends.push(said);
            }
        }
        ends
    }

    /// Waits until the journal has this id: also a life that ends now is known by the next.
    pub(crate) async fn written(&self, id: &str) {
        let journal = self.home.path().join("state/ssh/journal");
        let has = |path: std::path::PathBuf| {
            std::fs::read(path)
                .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&format!("\"{id}\"")))
        };
        let deadline = Instant::now() + SOON;
        while !std::fs::read_dir(&journal).unwrap().any(|file| has(file.unwrap().path())) {
            assert!(Instant::now() < deadline, "{id} is not in the journal");
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// How often sshd was asked to listen, over all its lives.
    pub(crate) fn listened(&self) -> usize {
        self.server.log().matches("Local forwarding listening on 127.0.0.1").count()
    }
}

pub(crate) fn port(said: &Value) -> u16 {
    let port = u16::try_from(said["rport"].as_u64().unwrap()).unwrap();
    assert_ne!(port, 0);
    port
}

/// The port of something that answers with what it is told.
pub(crate) async fn echo() -> u16 {
    testkit::echo::start().await.unwrap().port()
}

/// Says something through the tunnel and hears it again.
pub(crate) async fn answers(port: u16, text: &str) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut heard = String::new();
    timeout(SOON, stream.read_to_string(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, text);
}

/// Waits until nothing listens there any more; how long it took.
pub(crate) async fn gone(port: u16, limit: Duration) -> Duration {
    let began = Instant::now();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
        assert!(began.elapsed() < limit, "port {port} is still there after {limit:?}");
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}
