//! `iot-agent update`: the software that came to this device by updates, and updates by hand.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use protocol::update::{Sha256, State, Wanted};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{From, block_on, daemon, print};
use crate::{
    agent, control,
    service::Service,
    services::update::{
        self, History, Listed, Past, Slot,
        package::{Claim, Package, Trust, Whole, whole},
    },
    status::{printable, update_line},
};

/// Whose state it is.
const SERVICE: &str = <update::Update as Service>::NAME;
/// How often the daemon is asked how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// How long RAUC may take to tell of its slots.
const RAUC: Duration = Duration::from_secs(2);
/// How many are listed where nothing is said.
const LIMIT: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum Update {
    /// Install a package, or a signed file, from this machine; exit 0 when the new version has proved itself
    #[command(after_help = "\
The daemon does it, by the same rules as for updates from the backend: signature, hardware, version, health.
Examples:
  iot-agent update install /media/usb/app-1.4.0.pkg
  iot-agent update install firmware.bin             a plain file; its signature is firmware.bin.minisig
  iot-agent update install app-1.4.0.pkg --no-wait  only hand it over, and print its id")]
    Install(Install),
    /// Show the updates of this life of the daemon: id, version, how far it is, why
    Status {
        /// Print JSON, one object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        from: From,
    },
    /// List what came of the latest updates, the newest last; read from the state folder, so no daemon is needed
    History {
        /// At most so many, the latest
        #[arg(long, value_name = "N", default_value_t = LIMIT)]
        limit: usize,
        /// Print JSON, one object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        from: From,
    },
    /// Go back to the version before, of software that keeps versions; exit 0 when it is in use again
    Rollback {
        /// Which software, where there is more than one
        name: Option<String>,
        #[command(flatten)]
        from: From,
    },
}

#[derive(Debug, Args)]
pub(super) struct Install {
    /// The package, or the file for update_command
    file: PathBuf,
    /// The signature of a plain file; by default FILE.minisig, if that is there
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// The version of a plain file without a signature
    #[arg(long = "version", value_name = "VERSION")]
    version: Option<String>,
    /// Print the id and do not wait for the end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    from: From,
}

impl Update {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Install(install) => install.run(),
            Self::Status { json, from } => {
                let socket = agent::socket(&daemon(&from.sources())?);
                let lines = listed(&socket)?;
                let line = |listed: &Listed| match json {
                    true => format!("{}\n", json!(listed)),
                    false => format!("{}\n", update_line(listed)),
                };
                print(&lines.iter().map(line).collect::<String>())?;
                print(&slots(json))?;
                Ok(ExitCode::SUCCESS)
            }
            Self::History { limit, json, from } => history(limit, json, from).map(|()| ExitCode::SUCCESS),
            Self::Rollback { name, from } => {
                let socket = agent::socket(&daemon(&from.sources())?);
                let id = order(&socket, &control::Command::UpdateRollback { name })?;
                block_on(follow(&socket, &id, State::RolledBack))
            }
        }
    }
}

/// The slots of RAUC, a line each; nothing where there is none, or it does not answer.
fn slots(json: bool) -> String {
    let asked = block_on(async { Ok(timeout(RAUC, update::slots()).await) });
    let Ok(Ok(Ok(slots))) = asked else { return String::new() };
    let line = |slot: &Slot| match json {
        true => format!("{}\n", json!({"slot": slot.slot, "status": slot.facts})),
        false => {
            let facts = slot.facts.iter().map(|(name, fact)| format!("{name} {}", printable(fact)));
            format!("slot {}: {}\n", printable(&slot.slot), facts.collect::<Vec<_>>().join(", "))
        }
    };
    slots.iter().map(line).collect()
}

