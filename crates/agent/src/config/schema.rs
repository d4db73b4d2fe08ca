//! The JSON Schema of a configuration file: made from the types, and kept as text.
//!
//! The program carries the text, `schema.json`, and not what makes it, which is a twentieth of its size. A test holds the two
//! against each other.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Config;

/// That of this agent's configuration, as it was when the text was last made; indented when it is shown.
const TEXT: &str = include_str!("schema.json");

/// A service's section, for [`schema`].
#[derive(Clone, Copy)]
pub struct SectionSchema {
    name: &'static str,
    default_enabled: bool,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

impl SectionSchema {
    /// The section of a service whose settings are a `T`, without `enabled`.
    pub const fn of<T: JsonSchema>(name: &'static str, default_enabled: bool) -> Self {
        Self { name, default_enabled, schema: T::json_schema }
    }
}

/// The JSON Schema (draft 2020-12) of a configuration file of this agent.
///
/// # Errors
/// None, as long as the text is what the test has seen.
pub fn known_schema() -> serde_json::Result<Value> {
    serde_json::from_str(TEXT)
}

/// The JSON Schema (draft 2020-12) of a configuration file with these services, made from the types.
pub fn schema(sections: &[SectionSchema]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut generator: SchemaGenerator = settings.into_generator();
    let mut root = generator.root_schema_for::<Config>();
    let mut services: BTreeMap<&str, Value> = BTreeMap::new();
    for section in sections {
        let schema = (section.schema)(&mut generator);
        services.insert(section.name, with_enabled(schema, section.default_enabled));
    }
    let services: Map<String, Value> =
        services.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect();
    let properties = root.ensure_object().entry("properties").or_insert_with(|| json!({}));
    properties["services"] = json!({
        "type": "object",
        "description": "What the agent does; a section for each service.",
        "additionalProperties": false,
        "properties": services,
    });
    let mut root = root.into();
    allow_null(&mut root);
    root
}

fn with_enabled(mut section: Schema, default: bool) -> Value {
    let properties = section.ensure_object().entry("properties").or_insert_with(|| json!({}));
    properties["enabled"] =
        json!({ "type": "boolean", "default": default, "description": "Whether the service runs." });
    section.into()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::sections;

    /// With `IOT_AGENT_WRITE_SCHEMA` in the environment the text is made anew.
    #[test]
    fn the_text_says_what_the_types_say() {
        let made = schema(&sections());
        if std::env::var_os("IOT_AGENT_WRITE_SCHEMA").is_some() {
            let lines: String =
                format!("{made:#}").lines().map(|line| format!("{}\n", line.trim_start())).collect();
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/schema.json");
            std::fs::write(path, lines).unwrap();
            return;
        }
        assert!(
            known_schema().unwrap() == made,
            "the settings have changed: IOT_AGENT_WRITE_SCHEMA=1 cargo test -p iot-agent --lib the_text_says"
        );
    }
}
