//! Points in time as the protocol writes them: RFC 3339, UTC, exactly three digits of a second, `Z`.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A point in time, to the millisecond. Reads any RFC 3339 offset, writes UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

/// The text is not an RFC 3339 date and time with an offset.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not an RFC 3339 time such as 2026-01-31T12:00:00.000Z")]
pub struct TimeError {
    text: String,
}

const SECOND: i64 = 1_000;
const DAY: i64 = 86_400 * SECOND;
/// 0000-01-01T00:00:00.000Z, before which there are no four digits for a year.
const MIN: i64 = -719_528 * DAY;
/// 9999-12-31T23:59:59.999Z.
const MAX: i64 = 2_932_897 * DAY - 1;

impl Timestamp {
    /// The system's time, cut to the millisecond; a time beyond the years the format can write becomes the
    /// nearest it can.
    pub fn from_system_time(time: SystemTime) -> Timestamp {
        let millis = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(MIN, |millis| -millis),
        };
        Timestamp(millis.clamp(MIN, MAX))
    }

    /// The same point in time for the standard library.
    pub fn to_system_time(self) -> SystemTime {
        let from_epoch = Duration::from_millis(self.0.unsigned_abs());
        if self.0 < 0 { SystemTime::UNIX_EPOCH - from_epoch } else { SystemTime::UNIX_EPOCH + from_epoch }
    }

    /// Milliseconds since 1970-01-01T00:00:00Z, negative before it.
    pub fn as_millis(self) -> i64 {
        self.0
    }

    /// The inverse of [`Timestamp::as_millis`]; `None` beyond the years 0 to 9999.
    pub fn from_millis(millis: i64) -> Option<Timestamp> {
        (MIN..=MAX).contains(&millis).then_some(Timestamp(millis))
    }

    fn parse(text: &[u8]) -> Option<Timestamp> {
        let mut rest = text;
        let (year, month, day) = (digits(&mut rest, 4)?, part(&mut rest, b"-")?, part(&mut rest, b"-")?);
        // RFC 3339, 5.6: the letters may be small ones, and a blank may stand for the T.
        let (hour, minute) = (part(&mut rest, b"Tt ")?, part(&mut rest, b":")?);
        let second = part(&mut rest, b":")?;
        let millis = fraction(&mut rest)?;
        let offset = offset(rest)?;
        let sound = (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            // A leap second counts as the one before it.
            && second <= 60;
        let time = (hour * 60 + minute) * 60 + second.min(59);
        let utc = days(year, month, day) * DAY + time * SECOND + millis - offset * 60 * SECOND;
        sound.then_some(utc).and_then(Timestamp::from_millis)
    }
}

/// So many digits, as a number; takes them off the text.
fn digits(text: &mut &[u8], count: usize) -> Option<i64> {
    let (word, rest) = text.split_at_checked(count)?;
    *text = rest;
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    word.iter().try_fold(0, |number, byte| Some(10 * number + digit(byte)?))
}

/// One of these separators and two digits.
fn part(text: &mut &[u8], separators: &[u8]) -> Option<i64> {
    let (first, rest) = text.split_first()?;
    *text = rest;
    separators.contains(first).then(|| digits(text, 2))?
}

/// The milliseconds behind a point, if there is one; further digits are cut off.
fn fraction(text: &mut &[u8]) -> Option<i64> {
    let Some(rest) = text.strip_prefix(b".") else { return Some(0) };
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (word, rest) = rest.split_at(count);
    *text = rest;
    let digit = |place| word.get(place).map_or(0, |byte| i64::from(byte - b'0'));
    (count > 0).then(|| 100 * digit(0) + 10 * digit(1) + digit(2))
}

/// `Z`, `+02:30`, as minutes east of Greenwich.
fn offset(mut text: &[u8]) -> Option<i64> {
    if let b"Z" | b"z" = text {
        return Some(0);
    }
    let sign = if text.first()? == &b'-' { -1 } else { 1 };
    let (hours, minutes) = (part(&mut text, b"+-")?, part(&mut text, b":")?);
    (text.is_empty() && hours < 24 && minutes < 60).then_some(sign * (60 * hours + minutes))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years are taken to begin in March, so that the leap day is
/// their last; from there to a month it is 30.6 days for each, rounded.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // From 0000-03-01 to 1970-01-01 it is 719,468 days.
    365 * year + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The inverse of [`days`].
fn date(days: i64) -> (i64, i64, i64) {
    let since = days + 719_468;
    // A guess by the mean length of a year, which is off by one at most.
    let mut year = (since * 400).div_euclid(146_097);
    while self::days(year + 1, 3, 1) <= days {
        year += 1;
    }
    while self::days(year, 3, 1) > days {
        year -= 1;
    }
    let day = days - self::days(year, 3, 1);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0.div_euclid(DAY));
        let millis = self.0.rem_euclid(DAY);
        let seconds = millis / SECOND;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", millis % SECOND)
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
        Timestamp::parse(text.as_bytes()).ok_or_else(|| TimeError { text: text.chars().take(64).collect() })
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writes_three_digits_and_reads_any_offset() {
        for (text, written) in [
            ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.000Z"),
            ("2026-01-31T14:30:00.1234567+02:30", "2026-01-31T12:00:00.123Z"),
            ("2026-01-31T11:59:59.999999999-00:00", "2026-01-31T11:59:59.999Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500Z"),
            ("2026-01-31t12:00:00.05z", "2026-01-31T12:00:00.050Z"),
            ("2024-02-29 23:59:60-00:30", "2024-03-01T00:29:59.000Z"),
            ("0000-01-01T00:00:00Z", "0000-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), written);
        }
        for bad in [
            "",
            "now",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "1769860800",
            "2026-02-30T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:61Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00+01:60",
            "2026-01-01T00:00:00+01:00Z",
            "2026-01-01T00:00:00Z ",
            "+026-01-01T00:00:00Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "2026-01-01T00:00:00\u{e9}",
        ] {
            assert!(bad.parse::<Timestamp>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_clock_beyond_the_format_is_clamped() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert!(Timestamp::from_system_time(far).to_string().starts_with("9999-12-31T"));
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

        /// Another's calendar says the same.
        #[test]
        fn the_calendar_is_the_gregorian(millis in MIN + DAY..MAX - 2 * DAY) {
            let ours = Timestamp::from_millis(millis).unwrap().to_string();
            let theirs = jiff::Timestamp::from_millisecond(millis).unwrap();
            prop_assert_eq!(ours, format!("{theirs:.3}"));
        }

        #[test]
        fn any_offset_is_read(millis in MIN + DAY..MAX - 2 * DAY, offset in -1439..1440_i64) {
            let local = Timestamp::from_millis(millis).unwrap().to_string().replace('Z', "");
            let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs());
            let text = format!("{local}{sign}{:02}:{:02}", minutes / 60, minutes % 60);
            let theirs = text.parse::<jiff::Timestamp>().unwrap().as_millisecond();
            prop_assert_eq!(text.parse::<Timestamp>().unwrap().as_millis(), theirs);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}") {
            if let Ok(time) = text.parse::<Timestamp>() {
                prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
            }
        }
    }
}
