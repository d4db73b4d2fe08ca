//! What has changed enough to be worth sending.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::Duration,
};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};
use tokio::time::Instant;

use super::{glob::Glob, payload::Look, sample::Process};
use crate::config::Interval;

/// `services.metrics.on_change`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct OnChange {
    /// Whether only what has changed is sent; otherwise all, at each interval.
    enabled: bool,
    /// How much of a change is none, by glob over names: a number, or "n%" of the value sent last.
    deadband: BTreeMap<String, Deadband>,
    /// The longest time without a sample.
    max_silence: Interval,
    /// The longest time without a sample of everything.
    full_every: Interval,
}

impl Default for OnChange {
    fn default() -> Self {
        Self {
            enabled: false,
            deadband: BTreeMap::new(),
            max_silence: Interval::seconds(600),
            full_every: Interval::seconds(3600),
        }
    }
}

/// How far a value may move without having changed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Deadband {
    /// In the value's unit.
    Absolute(f64),
    /// In percent of the value sent last.
    Percent(f64),
}

impl Deadband {
    fn holds(self, sent: f64, value: f64) -> bool {
        let room = match self {
            Self::Absolute(room) => room,
            Self::Percent(percent) => sent.abs() * percent / 100.0,
        };
        (value - sent).abs() <= room
    }
}

const A_DEADBAND: &str = "a number not below 0, or a share such as \"5%\"";

impl Visitor<'_> for Wanted {
    type Value = Deadband;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(A_DEADBAND)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Deadband, E> {
        let sound = value.is_finite() && value >= 0.0;
        sound
            .then_some(Deadband::Absolute(value))
            .ok_or_else(|| E::custom(format!("expected {A_DEADBAND}, found {value}")))
    }

    #[allow(clippy::cast_precision_loss, reason = "a deadband that large is as good as any near it")]
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Deadband, E> {
        self.visit_f64(value as f64)
    }

    #[allow(clippy::cast_precision_loss, reason = "it is refused: below zero")]
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Deadband, E> {
        self.visit_f64(value as f64)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Deadband, E> {
        let percent = text.strip_suffix('%').and_then(|number| number.trim_end().parse::<f64>().ok());
        let percent = percent.filter(|percent| percent.is_finite() && *percent >= 0.0);
        percent
            .map(Deadband::Percent)
            .ok_or_else(|| E::custom(format!("expected {A_DEADBAND}, found {text:?}")))
    }
}

struct Wanted;

impl<'de> Deserialize<'de> for Deadband {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Wanted)
    }
}

impl Serialize for Deadband {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absolute(value) => serializer.serialize_f64(*value),
            Self::Percent(percent) => serializer.collect_str(&format_args!("{percent}%")),
        }
    }
}

impl JsonSchema for Deadband {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Deadband".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["number", "string"], "minimum": 0, "pattern": "^[0-9.]+ *%$" })
    }
}

/// How much of what was seen is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Everything.
    Full,
    /// The values for which [`Changes::has`] holds.
    Changed,
}

/// What was sent last, and what of the latest look is different.
#[derive(Debug)]
pub(super) struct Changes {
    config: OnChange,
    /// The longest pattern first.
    deadbands: Vec<(Glob, Deadband)>,
    known: BTreeMap<String, Known>,
    /// Kept, so that a look allocates nothing.
    name: String,
    full: Option<Instant>,
    last: Option<Instant>,
    interval: Duration,
}

#[derive(Debug)]
struct Known {
    sent: f64,
    deadband: Option<Deadband>,
    changed: bool,
}

