//! Says at an interval that the device is alive, and how its services are. A missed tick is skipped, never
//! made up for, and while offline nothing is sent unless `delivery` says so: a stale "alive" is a lie.

use std::time::Duration;

use anyhow::Context as _;
use protocol::{
    DeviceId,
    heartbeat::{self, Alive, Outbox},
    topic::Template,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior};

use crate::{
    config::{Delivery, Interval, Qos, Topic},
    mqtt::{Connection, Message},
    service::{Context, Invalid, Service},
};

/// The slack a tick has before the service counts as hanging.
const GRACE: Duration = Duration::from_secs(30);

/// Publishes heartbeats.
pub(crate) struct Heartbeat {
    config: Config,
    ctx: Context,
    topic: Template,
    seq: u64,
    began: Instant,
}

/// Settings under `services.heartbeat`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Topic; by default that of the layout.
    topic: Option<Topic>,
    /// Quality of service.
    qos: Qos,
    /// What becomes of a heartbeat while the broker is out of reach.
    delivery: Delivery,
    /// Time between two heartbeats.
    interval: Interval,
}

impl Default for Config {
    fn default() -> Self {
        Self { topic: None, qos: Qos::AtLeastOnce, delivery: Delivery::Live, interval: Interval::seconds(30) }
    }
}

impl Service for Heartbeat {
    const NAME: &'static str = "heartbeat";
    const ENABLED: bool = true;
    type Config = Config;

    fn new(config: Config, ctx: Context) -> anyhow::Result<Self> {
        if config.delivery == Delivery::Durable && config.qos == Qos::AtMostOnce {
            return Err(
                Invalid::key("delivery", "durable needs qos 1 or 2: nobody acknowledges qos 0").into()
            );
        }
        let topic = ctx.template(config.topic.as_deref());
        Ok(Self { config, ctx, topic, seq: 0, began: Instant::now() })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let shutdown = self.ctx.shutdown.clone();
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = self.beat() => ended,
        }
    }
}

impl Heartbeat {
    async fn beat(&mut self) -> anyhow::Result<()> {
        let device_id = self.ctx.identity().device_id().await;
        let topic = self.ctx.resolve(&self.topic).context("the topic needs more than a device id")?;
        // The first one follows the birth, not the next full interval.
        let mut connection = self.ctx.mqtt.connection();
        connection.wait_for(|connection| matches!(connection, Connection::Connected { .. })).await?;
        let mut ticks = tokio::time::interval(self.config.interval.get());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.ctx.progress(self.config.interval.get() + GRACE);
            ticks.tick().await;
            let up = matches!(*connection.borrow(), Connection::Connected { .. });
            if up || self.config.delivery != Delivery::Live {
                self.send(&device_id, topic.clone())?;
            }
        }
    }

    fn send(&mut self, device_id: &DeviceId, topic: String) -> anyhow::Result<()> {
        self.seq += 1;
        let counters = self.ctx.mqtt.counters();
        let heartbeat = heartbeat::Heartbeat {
            device_id: device_id.clone(),
            timestamp: self.ctx.now(),
            status: Alive,
            seq: self.seq,
            run_id: self.ctx.identity().run_id().to_owned(),
            uptime_s: self.began.elapsed().as_secs(),
            services: self.ctx.shared.board.states(),
            tunnels: 0,
            outbox: Outbox {
                messages: counters.queued,
                bytes: counters.queued_bytes,
                dropped: counters.dropped,
            },
        };
        let payload = serde_json::to_vec(&heartbeat).context("encode a heartbeat")?;
        let Config { qos, delivery, .. } = self.config;
        // Whether it arrived is the driver's business; the next one is due anyhow.
        drop(self.ctx.mqtt.publish(Message { topic, payload, qos, retain: false, delivery }));
        Ok(())
    }
}
