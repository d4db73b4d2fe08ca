//! What a service has answered about which surroundings, so that it is not asked twice.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{super::fix::Point, surroundings::Surroundings};

/// How many answers are kept: a device that goes to and fro asks once at each end.
const KEPT: usize = 8;
/// How long one is good for. An access point in a lorry may come along for good.
const GOOD: Duration = Duration::from_secs(24 * 3600);
/// How long one is good for that went by the address alone: that of the device may stay where its provider's does not.
const GOOD_BY_ADDRESS: Duration = Duration::from_secs(3600);

/// A place and its accuracy in metres; none where the service knows none.
pub(super) type Known = Option<(Point, f64)>;

#[derive(Debug, Default)]
pub(super) struct Memory(VecDeque<Answered>);

#[derive(Debug)]
struct Answered {
    around: Surroundings,
    known: Known,
    until: Instant,
}

impl Memory {
    /// What was answered about these surroundings.
    pub(super) fn find(&self, around: &Surroundings, now: Instant) -> Option<Known> {
        let found = self.0.iter().find(|one| now < one.until && one.around.are_those_of(around));
        found.map(|one| one.known)
    }

    pub(super) fn learn(&mut self, around: Surroundings, known: Known, now: Instant) {
        let good = if around.tell_a_place() { GOOD } else { GOOD_BY_ADDRESS };
        self.0.retain(|one| now < one.until);
        self.0.push_front(Answered { around, known, until: now + good });
        self.0.truncate(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::services::location::networks::Heard;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_good_for_a_while_and_the_latest_ones_are_kept() {
        let at = |last: u8| Surroundings::of(&Heard::default(), || Some(IpAddr::from([10, 0, 0, last])));
        let known = |last: u8| Some((Point { latitude: f64::from(last), longitude: 0.0 }, 1.0));
        let (mut memory, began) = (Memory::default(), Instant::now());
        memory.learn(at(1), known(1), began);
        memory.learn(at(2), None, began);
        assert_eq!(memory.find(&at(1), began), Some(known(1)));
        assert_eq!(memory.find(&at(2), began), Some(None), "that it knows nothing is an answer, too");
        assert_eq!(memory.find(&at(3), began), None);
        assert_eq!(memory.find(&at(1), began + GOOD_BY_ADDRESS), None);
        for last in 3..10 {
            memory.learn(at(last), known(last), began);
        }
        assert_eq!(memory.find(&at(1), began), None);
        assert_eq!(memory.find(&at(9), began), Some(known(9)));
        assert_eq!(memory.0.len(), KEPT);
    }
}
