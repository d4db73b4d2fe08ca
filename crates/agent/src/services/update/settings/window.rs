//! Hours and days in which updates are begun.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::scalar_schema;

const DAY: u64 = 24 * 60;

/// When updates are begun: in all of these hours of all of these days.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(in super::super) struct Window {
    /// From and to, such as `02:00-05:00`; over midnight where the end is before the beginning.
    hours: Option<Hours>,
    /// On which days it begins; by default on each.
    days: Vec<Weekday>,
}

/// A part of the day, in minutes since midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Hours {
    from: u64,
    to: u64,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

scalar_schema!(Hours, { "type": "string", "pattern": "^[0-9]{2}:[0-9]{2}-[0-9]{2}:[0-9]{2}$" });

impl Window {
    /// Whether it is open then.
    pub(in super::super) fn is_open(&self, at: SystemTime) -> bool {
        let minutes = at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() / 60);
        let (day, minute) = (minutes / DAY, minutes % DAY);
        let on = |day: u64| self.days.is_empty() || self.days.contains(&Weekday::of(day));
        match self.hours {
            None => on(day),
            Some(Hours { from, to }) if from < to => on(day) && (from..to).contains(&minute),
            // The part after midnight belongs to the day before.
            Some(Hours { from, to }) => {
                (minute >= from && on(day)) || (minute < to && on(day.wrapping_sub(1)))
            }
        }
    }
}

impl Weekday {
    const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    /// Of a day since 1970, which began with a Thursday.
    fn of(day: u64) -> Self {
        Self::ALL[(day.wrapping_add(3) % 7) as usize]
    }
}

impl TryFrom<String> for Hours {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let read = || {
            let (from, to) = text.split_once('-')?;
            Some(Self { from: minutes(from.trim())?, to: minutes(to.trim())? })
        };
        match read() {
            Some(hours) if hours.from != hours.to && hours.from < DAY => Ok(hours),
            _ => Err(format!("expected hours such as 02:00-05:00, found {text:?}")),
        }
    }
}

/// From `HH:MM`, up to `24:00`.
fn minutes(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(hours) || !digits(minutes) {
        return None;
    }
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let sum = hours * 60 + minutes;
    (minutes < 60 && sum <= DAY).then_some(sum)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, to] = [self.from, self.to].map(|at| format!("{:02}:{:02}", at / 60, at % 60));
        write!(f, "{from}-{to}")
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<String> = self.days.iter().map(|day| format!("{day:?}").to_lowercase()).collect();
        match (&self.hours, days.join(", ")) {
            (Some(hours), days) if days.is_empty() => write!(f, "{hours}"),
            (Some(hours), days) => write!(f, "{hours} on {days}"),
            (None, days) => f.write_str(&days),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn window(text: serde_json::Value) -> Result<Window, String> {
        serde_json::from_value(text).map_err(|error| error.to_string())
    }

    /// So long after midnight of Monday, 5 January 1970.
    fn monday(days: u64, minute: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(((4 + days) * DAY + minute) * 60)
    }

    #[test]
    fn it_is_open_when_it_says() {
        let night = window(serde_json::json!({ "hours": "22:00-04:30", "days": ["mon", "sun"] })).unwrap();
        for (day, minute, open) in [
            (0, 21 * 60 + 59, false),
            (0, 22 * 60, true),
            (1, 4 * 60 + 29, true),
            (1, 4 * 60 + 30, false),
            (1, 23 * 60, false),
            (6, 23 * 60, true),
            (7, 60, true),
            (8, 60, true),
            (9, 60, false),
        ] {
            assert_eq!(night.is_open(monday(day, minute)), open, "{day} {minute}");
        }
        let noon = window(serde_json::json!({ "hours": "12:00-13:00" })).unwrap();
        assert!(
            noon.is_open(monday(3, 720)) && noon.is_open(monday(3, 779)) && !noon.is_open(monday(3, 780))
        );
        let week = window(serde_json::json!({ "days": ["sat"] })).unwrap();
        assert!(week.is_open(monday(5, 0)) && !week.is_open(monday(6, 0)));
        assert!(window(serde_json::json!({ "hours": "00:00-24:00" })).unwrap().is_open(monday(2, 1439)));
        assert!(Window::default().is_open(monday(2, 3)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in
            ["", "2-5", "02:00", "02:00-02:00", "24:00-02:00", "02:60-03:00", "02:00-25:00", "+2:00-03:00"]
        {
            let refused = window(serde_json::json!({ "hours": bad })).expect_err(bad);
            assert!(refused.contains("such as 02:00-05:00"), "{refused}");
        }
        assert!(window(serde_json::json!({ "days": ["monday"] })).is_err());
    }
}
