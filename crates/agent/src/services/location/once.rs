//! One fix to look at, without a daemon and without a broker.

use std::time::Duration;

use anyhow::{anyhow, bail};
use protocol::location::Place;
use tokio::time::{Instant, sleep_until};

use super::{
    Sources,
    settings::{Asked, Config},
    source::Choice,
    troubles,
};
use crate::{clock::Clock, config::Section};

/// What is asked for.
pub(crate) struct Asking {
    /// This source and no other.
    pub(crate) source: Option<Asked>,
    /// How long may be waited.
    pub(crate) patience: Duration,
}

/// Waits for a fix as the daemon would. `tell` gets to hear what is waited for, whenever that changes.
///
/// # Errors
/// Why there is none.
pub(crate) async fn once(
    section: &Section,
    asking: &Asking,
    clock: &Clock,
    mut tell: impl FnMut(&str),
) -> anyhow::Result<Place> {
    let mut config = section.parse::<Config>()?;
    if let Some(source) = asking.source {
        config.sources = Some(vec![source]);
    }
    let wanted = config.sources().map_err(|invalid| anyhow!("services.location.{invalid}"))?;
    let mut sources = Sources::start(&config, &wanted, clock, None);
    let (until, mut told) = (Instant::now() + asking.patience, String::new());
    loop {
        let (seen, now) = (sources.seen(&config), Instant::now());
        let choice = sources.choose(&seen, now, config.max_age.get());
        if let Choice::Fix(source, fix) = choice {
            return Ok(fix.place(source, now, config.round_to.map(|step| step.0)));
        }
        let why = troubles(&seen);
        if seen.iter().all(|(_, seen)| seen.trouble.as_ref().is_some_and(|trouble| trouble.down)) {
            bail!("no fix: {why}");
        }
        if now >= until {
            bail!("no fix within {} s: {why}", asking.patience.as_secs());
        }
        if why != told {
            tell(&why);
            told = why;
        }
        let wake = if let Choice::Wait(wake) = choice { wake.min(until) } else { until };
        tokio::select! {
            () = sleep_until(wake) => {}
            () = sources.changed() => {}
        }
    }
}
