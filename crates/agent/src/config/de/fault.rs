//! What went wrong while reading a value, and where.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::super::finding::nearest;
use super::super::node::{At, Map, Value};

/// The keys from the section's root to a value.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    Root(&'a str),
    Key(&'a Path<'a>, &'a str),
}

impl Path<'_> {
    pub(super) fn keys(&self) -> Vec<String> {
        match self {
            Path::Root(_) => Vec::new(),
            Path::Key(parent, key) => {
                let mut keys = parent.keys();
                keys.push((*key).to_owned());
                keys
            }
        }
    }

    fn root(&self) -> &str {
        match self {
            Path::Root(root) => root,
            Path::Key(parent, _) => parent.root(),
        }
    }

    pub(super) fn full(&self) -> String {
        let mut full = self.root().to_owned();
        for key in self.keys() {
            if !full.is_empty() {
                full.push('.');
            }
            full.push_str(&key);
        }
        full
    }
}

/// Where a fault lies.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) at: At,
    pub(super) path: String,
    pub(super) keys: Vec<String>,
}

/// Why a value could not be read. The innermost value through which it passes puts its place to it.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) message: String,
    pub(super) place: Option<Place>,
    pub(super) missing: Option<&'static str>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Fault { message: message.to_string(), place: None, missing: None }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let found = match found {
            Unexpected::Bool(value) => Value::Bool(value),
            Unexpected::Signed(value) => Value::Int(value.into()),
            Unexpected::Unsigned(value) => Value::Int(value.into()),
            Unexpected::Float(value) => Value::Float(value),
            Unexpected::Str(text) => Value::Text(text.to_owned()),
            Unexpected::Seq => Value::List(Vec::new()),
            Unexpected::Map => Value::Map(Map::new()),
            Unexpected::Unit => Value::Null,
            other => return Self::custom(format_args!("expected {expected}, found {other}")),
        };
        Self::custom(format_args!("expected {expected}, found {found}"))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let near = nearest(variant, expected.iter().copied());
        let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        Self::custom(format_args!("expected one of {}, found {variant:?}{hint}", expected.join(", ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Fault { missing: Some(field), ..Self::custom("must be set, there is no default") }
    }
}
