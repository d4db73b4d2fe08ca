//! The command line: what is asked for, and the exit code of how it went.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use iot_agent::config::BrokerUrl;
use iot_agent::mqtt::transport::{Endpoint, TlsFiles};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::secret::{SecretError, read_psk};
use crate::serve::{Options, Running, Via};
use crate::store::{Store, StoreError};
use crate::{control, demo, devices};

/// Bad configuration: EX_CONFIG of sysexits.h.
const BAD_CONFIGURATION: u8 = 78;

/// The backend of a fleet of iot-agents: it gives devices their ids and knows which are there.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "\
To see everything at work on this machine:
  iot-hub demo

To run a hub of your own:
  (umask 077; openssl rand -hex 32 > fleet.psk)
  iot-hub serve --data /var/lib/iot-hub --psk-file fleet.psk
and give every device a copy of fleet.psk as its registration.device_secret_file.

Exit codes: 0 ok, 1 failure, 2 usage, 78 bad configuration."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the hub: register devices, watch their presence and heartbeats
    #[command(after_help = "\
Without --broker the hub is its own MQTT broker, on 127.0.0.1:1883 unless --listen says otherwise. That broker
has neither TLS nor passwords yet: let it listen on loopback only, or on a network you trust.

With --broker it connects to another, such as mosquitto. mqtt:// is for a broker on this machine only.

SIGTERM or Ctrl-C stops it; what it knows stays in the data folder.")]
    Serve {
        /// Folder for the database and the broker's files; made if missing
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// File with the secret that hub and devices share: at least 16 bytes, mode 0600
        #[arg(long, value_name = "FILE")]
        psk_file: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Show everything at work: a hub and one agent in a temporary folder, until Ctrl-C
    Demo {
        /// Keep the hub's data here instead of in the temporary folder
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// Use this secret instead of a new one
        #[arg(long, value_name = "FILE")]
        psk_file: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
        /// The agent's program [default: iot-agent beside this program]
        #[arg(long, value_name = "PATH")]
        agent: Option<PathBuf>,
    },
    /// List the devices, whether or not the hub is running
    #[command(after_help = "\
\"unknown\" is a device that has enrolled and was never seen since. \"offline (lost)\" is one whose connection broke;
\"offline\" is one that said goodbye. Times are the hub's.")]
    Devices {
        /// Print a JSON array, with all that is known
        #[arg(long)]
        json: bool,
        /// The hub's data folder
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

#[derive(Debug, Args)]
struct Place {
    /// Connect to this broker: mqtts|mqtt|wss|ws://HOST[:PORT] or unix:///PATH
    #[arg(long, value_name = "URL", conflicts_with = "listen")]
    broker: Option<String>,
    /// Be the broker, listening here [default: 127.0.0.1:1883; demo: a free port]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
}

/// How it went wrong.
#[derive(Debug)]
enum Failure {
    Configuration(anyhow::Error),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Other(error)
    }
}

fn misconfigured(error: impl Into<anyhow::Error>) -> Failure {
    Failure::Configuration(error.into())
}

/// Does what the arguments say.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to tell it to when this fails.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // Whatever is made, sockets and the broker's files too, is nobody else's business.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let outcome = match cli.command {
        Command::Serve { data, psk_file, place } => serve(data, &psk_file, place),
        Command::Demo { data, psk_file, place, agent } => show(data, psk_file, place, agent),
        Command::Devices { json, data } => list(&data, json),
    };
    let (code, error) = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Configuration(error)) => (BAD_CONFIGURATION, error),
        Err(Failure::Other(error)) => (1, error),
    };
    // Nothing is left to tell it to when this fails.
    writeln!(io::stderr(), "iot-hub: {error:#}").ok();
    ExitCode::from(code)
}

