//! `iot-agent ssh`: the tunnels that lead to this device, and the key that opens them.

use clap::Subcommand;

use super::{DEFAULT_FILE, From, daemon, load, print};
use crate::{
    agent,
    config::{Paths, Section},
    control,
    service::Service,
    services::ssh,
    status::tunnel,
};

/// Whose tunnels they are.
const SERVICE: &str = <ssh::Ssh as Service>::NAME;

#[derive(Debug, Subcommand)]
pub(super) enum Ssh {
    /// List the tunnels that are open: id, server, its port, target, connections, bytes, since when, for how long yet
    List {
        /// Print JSON, one object a line, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        from: From,
    },
    /// Close a tunnel; its state is `closed`, with the reason `requested`
    Close {
        /// Its request_id
        id: String,
        #[command(flatten)]
        from: From,
    },
    /// Print the line for `authorized_keys` on the SSH server; a key is made where there is none
    #[command(after_help = "\
On the server, before the printed line:
  restrict,port-forwarding,permitlisten=\"localhost:*\"
See docs/ssh.md.")]
    Key(From),
}

impl Ssh {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::List { json, from } => {
                let socket = agent::socket(&daemon(&from.sources())?);
                let report = control::ask(&socket, &control::Command::Status)?;
                let listed = report["tunnels"].as_array().into_iter().flatten();
                let line =
                    |listed| if json { format!("{listed}\n") } else { format!("{}\n", tunnel(listed)) };
                print(&listed.map(line).collect::<String>())
            }
            Self::Close { id, from } => {
                let socket = agent::socket(&daemon(&from.sources())?);
                let request = control::Command::Cancel { service: SERVICE.to_owned(), id: id.clone() };
                let said = control::ask(&socket, &request)?;
                let said = said.as_str().unwrap_or_default().replace("cancelled", "closed");
                print(&format!("{id}: {said}\n"))
            }
            Self::Key(from) => key(from),
        }
    }
}

fn key(from: From) -> anyhow::Result<()> {
    let (paths, section) = if from.config == *DEFAULT_FILE && !from.config.exists() && from.set.is_empty() {
        (Paths::default(), Section::silent(SERVICE))
    } else {
        let config = load(&from.sources())?.config;
        let section = config.services.section(SERVICE).cloned();
        (config.paths, section.unwrap_or_else(|| Section::silent(SERVICE)))
    };
    let line = ssh::public_key(&section.parse()?, &paths.state)?;
    print(&format!("{line}\n"))
}
