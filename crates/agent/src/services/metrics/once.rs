//! One sample to look at, without a daemon and without a broker.

use protocol::Timestamp;
use serde_json::Value;
use tokio::time::sleep;

use super::{
    FIRST, Metrics,
    change::{Changes, Extent},
    files::Root,
    observer::Observer,
    payload::Head,
    settings::Config,
};
use crate::{clock::Clock, config::Section, service::Service as _};

/// A sample, and what it lacks.
pub(crate) struct Seen {
    /// As it would be sent, less `device_id` and `seq`.
    pub(crate) sample: Value,
    /// What did not answer in time.
    pub(crate) late: Vec<&'static str>,
}

/// Looks twice, a second apart, so that there are rates.
///
/// # Errors
/// Settings that cannot work.
pub(crate) async fn once(section: &Section, clock: &Clock) -> anyhow::Result<Seen> {
    let mut config = section.parse::<Config>()?.with_file()?;
    // Of a daemon, not of this process.
    config.monitor_goroutines = false;
    let fail = |why| section.error_at("processes", why);
    let mut observer = Observer::new(&Root::system(), &config, clock.clone()).map_err(fail)?;
    observer.look(None).await?;
    sleep(FIRST).await;
    observer.look_again();
    observer.look(None).await?;
    let device_id = Metrics::NAME.parse()?;
    let head = Head { device_id: &device_id, timestamp: Timestamp::from_system_time(clock.now()), seq: 0 };
    let everything = (Extent::Full, &Changes::new(config.on_change.clone()));
    let mut sample: Value = serde_json::from_slice(&observer.seen().encode(head, everything))?;
    for nobodys in ["device_id", "seq"] {
        sample.as_object_mut().and_then(|sample| sample.remove(nobodys));
    }
    Ok(Seen { sample, late: observer.late().to_vec() })
}
