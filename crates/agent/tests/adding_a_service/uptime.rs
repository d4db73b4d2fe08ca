//! Publishes how long the machine has been up. Never reads anything but the monotonic clock.

use std::time::Duration;

use iot_agent::{
    config::{Delivery, Interval, Qos, Topic},
    service::{Context, Outgoing, Service},
};
use protocol::{DeviceId, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Publishes how long the machine has been up.
pub struct Uptime {
    config: Config,
    ctx: Context,
}

/// Settings under `services.uptime`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Topic; by default {prefix}/{device_id}/uptime.
    topic: Option<Topic>,
    /// Quality of service.
    qos: Qos,
    /// What becomes of a message while the broker is out of reach.
    delivery: Delivery,
    /// Time between two messages.
    interval: Interval,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topic: None,
            qos: Qos::AtLeastOnce,
            delivery: Delivery::Durable,
            interval: Interval::seconds(60),
        }
    }
}

#[derive(Serialize)]
struct Payload {
    device_id: DeviceId,
    timestamp: Timestamp,
    seq: u64,
    uptime_s: u64,
}

impl Service for Uptime {
    const NAME: &'static str = "uptime";
    type Config = Config;

    fn new(config: Config, ctx: Context) -> anyhow::Result<Self> {
        Ok(Self { config, ctx })
    }

    async fn run(self) -> anyhow::Result<()> {
        self.ctx.until_shutdown(self.publish()).await
    }
}

impl Uptime {
    async fn publish(&self) -> anyhow::Result<()> {
        let device_id = self.ctx.identity().device_id().await;
        let template = self.ctx.template(self.config.topic.as_deref());
        let topic = self.ctx.topic(&template)?;
        let interval = self.config.interval.get();
        loop {
            // Whoever does not come back in time hangs, and is started anew.
            self.ctx.progress(interval + Duration::from_secs(30));
            let (device_id, timestamp, uptime_s) = (device_id.clone(), self.ctx.now(), uptime());
            let mut payload = Payload { device_id, timestamp, seq: 0, uptime_s };
            let payload = |seq| {
                payload.seq = seq;
                serde_json::to_vec(&payload).expect("strings and numbers make JSON")
            };
            let (topic, Config { qos, delivery, .. }) = (topic.clone(), self.config.clone());
            self.ctx.publish(Outgoing { topic, qos, delivery, payload });
            tokio::time::sleep(interval).await;
        }
    }
}

fn uptime() -> u64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_sec.unsigned_abs()
}
