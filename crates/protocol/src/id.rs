//! Who a device is: the ids that stand in topics, and therefore may not contain what a topic gives a meaning.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest id, in bytes of UTF-8.
pub const MAX_ID: usize = 128;

/// Why a text cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// No characters at all.
    #[error("an id must not be empty")]
    Empty,
    /// Over [`MAX_ID`] bytes.
    #[error("an id must not be longer than {MAX_ID} bytes, this one has {0}")]
    TooLong(usize),
    /// `/`, `+` or `#`, which mean something in a topic.
    #[error("an id must not contain {0:?}: it has a meaning in MQTT topics")]
    TopicCharacter(char),
    /// A control character, or a code point that MQTT brokers refuse.
    #[error("an id must not contain the control character {0:?}")]
    Control(char),
    /// A leading `$`, which brokers keep for themselves.
    #[error("an id must not begin with '$': brokers keep such topics for themselves")]
    Dollar,
    /// The word `registration`, whose topics would be mixed up with the device's.
    #[error("\"registration\" cannot be a device id: it is a level of the registration topics")]
    Reserved,
}

/// Control characters, and the Unicode non-characters for which brokers close the connection.
pub(crate) fn unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

pub(crate) fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID {
        return Err(IdError::TooLong(text.len()));
    }
    if text.starts_with('$') {
        return Err(IdError::Dollar);
    }
    match text.chars().find(|c| matches!(c, '/' | '+' | '#') || unprintable(*c)) {
        Some(c @ ('/' | '+' | '#')) => Err(IdError::TopicCharacter(c)),
        Some(c) => Err(IdError::Control(c)),
        None => Ok(()),
    }
}

/// The id a backend has given a device. Safe as one level of a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeviceId(String);

/// The id under which a device connects and asks for its device id. Safe as one level of a topic.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientId(String);

impl TryFrom<String> for DeviceId {
    type Error = IdError;

    fn try_from(text: String) -> Result<DeviceId, IdError> {
        check(&text)?;
        if text == "registration" {
            return Err(IdError::Reserved);
        }
        Ok(DeviceId(text))
    }
}

impl TryFrom<String> for ClientId {
    type Error = IdError;

    fn try_from(text: String) -> Result<ClientId, IdError> {
        check(&text).map(|()| ClientId(text))
    }
}

macro_rules! text_id {
    ($id:ident) => {
        impl $id {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $id {
            type Err = IdError;

            fn from_str(text: &str) -> Result<$id, IdError> {
                $id::try_from(text.to_owned())
            }
        }

        impl From<$id> for String {
            fn from(id: $id) -> String {
                id.0
            }
        }

        impl AsRef<str> for $id {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

text_id!(DeviceId);
text_id!(ClientId);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_refusal_has_its_reason() {
        for (text, reason) in [
            ("", IdError::Empty),
            ("a/b", IdError::TopicCharacter('/')),
            ("a+", IdError::TopicCharacter('+')),
            ("#", IdError::TopicCharacter('#')),
            ("a\nb", IdError::Control('\n')),
            ("\u{0}", IdError::Control('\u{0}')),
            ("\u{85}", IdError::Control('\u{85}')),
            ("\u{fffe}", IdError::Control('\u{fffe}')),
            ("$SYS", IdError::Dollar),
            ("registration", IdError::Reserved),
        ] {
            assert_eq!(text.parse::<DeviceId>(), Err(reason), "{text:?}");
        }
        assert_eq!("x".repeat(129).parse::<DeviceId>(), Err(IdError::TooLong(129)));
        assert!("x".repeat(128).parse::<DeviceId>().is_ok());
        assert!("registration".parse::<ClientId>().is_ok());
        assert!("Registration".parse::<DeviceId>().is_ok());
        assert!(serde_json::from_str::<DeviceId>("\"a/b\"").is_err());
    }

    proptest! {
        #[test]
        fn an_accepted_id_is_one_harmless_level(text in "\\PC{0,140}|[/+#$\\x00-\\x7f]{0,5}") {
            if let Ok(id) = text.parse::<DeviceId>() {
                let json = serde_json::to_string(&id).unwrap();
                prop_assert_eq!(serde_json::from_str::<DeviceId>(&json).unwrap(), id);
                prop_assert!(!text.is_empty() && text.len() <= 128 && !text.starts_with('$'));
                prop_assert!(!text.contains(['/', '+', '#', '\0']));
            }
        }
    }
}
