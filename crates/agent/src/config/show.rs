//! What takes effect and where it came from.

use std::fmt;

use serde_json::Value;

use super::Loaded;
use super::node::{At, Node};
use super::services::{self, ServiceSchema};

/// One effective setting. As text it is a line of YAML with the origin as its comment.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// The dotted key.
    pub path: String,
    /// The value; a secret is masked.
    pub value: Value,
    /// `FILE:LINE:COLUMN`, `environment NAME`, `--set KEY` or `default`.
    pub origin: String,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}  # {}", self.path, self.value, self.origin)
    }
}

/// Every setting that takes effect, in the order of their keys.
pub fn show(loaded: &Loaded, registry: &[ServiceSchema]) -> Vec<Shown> {
    let mut effective = serde_json::to_value(&loaded.config).unwrap_or_default();
    effective["services"] = services::effective(&loaded.root, registry, &loaded.config.services);
    let mut shown = Vec::new();
    collect(&effective, String::new(), Some(&loaded.root), &mut shown);
    shown
}

fn collect(value: &Value, path: String, node: Option<&Node>, shown: &mut Vec<Shown>) {
    match value.as_object() {
        Some(keys) if !keys.is_empty() => {
            for (key, value) in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect(value, path, node.and_then(|node| node.get(key)), shown);
            }
        }
        _ => {
            let origin =
                node.map_or_else(|| "default".to_owned(), |Node { at, .. }: &Node| At::to_string(at));
            shown.push(Shown { path, value: value.clone(), origin });
        }
    }
}
