//! Looking at `update_url` now and then: what is offered there, signed, becomes an order as if it had come by MQTT.

use std::time::Duration;

use protocol::update::Offer;
use tokio::{sync::mpsc, time::sleep};
use tracing::{info, warn};

use super::{
    Asked, Config, download, judge,
    package::{self, Keys},
    record::Files,
};
use crate::{action::Order, log::chain, service::Context};

/// The longest document, and the longest signature.
const LONGEST: usize = 64 << 10;
/// What is between the URL of the document and that of its signature.
const SIGNATURE: &str = ".minisig";
/// The first look is not later than this: a fleet that is switched on at once spreads over it.
const FIRST: Duration = Duration::from_secs(10);

/// Looks until the end of time.
pub(super) fn watch(
    config: &Config,
    ctx: &Context,
    files: Files,
    orders: mpsc::Sender<Order<Asked>>,
) -> impl Future<Output = ()> + Send + use<> {
    let (config, ctx) = (config.clone(), ctx.clone());
    async move {
        let Some(url) = config.update_url.clone() else { return std::future::pending().await };
        let interval = config.update_interval.get();
        let mut known = None;
        sleep(interval.min(FIRST).mul_f64(spread())).await;
        loop {
            match look(&config, &ctx, &url, &files).await {
                Ok(Some(order)) if known != order.id => {
                    known.clone_from(&order.id);
                    info!(id = known, "an update is offered");
                    if orders.send(order).await.is_err() {
                        return;
                    }
                }
                Ok(_) => {}
                Err(why) => {
                    let count = ctx.count("unreadable offers");
                    warn!(count, error = why, "what is offered cannot be used");
                }
            }
            sleep(interval.mul_f64(0.9 + 0.2 * spread())).await;
        }
    }
}

/// What is offered, if it is anything new for this device.
async fn look(
    config: &Config,
    ctx: &Context,
    url: &str,
    files: &Files,
) -> Result<Option<Order<Asked>>, String> {
    let clock = &ctx.shared.clock;
    let fetch =
        async |url: &str| download::document(url, LONGEST, clock).await.map_err(|error| chain(&error));
    let text = fetch(url).await?;
    let signature = fetch(&signature_of(url)).await.map_err(|why| format!("its signature: {why}"))?;
    let signature = String::from_utf8(signature).map_err(|_| "its signature is no text".to_owned())?;
    let mut keys = Keys::default();
    let trusted = config.keys()?;
    let verified = keys.add(&trusted).and_then(|()| keys.verify(&text, &signature));
    verified.map_err(|error: package::Error| chain(&error))?;
    let Offer { hardware_ids, wanted } = Offer::decode(&text)?;
    let ours = config.hardware_id.as_ref();
    if !hardware_ids.is_empty() && !ours.is_some_and(|id| hardware_ids.contains(id)) {
        return Ok(None);
    }
    let id = wanted.sha256.to_string();
    let inventory = files.inventory().await?;
    let installed = inventory.software.values().any(|software| software.current.sha256 == id);
    let tried = files.history().await?.updates.iter().any(|past| past.update_id == id);
    // While another is in hand it would wait, and be refused if many do: it will still be offered later.
    if installed || tried || ctx.shared.updates.in_hand().is_some() {
        return Ok(None);
    }
    let request = Asked::Install { wanted, local: None, expires_at: None };
    // What is refused has had its end: so it is not even asked before the owner lets it in.
    judge(config, ctx, &request).map_err(|refusal| refusal.reason)?;
    Ok(Some(Order { id: Some(id), expires_at: None, request }))
}

/// Beside the document; a query stays behind it.
fn signature_of(url: &str) -> String {
    match url.split_once('?') {
        Some((path, query)) => format!("{path}{SIGNATURE}?{query}"),
        None => format!("{url}{SIGNATURE}"),
    }
}

/// Somewhere between 0 and 1. A fleet must not look at the same moment.
fn spread() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