impl Install {
    fn run(self) -> anyhow::Result<ExitCode> {
        let socket = agent::socket(&daemon(&self.from.clone().sources())?);
        let path = std::path::absolute(&self.file).context("name the file")?;
        let wanted = self.look(&path)?;
        let id = order(&socket, &control::Command::UpdateInstall { path, wanted })?;
        if self.no_wait {
            print(&format!("{id}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        block_on(follow(&socket, &id, State::Success))
    }

    /// What the file says of itself. The daemon believes nothing of it.
    fn look(&self, path: &Path) -> anyhow::Result<Wanted> {
        let open = || File::open(path).with_context(|| format!("open {}", path.display()));
        let package = Package::open(BufReader::new(open()?), Trust::UnsafeAnyone);
        let (version, signature) = match (&package, &self.version) {
            (Ok(package), None) => (package.manifest().version().to_string(), None),
            (Ok(_), Some(_)) => bail!("a package has its own version; leave --version out"),
            (Err(error), version) => self.plain(path, version.clone()).with_context(|| {
                format!("{} is no package ({}), so it is taken for a plain file", path.display(), error)
            })?,
        };
        let Whole { size, sha256 } = whole(open()?).with_context(|| format!("read {}", path.display()))?;
        Ok(Wanted {
            version,
            update_url: path.display().to_string(),
            sha256: Sha256(sha256),
            size,
            signature,
        })
    }

    fn plain(&self, path: &Path, version: Option<String>) -> anyhow::Result<(String, Option<String>)> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".minisig");
        let beside = PathBuf::from(beside);
        let signature = match &self.signature {
            Some(path) => Some(path.clone()),
            None => beside.exists().then_some(beside),
        };
        let Some(signature) = signature else {
            let version = version.context("it has no signature: name its --signature, or its --version")?;
            return Ok((version, None));
        };
        let text = std::fs::read_to_string(&signature)
            .with_context(|| format!("read the signature {}", signature.display()))?;
        let comment = text.lines().find_map(|line| line.strip_prefix("trusted comment: "));
        let claim = Claim::parse(comment.context("the signature has no trusted comment")?)?;
        Ok((version.unwrap_or_else(|| claim.version.to_string()), Some(text)))
    }
}

fn order(socket: &Path, command: &control::Command) -> anyhow::Result<String> {
    let id = control::ask(socket, command)?;
    Ok(id.as_str().unwrap_or_default().to_owned())
}

fn listed(socket: &Path) -> anyhow::Result<Vec<Listed>> {
    let report = control::ask(socket, &control::Command::Status)?;
    serde_json::from_value(report["updates"].clone()).context("read what the daemon says of updates")
}

/// Prints how far it is until it is over.
async fn follow(socket: &Path, id: &str, wanted: State) -> anyhow::Result<ExitCode> {
    let mut last = None;
    loop {
        let found = listed(socket)?.into_iter().find(|listed| listed.update_id == id);
        if let Some(listed) = found.filter(|listed| last.as_ref() != Some(listed)) {
            print(&format!("{}\n", update_line(&listed)))?;
            if listed.report.state.is_final() {
                let reached = listed.report.state == wanted;
                return Ok(if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            last = Some(listed);
        }
        sleep(LOOK).await;
    }
}

fn history(limit: usize, json: bool, from: From) -> anyhow::Result<()> {
    let folder = daemon(&from.sources())?.state.join(SERVICE);
    let history =
        History::read(&folder).with_context(|| format!("read the history in {}", folder.display()))?;
    let latest = &history.updates[history.updates.len().saturating_sub(limit)..];
    let line = |past: &Past| match json {
        true => format!("{}\n", json!(past)),
        false => {
            let Past { update_id, name, from, version, state, error, timestamp } = past;
            let name = name.as_deref().unwrap_or("-");
            let from = from.as_ref().map(|from| format!("{from} to ")).unwrap_or_default();
            let why = error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            let line = format!("{timestamp}  {name}  {from}{version}  {update_id}  {}{why}", state.name());
            format!("{}\n", printable(&line))
        }
    };
    print(&latest.iter().map(line).collect::<String>())
}
