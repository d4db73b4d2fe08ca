//! Marks the slot that runs as good for RAUC, once in each life of the service: where the owner wants that, and never one on
//! which a bundle has still to prove itself, or has failed to.

use std::{convert::Infallible, future::pending, time::Duration};

use protocol::update::State;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    Config,
    rauc::Rauc,
    record::{Files, Record, Stage},
};
use crate::service::Context;

/// How soon it is looked again whether an update is over.
const LOOK: Duration = Duration::from_secs(5);

/// Marks it as soon as that can be done. Never ends.
pub(super) async fn mark(config: &Config, ctx: &Context, files: Files) -> Infallible {
    if config.mark_booted_slot {
        until_marked(ctx, &files).await;
    }
    pending().await
}

async fn until_marked(ctx: &Context, files: &Files) {
    let mut tries = 0;
    loop {
        match attempt(files).await {
            Ok(true) => return,
            Ok(false) => sleep(LOOK).await,
            Err(why) => {
                if tries == 0 {
                    warn!(error = why, "the slot that runs is not marked good yet");
                }
                sleep(ctx.shared.backoff.delay(tries)).await;
                tries += 1;
            }
        }
    }
}

/// Whether nothing is left to do.
async fn attempt(files: &Files) -> Result<bool, String> {
    let record = files.record().await?;
    let latest = record.as_ref().and_then(|record| Some((record, record.rauc.as_ref()?)));
    let over = |record: &Record| record.stage == Stage::Ended && record.ended.is_some();
    if latest.is_some_and(|(record, _)| !over(record)) {
        return Ok(false);
    }
    let rauc = Rauc::open().await?;
    if let Some((record, slots)) = latest
        && record.ended.as_ref().is_some_and(|ended| ended.state != State::Success)
        && slots.unproven()
        && !rauc.slots().await?.iter().any(|slot| slot.slot == slots.slot && slot.says("state", "booted"))
    {
        warn!("the slot that runs is not marked good: the bundle there has not proved itself");
        return Ok(true);
    }
    rauc.mark("good", "booted").await?;
    info!("the slot that runs is marked good");
    Ok(true)
}
