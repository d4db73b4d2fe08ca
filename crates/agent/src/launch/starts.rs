//! How often a version was started in a row without getting anywhere: one that never does must not keep the device without
//! an agent, whoever has lost the record of where it came from.

use std::{fs, path::Path, time::Duration};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{FOLDER, Life};
use crate::{
    mqtt::{Connection, Mqtt},
    outbox::apart,
    service::Shared,
    store::{VERSION, read_regular, replace},
};

/// Its name.
const FILE: &str = "starts.json";
/// So many starts in vain are enough.
const MOST: u32 = 10;
/// Who has run for so long has got somewhere.
const LONG: Duration = Duration::from_secs(60);

#[derive(Debug, Default, Serialize, Deserialize)]
struct Starts {
    version: u64,
    release: String,
    count: u32,
}

/// None where there are none in vain.
fn read(folder: &Path) -> serde_json::Result<Option<Starts>> {
    let bytes = read_regular(&folder.join(FILE)).ok().flatten();
    bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose()
}

/// One more start of this version; whether it may be started at all.
pub(super) fn begin(folder: &Path, release: &str) -> bool {
    let before = match read(folder) {
        Ok(starts) => starts.filter(|starts| starts.release == release).map_or(0, |starts| starts.count),
        // It may be this version that damages it, with every start.
        Err(_) => MOST,
    };
    let count = MOST.min(before + 1);
    let starts = Starts { version: VERSION, release: release.to_owned(), count };
    // Where that cannot be written it is started all the same: a full disk is no reason not to.
    serde_json::to_vec(&starts).map(|bytes| replace(&folder.join(FILE), &bytes)).ok();
    before < MOST
}

/// Forgets the starts of this version, once it has got somewhere: to the broker, or through a minute.
pub(crate) async fn settle(shared: std::sync::Arc<Shared>, mqtt: Mqtt) {
    let Some(release) = Life::of_this_process().release else { return };
    let mut connection = mqtt.connection();
    let connected = connection.wait_for(|now| matches!(now, Connection::Connected { .. }));
    drop(tokio::time::timeout(LONG, connected).await);
    let folder = shared.state.path().join(FOLDER);
    let forgotten = apart(move || match read(&folder) {
        Ok(Some(starts)) if starts.release == release => fs::remove_file(folder.join(FILE)),
        _ => Ok(()),
    });
    if let Err(error) = forgotten.await {
        warn!(error = %error, "the count of starts cannot be removed");
    }
}
