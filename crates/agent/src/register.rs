//! `iot-agent register`: one enrolment in the foreground, for whoever installs a device by hand.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{self, Parts},
    config::{Config, Section},
    log,
    mqtt::Mqtt,
    service::{self, Context, Service as _, Shared},
    services::registration::Registration,
    store,
};

/// How it ended.
pub enum Outcome {
    /// The device has this id.
    Enrolled(String),
    /// The backend says no, and why.
    Refused(String),
}

/// Asks until the backend has answered; with an id in device.json nothing is sent unless `force`. Nothing is said of
/// the device meanwhile: it is not online because somebody enrols it.
///
/// # Errors
/// State, settings or a secret that cannot work. Lack of network is waited out.
pub async fn run(config: &Config, force: bool) -> anyhow::Result<Outcome> {
    let _logs = log::init(config.log.format, config.log.level, agent::raw_now)?;
    // No presence: an "online" would outlive this command.
    let Parts { shared, mqtt, driver, .. } = agent::prepare(config, None, |_| ()).map_err(advise)?;
    if !force && let Some(device) = &*shared.identity.device().borrow() {
        return Ok(Outcome::Enrolled(device.device_id.to_string()));
    }
    // Orders that wait for the device are the daemon's.
    mqtt.visit();
    let ctx = Context {
        name: Registration::NAME,
        shared: Arc::clone(&shared),
        mqtt: mqtt.clone(),
        shutdown: CancellationToken::new(),
    };
    let section = section(config)?;
    let registration: Registration = service::load(section, ctx)?;
    check_secret(&registration, section)?;
    let driver = tokio::spawn(driver.run());
    let outcome = registration.once(force).await;
    mqtt.stop(None, agent::DRAIN_QUEUE);
    if let Ok(ended) = timeout(agent::DRAIN_LINK, driver).await {
        ended.context("end the connection")?;
    }
    outcome
}

/// What `iot-agent config check` looks at: a secret that is there and could never be used.
pub(crate) fn check(config: &Config, shared: Arc<Shared>) -> anyhow::Result<()> {
    let section = section(config)?;
    let (mqtt, shutdown) = (Mqtt::disconnected(0), CancellationToken::new());
    let ctx = Context { name: Registration::NAME, shared, mqtt, shutdown };
    let registration: Registration = service::load(section, ctx)?;
    let wanted = section.enabled().unwrap_or(Registration::ENABLED);
    if wanted && registration.has_secret() { check_secret(&registration, section) } else { Ok(()) }
}

fn section(config: &Config) -> anyhow::Result<&Section> {
    config.services.section(Registration::NAME).context("the registration service is registered")
}

fn check_secret(registration: &Registration, section: &Section) -> anyhow::Result<()> {
    let checked = registration.check_secret();
    Ok(checked.map_err(|(key, error)| section.error_at(key, format!("{error:#}")))?)
}

/// A running agent is no fault, and needs no help to enrol.
fn advise(error: anyhow::Error) -> anyhow::Error {
    if error.chain().any(|cause| matches!(cause.downcast_ref(), Some(store::Error::InUse { .. }))) {
        return error.context(
            "the agent is running and enrols this device by itself (see `iot-agent status`); to enrol by hand, \
             stop it first",
        );
    }
    error
}
