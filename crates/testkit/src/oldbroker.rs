//! A broker of MQTT 3.1.1 only, for the fallback: mosquitto, behind a door that lets no later version in.
//!
//! The refusals are those of real brokers: aedes 1.2 and amqtt 0.12, both 3.1.1 only, were seen to answer a CONNECT of
//! MQTT 5 with `20 02 00 01` and a FIN; others just hang up.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::wire::{CONNACK_UNACCEPTABLE, read_packet};

const CONNECT_LIMIT: usize = 64 * 1024;
const LEVEL_311: u8 = 4;

/// What a client of a later version hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// CONNACK with return code 1, unacceptable protocol version, and the end of the stream.
    Code1,
    /// The end of the stream.
    Close,
}

/// The CONNECTs that came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of MQTT 3.1.1, passed on.
    pub accepted: u64,
    /// Of another version, refused.
    pub refused: u64,
}

/// The door, on a free port of 127.0.0.1; it ends when dropped.
#[derive(Debug)]
pub struct OldBroker {
    address: SocketAddr,
    counts: watch::Sender<Counts>,
    task: JoinHandle<()>,
}

impl OldBroker {
    /// Puts the door before `broker`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(broker: SocketAddr, refusal: Refusal) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind the old broker")?;
        let address = listener.local_addr().context("ask for its address")?;
        let counts = watch::Sender::new(Counts::default());
        let counted = counts.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(admit(stream, broker, refusal, counted.clone()));
            }
        });
        Ok(Self { address, counts, task })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// What came so far.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }
}

impl Drop for OldBroker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn admit(mut client: TcpStream, broker: SocketAddr, refusal: Refusal, counts: watch::Sender<Counts>) {
    let Some(connect) = read_packet(&mut client, CONNECT_LIMIT).await else { return };
    if connect.level() != Some(LEVEL_311) {
        counts.send_modify(|counts| counts.refused += 1);
        if refusal == Refusal::Code1 {
            // The client may have left; the end of the stream follows in either case.
            client.write_all(&CONNACK_UNACCEPTABLE).await.ok();
        }
        return;
    }
    counts.send_modify(|counts| counts.accepted += 1);
    let Ok(mut server) = TcpStream::connect(broker).await else { return };
    if server.write_all(&connect.encode()).await.is_ok() {
        // Either side may end it as it likes.
        copy_bidirectional(&mut client, &mut server).await.ok();
    }
}
