//! What time it is, on a device whose clock may stand at 1970 or have jumped to 2038.
//!
//! **Invariant:** nothing else reads the system's wall clock, and no unsynchronised reading ever becomes the
//! floor. Timers are monotonic and have nothing to do with this module.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::sys;

/// When this program was built, in seconds since 1970: `SOURCE_DATE_EPOCH` where the build sets it (packages
/// do; builds stay reproducible), else the date of this line. No device can rightly think it is earlier.
const BUILT: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    None => 1_795_305_600, // 2026-11-22
    Some(seconds) => match u64::from_str_radix(seconds, 10) {
        Ok(seconds) => seconds,
        Err(_) => panic!("SOURCE_DATE_EPOCH is not a number of seconds"),
    },
};

/// One look at the system's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// What the clock says, be it sensible or not.
    pub time: SystemTime,
    /// Whether something keeps it right (`adjtimex` without `STA_UNSYNC`; always false off Linux).
    pub synchronised: bool,
}

impl Reading {
    #[allow(clippy::disallowed_methods, reason = "the one place that may read the raw clock")]
    fn system() -> Self {
        Self { time: SystemTime::now(), synchronised: sys::clock_synchronised() }
    }
}

/// The time of day as far as it can be trusted: the system's clock, but never before a floor. A cheap clone
/// shares the floor.
#[derive(Clone)]
pub struct Clock {
    read: Arc<dyn Fn() -> Reading + Send + Sync>,
    floor: Arc<Mutex<SystemTime>>,
}

impl Clock {
    /// The system's clock with the floor max(`built`, `persisted`); `persisted` is what an earlier run got
    /// from [`Clock::persistable`].
    pub fn new(built: SystemTime, persisted: Option<SystemTime>) -> Self {
        Self::with_source(built.max(persisted.unwrap_or(built)), Reading::system)
    }

    /// A clock over another source of readings, so that a test can stand in any year.
    pub fn with_source(floor: SystemTime, read: impl Fn() -> Reading + Send + Sync + 'static) -> Self {
        Self { read: Arc::new(read), floor: Arc::new(Mutex::new(floor)) }
    }

    /// The system's clock where it is at or past the floor, else the floor.
    pub fn now(&self) -> SystemTime {
        (self.read)().time.max(self.floor())
    }

    /// The earliest time it can possibly be.
    pub fn floor(&self) -> SystemTime {
        *self.lock()
    }

    /// Whether the system's clock is kept right by something.
    pub fn synchronised(&self) -> bool {
        (self.read)().synchronised
    }

    /// The time worth remembering across restarts: only a synchronised clock has one. It becomes the floor
    /// of this process too.
    pub fn persistable(&self) -> Option<SystemTime> {
        let reading = (self.read)();
        if !reading.synchronised {
            return None;
        }
        self.raise(reading.time);
        Some(self.floor())
    }

    /// Lifts the floor to a time that somebody trusted has signed. A time before the floor changes nothing.
    pub fn raise(&self, trusted: SystemTime) {
        let mut floor = self.lock();
        *floor = trusted.max(*floor);
    }

    fn lock(&self) -> MutexGuard<'_, SystemTime> {
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock").field("floor", &self.floor()).finish_non_exhaustive()
    }
}

/// When this program was built: the lowest floor there is.
pub fn built() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(BUILT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(31_556_952);

    fn clock(time: SystemTime, synchronised: bool) -> Clock {
        Clock::with_source(built(), move || Reading { time, synchronised })
    }

    #[test]
    fn a_clock_before_the_floor_is_not_believed() {
        assert_eq!(clock(SystemTime::UNIX_EPOCH, false).now(), built());
        assert_eq!(clock(SystemTime::UNIX_EPOCH, true).now(), built());
    }

    #[test]
    fn a_clock_past_the_floor_is_now() {
        assert_eq!(clock(built() + YEAR, false).now(), built() + YEAR);
    }

    #[test]
    fn only_a_synchronised_time_is_kept() {
        let wild = clock(built() + 12 * YEAR, false);
        assert_eq!(wild.persistable(), None);
        assert_eq!(wild.floor(), built());

        let right = clock(built() + YEAR, true);
        assert_eq!(right.persistable(), Some(built() + YEAR));
        assert_eq!(right.floor(), built() + YEAR);
    }

    #[test]
    fn the_persisted_time_lifts_the_floor_but_never_lowers_it() {
        assert_eq!(Clock::new(built(), Some(built() + YEAR)).floor(), built() + YEAR);
        assert_eq!(Clock::new(built(), Some(built() - YEAR)).floor(), built());
    }

    #[test]
    fn a_signed_time_lifts_the_floor_of_every_clone() {
        let clock = clock(SystemTime::UNIX_EPOCH, false);
        clock.clone().raise(built() + YEAR);
        assert_eq!(clock.now(), built() + YEAR);
        clock.raise(built());
        assert_eq!(clock.now(), built() + YEAR);
    }

    #[test]
    fn the_kernel_answers() {
        // Which of the two it says is the machine's affair; what must hold is that `persistable` obeys it.
        let clock = Clock::new(built(), None);
        assert_eq!(clock.persistable().is_some(), clock.synchronised());
    }
}
