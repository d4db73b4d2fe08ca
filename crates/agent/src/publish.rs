//! `iot-agent publish`, the daemon's part: lines from the control socket into the outbox, or live to the broker.
//!
//! Memory is bounded: a few hundred kilobytes are read beyond what is on disk. The client is told how
//! far its lines are after each commit, so that it can say so also when this process is killed.

mod keep;
mod lines;
mod live;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use protocol::{
    DeviceId, Timestamp,
    data::{self, Data, Stream},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use crate::{
    config::Qos,
    control::Talk,
    mqtt::Mqtt,
    outbox::{Class, Counts, Outbox},
    service::Shared,
};
use keep::Keeping;
pub use lines::MAX_LINE;
use live::Sending;

/// How many publish at a time; no other is let in.
const MAX_PUBLISHERS: usize = 16;

/// How many streams can be sent live in a run: each has its number remembered.
const MAX_LIVE_STREAMS: usize = 1024;

/// Most bytes of lines that are on their way to the disk: far less than the outbox takes before it drops some.
const MAX_UNSTORED: u32 = 256 << 10;

/// How many lines are handed over at a time.
const CHUNK: usize = 1000;

/// How long a publisher may take to read a reply: whoever reads its output may have stopped for a while.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be published how; the lines follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Where.
    pub stream: Stream,
    /// How important they are.
    pub class: Class,
    /// Quality of service; 0 only for what is live.
    pub qos: Qos,
    /// Not kept: sent now, or never.
    #[serde(default)]
    pub live: bool,
    /// Waits for room instead of dropping what is old or less important.
    #[serde(default)]
    pub block: bool,
    /// Goes on until the broker has them all.
    #[serde(default)]
    pub wait: bool,
}

/// How far the lines are, from the first one on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Read so far.
    pub lines: u64,
    /// Not taken, or sent live and refused by the broker; each was told by [`Reply::Refused`].
    pub refused: u64,
    /// Written and synced.
    pub on_disk: u64,
    /// Taken into memory, since the disk cannot be written.
    pub in_memory: u64,
    /// Dropped at once, since there was no room.
    pub dropped: u64,
    /// On disk, and then refused by the broker or dropped to make room.
    pub failed: u64,
    /// Acknowledged by the broker.
    pub acknowledged: u64,
    /// Handed to the connection, live.
    pub sent: u64,
    /// Why lines wait in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub degraded: Option<String>,
}

/// What a publisher is told, as it happens: `{"progress": …}`, `{"refused": …}`; and at the end `{"ok": …}`, or
/// `{"error": "…"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// So far.
    Progress(Report),
    /// This line will not be sent.
    Refused {
        /// Its number, from 1.
        line: u64,
        /// Why.
        reason: String,
    },
    /// All that was asked for is done.
    Ok(Report),
    /// It cannot go on. What the last report says stays true.
    Error(String),
}

/// Serves publishers.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    mqtt: Mqtt,
    places: Semaphore,
    /// Bytes of lines on their way to the disk, of all publishers: a part of what the outbox takes before it drops.
    shares: Arc<Semaphore>,
    shares_in_all: u32,
    /// The number of each stream's latest live message.
    live: Mutex<BTreeMap<Stream, u64>>,
}

/// Where the lines of one publisher go.
#[derive(Debug)]
struct Target {
    device_id: DeviceId,
    stream: Stream,
    topic: String,
}

impl Target {
    fn payload(&self, timestamp: Timestamp, seq: u64, data: &RawValue) -> Vec<u8> {
        let Self { device_id, stream, .. } = self;
        serde_json::to_vec(&Data { device_id, timestamp, seq, stream, data })
            .expect("an id, a time, a number and a value are JSON")
    }
}

impl Publisher {
    /// For the device and the broker of these.
    pub fn new(shared: Arc<Shared>, mqtt: Mqtt) -> Self {
        let cap = mqtt.with_outbox(|outbox| outbox.cap()).unwrap_or(0);
        let shares_in_all = u32::try_from(cap / 4).unwrap_or(u32::MAX).clamp(1, MAX_UNSTORED);
        let shares = Arc::new(Semaphore::new(shares_in_all as usize));
        let places = Semaphore::new(MAX_PUBLISHERS);
        Self { shared, mqtt, places, shares, shares_in_all, live: Mutex::default() }
    }

    /// Publishes what this client sends.
    ///
    /// # Errors
    /// When the client has gone away.
    pub async fn serve(&self, request: Request, mut talk: Talk) -> io::Result<()> {
        let refused = match (self.places.try_acquire(), self.target(&request)) {
            (Err(_), _) => format!("{MAX_PUBLISHERS} others publish already; try again when one has ended"),
            (_, Err(why)) => why,
            (Ok(_place), Ok(target)) if request.live => {
                return Sending::new(self, &request, target, talk).run().await;
            }
            (Ok(_place), Ok(target)) => return Keeping::new(self, &request, target, talk).run().await,
        };
        talk.send(&Reply::Error(refused), PATIENCE).await
    }

    fn target(&self, Request { stream, qos, live, .. }: &Request) -> Result<Target, String> {
        if *qos == Qos::AtMostOnce && !live {
            return Err("with qos 0 nothing is kept: ask for live, or for qos 1 or 2".to_owned());
        }
        let device = self.shared.identity.device().borrow().clone();
        let device_id = device.ok_or("not enrolled yet: the device has no id to publish under")?.device_id;
        let topic = data::topic(&self.shared.topics.prefix, &device_id, stream);
        let known = |outbox: &Outbox| outbox.has_room_for_topic(&topic);
        if !live && !self.mqtt.with_outbox(known).unwrap_or(true) {
            return Err(
                "too many streams: 4096 have been used, and each keeps its number for ever".to_owned()
            );
        }
        Ok(Target { device_id, stream: stream.clone(), topic })
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_system_time(self.shared.clock.now())
    }

    /// The next number of a stream in this run; none for one stream too many.
    fn next_live(&self, stream: &Stream) -> Option<u64> {
        let mut numbers = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if numbers.len() >= MAX_LIVE_STREAMS && !numbers.contains_key(stream) {
            return None;
        }
        let number = numbers.entry(stream.clone()).or_default();
        *number += 1;
        Some(*number)
    }
}

/// Written, or as good as ever: no longer on its way to the disk.
fn stored(counts: &Counts) -> u64 {
    counts.on_disk + counts.in_memory + counts.dropped
}
