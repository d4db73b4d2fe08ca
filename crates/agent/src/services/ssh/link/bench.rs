//! For `benches/ssh`, which measures forwards in a process of their own.

use std::path::Path;
use std::time::Duration;

use super::{Key, Limit, Links, Server, Target, Trust, Ways};
use crate::clock::{Clock, built};

/// Has the server on 127.0.0.1 at `port` listen for each of `targets`, ports on this device; says on which ports it
/// listens, and holds them for as long as it lives.
///
/// # Errors
/// When the server is not reached, or does not want us.
pub async fn hold(
    port: u16,
    user: String,
    (key, host_key): (&Path, &str),
    targets: &[u16],
    mut say: impl FnMut(u16),
) -> anyhow::Result<()> {
    let ways = Ways {
        user,
        key: Key::load(key)?,
        trust: Trust::pinned(host_key)?,
        clock: Clock::new(built(), None),
        timeout: Duration::from_secs(30),
        keep_alive: Duration::from_secs(15),
        bind: "127.0.0.1".into(),
        limit: Limit::default(),
    };
    let links = Links::new(ways);
    let server = Server { host: "127.0.0.1".into(), port };
    let mut forwards = Vec::new();
    for target in targets {
        let target = Target { host: "127.0.0.1".into(), port: *target };
        forwards.push(links.open(&server, 0, target).await?);
    }
    for forward in &forwards {
        say(forward.rport());
    }
    match forwards.first() {
        Some(first) => Err(first.lost().await.into()),
        None => std::future::pending().await,
    }
}