fn serve(data: PathBuf, psk_file: &Path, place: Place) -> Result<(), Failure> {
    start_logging(LevelFilter::INFO);
    let psk = read_psk(psk_file).map_err(misconfigured)?;
    let via = place.via(SocketAddr::from(([127, 0, 0, 1], 1883)))?;
    if let Via::Embedded(address) = via
        && !address.ip().is_loopback()
    {
        tracing::warn!(
            %address,
            "THE BROKER IS OPEN TO THE NETWORK, without TLS and without passwords: whoever reaches it can read and \
             send everything. Listen on loopback, or use --broker with a broker that has both"
        );
    }
    runtime()?.block_on(async {
        let mut signals = Signals::new()?;
        let mut running = Running::start(Options { data, psk, via, events: None }).await?;
        if let Some(address) = running.address() {
            tracing::info!(%address, "the embedded broker listens");
        }
        let ended = tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "stopping");
                None
            }
            error = running.ended() => Some(error),
        };
        let stopped = running.stop().await;
        ended.map_or(stopped, Err)
    })?;
    Ok(())
}

fn show(
    data: Option<PathBuf>,
    psk_file: Option<PathBuf>,
    place: Place,
    agent: Option<PathBuf>,
) -> Result<(), Failure> {
    start_logging(LevelFilter::WARN);
    let url = place.broker.clone();
    let via = place.via(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let agent = match agent {
        Some(path) => path,
        None => demo::agent_beside_us()?,
    };
    let options = demo::Options { agent, data, psk_file, via, url };
    runtime()?.block_on(demo::run(options)).map_err(|error| match error.downcast::<SecretError>() {
        Ok(error) => misconfigured(error),
        Err(error) => Failure::Other(error),
    })
}

fn list(data: &Path, json: bool) -> Result<(), Failure> {
    let known = control::ask(data).context("ask the running hub")?;
    let devices = match known {
        Some(devices) => devices,
        None => in_database(data)?,
    };
    let text = if json {
        serde_json::to_string_pretty(&devices).context("write JSON")? + "\n"
    } else {
        devices::table(&devices)
    };
    match io::stdout().write_all(text.as_bytes()) {
        // `iot-hub devices | head` is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("print")?,
        _ => Ok(()),
    }
}

/// What the database says while no hub runs.
fn in_database(data: &Path) -> Result<Vec<devices::Device>, Failure> {
    let store = match Store::open_existing(data) {
        Ok(store) => store,
        Err(error @ StoreError::Missing { .. }) => return Err(misconfigured(error)),
        Err(error) => return Err(Failure::Other(error.into())),
    };
    let enrolments = store.enrolments().context("read the database")?;
    let seen = store.seen().context("read the database")?;
    Ok(crate::fleet::Fleet::new(enrolments, seen).devices())
}

impl Place {
    fn via(self, default: SocketAddr) -> Result<Via, Failure> {
        match self.broker {
            Some(url) => Ok(Via::External(endpoint(&url).map_err(misconfigured)?)),
            None => Ok(Via::Embedded(self.listen.unwrap_or(default))),
        }
    }
}

/// Where a URL points. In the clear only within this machine.
fn endpoint(url: &str) -> anyhow::Result<Endpoint> {
    let broker = BrokerUrl::parse(url).map_err(|reason| anyhow!("--broker {reason}"))?;
    if broker.is_plaintext() && !broker.is_local() {
        bail!("--broker {broker} is another machine, and unencrypted: use mqtts:// or wss://");
    }
    let BrokerUrl { scheme, host, port, path } = broker;
    Ok(Endpoint { scheme, host, port, path, tls: TlsFiles::default(), proxy: None })
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")
}

/// The signals that end the hub.
pub(crate) struct Signals([(Signal, &'static str); 3]);

impl Signals {
    pub(crate) fn new() -> anyhow::Result<Signals> {
        let listen = |kind, name| anyhow::Ok((signal(kind).context("listen for signals")?, name));
        Ok(Signals([
            listen(SignalKind::interrupt(), "SIGINT")?,
            listen(SignalKind::terminate(), "SIGTERM")?,
            listen(SignalKind::hangup(), "SIGHUP")?,
        ]))
    }

    /// The next one's name. Cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.0.recv() => interrupt.1,
            _ = terminate.0.recv() => terminate.1,
            _ = hangup.0.recv() => hangup.1,
        }
    }
}

fn start_logging(level: LevelFilter) {
    // The broker's library tells every connection at info.
    let filter = Targets::new().with_default(level).with_target("mqtt5", LevelFilter::WARN);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    // Fails only where a logger is set already, which is then the one to use.
    if io::stderr().is_terminal() {
        registry.with(layer).try_init().ok();
    } else {
        registry.with(layer.json()).try_init().ok();
    }
}
