//! What has arrived so far, at either kind of broker.

use std::{collections::HashSet, fmt, time::Duration};

use serde_json::Value;
use testkit::{
    Recorder, Watcher,
    recorder::{Account, Event, Published},
};
use tokio::time::{Instant, sleep};

/// Who saw messages arrive.
pub(super) trait Witness {
    /// Those after the first so many of what it saw, and how much it has seen now.
    fn after(&self, seen: usize) -> (Vec<Published>, usize);
}

impl Witness for Recorder {
    fn after(&self, seen: usize) -> (Vec<Published>, usize) {
        let entries = self.entries_after(seen).unwrap();
        let count = seen + entries.len();
        let message = |entry: testkit::recorder::Entry| match entry.event {
            Event::Published(published) => Some(published),
            _ => None,
        };
        (entries.into_iter().filter_map(message).collect(), count)
    }
}

impl Witness for Watcher {
    fn after(&self, seen: usize) -> (Vec<Published>, usize) {
        let messages = self.all();
        let count = messages.len();
        let published = messages.into_iter().skip(seen).map(|message| Published {
            connection: 0,
            id: 0,
            qos: message.qos,
            dup: false,
            retain: message.retain,
            repeated: false,
            code: 0,
            topic: message.topic,
            payload: message.payload,
        });
        (published.collect(), count)
    }
}

/// Of `iot/d1/data/…`.
#[derive(Default)]
pub(super) struct Arrivals {
    seen: usize,
    published: Vec<Published>,
    distinct: HashSet<(String, u64)>,
    data: HashSet<u64>,
}

impl Arrivals {
    /// How many differ so far.
    pub(super) fn count(&mut self, witness: &impl Witness) -> u64 {
        let (published, seen) = witness.after(self.seen);
        self.seen = seen;
        let data = |message: &Published| message.code == 0 && message.topic.starts_with("iot/d1/data/");
        for message in published.into_iter().filter(data) {
            let json = message.json();
            let seq = json["seq"].as_u64().unwrap();
            self.data.extend(json["data"].as_u64());
            self.distinct.insert((message.topic.clone(), seq));
            self.published.push(message);
        }
        self.distinct.len() as u64
    }

    /// How many of the numbers from 1 on have not come as the data of any message.
    fn missing(&mut self, witness: &impl Witness, lines: u64) -> u64 {
        self.count(witness);
        lines - (1..=lines).filter(|line| self.data.contains(line)).count() as u64
    }

    /// Waits until so many differ; `false` when they do not in time.
    pub(super) async fn reach(&mut self, witness: &impl Witness, count: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.count(witness) < count {
            if Instant::now() >= deadline {
                return false;
            }
            sleep(Duration::from_millis(2)).await;
        }
        true
    }

    /// Waits until this number has come as data of some message; `false` when it does not in time.
    pub(super) async fn include(&mut self, witness: &impl Witness, number: u64, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while !self.data.contains(&number) && Instant::now() < deadline {
            sleep(Duration::from_millis(2)).await;
            self.count(witness);
        }
        self.data.contains(&number)
    }

    /// Waits until all numbers have come as data of some message. Whether they have, the figures tell.
    pub(super) async fn complete(&mut self, witness: &impl Witness, lines: u64, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.missing(witness, lines) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The account of these streams, each of the numbers from 1 on.
    pub(super) fn figures(&self, streams: &[&str], lines: u64) -> Figures {
        let account = Account::of(&self.published);
        let (mut lost, mut gaps) = (Vec::new(), Vec::new());
        for stream in streams {
            let topic = format!("iot/d1/data/{stream}");
            lost.extend(account.lost(&topic, (1..=lines).map(Value::from)));
            gaps.extend(account.gaps(&topic));
        }
        Figures { wanted: lines * streams.len() as u64, lost, gaps, account }
    }

    /// The numbers that have come as data, in any order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.data.iter().copied()
    }

    /// The lines of a stream got the numbers they were fed as: none was taken twice.
    pub(super) fn assert_each_line_once(&self) {
        for message in &self.published {
            let json = message.json();
            assert_eq!(json["seq"], json["data"], "{}", message.topic);
        }
    }
}

/// What a proof says of what arrived.
pub(super) struct Figures {
    wanted: u64,
    lost: Vec<Value>,
    gaps: Vec<u64>,
    pub(super) account: Account,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Account { duplicates, inversions, .. } = self.account;
        let (wanted, lost) = (self.wanted, self.lost.len());
        write!(
            f,
            "wanted=0-lost,0-inversions messages={wanted} lost={lost} duplicates={duplicates} inversions={inversions}"
        )
    }
}

impl Figures {
    /// Nothing is missing, changed or out of order.
    pub(super) fn assert_sound(&self) {
        assert_eq!(self.lost, Vec::<Value>::new(), "lost");
        assert_eq!(self.gaps, Vec::<u64>::new(), "numbers without a message");
        assert_eq!(self.account.differing, Vec::<String>::new(), "copies are the same bytes");
        assert_eq!(self.account.inversions, 0, "each stream arrives in its order");
    }
}