impl Changes {
    /// Knows nothing yet: everything is sent.
    pub(super) fn new(config: OnChange) -> Self {
        let mut deadbands: Vec<_> = config.deadband.iter().collect();
        deadbands.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.len()));
        let deadbands =
            deadbands.into_iter().map(|(pattern, deadband)| (Glob::new(pattern), *deadband)).collect();
        let (full, last, interval) = (None, None, Duration::ZERO);
        Self { config, deadbands, known: BTreeMap::new(), name: String::new(), full, last, interval }
    }

    /// There is a look each time this has passed.
    pub(super) fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The next look is sent whole: whoever reads may have lost something, or be new.
    pub(super) fn full_next(&mut self) {
        self.full = None;
    }

    /// How much of this look is to be sent, which then counts as sent.
    pub(super) fn judge(&mut self, look: &Look<'_>, now: Instant) -> Option<Extent> {
        if !self.config.enabled {
            return Some(Extent::Full);
        }
        // What the next look would be too late for is due now; but a look may be a little early.
        let ahead = self.interval * 9 / 10;
        let due =
            |since: Option<Instant>, after: Duration| since.is_none_or(|since| now - since + ahead >= after);
        let full = due(self.full, self.config.full_every.get());
        let silent = due(self.last, self.config.max_silence.get());
        let changed = self.compare(look, full);
        if full {
            self.full = Some(now);
        }
        if full || silent || changed {
            self.last = Some(now);
        }
        match (full, silent || changed) {
            (true, _) => Some(Extent::Full),
            (_, true) => Some(Extent::Changed),
            _ => None,
        }
    }

    /// Whether this value of the look that was judged last has changed.
    pub(super) fn has(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|known| known.changed)
    }

    /// Notes every value; says whether any has changed.
    fn compare(&mut self, look: &Look<'_>, full: bool) -> bool {
        let mut changed = false;
        for (name, value) in look.values() {
            changed |= self.note(name, value.unit, value.value, full);
        }
        for (name, unit, value) in look.summary() {
            changed |= value.is_some_and(|value| self.note(name, unit, value, full));
        }
        let mut name = std::mem::take(&mut self.name);
        for (key, process) in look.processes {
            for (field, unit, value) in fields(process) {
                let Some(value) = value else { continue };
                name.clear();
                // To a string: it cannot fail.
                write!(name, "processes.{key}.{field}").unwrap_or_default();
                changed |= self.note(&name, unit, value, full);
            }
        }
        self.name = name;
        changed
    }

    fn note(&mut self, name: &str, unit: &str, value: f64, full: bool) -> bool {
        let Some(known) = self.known.get_mut(name) else {
            let fitting = self.deadbands.iter().find(|(glob, _)| glob.matches(name.as_bytes()));
            let deadband = fitting.map(|(_, deadband)| *deadband);
            self.known.insert(name.to_owned(), Known { sent: value, deadband, changed: true });
            return true;
        };
        let holds = match known.deadband {
            Some(deadband) => deadband.holds(known.sent, value),
            None => holds(name, unit, known.sent, value),
        };
        known.changed = !holds;
        if full || known.changed {
            known.sent = value;
        }
        known.changed
    }
}

/// In place of a unit: a point in time, which is another after a new start.
const SINCE: &str = "since";

/// Where the settings say nothing: a tenth, but for units in which small steps mean nothing. Less than our own messages make, at
/// one a second, is nothing: else each sample sent would be the reason for the next.
fn holds(name: &str, unit: &str, sent: f64, value: f64) -> bool {
    let least = match unit {
        "%" => return Deadband::Absolute(5.0).holds(sent, value),
        "°C" => return Deadband::Absolute(2.0).holds(sent, value),
        // Time passes by itself.
        "s" => return value >= sent - 2.0,
        SINCE => return Deadband::Absolute(1.0).holds(sent, value),
        "B/s" if name.starts_with("disk.") => 65_536.0,
        "B/s" => 4096.0,
        "1/s" => 20.0,
        "1" => 0.5,
        _ => 0.0,
    };
    Deadband::Absolute(least).holds(sent, value) || Deadband::Percent(10.0).holds(sent, value)
}

#[allow(clippy::cast_precision_loss, reason = "compared, not counted")]
fn fields(process: &Process) -> [(&'static str, &'static str, Option<f64>); 10] {
    let number = |value: Option<u64>| value.map(|value| value as f64);
    [
        ("count", "1", Some(process.count as f64)),
        ("cpu_usage", "%", process.cpu_usage),
        ("memory", "B", number(process.memory)),
        ("threads", "1", number(process.threads)),
        ("fds", "1", number(process.fds)),
        ("read_bytes", "B", number(process.read_bytes)),
        ("write_bytes", "B", number(process.write_bytes)),
        ("read_ops", "1", number(process.read_ops)),
        ("write_ops", "1", number(process.write_ops)),
        ("started", SINCE, process.started),
    ]
}

#[cfg(test)]
mod tests;
