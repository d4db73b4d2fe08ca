//! Watches and publishes with `mosquitto_sub` and `mosquitto_pub`: an MQTT client that shares nothing with ours.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};

use crate::certs::Identity;
use crate::feed::Feed;
use crate::mosquitto::Mosquitto;
use crate::process::{collect, each_line, installed};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Before a message, to tell it from the debug lines around it.
const MARK: char = '+';

/// Where a broker is and how to be let in. MQTT 5 unless said otherwise.
#[derive(Debug, Clone)]
pub struct Endpoint {
    address: Address,
    login: Option<(String, String)>,
    tls: Option<(PathBuf, Option<Identity>)>,
    version: &'static str,
}

#[derive(Debug, Clone)]
enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Endpoint {
    /// A TCP listener.
    pub fn tcp(host: &str, port: u16) -> Self {
        Self { address: Address::Tcp(host.into(), port), login: None, tls: None, version: "mqttv5" }
    }

    /// A unix socket listener.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self { address: Address::Unix(path.into()), ..Self::tcp("", 0) }
    }

    /// Gives a user name and password.
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.into(), password.into()));
        self
    }

    /// Uses TLS, trusting the CA in this file only, with a client certificate if there is one.
    pub fn tls(mut self, ca_file: impl Into<PathBuf>, identity: Option<Identity>) -> Self {
        self.tls = Some((ca_file.into(), identity));
        self
    }

    /// Speaks MQTT 3.1.1.
    pub fn v311(mut self) -> Self {
        self.version = "mqttv311";
        self
    }

    fn command(&self, program: &str) -> Command {
        // Into a pipe it would say nothing, not even that it has subscribed, before its buffer is full.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", program, "-d"]);
        match &self.address {
            Address::Tcp(host, port) => command.args(["-h", host, "-p", &port.to_string()]),
            Address::Unix(path) => command.arg("--unix").arg(path),
        };
        if let Some((user, password)) = &self.login {
            command.args(["-u", user, "-P", password]);
        }
        if let Some((ca, identity)) = &self.tls {
            command.arg("--cafile").arg(ca);
            if let Some(identity) = identity {
                command.arg("--cert").arg(&identity.cert).arg("--key").arg(&identity.key);
            }
        }
        command.args(["-V", self.version, "--nodelay"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }
}

impl From<&Mosquitto> for Endpoint {
    /// The plain listener.
    fn from(broker: &Mosquitto) -> Self {
        broker.addr().into()
    }
}

impl From<&Endpoint> for Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        endpoint.clone()
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::tcp(&address.ip().to_string(), address.port())
    }
}

/// A message as the watcher received it.
#[derive(Clone)]
pub struct Message {
    /// Its topic.
    pub topic: String,
    /// Its payload, byte for byte.
    pub payload: Vec<u8>,
    /// The lower of the publisher's and the watcher's (2).
    pub qos: u8,
    /// MQTT 5: as it was published, or, for what was there before the watcher, `true`. 3.1.1: only the latter.
    pub retain: bool,
    /// MQTT 5 properties: `content-type`, `response-topic`, `message-expiry-interval`, `user-properties`, …; else null.
    pub properties: Value,
    /// When its line was read.
    pub at: Instant,
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (QoS {}, retain {}): {}", self.topic, self.qos, self.retain, self.text())
    }
}

impl Message {
    /// The payload as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    /// Whether the payload has this string in it, as JSON writes it: much cheaper than to read all as JSON, of thousands.
    pub fn mentions(&self, text: &str) -> bool {
        let text = Value::from(text).to_string();
        std::str::from_utf8(&self.payload).is_ok_and(|payload| payload.contains(&text))
    }

    /// The payload as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.payload)
            .with_context(|| format!("{}: {:?} as JSON", self.topic, self.text()))
    }
}

/// A subscription that collects every message; its process ends when dropped. It connects again by itself within
/// about a second when the broker comes back.
#[derive(Debug)]
pub struct Watcher {
    messages: Feed<Message>,
    /// One line for each SUBACK.
    subscribed: Feed<String>,
    _child: Child,
}

