//! What takes effect and where it came from; and the JSON Schema of it all.

use std::fmt;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::node::{At, Node};
use super::services::{self, ServiceSchema};
use super::{Config, Loaded};

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

/// The JSON Schema (draft 2020-12) of a configuration file.
pub fn schema(registry: &[ServiceSchema]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut generator: SchemaGenerator = settings.into_generator();
    let mut root = generator.root_schema_for::<Config>();
    let all = services::all(registry);
    let sections: serde_json::Map<String, Value> = all
        .iter()
        .map(|(name, service)| ((*name).to_owned(), service.schema(&mut generator).into()))
        .collect();
    let root_properties = root.ensure_object().entry("properties").or_insert_with(|| json!({}));
    root_properties["services"] = json!({
        "type": "object",
        "description": "What the agent does; a section for each service.",
        "additionalProperties": false,
        "properties": sections,
    });
    let mut root = root.into();
    allow_null(&mut root);
    root
}

/// `null` stands for "not set" wherever a key may be left out; an editor must not call that a mistake.
fn allow_null(schema: &mut Value) {
    let required = schema["required"].clone();
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (key, value) in properties.into_iter().flatten() {
        allow_null(value);
        if !required.as_array().is_some_and(|keys| keys.iter().any(|name| name == key)) {
            add_null(value);
        }
    }
}

fn add_null(schema: &mut Value) {
    let null = [("type", json!("null")), ("enum", Value::Null), ("oneOf", json!({ "type": "null" }))];
    for (name, null) in null {
        let Some(allowed) = schema.get_mut(name) else { continue };
        if !allowed.is_array() {
            *allowed = json!([allowed.take()]);
        }
        if let Some(allowed) = allowed.as_array_mut().filter(|allowed| !allowed.contains(&null)) {
            allowed.push(null);
        }
    }
}
