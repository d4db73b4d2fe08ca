//! The command line: what each subcommand does and which exit code it ends with.

mod audit;
mod command;
mod location;
mod metrics;
mod outbox;
mod package;
mod publish;
mod ssh;
mod update;

use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::{
    action::policy::Policy,
    agent,
    config::{self, Loaded, Paths, Section, Sources},
    control, executor, launch, register, services,
    services::update::installer,
    status,
};

/// Exit code of a bad configuration (`EX_CONFIG` of sysexits.h).
pub(crate) const BAD_CONFIG: u8 = 78;
/// Exit code of a command line that makes no sense, as clap has it.
const USAGE: u8 = 2;
/// Exit code of `register` when the backend says no (`EX_NOPERM`).
const REFUSED: u8 = 77;

/// Device agent: enrols this machine, shows that it is alive, and does what its backend may ask, over MQTT.
#[derive(Debug, Parser)]
#[command(name = "iot-agent", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 ok, 1 failure, 2 usage, 77 refused by the backend (register), 78 bad configuration.
Start with `iot-agent config check --config FILE`, then `iot-agent run --config FILE`."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground until SIGTERM or Ctrl-C; SIGHUP reloads the configuration
    Run(From),
    /// Look at the configuration without running anything
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask the running agent how it is: identity, connection, each service
    Status {
        #[command(flatten)]
        from: From,
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Enrol this device now and wait for its id; the daemon does so by itself
    Register {
        #[command(flatten)]
        from: From,
        /// Ask the backend even if the device has an id already
        #[arg(long)]
        force: bool,
    },
    /// Send lines from standard input to the backend, as data of this device; exit 0 when all are on disk
    Publish(publish::Publish),
    /// Look at what waits to be sent
    #[command(subcommand)]
    Outbox(outbox::Outbox),
    /// Look at the record of what was asked of this device by remote actions
    #[command(subcommand)]
    Audit(audit::Audit),
    /// Look at what the machine and its programs are doing
    #[command(subcommand)]
    Metrics(metrics::Metrics),
    /// Find out where the device is
    #[command(subcommand)]
    Location(location::Location),
    /// Look at the commands that were sent to this device, or end one
    #[command(subcommand)]
    Command(command::Command),
    /// Look at the tunnels that lead to this device, close one, or print the key that opens them
    #[command(subcommand)]
    Ssh(ssh::Ssh),
    /// Look at the updates of this device, install one from a file, or go back
    #[command(subcommand)]
    Update(update::Update),
    /// Make, sign, show and check packages of updates; on the machine where software is built
    #[command(subcommand)]
    Package(package::Package),
    /// Print the version
    Version,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check everything that can be checked without a network, and say what is wrong where
    Check(From),
    /// Print every setting that takes effect and where it came from; secrets are masked
    Show(From),
    /// Print the JSON Schema of the configuration file
    Schema,
}

/// The configuration file where none is named.
const DEFAULT_FILE: &str = "/etc/iot-agent/config.yaml";

/// Where the configuration comes from: the file, conf.d/*.yaml beside it, IOT_AGENT__SECTION__KEY in the
/// environment, then --set; the later wins.
#[derive(Debug, Clone, Args)]
struct From {
    /// Configuration file
    #[arg(long, short, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// Override one setting, e.g. --set log.level=debug; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<String>,
}

/// What is no setting at all is a mistake in the command line, not in the configuration.
fn setting(text: &str) -> Result<String, &'static str> {
    let key = text.split_once('=').map(|(key, _)| key.trim());
    if key.is_some_and(|key| !key.is_empty()) { Ok(text.to_owned()) } else { Err("expected KEY=VALUE") }
}

impl From {
    fn sources(self) -> Sources {
        // Not left out for a byte that is no UTF-8: a setting that does nothing has to be told.
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Sources { file: self.config, sets: self.set, env: env.collect() }
    }
}

/// Parses the arguments, does what they say, and tells how it went.
pub fn main() -> ExitCode {
    // Before anything else: one is started for each command, and it is to begin at once.
    if std::env::args_os().nth(1).is_some_and(|name| name == executor::COMMAND) {
        return keep();
    }
    if std::env::args_os().nth(1).is_some_and(|name| name == installer::COMMAND) {
        return installer::main(std::env::args_os().nth(2));
    }
    // What this process writes is for its owner.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            let bad_config = error.chain().any(|cause| cause.is::<config::Error>());
            ExitCode::from(if bad_config { BAD_CONFIG } else { 1 })
        }
    }
}

fn keep() -> ExitCode {
    match executor::keep() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(USAGE)
        }
    }
}