impl Watcher {
    /// Subscribes, QoS 2, clean session, and returns once the broker has confirmed it; retained messages follow.
    ///
    /// # Errors
    /// When the broker refuses or does not answer.
    ///
    /// # Panics
    /// When `mosquitto_sub` is not installed.
    pub async fn start(endpoint: impl Into<Endpoint>, filter: &str) -> anyhow::Result<Self> {
        Self::subscribe(&endpoint.into(), &[filter], &[]).await
    }

    /// As [`Watcher::start`] with several filters.
    ///
    /// # Errors
    /// As [`Watcher::start`].
    pub async fn start_many(endpoint: impl Into<Endpoint>, filters: &[&str]) -> anyhow::Result<Self> {
        Self::subscribe(&endpoint.into(), filters, &[]).await
    }

    /// As [`Watcher::start`] with a session of this client id that the broker keeps, so that it misses nothing
    /// while the connection is down.
    ///
    /// # Errors
    /// As [`Watcher::start`].
    pub async fn with_session(
        endpoint: impl Into<Endpoint>,
        filter: &str,
        client_id: &str,
    ) -> anyhow::Result<Self> {
        Self::subscribe(&endpoint.into(), &[filter], &["-c", "-i", client_id]).await
    }

    /// The next message that matches, after the one last returned; those before it are passed over.
    ///
    /// # Errors
    /// When none comes within `timeout`; the error lists the last messages.
    pub async fn next(
        &self,
        matching: impl Fn(&Message) -> bool,
        timeout: Duration,
    ) -> anyhow::Result<Message> {
        self.messages.next(matching, timeout).await
    }

    /// The next message on a topic.
    ///
    /// # Errors
    /// As [`Watcher::next`].
    pub async fn next_on(&self, topic: &str, timeout: Duration) -> anyhow::Result<Message> {
        self.next(|message| message.topic == topic, timeout)
            .await
            .with_context(|| format!("wait for {topic}"))
    }

    /// Every message so far.
    pub fn all(&self) -> Vec<Message> {
        self.messages.all()
    }

    /// The messages as they come.
    pub fn messages(&self) -> &Feed<Message> {
        &self.messages
    }

    /// How often it has subscribed: once at the start, once more after each reconnect.
    pub fn subscriptions(&self) -> usize {
        self.subscribed.count(|_| true)
    }

    /// Waits until it has subscribed once more than `before`, which the caller took from
    /// [`Watcher::subscriptions`] before it broke the connection.
    ///
    /// # Errors
    /// When it does not within `timeout`.
    pub async fn wait_resubscribed(&self, before: usize, timeout: Duration) -> anyhow::Result<()> {
        let seen = std::cell::Cell::new(0);
        let beyond = |_: &String| {
            seen.set(seen.get() + 1);
            seen.get() > before
        };
        self.subscribed.find(beyond, timeout).await.map(drop).context("wait for the watcher's subscription")
    }

    async fn subscribe(endpoint: &Endpoint, filters: &[&str], options: &[&str]) -> anyhow::Result<Self> {
        let mut command = endpoint.command("mosquitto_sub");
        command.args(["-q", "2", "-F", &format!("{MARK}%x %j")]).args(options);
        if endpoint.version == "mqttv5" {
            command.arg("--retain-as-published");
        }
        for filter in filters {
            command.args(["-t", filter]);
        }
        let mut child = spawn(&mut command)?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let stderr = collect(child.stderr.take().context("standard error is piped")?);
        let (messages, subscribed) = (Feed::default(), Feed::default());
        let watcher = Self { messages: messages.clone(), subscribed: subscribed.clone(), _child: child };
        tokio::spawn(async move {
            each_line(stdout, |line| match line.strip_prefix(MARK) {
                Some(message) => parse(message).into_iter().for_each(|message| messages.push(message)),
                None if line.starts_with("Subscribed ") => subscribed.push(line),
                None => {}
            })
            .await;
            messages.close();
            subscribed.close();
        });
        let first = watcher.subscribed.find(|_| true, CONNECT_TIMEOUT).await;
        let granted = first.with_context(|| format!("subscribe to {filters:?}: {:?}", stderr.all()))?;
        ensure!(is_granted(&granted), "the broker refuses {filters:?}: {granted}");
        Ok(watcher)
    }
}

