//! The services that the configuration knows and this version does not have yet: their keys are checked like all
//! others, and otherwise ignored. A service that comes into the registry wins over its entry here, which then goes.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::json;

use super::de;
use super::files::FilePath;
use super::finding::{Report, suggestion};
use super::node::{Entry, Node, Value};
use super::values::{Delivery, Interval, Qos, Topic};

/// A service to come.
pub(super) struct Reserved {
    pub(super) name: &'static str,
    pub(super) default_enabled: bool,
    keys: &'static [(&'static str, Kind)],
}

/// What a key's value is.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Count,
    Delivery,
    File,
    /// Settled with the service: any value.
    Free,
    Interval,
    Qos,
    Text,
    Topic,
}

use Kind::{Bool, Count, File, Free, Text};

const COMMON: &[(&str, Kind)] = &[("topic", Kind::Topic), ("qos", Kind::Qos), ("delivery", Kind::Delivery)];

pub(super) const ALL: [Reserved; 1] = [Reserved {
    name: "update",
    default_enabled: false,
    keys: &[
        ("update_url", Text),
        ("update_interval", Kind::Interval),
        ("max_retry_attempts", Count),
        ("update_command", Free),
        ("trusted_keys", Free),
        ("allow_unsigned", Bool),
        ("hardware_id", Text),
        ("download", Free),
        ("window", Free),
        ("hold_file", File),
        ("health", Free),
        ("keep_versions", Count),
    ],
}];

impl Reserved {
    fn keys(&self) -> impl Iterator<Item = &(&'static str, Kind)> {
        COMMON.iter().chain(self.keys)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.keys().any(|(name, _)| *name == key)
    }

    pub(super) fn schema(&self, generator: &mut SchemaGenerator) -> Schema {
        let keys = self.keys().map(|(key, kind)| ((*key).to_owned(), kind.schema(generator).into()));
        let properties: serde_json::Map<_, serde_json::Value> = keys.collect();
        json_schema!({
            "type": "object",
            "description": "Not in this version: checked, otherwise ignored.",
            "additionalProperties": false,
            "properties": properties,
        })
    }

    /// What is set, as it was written.
    pub(super) fn effective(
        &self,
        node: &Node,
        path: &str,
        report: &mut Report,
    ) -> Option<serde_json::Value> {
        let Value::Map(map) = &node.value else {
            report.problem(
                &node.at,
                path,
                format!("expected a map of keys and values, found {}", node.value),
            );
            return None;
        };
        let mut effective = serde_json::Map::new();
        for (key, Entry { key: at, node }) in map {
            let place = format!("{path}.{key}");
            match self.keys().find(|(name, _)| name == key) {
                Some(_) if node.value == Value::Null => {}
                Some((_, kind)) => {
                    kind.check(node, &place, report);
                    effective.insert(key.clone(), kind.shown(node));
                }
                None => {
                    let hint = suggestion(key, self.keys().map(|(name, _)| *name).chain(["enabled"]));
                    report.problem(at, place, format!("unknown key; {hint}"));
                }
            }
        }
        Some(effective.into())
    }
}

impl Kind {
    fn check(self, node: &Node, path: &str, report: &mut Report) {
        fn is<T: for<'de> Deserialize<'de>>(node: &Node, path: &str, report: &mut Report) {
            drop(de::parse::<T>(node, path, &[], report));
        }
        let check = match self {
            Bool => is::<bool>,
            Count => is::<u32>,
            Kind::Delivery => is::<Delivery>,
            File => is::<FilePath>,
            Free => return,
            Kind::Interval => is::<Interval>,
            Kind::Qos => is::<Qos>,
            Text => is::<String>,
            Kind::Topic => is::<Topic>,
        };
        check(node, path, report);
    }

    fn schema(self, generator: &mut SchemaGenerator) -> Schema {
        match self {
            Bool => generator.subschema_for::<bool>(),
            Count => generator.subschema_for::<u32>(),
            Kind::Delivery => generator.subschema_for::<Delivery>(),
            File => generator.subschema_for::<FilePath>(),
            Free => Schema::default(),
            Kind::Interval => generator.subschema_for::<Interval>(),
            Kind::Qos => generator.subschema_for::<Qos>(),
            Text => generator.subschema_for::<String>(),
            Kind::Topic => generator.subschema_for::<Topic>(),
        }
    }

    fn shown(self, node: &Node) -> serde_json::Value {
        json(node)
    }
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => json!(null),
        Value::Bool(value) => json!(value),
        Value::Int(value) => i64::try_from(*value).map_or_else(|_| json!(value.to_string()), |n| json!(n)),
        Value::Float(value) => json!(value),
        Value::Text(text) => json!(text),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(map) => map
            .iter()
            .map(|(key, entry)| (key.clone(), json(&entry.node)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    }
}