/// To stderr; when that is gone too there is nobody left to tell.
#[allow(clippy::print_stderr, reason = "the command line's own voice")]
fn report(error: &anyhow::Error) {
    // A configuration's mistakes are one a line; nothing else in here may drive the terminal.
    let lines: Vec<String> = format!("{error:#}").split('\n').map(status::printable).collect();
    eprintln!("iot-agent: {}", lines.join("\n"));
}

/// `iot-agent config show | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(from) => return run(&from.sources()),
        Command::Config(ConfigCommand::Check(from)) => check(&from.sources())?,
        Command::Config(ConfigCommand::Show(from)) => show(&from.sources())?,
        Command::Config(ConfigCommand::Schema) => {
            print(&format!("{:#}\n", config::known_schema().context("read the schema")?))?;
        }
        Command::Status { from, json } => show_status(&from.sources(), json)?,
        Command::Register { from, force } => return enrol(&from.sources(), force),
        Command::Publish(publish) => return publish.run(),
        Command::Outbox(outbox) => outbox.run()?,
        Command::Audit(audit) => audit.run()?,
        Command::Metrics(metrics) => metrics.run()?,
        Command::Location(location) => location.run()?,
        Command::Command(command) => command.run()?,
        Command::Ssh(ssh) => ssh.run()?,
        Command::Update(update) => return update.run(),
        Command::Package(package) => package.run()?,
        Command::Version => print(&format!("iot-agent {}\n", env!("CARGO_PKG_VERSION")))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// One thread for everything. A name lookup that hangs must not keep the process from ending.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// The daemon, of whichever version is to run.
fn run(sources: &Sources) -> anyhow::Result<ExitCode> {
    if let launch::Next::Exit(code) = launch::begin(sources, report)? {
        return Ok(code);
    }
    match block_on(agent::run(sources.clone()))? {
        agent::Ended::Stopped => Ok(ExitCode::SUCCESS),
        agent::Ended::Handover => launch::hand_over(sources),
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn load(sources: &Sources) -> anyhow::Result<Loaded> {
    let loaded = config::load(sources, &services::schemas())?;
    for notice in &loaded.notices {
        report(&anyhow::anyhow!("{notice}"));
    }
    Ok(loaded)
}

/// The section of a service, for what works without a daemon: on a machine that is not set up yet there is something to
/// see, too, and the settings can stand on the command line.
fn section(from: From, name: &str) -> anyhow::Result<Section> {
    if from.config == Path::new(DEFAULT_FILE) && !from.config.exists() && from.set.is_empty() {
        return Ok(Section::silent(name));
    }
    let loaded = load(&from.sources())?;
    loaded.config.services.section(name).cloned().with_context(|| format!("there is no service {name}"))
}

fn check(sources: &Sources) -> anyhow::Result<()> {
    let loaded = load(sources)?;
    agent::check(&loaded)?;
    if let Some(file) = &loaded.config.policy {
        for notice in Policy::check(file)? {
            report(&anyhow::anyhow!("{}: {notice}", file.display()));
        }
    }
    print(&format!("{}: ok\n", sources.file.display()))
}

fn show(sources: &Sources) -> anyhow::Result<()> {
    let loaded = load(sources)?;
    let lines = config::show(&loaded, &services::schemas())
        .iter()
        .map(|shown| format!("{shown}\n"))
        .collect::<String>();
    print(&lines)
}

fn show_status(sources: &Sources, json: bool) -> anyhow::Result<()> {
    let report = control::ask(&agent::socket(&daemon(sources)?), &control::Command::Status)?;
    print(&if json { format!("{report:#}\n") } else { status::render(&report) })
}

/// The folders of the daemon that runs. One that goes on with its old configuration, while the file is broken, can
/// be asked at least where it is by default.
fn daemon(sources: &Sources) -> anyhow::Result<Paths> {
    match load(sources) {
        Ok(loaded) => Ok(loaded.config.paths),
        Err(error) => {
            let paths = Paths::default();
            if control::connect(&agent::socket(&paths)).is_err() {
                return Err(error);
            }
            report(&error.context("the configuration is not the one that runs"));
            Ok(paths)
        }
    }
}

fn enrol(sources: &Sources, force: bool) -> anyhow::Result<ExitCode> {
    let loaded = load(sources)?;
    match block_on(register::run(&loaded.config, force))? {
        register::Outcome::Enrolled(device_id) => {
            print(&format!("{device_id}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        register::Outcome::Refused(why) => {
            report(&anyhow::anyhow!("refused by the backend: {}", status::printable(&why)));
            Ok(ExitCode::from(REFUSED))
        }
    }
}
