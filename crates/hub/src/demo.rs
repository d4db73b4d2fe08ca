//! `iot-hub demo`: a hub and one real agent in a temporary folder, and what happens between them on the screen.
//!
//! However it ends, by a signal, a failure or the agent's own end, the agent is waited for and the folder removed.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use iot_agent::mqtt::Connection;
use protocol::status::Reason;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::cli::Signals;
use crate::hub::Event;
use crate::secret::read_psk;
use crate::serve::{self, Running, Via};

/// How long the agent may take to say goodbye before it is killed.
const AGENT_DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait for the agent's goodbye to come by the broker, once it is gone.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(2);
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// What the demo is asked to use instead of what it would make itself.
pub struct Options {
    /// The agent's program.
    pub agent: PathBuf,
    /// Where the hub's data is to be kept.
    pub data: Option<PathBuf>,
    /// A secret that is there.
    pub psk_file: Option<PathBuf>,
    /// Which broker.
    pub via: Via,
    /// Its URL, where it is not ours.
    pub url: Option<String>,
}

/// What the demo needs, in a folder that goes with it.
struct Scene {
    folder: TempDir,
    agent: PathBuf,
    psk_file: PathBuf,
    data: PathBuf,
}

impl Scene {
    /// A temporary folder with a new secret in it, where none is given.
    fn set(agent: PathBuf, data: Option<PathBuf>, psk_file: Option<PathBuf>) -> anyhow::Result<Scene> {
        let folder = tempfile::Builder::new().prefix("iot-hub-demo-").tempdir();
        let folder = folder.context("make a temporary folder")?;
        let data = data.unwrap_or_else(|| folder.path().join("hub"));
        let psk_file = match psk_file {
            Some(file) => file,
            None => new_secret(folder.path())?,
        };
        Ok(Scene { folder, agent, psk_file, data })
    }

    /// Writes the agent's configuration.
    fn configure(&self, broker: &str) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join("agent.yaml");
        let psk_file = fs::canonicalize(&self.psk_file).context("find the secret file")?;
        let quoted = |text: &Path| serde_json::Value::from(text.to_string_lossy()).to_string();
        let config = format!(
            "mqtt: {{broker: {broker}}}\n\
             paths: {{state: {state}, run: {run}}}\n\
             log: {{format: text, level: warn}}\n\
             services:\n\
             \x20 registration: {{device_secret_file: {psk_file}}}\n\
             \x20 heartbeat: {{interval: 2s}}\n",
            broker = serde_json::Value::from(broker),
            state = quoted(&self.folder.path().join("agent")),
            run = quoted(&self.folder.path().join("run")),
            psk_file = quoted(&psk_file),
        );
        write_private(&path, &config)?;
        Ok(path)
    }
}

/// The agent's program, where the hub's is.
pub fn agent_beside_us() -> anyhow::Result<PathBuf> {
    let hub = std::env::current_exe().context("find out where this program is")?;
    let agent = hub.with_file_name("iot-agent");
    if !agent.is_file() {
        bail!(
            "{} is not there; build it with `cargo build -p iot-agent`, or name it: --agent PATH",
            agent.display()
        );
    }
    Ok(agent)
}

/// Plays the demo until a signal comes.
///
/// # Errors
/// [`SecretError`](crate::secret::SecretError) for a secret that cannot be used; anything else that ends it early.
pub async fn run(options: Options) -> anyhow::Result<()> {
    // Before anything is made, so that a signal at any time finds us ready to remove it.
    let mut signals = Signals::new()?;
    let Options { agent, data, psk_file, via, url } = options;
    let scene = Scene::set(agent, data, psk_file)?;
    let psk = read_psk(&scene.psk_file)?;
    let (events_in, events) = mpsc::channel(256);
    let options = serve::Options { data: scene.data.clone(), psk, via, events: Some(events_in) };
    let running = Running::start(options).await?;
    let mut play = Play { running, child: None, events, online: false };
    let outcome = play.perform(&scene, &mut signals, url).await;
    let stopped = play.end(&mut signals).await;
    scene.folder.close().context("remove the temporary folder")?;
    outcome.and(stopped)
}

struct Play {
    running: Running,
    child: Option<Child>,
    events: mpsc::Receiver<Event>,
    /// The agent has said hello, and not yet goodbye.
    online: bool,
}

impl Play {
    async fn perform(
        &mut self,
        scene: &Scene,
        signals: &mut Signals,
        url: Option<String>,
    ) -> anyhow::Result<()> {
        let broker = match self.running.address() {
            Some(address) => format!("mqtt://{address}"),
            None => url.unwrap_or_default(),
        };
        let mut connection = self.running.connection();
        tokio::select! {
            // An error means that the driver is gone, which `ended` reports.
            Ok(_) = connection.wait_for(|c| matches!(c, Connection::Connected { .. })) => {}
            _ = signals.next() => return Ok(()),
            error = self.running.ended() => return Err(error),
            () = tokio::time::sleep(CONNECT_DEADLINE) => bail!("no connection to the broker {broker}"),
        }
        let config = scene.configure(&broker)?;
        say(&format!("hub: running, broker at {broker}"));
        say("agent: starting");
        let child = self.child.insert(start_agent(&scene.agent, &config)?);
        explain(scene, &config, self.running.address());
        loop {
            let event = tokio::select! {
                Some(event) = self.events.recv() => event,
                _ = signals.next() => return Ok(()),
                error = self.running.ended() => return Err(error),
                status = child.wait() => bail!("the agent ended by itself: {}", status.context("wait for it")?),
            };
            show(&event, &mut self.online);
        }
    }

