//! What of the messages sent has arrived: the figures of the proofs.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::journal::Published;

/// The accepted messages, by topic and `seq`.
#[derive(Debug, Default)]
pub struct Account {
    /// Messages that differ.
    pub distinct: usize,
    /// Those that came again.
    pub duplicates: usize,
    /// First arrivals behind a later number of the same topic.
    pub inversions: usize,
    /// Numbers of which two copies are not the same bytes, or which are missing in the payload.
    pub differing: Vec<String>,
    first: HashMap<String, Topic>,
}

#[derive(Debug, Default)]
struct Topic {
    payloads: HashMap<u64, Vec<u8>>,
    largest: u64,
}

impl Account {
    /// Counts these, in the order in which they came. What was refused, or repeated within QoS 2, does not count.
    pub fn of<'a>(published: impl IntoIterator<Item = &'a Published>) -> Self {
        let mut account = Self::default();
        for message in published.into_iter().filter(|message| message.code == 0 && !message.repeated) {
            account.add(message);
        }
        account
    }

    fn add(&mut self, message: &Published) {
        let Some(seq) = message.json()["seq"].as_u64() else {
            self.differing.push(format!("{}: no seq", message.topic));
            return;
        };
        let topic = self.first.entry(message.topic.clone()).or_default();
        if let Some(payload) = topic.payloads.get(&seq) {
            self.duplicates += 1;
            if *payload != message.payload {
                self.differing.push(format!("{}: {seq}", message.topic));
            }
            return;
        }
        self.distinct += 1;
        self.inversions += usize::from(seq < topic.largest);
        topic.largest = topic.largest.max(seq);
        topic.payloads.insert(seq, message.payload.clone());
    }

    /// Numbers missing on a topic between 1 and the largest that came.
    pub fn gaps(&self, topic: &str) -> Vec<u64> {
        let Some(topic) = self.first.get(topic) else { return Vec::new() };
        (1..=topic.largest).filter(|seq| !topic.payloads.contains_key(seq)).collect()
    }

    /// Which of these values did not come as the `data` of a message on this topic.
    pub fn lost(&self, topic: &str, expected: impl IntoIterator<Item = Value>) -> Vec<Value> {
        let came: HashSet<String> = self
            .first
            .get(topic)
            .map(|topic| topic.payloads.values().map(|payload| data(payload)).collect())
            .unwrap_or_default();
        expected.into_iter().filter(|value| !came.contains(&value.to_string())).collect()
    }

    /// How many messages on a topic carry data that another number of it carries as well: a sender that was not told
    /// its line was taken hands it over once more.
    pub fn repeated_data(&self, topic: &str) -> usize {
        let Some(topic) = self.first.get(topic) else { return 0 };
        let different: HashSet<String> = topic.payloads.values().map(|payload| data(payload)).collect();
        topic.payloads.len() - different.len()
    }
}

fn data(payload: &[u8]) -> String {
    let json: Value = serde_json::from_slice(payload).unwrap_or_default();
    json["data"].to_string()
}
