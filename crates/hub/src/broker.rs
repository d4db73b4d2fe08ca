//! The embedded broker: the only file that names the library it comes from.
//!
//! Sessions, queues and retained messages live in the data folder and survive a restart of the hub. What this broker
//! does not do is told in `docs/hub.md`.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use mqtt5::broker::{BrokerConfig, BrokerShutdownHandle, MqttBroker, StorageConfig};
use tokio::task::JoinHandle;

/// The largest packet it takes or sends, in bytes.
pub const MAX_PACKET: usize = 1 << 20;
/// How long it keeps the session of a client that is away.
pub const SESSION_EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);

const MAX_RETAINED: usize = 100_000;
const MAX_CLIENTS: usize = 10_000;
const QUEUED_MESSAGES: usize = 10_000;
const QUEUED_BYTES: usize = 8 << 20;
const STOP_DEADLINE: Duration = Duration::from_secs(7);

/// A running broker.
pub struct Broker {
    address: SocketAddr,
    handle: BrokerShutdownHandle,
    task: JoinHandle<mqtt5::Result<()>>,
}

impl Broker {
    /// Starts to listen; port 0 lets the system choose. Clients can connect when it returns.
    pub async fn start(listen: SocketAddr, folder: &Path) -> anyhow::Result<Broker> {
        let mut broker = MqttBroker::with_config(config(listen, folder))
            .await
            .with_context(|| format!("start the embedded broker on {listen}"))?;
        let address = broker.local_addr().context("find the embedded broker's address")?;
        let (handle, mut ready) = (broker.shutdown_handle(), broker.ready_receiver());
        let mut task = tokio::spawn(async move { broker.run().await });
        tokio::select! {
            ready = ready.wait_for(|ready| *ready) => {
                ready.context("start the embedded broker")?;
            }
            ended = &mut task => {
                ended.context("start the embedded broker")?.context("start the embedded broker")?;
                anyhow::bail!("the embedded broker ended at once");
            }
        }
        Ok(Broker { address, handle, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it ends by itself, which it should not. Cancel-safe; not to be called again once it returned.
    pub async fn ended(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("the embedded broker ended"),
            Ok(Err(error)) => anyhow::Error::new(error).context("run the embedded broker"),
            Err(error) => anyhow::Error::new(error).context("run the embedded broker"),
        }
    }

    /// Closes every connection and writes down what must last.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.handle.shutdown();
        let ended = tokio::time::timeout(STOP_DEADLINE, &mut self.task).await;
        ended.context("the embedded broker does not stop")?.context("stop the embedded broker")??;
        Ok(())
    }
}

fn config(listen: SocketAddr, folder: &Path) -> BrokerConfig {
    let storage = StorageConfig::default()
        .with_base_dir(folder.to_owned())
        .with_max_queued_messages_per_client(QUEUED_MESSAGES)
        .with_max_queued_bytes_per_client(QUEUED_BYTES);
    BrokerConfig::default()
        .with_bind_address(listen)
        .with_storage(storage)
        .with_max_clients(MAX_CLIENTS)
        .with_max_packet_size(MAX_PACKET)
        .with_session_expiry(SESSION_EXPIRY)
        .with_max_retained_messages(MAX_RETAINED)
        .with_sys_topics_enabled(false)
}
