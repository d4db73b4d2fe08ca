//! Points in time as the protocol writes them: RFC 3339, UTC, exactly three digits of a second, `Z`.

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, to the millisecond. Reads any RFC 3339 offset, writes UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

/// The text is not an RFC 3339 date and time with an offset.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not an RFC 3339 time such as 2026-01-31T12:00:00.000Z")]
pub struct TimeError {
    text: String,
    source: jiff::Error,
}

impl Timestamp {
    /// The system's time, cut to the millisecond; a time beyond the years the format can write becomes the
    /// nearest it can.
    pub fn from_system_time(time: SystemTime) -> Timestamp {
        let nearest = if time < SystemTime::UNIX_EPOCH { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
        Timestamp::cut(jiff::Timestamp::try_from(time).unwrap_or(nearest))
    }

    /// The same point in time for the standard library.
    pub fn to_system_time(self) -> SystemTime {
        SystemTime::from(self.0)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z, negative before it.
    pub fn as_millis(self) -> i64 {
        self.0.as_millisecond()
    }

    /// The inverse of [`Timestamp::as_millis`]; `None` beyond the years -9999 to 9999.
    pub fn from_millis(millis: i64) -> Option<Timestamp> {
        jiff::Timestamp::from_millisecond(millis).ok().map(Timestamp)
    }

    fn cut(time: jiff::Timestamp) -> Timestamp {
        Timestamp(jiff::Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Timestamp, TimeError> {
        text.parse()
            .map(Timestamp::cut)
            .map_err(|source| TimeError { text: text.chars().take(64).collect(), source })
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writes_three_digits_and_reads_any_offset() {
        for (text, written) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z"),
            ("2026-01-31T14:30:00.1234567+02:30", "2026-01-31T12:00:00.123Z"),
            ("2026-01-31T11:59:59.999999999-00:00", "2026-01-31T11:59:59.999Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), written);
        }
        for bad in ["", "now", "2026-01-31", "2026-01-31T12:00:00", "1769860800", "2026-02-30T00:00:00Z"] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_clock_beyond_the_format_is_clamped() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert!(Timestamp::from_system_time(far).to_string().starts_with("9999-12-30T"));
        let epoch = Timestamp::from_system_time(SystemTime::UNIX_EPOCH);
        assert_eq!(epoch.to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(epoch.to_system_time(), SystemTime::UNIX_EPOCH);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in -60_000_000_000_000i64..250_000_000_000_000) {
            let time = Timestamp::from_millis(millis).unwrap();
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
            prop_assert_eq!(Timestamp::from_system_time(time.to_system_time()), time);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            if let Ok(time) = text.parse::<Timestamp>() {
                prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
            }
        }
    }
}
