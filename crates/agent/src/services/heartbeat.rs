//! Says at an interval that the device is alive, and how its services are. A missed tick is skipped, never
//! made up for, and while offline nothing is sent unless `delivery` says so: a stale "alive" is a lie.

use std::time::Duration;

use protocol::{
    DeviceId,
    heartbeat::{self, Alive, Outbox},
    topic::Template,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;

use crate::{
    config::{Delivery, Interval, Qos, Topic},
    mqtt::Connection,
    service::{Context, Outgoing, Service},
};

/// The slack a tick has before the service counts as hanging.
const GRACE: Duration = Duration::from_secs(30);

/// Publishes heartbeats.
pub(crate) struct Heartbeat {
    config: Config,
    ctx: Context,
    topic: Template,
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
        let topic = ctx.template(config.topic.as_deref());
        Ok(Self { config, ctx, topic })
    }

    async fn run(self) -> anyhow::Result<()> {
        self.ctx.until_shutdown(self.beat()).await
    }
}

impl Heartbeat {
    async fn beat(&self) -> anyhow::Result<()> {
        let device_id = self.ctx.identity().device_id().await;
        let topic = self.ctx.topic(&self.topic)?;
        // The first one follows the birth, not the next full interval.
        let mut connection = self.ctx.mqtt.connection();
        connection.wait_for(|connection| matches!(connection, Connection::Connected { .. })).await?;
        let mut ticks = tokio::time::interval(self.config.interval.get());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            self.ctx.progress(self.config.interval.get() + GRACE);
            ticks.tick().await;
            if !self.ctx.would_drop(self.config.delivery) {
                self.send(&device_id, topic.clone());
            }
        }
    }

    fn send(&self, device_id: &DeviceId, topic: String) {
        let counters = self.ctx.mqtt.counters();
        let mut heartbeat = heartbeat::Heartbeat {
            device_id: device_id.clone(),
            timestamp: self.ctx.now(),
            status: Alive,
            seq: 0,
            run_id: self.ctx.identity().run_id().to_owned(),
            uptime_s: self.ctx.shared.began.elapsed().as_secs(),
            services: self.ctx.shared.board.states(),
            tunnels: self.ctx.shared.tunnels.count(),
            outbox: Outbox {
                messages: counters.queued,
                bytes: counters.queued_bytes,
                dropped: counters.dropped,
                degraded: counters.degraded,
            },
        };
        let payload = |seq| {
            heartbeat.seq = seq;
            serde_json::to_vec(&heartbeat).expect("strings and numbers make JSON")
        };
        let Config { qos, delivery, .. } = self.config;
        self.ctx.publish(Outgoing { topic, qos, delivery, payload });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{harness::Harness, mqtt::Message};

    fn config(delivery: Delivery) -> Config {
        Config { interval: Interval::seconds(10), delivery, ..Config::default() }
    }

    fn seqs(messages: &[Message]) -> Vec<u64> {
        messages.iter().map(|message| decoded(message).seq).collect()
    }

    fn decoded(message: &Message) -> heartbeat::Heartbeat {
        serde_json::from_slice(&message.payload).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn beats_at_its_interval_once_enrolled_and_connected() {
        let world = Harness::new();
        let service = world.start::<Heartbeat>(config(Delivery::Live));
        assert!(world.after(Duration::from_secs(60)).await.is_empty(), "not enrolled");
        world.enrol("d1");
        assert!(world.after(Duration::from_secs(60)).await.is_empty(), "not connected");
        world.mqtt.set_connected(true);
        let beats = world.after(Duration::from_secs(35)).await;
        assert_eq!(seqs(&beats), [1, 2, 3, 4], "at once, then every 10 s");
        assert_eq!(beats[0].topic, "iot/d1/heartbeat");
        assert!(!beats[0].retain);
        assert_eq!(decoded(&beats[3]).services["heartbeat"], protocol::status::ServiceState::Running);
        world.stop(service).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_live_one_is_not_made_while_offline() {
        let world = Harness::new();
        world.enrol("d1");
        world.mqtt.set_connected(true);
        let service = world.start::<Heartbeat>(config(Delivery::Live));
        assert_eq!(seqs(&world.after(Duration::from_secs(5)).await), [1]);
        world.mqtt.set_connected(false);
        assert!(world.after(Duration::from_secs(600)).await.is_empty());
        world.mqtt.set_connected(true);
        assert_eq!(seqs(&world.after(Duration::from_secs(10)).await), [2], "no gap, no burst");
        world.stop(service).await;
    }

    /// A reload or a failure starts the service again, in the same run.
    #[tokio::test(start_paused = true)]
    async fn a_service_started_again_goes_on_counting() {
        let world = Harness::new();
        world.enrol("d1");
        world.mqtt.set_connected(true);
        for (expected, uptime_s) in [([1, 2], 10), ([3, 4], 25)] {
            let service = world.start::<Heartbeat>(config(Delivery::Live));
            let beats = world.after(Duration::from_secs(15)).await;
            assert_eq!(seqs(&beats), expected);
            assert_eq!(decoded(&beats[1]).uptime_s, uptime_s, "of the process");
            service.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_other_waits_in_the_queue() {
        let world = Harness::new();
        world.enrol("d1");
        world.mqtt.set_connected(true);
        let service = world.start::<Heartbeat>(config(Delivery::Memory));
        assert_eq!(seqs(&world.after(Duration::from_secs(5)).await), [1]);
        world.mqtt.set_connected(false);
        assert_eq!(seqs(&world.after(Duration::from_secs(20)).await), [2, 3]);
        world.stop(service).await;
    }

    /// Its number is that of its topic, not of this run.
    #[tokio::test(start_paused = true)]
    async fn a_durable_one_is_numbered_by_the_outbox() {
        let world = Harness::new();
        world.enrol("d1");
        world.mqtt.set_connected(true);
        for expected in [[1, 2], [3, 4]] {
            let service = world.start::<Heartbeat>(config(Delivery::Durable));
            let beats = world.after(Duration::from_secs(15)).await;
            assert_eq!(seqs(&beats), expected);
            let waiting = world.mqtt.with_outbox(|outbox| outbox.total().messages);
            assert_eq!(waiting, Some(0), "acknowledged");
            service.abort();
        }
        assert_eq!(world.shared.board.next_seq(Heartbeat::NAME), 1, "not the board's business");
    }

    /// The machine slept, or was too busy: one beat when it is back, then the rhythm of before.
    #[tokio::test(start_paused = true)]
    async fn missed_ticks_are_skipped() {
        let world = Harness::new();
        world.enrol("d1");
        world.mqtt.set_connected(true);
        let service = world.start::<Heartbeat>(config(Delivery::Live));
        assert_eq!(seqs(&world.after(Duration::from_secs(5)).await), [1]);
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(seqs(&world.after(Duration::from_secs(1)).await), [2]);
        assert_eq!(seqs(&world.after(Duration::from_secs(10)).await), [3]);
        world.stop(service).await;
    }
}
