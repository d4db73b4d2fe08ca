//! The fields of a request, read one by one so that each mistake has its reason.

use serde_json::{Map, Value};

use crate::Timestamp;

/// Seconds in a year: nothing is given longer.
pub(crate) const MAX_SECONDS: f64 = 31_536_000.0;

/// The fields of a JSON object. `null` is as good as absent.
pub(crate) struct Fields<'a>(pub(crate) &'a Map<String, Value>);

impl Fields<'_> {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, String> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(other) => Err(format!("{key}: expected true or false, found {}", kind(other))),
        }
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<String>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(format!("{key}: expected a string, found {}", kind(other))),
        }
    }

    pub(crate) fn seconds(&self, key: &str) -> Result<Option<f64>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Number(number)) => match number.as_f64() {
                Some(seconds) if seconds > 0.0 => Ok(Some(seconds.min(MAX_SECONDS))),
                _ => Err(format!("{key}: must be over 0, found {number}")),
            },
            Some(other) => Err(format!("{key}: expected a number, found {}", kind(other))),
        }
    }

    pub(crate) fn time(&self, key: &str) -> Result<Option<Timestamp>, String> {
        match self.text(key)? {
            Some(text) => text.parse().map(Some).map_err(|error| format!("{key}: {error}")),
            None => Ok(None),
        }
    }
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
