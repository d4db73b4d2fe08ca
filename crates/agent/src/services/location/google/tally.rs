//! How often the service was asked today. A restart does not begin anew.

use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::{clock::Clock, log::chain, outbox::apart, store::Store};

const FILE: &str = "geolocation.json";
const DAY: u64 = 24 * 3600;

/// What is on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Count {
    /// Since 1970, in UTC.
    day: u64,
    requests: u32,
}

/// Counts requests, and has an end to them.
#[derive(Debug)]
pub(crate) struct Tally {
    /// None: for one request that a person asks for, beside the daemon that has the folder.
    store: Option<Store>,
    clock: Clock,
    limit: u32,
    /// Once it was read.
    count: Option<Count>,
}

impl Tally {
    /// At most `limit` a day.
    pub(crate) fn new(store: Option<Store>, clock: Clock, limit: u32) -> Self {
        Self { store, clock, limit, count: None }
    }

    /// One more, which is on disk then.
    ///
    /// # Errors
    /// When there were enough today.
    pub(super) async fn take(&mut self) -> Result<(), String> {
        let before = match self.count {
            Some(count) => count,
            None => self.read().await,
        };
        let mut count = on(before, self.today_by_the_clock());
        if count.requests >= self.limit {
            self.count = Some(count);
            return Err(format!(
                "asked {} times today: again tomorrow (UTC), or with a higher geolocation_daily_limit",
                count.requests
            ));
        }
        count.requests += 1;
        self.count = Some(count);
        self.write(count).await;
        Ok(())
    }

    /// The last one did not reach the service.
    pub(super) fn give_back(&mut self) {
        if let Some(count) = &mut self.count {
            count.requests = count.requests.saturating_sub(1);
        }
    }

    /// How many there were today.
    pub(super) fn today(&self) -> u32 {
        self.count.map_or(0, |count| count.requests)
    }

    fn today_by_the_clock(&self) -> u64 {
        self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / DAY
    }

    async fn read(&self) -> Count {
        let Some(store) = self.store.clone() else { return Count::default() };
        let read = apart(move || store.read(FILE)).await;
        read.unwrap_or_else(|error| {
            warn!(error = chain(&error), "counts the day's requests anew");
            None
        })
        .unwrap_or_default()
    }

    /// A disk that cannot be written costs the count at the next restart, not the place.
    async fn write(&self, count: Count) {
        let Some(store) = self.store.clone() else { return };
        if let Err(error) = apart(move || store.write(FILE, &count)).await {
            warn!(error = chain(&error), "cannot keep how often the place was asked for");
        }
    }
}

/// The count on a day. One of a day to come was made by a clock that was wrong, or is: its requests were sent all the
/// same, and count for today.
fn on(before: Count, day: u64) -> Count {
    if day > before.day { Count { day, requests: 0 } } else { Count { day, ..before } }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering::Relaxed},
        },
        time::Duration,
    };

    use super::*;
    use crate::clock::{Reading, built};

    #[tokio::test]
    async fn a_day_has_its_limit_through_restarts_and_wrong_clocks() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap().folder("location").unwrap();
        let day = Arc::new(AtomicU64::new(10));
        let now = Arc::clone(&day);
        let clock = Clock::with_source(built(), move || Reading {
            time: built() + Duration::from_secs(now.load(Relaxed) * DAY),
            synchronised: false,
        });
        let tally = || Tally::new(Some(store.clone()), clock.clone(), 3);
        let mut first = tally();
        for _ in 0..3 {
            first.take().await.unwrap();
        }
        assert!(first.take().await.unwrap_err().contains("geolocation_daily_limit"));
        first.give_back();
        first.take().await.unwrap();
        let mut second = tally();
        assert!(second.take().await.is_err(), "a restart is no new day");
        // The clock goes back, and forth again: the same requests.
        day.store(5, Relaxed);
        assert!(second.take().await.is_err());
        day.store(6, Relaxed);
        second.take().await.unwrap();
        assert_eq!(second.today(), 1);
        // A count of a day that is far off does not stop it for years.
        day.store(5000, Relaxed);
        assert!(tally().take().await.is_ok());
        day.store(11, Relaxed);
        let mut third = tally();
        assert!(third.take().await.is_ok(), "two of three");
        day.store(12, Relaxed);
        third.take().await.unwrap();
        assert_eq!(third.today(), 1);
    }
}
