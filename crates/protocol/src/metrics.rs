//! What a machine and its programs are doing. What cannot be known is absent, never null and never zero.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

use crate::{DeviceId, Timestamp};

/// The payload of `{prefix}/{device_id}/metrics` (`iot-metrics` in the IOT-Cloud layout). `P` and `M` are maps as a
/// reader gets them; a sender may have others that look the same in JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics<P = BTreeMap<String, Process>, M = BTreeMap<String, Metric>> {
    /// Who.
    pub device_id: DeviceId,
    /// When the look at the machine ended.
    pub timestamp: Timestamp,
    /// Counts from 1, a durable one through restarts; a gap is a sample that got lost.
    pub seq: u64,
    /// Percent of all cores that were busy since the last look.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "short")]
    pub cpu_usage: Option<f64>,
    /// Percent of the memory that is in use.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "short")]
    pub memory: Option<f64>,
    /// Percent of `/` that is in use.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "short")]
    pub disk: Option<f64>,
    /// Bytes received since boot over the interfaces that count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<u64>,
    /// The processes that were asked for, by the name they were given. Always there, if only empty.
    pub processes: P,
    /// Everything else by name; where only changes are sent: what has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<M>,
}

/// A number and what it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Finite.
    #[serde(serialize_with = "number")]
    pub value: f64,
    /// `%`, `B`, `B/s`, `1`, `1/s`, `s`, `°C`, `Hz`.
    pub unit: Cow<'static, str>,
}

/// The processes of one selector, together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// How many there are. 0: none runs, and all else is absent.
    pub count: u64,
    /// Percent of one core since the last look.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "short")]
    pub cpu_usage: Option<f64>,
    /// Resident bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// Open files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fds: Option<u64>,
    /// Bytes read from storage since the start of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// Bytes written to storage since the start of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bytes: Option<u64>,
    /// Read operations since the start of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_ops: Option<u64>,
    /// Write operations since the start of each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_ops: Option<u64>,
    /// When the oldest began, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "short")]
    pub started: Option<f64>,
}

fn short<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => number(value, serializer),
        None => serializer.serialize_none(),
    }
}

/// Thousandths are as fine as any of these is known, and a whole number needs no point.
fn number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    /// Up to here a double tells every whole number from its neighbours.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.abs() >= EXACT / 1000.0 && value.fract() != 0.0 || !value.is_finite() {
        return serializer.serialize_f64(*value);
    }
    let rounded = if value.fract() == 0.0 { *value } else { (value * 1000.0).round() / 1000.0 };
    if rounded.fract() == 0.0 && rounded.abs() < EXACT {
        #[allow(clippy::cast_possible_truncation, reason = "whole, and within the range")]
        return serializer.serialize_i64(rounded as i64);
    }
    serializer.serialize_f64(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_short_as_they_can_be() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (12.0, "12"),
            (33.333_333_333, "33.333"),
            (0.000_4, "0"),
            (-1.999_9, "-2"),
            (9_007_199_254_740_991.0, "9007199254740991"),
            (1e300, "1e+300"),
            (9_007_199_254_740.5, "9007199254740.5"),
        ] {
            let metric = Metric { value, unit: "1".into() };
            assert_eq!(serde_json::to_string(&metric).unwrap(), format!(r#"{{"value":{text},"unit":"1"}}"#));
        }
    }
}
