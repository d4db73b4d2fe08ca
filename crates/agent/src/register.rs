//! `iot-agent register`: one enrolment in the foreground, for whoever installs a device by hand.

use std::sync::Arc;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{self, Parts},
    config::Config,
    log,
    service::{Context, Service as _},
    services::registration::Registration,
};

/// How it ended.
pub enum Outcome {
    /// The device has this id.
    Enrolled(String),
    /// The backend says no, and why.
    Refused(String),
}

/// Asks until the backend has answered; with an id in device.json nothing is sent unless `force`.
///
/// # Errors
/// State, settings or a secret that cannot work. Lack of network is waited out.
pub async fn run(config: &Config, force: bool) -> anyhow::Result<Outcome> {
    let _logs = log::init(config.log.format, config.log.level, agent::raw_now)?;
    // No presence: an "online" would outlive this command.
    let Parts { shared, mqtt, driver } = agent::prepare(config, |_| ())?;
    if !force && let Some(device) = &*shared.identity.device().borrow() {
        return Ok(Outcome::Enrolled(device.device_id.to_string()));
    }
    let ctx = Context {
        name: Registration::NAME,
        shared: Arc::clone(&shared),
        mqtt: mqtt.clone(),
        shutdown: CancellationToken::new(),
    };
    let section =
        config.services.section(Registration::NAME).context("the registration service is registered")?;
    let registration = Registration::new(section.parse()?, ctx)?;
    let driver = tokio::spawn(driver.run());
    let outcome = registration.once(force).await;
    mqtt.stop(None, agent::DRAIN_QUEUE);
    driver.await.context("end the connection")?;
    outcome
}