/// `Subscribed (mid: 1): 2, 128`: a code of 128 and more is a refusal.
fn is_granted(line: &str) -> bool {
    let codes = line.rsplit_once("): ").map_or("", |(_, codes)| codes);
    codes.split(',').all(|code| code.trim().parse::<u8>().is_ok_and(|code| code < 128))
}

/// The payload in hexadecimal digits, a blank, and the rest as JSON.
fn parse(line: &str) -> Option<Message> {
    let (hex, json) = line.split_once(' ')?;
    let about: Value = serde_json::from_str(json).ok()?;
    let payload =
        hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    Some(Message {
        topic: about["topic"].as_str()?.to_owned(),
        payload: payload.collect::<Option<_>>()?,
        qos: about["qos"].as_u64()?.try_into().ok()?,
        retain: about["retain"].as_u64()? == 1,
        properties: about["properties"].clone(),
        at: Instant::now(),
    })
}

/// Publishes one message and returns once the broker has it (QoS 0: once it is sent).
///
/// # Errors
/// When the broker refuses it or does not answer.
///
/// # Panics
/// When `mosquitto_pub` is not installed.
pub async fn publish(
    endpoint: impl Into<Endpoint>,
    topic: &str,
    payload: impl AsRef<[u8]>,
    qos: u8,
    retain: bool,
) -> anyhow::Result<()> {
    let mut command = endpoint.into().command("mosquitto_pub");
    command.args(["-t", topic, "-q", &qos.to_string()]);
    if retain {
        command.arg("-r");
    }
    let payload = payload.as_ref();
    // Of an empty standard input it makes nothing at all.
    command.arg(if payload.is_empty() { "-n" } else { "-s" });
    run(command, payload, 1).await.with_context(|| format!("publish to {topic}"))
}

/// Publishes each line as a message over one connection, as fast as the broker takes them.
///
/// # Errors
/// As [`publish`].
///
/// # Panics
/// As [`publish`].
pub async fn publish_lines(
    endpoint: impl Into<Endpoint>,
    topic: &str,
    lines: &[String],
    qos: u8,
) -> anyhow::Result<()> {
    let mut command = endpoint.into().command("mosquitto_pub");
    command.args(["-t", topic, "-q", &qos.to_string(), "-l"]);
    let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
    let published = run(command, text.as_bytes(), lines.len()).await;
    published.with_context(|| format!("publish {} lines to {topic}", lines.len()))
}

async fn run(mut command: Command, input: &[u8], messages: usize) -> anyhow::Result<()> {
    const TIMEOUT: Duration = Duration::from_secs(60);
    command.stdin(Stdio::piped());
    let mut child = spawn(&mut command)?;
    let mut stdin = child.stdin.take().context("standard input is piped")?;
    let feed = async move {
        // It stops reading when it is refused; its own message says more than the broken pipe.
        stdin.write_all(input).await.ok();
    };
    let both = async { tokio::join!(feed, child.wait_with_output()).1 };
    let Ok(output) = timeout(TIMEOUT, both).await else {
        bail!("mosquitto_pub still runs after {TIMEOUT:?}");
    };
    let output = output.context("wait for mosquitto_pub")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    // A refused message is a warning and exit code 0; one that is too large for the broker not even that.
    let sent = stdout.matches(" sending PUBLISH ").count();
    ensure!(
        output.status.success() && stderr.is_empty() && sent >= messages,
        "mosquitto_pub: {}, {sent} of {messages} messages sent: {stderr}",
        output.status
    );
    Ok(())
}

/// Panics when a program is not there, with how to get it: for all but `stdbuf` that shows only as its exit.
fn spawn(command: &mut Command) -> anyhow::Result<Child> {
    for program in ["mosquitto_sub", "mosquitto_pub"] {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|folder| folder.join(program).exists());
        assert!(found, "{program} is not installed; run: apt-get install mosquitto-clients");
    }
    installed("stdbuf", "coreutils", command.spawn()).context("start stdbuf")
}
