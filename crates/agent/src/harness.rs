//! One service, in memory, under a paused clock: real identity, store, router and queue; the broker's part is
//! played by the test.

use std::{sync::Arc, time::Duration};

use protocol::topic::Layout;
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    action::{Actions, audit::Audit, policy::Policy},
    clock::{self, Clock},
    identity::Identity,
    mqtt::{Backoff, Message, Mqtt},
    outbox::{Folder, Outbox},
    service::{Context, Service, Shared, Topics},
    store::Store,
};

/// The world of one service.
pub(crate) struct Harness {
    pub(crate) shared: Arc<Shared>,
    pub(crate) mqtt: Mqtt,
    disk: Folder,
    /// Goes with the world.
    _dir: TempDir,
    shutdown: CancellationToken,
}

impl Harness {
    /// A device that is neither enrolled nor connected.
    pub(crate) fn new() -> Self {
        Self::with_layout(Layout::Device)
    }

    pub(crate) fn with_layout(layout: Layout) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = Store::open(dir.path()).unwrap();
        let identity = Identity::load(&state, &dir.path().join("device.json"), "c1", None).unwrap();
        let backoff = Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(300),
            reset_after: Duration::from_secs(60),
        };
        let clock = Clock::new(clock::built(), None);
        let log = Arc::new(Folder::new(dir.path().join("audit")));
        let audit = Audit::new(log, clock.clone(), "iot", identity.device());
        let shared = Shared {
            identity,
            clock,
            topics: Topics { layout, prefix: "iot".to_owned() },
            board: Default::default(),
            backoff,
            began: Instant::now(),
            actions: Actions::new(Policy::new(None), audit),
            tunnels: Default::default(),
            handover: Default::default(),
            updates: Default::default(),
            state,
        };
        let disk = Folder::new(dir.path().join("outbox"));
        let outbox = Outbox::open(Arc::new(disk.clone()), 1 << 20, shared.clock.clone());
        let (mqtt, shutdown) = (Mqtt::with_driver_played(outbox), CancellationToken::new());
        shared.actions.audit.attach(&mqtt);
        Self { shared: Arc::new(shared), mqtt, disk, _dir: dir, shutdown }
    }

    /// Gives the device its id.
    pub(crate) fn enrol(&self, device_id: &str) {
        self.shared.identity.enrol(device_id.parse().unwrap()).unwrap();
    }

    /// Starts the service.
    pub(crate) fn start<S: Service>(&self, config: S::Config) -> JoinHandle<anyhow::Result<()>> {
        self.start_with(|ctx| S::new(config, ctx).unwrap())
    }

    /// Starts a service that the test has a hand in.
    pub(crate) fn start_with<S: Service>(
        &self,
        make: impl FnOnce(Context) -> S,
    ) -> JoinHandle<anyhow::Result<()>> {
        let ctx = Context {
            name: S::NAME,
            shared: Arc::clone(&self.shared),
            mqtt: self.mqtt.clone(),
            shutdown: self.shutdown.clone(),
        };
        ctx.healthy();
        tokio::spawn(make(ctx).run())
    }

    /// Lets `time` pass, and takes what the service has published meanwhile.
    pub(crate) async fn after(&self, time: Duration) -> Vec<Message> {
        tokio::time::sleep(time).await;
        self.commit();
        self.mqtt.take_published()
    }

    /// Writes what is durable, as the agent's committer does.
    pub(crate) fn commit(&self) {
        self.mqtt.change_outbox(|outbox| {
            while let Some(plan) = outbox.plan() {
                let written = plan.execute(&self.disk);
                outbox.committed(plan, written);
            }
        });
    }

    /// Ends the service as the supervisor does.
    pub(crate) async fn stop(&self, service: JoinHandle<anyhow::Result<()>>) {
        self.shutdown.cancel();
        service.await.expect("does not panic").expect("ends well");
    }
}