    /// Stops the agent, then the hub, so that the hub hears the agent's goodbye.
    async fn end(mut self, signals: &mut Signals) -> anyhow::Result<()> {
        let mut stopped = Ok(());
        if let Some(child) = self.child.take()
            && child.id().is_some()
        {
            say("stopping (Ctrl-C again: at once)");
            stopped = self.stop_agent(child, signals).await;
        }
        self.running.stop().await?;
        say("hub: stopped");
        stopped
    }

    async fn stop_agent(&mut self, mut child: Child, signals: &mut Signals) -> anyhow::Result<()> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).context("stop the agent")?;
        }
        let deadline = tokio::time::sleep(AGENT_DEADLINE);
        tokio::pin!(deadline);
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.context("wait for the agent")?,
                Some(event) = self.events.recv() => show(&event, &mut self.online),
                () = &mut deadline => return kill(child).await,
                _ = signals.next() => return kill(child).await,
            }
        };
        say(&format!("agent: stopped, {status}"));
        let goodbye = async {
            while self.online
                && let Some(event) = self.events.recv().await
            {
                show(&event, &mut self.online);
            }
        };
        if tokio::time::timeout(GOODBYE_DEADLINE, goodbye).await.is_err() {
            say("agent: gone without a goodbye");
        }
        Ok(())
    }
}

fn show(event: &Event, online: &mut bool) {
    match event {
        Event::Online(_) => *online = true,
        Event::Offline(..) => *online = false,
        _ => {}
    }
    say(&describe(event));
}

async fn kill(mut child: Child) -> anyhow::Result<()> {
    child.kill().await.context("kill the agent")?;
    bail!("the agent did not stop when it was asked to, and was killed");
}

fn start_agent(program: &Path, config: &Path) -> anyhow::Result<Child> {
    let mut child = Command::new(program)
        .args(["run", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: Ctrl-C is for us alone, and we stop the agent while the hub still listens.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    tokio::spawn(echo(child.stdout.take()));
    tokio::spawn(echo(child.stderr.take()));
    Ok(child)
}

async fn echo(lines: Option<impl AsyncRead + Unpin>) {
    let Some(lines) = lines else { return };
    let mut lines = BufReader::new(lines).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        say(&format!("agent: {line}"));
    }
}

fn explain(scene: &Scene, config: &Path, address: Option<std::net::SocketAddr>) {
    let hub = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("iot-hub"));
    say("");
    say("To talk to them, in another terminal:");
    if let Some(address) = address {
        say(&format!("  mosquitto_sub -h {} -p {} -t 'iot/#' -v", address.ip(), address.port()));
    }
    say(&format!("  {} status --config {}", scene.agent.display(), config.display()));
    say(&format!("  {} devices --data {}", hub.display(), scene.data.display()));
    say("Ctrl-C stops both and removes everything.");
    say("");
}

fn describe(event: &Event) -> String {
    match event {
        Event::Enrolled { client_id, device_id, new: true } => {
            format!("hub: {client_id} enrolled as {device_id}")
        }
        Event::Enrolled { client_id, device_id, new: false } => {
            format!("hub: {client_id} enrolled again as {device_id}")
        }
        Event::Refused { client_id, reason } => format!("hub: {client_id} refused: {reason}"),
        Event::Online(device_id) => format!("hub: {device_id} online"),
        Event::Offline(device_id, Some(Reason::ConnectionLost)) => {
            format!("hub: {device_id} offline: connection lost")
        }
        Event::Offline(device_id, Some(Reason::Shutdown)) => format!("hub: {device_id} offline: shutdown"),
        Event::Offline(device_id, None) => format!("hub: {device_id} offline"),
        Event::Heartbeat(device_id, Some(seq)) => format!("hub: {device_id} heartbeat {seq}"),
        Event::Heartbeat(device_id, None) => format!("hub: {device_id} heartbeat"),
    }
}

/// A line on the screen, at once.
fn say(line: &str) {
    // Nobody may be looking any more; the demo goes on until it is stopped.
    writeln!(io::stdout().lock(), "{line}").ok();
}

fn new_secret(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| anyhow!("make a secret: {e}"))?;
    let path = folder.join("fleet.psk");
    write_private(&path, &format!("{}\n", protocol::hex::encode(&secret)))?;
    Ok(path)
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("write {}", path.display()))
}
