//! A command of the owner: a line for the shell, or a program with its arguments.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, SeqAccess, Visitor},
};

/// What runs a line.
const SHELL: &str = "/bin/sh";

/// As it stands in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) enum Argv {
    Line(String),
    Words(Vec<String>),
}

impl Argv {
    /// A program and its arguments.
    pub(in super::super) fn of(words: &[&str]) -> Self {
        Self::Words(words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// The program and its arguments.
    pub(in super::super) fn words(&self) -> Vec<String> {
        match self {
            Self::Line(line) => vec![SHELL.to_owned(), "-c".to_owned(), line.clone()],
            Self::Words(words) => words.clone(),
        }
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Argv;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a line for the shell, or a list of a program and its arguments")
    }

    fn visit_str<E: de::Error>(self, line: &str) -> Result<Argv, E> {
        if line.trim().is_empty() || line.contains('\0') {
            return Err(E::custom("must not be empty, nor contain a NUL character"));
        }
        Ok(Argv::Line(line.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Argv, A::Error> {
        let mut words: Vec<String> = Vec::new();
        while let Some(word) = items.next_element()? {
            words.push(word);
        }
        let empty = words.first().is_none_or(String::is_empty);
        if empty || words.iter().any(|word| word.contains('\0')) {
            return Err(de::Error::custom("must begin with a program, and not contain a NUL character"));
        }
        Ok(Argv::Words(words))
    }
}

impl<'de> Deserialize<'de> for Argv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

impl Serialize for Argv {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Line(line) => serializer.serialize_str(line),
            Self::Words(words) => words.serialize(serializer),
        }
    }
}

impl JsonSchema for Argv {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Argv".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "array"],
            "minLength": 1,
            "minItems": 1,
            "items": {"type": "string"},
        })
    }
}
