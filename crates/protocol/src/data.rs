//! What programs on a device send through its agent: a value of their own, with its origin.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{DeviceId, Timestamp};

/// The longest name of a stream, in bytes.
pub const MAX_STREAM: usize = 64;

/// The payload of `{prefix}/{device_id}/data/{stream}`.
#[derive(Debug, Clone, Serialize)]
pub struct Data<'a> {
    /// Who.
    pub device_id: &'a DeviceId,
    /// When the agent took it.
    pub timestamp: Timestamp,
    /// Counts from 1 in each stream, without gaps, across restarts; of what is not kept: within a run of the agent.
    pub seq: u64,
    /// Which stream.
    pub stream: &'a Stream,
    /// The value, as it was written: digits, order of keys and all.
    pub data: &'a RawValue,
}

/// Where `{prefix}/{device_id}/data/{stream}` is: the same in both layouts.
pub fn topic(prefix: &str, device_id: &DeviceId, stream: &Stream) -> String {
    format!("{prefix}/{device_id}/data/{stream}")
}

/// What a line of text stands for: its JSON value, byte for byte, or else the line itself as a JSON string.
pub fn value(line: &str) -> Box<RawValue> {
    let json = serde_json::from_str::<&RawValue>(line).map(RawValue::to_owned);
    json.or_else(|_| serde_json::value::to_raw_value(line)).expect("every text has a JSON string")
}

/// The name of a stream: one level of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Stream(String);

/// The text is no name of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stream is 1 to {MAX_STREAM} of the characters a-z, 0-9, _ and -")]
pub struct StreamError;

impl Stream {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Stream {
    type Err = StreamError;

    fn from_str(text: &str) -> Result<Self, StreamError> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-');
        let valid = (1..=MAX_STREAM).contains(&text.len()) && text.bytes().all(plain);
        if valid { Ok(Self(text.to_owned())) } else { Err(StreamError) }
    }
}

impl TryFrom<String> for Stream {
    type Error = StreamError;

    fn try_from(text: String) -> Result<Self, StreamError> {
        text.parse()
    }
}

impl From<Stream> for String {
    fn from(stream: Stream) -> Self {
        stream.0
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_one_plain_level_of_a_topic() {
        for name in ["a", "0", "door-2", "log_1", &"x".repeat(64)] {
            assert_eq!(name.parse::<Stream>().unwrap().as_str(), name);
        }
        for name in ["", "A", "a/b", "a b", "+", "#", "$x", "ä", "a\n", "a.b", &"x".repeat(65)] {
            assert_eq!(name.parse::<Stream>(), Err(StreamError), "{name:?}");
        }
    }

    #[test]
    fn json_stays_as_it_was_written_and_all_else_is_a_string() {
        for exact in [
            r#"{"b":1,"a":2,"b":3}"#,
            "1.0",
            "1e400",
            "123456789012345678901234567890.10",
            "-0",
            "null",
            r#""\u00e4\/""#,
            r#"[ 1 , 2 ]"#,
        ] {
            assert_eq!(value(exact).get(), exact);
        }
        assert_eq!(value(" {\"a\": 1}\t\r").get(), "{\"a\": 1}", "white space around it is not the value's");
        for (line, string) in [
            ("", r#""""#),
            (" ", r#"" ""#),
            ("plain", r#""plain""#),
            ("NaN", r#""NaN""#),
            ("01", r#""01""#),
            ("{\"a\":1} {\"b\":2}", r#""{\"a\":1} {\"b\":2}""#),
            ("{'a': 1}", r#""{'a': 1}""#),
            ("tab\tand \u{1b}", r#""tab\tand \u001b""#),
        ] {
            assert_eq!(value(line).get(), string, "{line:?}");
        }
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(value(&deep).get(), deep);
    }
}
