//! At most one of a kind in an interval, so that a stranger cannot fill the log or make the hub chatter.

use std::collections::HashMap;
use std::time::Duration;

use protocol::Timestamp;

const MAX_KEYS: usize = 1024;

/// Remembers, for a bounded number of keys, when each was last let through.
pub(crate) struct Throttle {
    interval: Duration,
    last: HashMap<String, (Timestamp, u64)>,
}

impl Throttle {
    pub(crate) fn new(interval: Duration) -> Throttle {
        Throttle { interval, last: HashMap::new() }
    }

    /// `Some` if `key` may pass now, with the number held back since it last did. With more keys than are
    /// remembered, a new key may not pass until an old one's interval is over.
    pub(crate) fn pass(&mut self, key: &str, now: Timestamp) -> Option<u64> {
        let interval = i64::try_from(self.interval.as_millis()).unwrap_or(i64::MAX);
        // The distance, not the age: a clock set back must not close it for as long as it was set back.
        let over = |last: Timestamp| now.as_millis().abs_diff(last.as_millis()) >= interval.unsigned_abs();
        if let Some((last, held)) = self.last.get_mut(key) {
            if !over(*last) {
                *held += 1;
                return None;
            }
            *last = now;
            return Some(std::mem::take(held));
        }
        if self.last.len() >= MAX_KEYS {
            self.last.retain(|_, (last, _)| !over(*last));
        }
        if self.last.len() >= MAX_KEYS {
            return None;
        }
        self.last.insert(key.to_owned(), (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000 + seconds * 1000).unwrap()
    }

    #[test]
    fn one_in_an_interval_and_the_rest_counted() {
        let mut throttle = Throttle::new(Duration::from_secs(60));
        assert_eq!(throttle.pass("a", at(0)), Some(0));
        assert_eq!(throttle.pass("a", at(1)), None);
        assert_eq!(throttle.pass("a", at(59)), None);
        assert_eq!(throttle.pass("b", at(59)), Some(0));
        assert_eq!(throttle.pass("a", at(60)), Some(2));
        assert_eq!(throttle.pass("a", at(-3600)), Some(0), "a clock set back does not close it");
    }

    #[test]
    fn keys_are_bounded() {
        let mut throttle = Throttle::new(Duration::from_secs(60));
        let passed = (0..5000).filter(|key| throttle.pass(&key.to_string(), at(0)).is_some()).count();
        assert_eq!(passed, MAX_KEYS);
        assert_eq!(throttle.pass("new", at(60)), Some(0));
        assert_eq!(throttle.last.len(), 1);
    }
}
