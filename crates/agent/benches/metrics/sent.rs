//! What reached the broker, as its log has it.

use testkit::Mosquitto;

/// Messages, and the bytes of their payloads.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// Of the largest.
    pub(crate) largest: usize,
}

/// All whose topic begins so; of those after the first `skip` bytes of the log.
pub(crate) fn sent(broker: &Mosquitto, topic: &str, skip: usize) -> Sent {
    let (log, topic) = (broker.log(), format!("'{topic}"));
    let mut sent = Sent::default();
    for line in log[skip..].lines().filter(|line| line.contains("Received PUBLISH") && line.contains(&topic))
    {
        // … from CLIENT (d0, q1, r0, m7, 'TOPIC', ... (3123 bytes))
        let size = line.rsplit_once('(').and_then(|(_, end)| end.split(' ').next()).unwrap();
        let size: usize = size.parse().unwrap_or_else(|_| panic!("no size: {line}"));
        sent.messages += 1;
        sent.bytes += size;
        sent.largest = sent.largest.max(size);
    }
    sent
}

/// Where its log ends now.
pub(crate) fn now(broker: &Mosquitto) -> usize {
    broker.log().len()
}
