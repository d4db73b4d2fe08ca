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

fn read(folder: &Path) -> Option<Starts> {
    serde_json::from_slice(&read_regular(&folder.join(FILE)).ok()??).ok()
}

/// One more start of this version; whether it may be started at all.
pub(super) fn begin(folder: &Path, release: &str) -> bool {
    let before = read(folder).filter(|starts| starts.release == release).map_or(0, |starts| starts.count);
    if before >= MOST {
        return false;
    }
    let starts = Starts { version: VERSION, release: release.to_owned(), count: before + 1 };
    // Where that cannot be written it is started all the same: a full disk is no reason not to.
    serde_json::to_vec(&starts).map(|bytes| replace(&folder.join(FILE), &bytes)).ok();
    true
}

/// Forgets the starts of this version, once it has got somewhere: to the broker, or through a minute.
pub(crate) async fn settle(shared: std::sync::Arc<Shared>, mqtt: Mqtt) {
    let Some(release) = Life::of_this_process().release else { return };
    let mut connection = mqtt.connection();
    let connected = connection.wait_for(|now| matches!(now, Connection::Connected { .. }));
    drop(tokio::time::timeout(LONG, connected).await);
    let folder = shared.state.path().join(FOLDER);
    let forgotten = apart(move || match read(&folder) {
        Some(starts) if starts.release == release => fs::remove_file(folder.join(FILE)),
        _ => Ok(()),
    });
    if let Err(error) = forgotten.await {
        warn!(error = %error, "the count of starts cannot be removed");
    }
}
