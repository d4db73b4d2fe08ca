//! The bandwidth that a download may take, and what it has to.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How much time that was not used may be made up for: a burst is never of more bytes than fit into it.
const SLACK: Duration = Duration::from_secs(1);
/// Of what is asked of the kernel to keep, in bytes.
const LEAST: usize = 32 << 10;
const MOST: usize = 256 << 10;

/// How much may wait in the kernel, in bytes, of which it makes the double: what comes in an eighth of a second where there
/// is a limit. All of it is fetched again after a kill, and Linux by itself would have up to 6 MB of it. A line with 100 ms
/// to the server and back carries 5 MB/s so.
pub(super) fn receive_buffer(limit: Option<u64>) -> usize {
    limit.and_then(|rate| usize::try_from(rate / 8).ok()).map_or(MOST, |bytes| bytes.clamp(LEAST, MOST))
}

/// In how many times the longest silence so many bytes have to come.
const SILENCES: u32 = 10;
const TRICKLE: u64 = 64 << 10;

/// Sees a server that says something now and then, and never comes to an end.
#[derive(Debug)]
pub(super) struct Flow {
    /// In which so many bytes have to come.
    pub(super) within: Duration,
    least: u64,
    since: Instant,
    bytes: u64,
}

impl Flow {
    /// Where silence is borne for so long, and no more is taken than so many bytes a second.
    pub(super) fn new(silence: Duration, limit: Option<u64>) -> Self {
        let within = silence.saturating_mul(SILENCES);
        let half = limit.map_or(TRICKLE, |rate| rate.saturating_mul(within.as_secs()) / 2);
        Self { within, least: TRICKLE.min(half), since: Instant::now(), bytes: 0 }
    }

    /// Counts bytes that have come; the number of all where they are too few for so long a time.
    pub(super) fn trickles(&mut self, bytes: u64) -> Option<u64> {
        self.bytes += bytes;
        if self.bytes >= self.least {
            (self.since, self.bytes) = (Instant::now(), 0);
        }
        (self.since.elapsed() > self.within).then_some(self.bytes)
    }
}

/// A token bucket, kept as the time at which it will be even again. It begins empty.
#[derive(Debug)]
pub(super) struct Pace {
    /// In bytes a second; not 0.
    rate: u64,
    even: Instant,
}

impl Pace {
    /// Of so many bytes a second.
    pub(super) fn new(rate: u64) -> Self {
        Self { rate: rate.max(1), even: Instant::now() }
    }

    /// Waits until this many more bytes have been due.
    pub(super) async fn keep(&mut self, bytes: u64) {
        let now = Instant::now();
        let oldest = now.checked_sub(SLACK).unwrap_or(now);
        self.even = self.even.max(oldest) + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        sleep_until(self.even).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 10_000;

    /// Seconds that this many bytes take in parts of a size.
    async fn taken(pace: &mut Pace, bytes: u64, part: u64) -> f64 {
        let began = Instant::now();
        for _ in 0..bytes / part {
            pace.keep(part).await;
        }
        began.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn parts_of_any_size_take_their_time() {
        for part in [1, 10, 1_000, 50_000] {
            let taken = taken(&mut Pace::new(RATE), 100_000, part).await;
            assert!((9.99..10.1).contains(&taken), "{part}: {taken}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_told_from_a_slow_line() {
        const SECOND: Duration = Duration::from_secs(1);
        // Seconds after which it is seen, with so many bytes in each.
        let seen = async |rate, limit| {
            let mut flow = Flow::new(10 * SECOND, limit);
            for second in 1..=1000_u64 {
                tokio::time::advance(SECOND).await;
                if flow.trickles(rate).is_some() {
                    return Some(second);
                }
            }
            None
        };
        assert_eq!(seen(1, None).await, Some(101));
        assert_eq!(seen(600, None).await, Some(101));
        assert_eq!(seen(700, None).await, None);
        assert_eq!(seen(100, Some(100)).await, None, "the owner wants it so");
        assert_eq!(seen(1, Some(100)).await, Some(101));
    }

    #[tokio::test(start_paused = true)]
    async fn after_silence_no_more_than_a_second_is_made_up_for() {
        let mut pace = Pace::new(RATE);
        tokio::time::advance(Duration::from_secs(3600)).await;
        let taken = taken(&mut pace, 100_000, 1_000).await;
        assert!((8.99..9.1).contains(&taken), "{taken}");
    }
}
