//! The kinds of scalar that a configuration is made of. Each checks itself as it is read, so that an error has the
//! place of the value, and is written back as a user would write it.

use std::fmt;
use std::ops::Deref;
use std::time::Duration;

use protocol::topic::{Template, TopicError};
use schemars::JsonSchema;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The JSON Schema of a scalar, written in place.
macro_rules! schema {
    ($name:ident, $schema:tt) => {
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}
pub(crate) use schema;

/// Reads a scalar that is written as an integer or as a word.
struct Scalar<T> {
    expected: &'static str,
    integer: fn(u64) -> Result<T, String>,
    word: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Scalar<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        (self.integer)(value).map_err(E::custom)
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<T, E> {
        (self.word)(word).map_err(E::custom)
    }
}

/// A length of time: `10s`, `250ms`, `5m`, `1h30m`, `7d`, or a bare integer, which is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The longest time span. No sum of two timers and a clock overflows.
const MAX_SPAN: Duration = Duration::from_secs(200 * 365 * 86_400);

const A_SPAN: &str = "a time such as 10s, 250ms, 5m, 1h30m, 7d";

impl Span {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Span(Duration::from_secs(seconds))
    }

    /// Its length.
    pub const fn get(self) -> Duration {
        self.0
    }

    fn checked(milliseconds: Option<u64>) -> Result<Self, String> {
        let span = milliseconds.map(Duration::from_millis).filter(|span| *span <= MAX_SPAN);
        span.map(Span).ok_or_else(|| "must not be over 200 years".to_owned())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected {A_SPAN}, found {text:?}");
        let (mut rest, mut total, mut coarsest) = (text, Some(0_u64), 0);
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let (number, tail) = rest.split_at(digits);
            let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
            let at = UNITS.iter().position(|(name, _)| *name == unit).filter(|at| *at >= coarsest);
            let at = at.filter(|_| !number.is_empty()).ok_or_else(wrong)?;
            let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(UNITS[at].1));
            total = total.zip(part).and_then(|(total, part)| total.checked_add(part));
            (rest, coarsest) = (tail, at + 1);
        }
        if text.is_empty() { Err(wrong()) } else { Self::checked(total) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if left == 0 {
            return f.write_str("0s");
        }
        for (unit, length) in UNITS {
            if left >= length {
                write!(f, "{}{unit}", left / length)?;
                left %= length;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar {
            expected: A_SPAN,
            integer: |seconds| Span::checked(seconds.checked_mul(1000)),
            word: Span::parse,
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A [`Span`] that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Interval(Span);

impl Interval {
    /// An interval of whole seconds, at least one.
    pub const fn seconds(seconds: u64) -> Self {
        assert!(seconds > 0, "an interval is not zero");
        Interval(Span::seconds(seconds))
    }

    /// Its length.
    pub const fn get(self) -> Duration {
        self.0.get()
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let span = Span::deserialize(deserializer)?;
        if span.get().is_zero() { Err(de::Error::custom("must not be zero")) } else { Ok(Interval(span)) }
    }
}

/// A number of bytes: `64KiB`, `256MiB`, `1GiB`, `10MB`, or a bare integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(u64);

const SIZES: [(&str, u64); 8] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("KB", 1000),
    ("B", 1),
];

const A_SIZE: &str = "a size such as 64KiB, 256MiB, 1GiB, 10MB";

impl ByteSize {
    /// A size in bytes.
    pub const fn bytes(bytes: u64) -> Self {
        ByteSize(bytes)
    }

    /// The size in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    fn checked(bytes: u64) -> Result<Self, String> {
        if bytes == 0 { Err("must not be zero".to_owned()) } else { Ok(ByteSize(bytes)) }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected {A_SIZE}, found {text:?}");
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
        let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit.trim_start()).ok_or_else(wrong)?;
        Self::checked(number.parse::<u64>().ok().and_then(|n| n.checked_mul(*factor)).ok_or_else(wrong)?)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIZES.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor)) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar {
            expected: A_SIZE,
            integer: ByteSize::checked,
            word: ByteSize::parse,
        })
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The quality of service of MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    /// 0: sent once, perhaps lost.
    AtMostOnce,
    /// 1: sent until acknowledged.
    #[default]
    AtLeastOnce,
    /// 2: sent until acknowledged, passed on once.
    ExactlyOnce,
}

impl<'de> Deserialize<'de> for Qos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar {
            expected: "0, 1 or 2",
            integer: |value| match value {
                0 => Ok(Qos::AtMostOnce),
                1 => Ok(Qos::AtLeastOnce),
                2 => Ok(Qos::ExactlyOnce),
                _ => Err(format!("expected 0, 1 or 2, found the integer {value}")),
            },
            word: |word| Err(format!("expected 0, 1 or 2, found the string {word:?}")),
        })
    }
}

impl Serialize for Qos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

/// What becomes of a message while the broker is out of reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// It waits on disk, also through a restart. Not with qos 0.
    #[default]
    Durable,
    /// It waits in memory.
    Memory,
    /// It is dropped. The default with qos 0.
    Live,
}

/// The protocol version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// 5, or 3.1.1 if the broker speaks no 5.
    #[default]
    Auto,
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
}

impl Version {
    fn parse(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Version::Auto),
            "5" | "5.0" => Ok(Version::V5),
            "3.1.1" => Ok(Version::V311),
            _ => Err(format!("expected auto, 5 or 3.1.1, found {word:?}")),
        }
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Scalar {
            expected: "auto, 5 or 3.1.1",
            integer: |value| Version::parse(&value.to_string()),
            word: Version::parse,
        })
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Version::Auto => "auto",
            Version::V5 => "5",
            Version::V311 => "3.1.1",
        })
    }
}

/// A topic, over `{prefix}`, `{device_id}` and `{client_id}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Template);

impl Deref for Topic {
    type Target = Template;

    fn deref(&self) -> &Template {
        &self.0
    }
}

impl TryFrom<String> for Topic {
    type Error = TopicError;

    fn try_from(text: String) -> Result<Self, TopicError> {
        Template::parse(&text).map(Topic)
    }
}

impl From<Topic> for String {
    fn from(topic: Topic) -> String {
        topic.0.into()
    }
}

impl From<Topic> for Template {
    fn from(topic: Topic) -> Template {
        topic.0
    }
}

schema!(Span, { "type": ["string", "integer"], "minimum": 0, "pattern": "^([0-9]+(ms|s|m|h|d))+$" });
schema!(Interval, { "type": ["string", "integer"], "minimum": 1, "pattern": "^([0-9]+(ms|s|m|h|d))+$" });
schema!(ByteSize, { "type": ["string", "integer"], "minimum": 1, "pattern": "^[0-9]+ *([kKMG]i?)?B$" });
schema!(Qos, { "enum": [0, 1, 2] });
schema!(Version, { "enum": ["auto", 5, "5", "3.1.1"] });
schema!(Topic, { "type": "string", "minLength": 1, "pattern": "^[^$+#][^+#]*$" });

#[cfg(test)]
mod tests;
