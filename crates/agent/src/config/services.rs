//! The sections under `services:`. What is in them is the services' own; here is what they have in common.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::finding::{Error, Finding, Report, suggestion};
use super::node::{At, Entry, Layer, Map, Node, Value};
use super::{de, old};

/// What the configuration has to know of a service.
#[derive(Clone, Copy)]
pub struct ServiceSchema {
    /// The key under `services:`.
    pub name: &'static str,
    /// Whether it runs if nothing is said.
    pub default_enabled: bool,
    effective: fn(&Section, &mut Report) -> Option<serde_json::Value>,
}

impl ServiceSchema {
    /// A service whose section is a `T`: strict (`deny_unknown_fields`), a default for each key (`default`), and
    /// without `enabled`.
    pub const fn of<T>(name: &'static str, default_enabled: bool) -> Self
    where
        T: DeserializeOwned + Serialize,
    {
        ServiceSchema {
            name,
            default_enabled,
            effective: |section, report| {
                let config: T = de::parse(&section.node, &section.path(), &["enabled"], report)?;
                serde_json::to_value(config).ok()
            },
        }
    }
}

/// All services that a configuration may name, each once.
pub(super) fn all(registry: &[ServiceSchema]) -> BTreeMap<&'static str, &ServiceSchema> {
    registry.iter().map(|service| (service.name, service)).collect()
}

impl ServiceSchema {
    /// The section as it takes effect.
    pub(super) fn effective(&self, section: &Section, report: &mut Report) -> Option<serde_json::Value> {
        (self.effective)(section, report)
    }

    fn has_delivery(&self) -> bool {
        // Every key has a default, so that a silent section shows them all.
        let silent = (self.effective)(&Section::silent(self.name), &mut Report::default());
        silent.is_some_and(|keys| keys.get("delivery").is_some())
    }
}

/// The sections of the registered services.
#[derive(Clone, Debug, PartialEq)]
pub struct Services(BTreeMap<String, Section>);

impl Services {
    /// The section of the registered service `name`; it is there even if the files do not mention it.
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.0.get(name)
    }
}

/// One service's section, checked, with the places of its keys. Equal to another if its content is.
#[derive(Clone, PartialEq)]
pub struct Section {
    name: String,
    enabled: Option<bool>,
    node: Node,
}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Section({})", self.path())
    }
}

impl Section {
    /// That of a configuration in which nothing is said.
    pub(crate) fn silent(name: &str) -> Self {
        let layer = Arc::new(Layer { name: "defaults".to_owned(), rank: 0, file: None });
        let node = Node::new(&At { layer, line: 0, column: 0 }, Value::Map(Map::new()));
        Section { name: name.to_owned(), enabled: None, node }
    }

    /// What `enabled` says.
    pub fn enabled(&self) -> Option<bool> {
        self.enabled
    }

    /// The section less `enabled`, as the service's own type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let mut report = Report::default();
        de::parse(&self.node, &self.path(), &["enabled"], &mut report)
            .ok_or_else(|| Error::new(report.problems))
    }

    /// An error in the value of the dotted `key`; if that is not set, in the section.
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> Error {
        let at = &self.node.find(key.split('.')).unwrap_or(&self.node).at;
        Error::new(vec![Finding::new(at, format!("{}.{key}", self.path()), message)])
    }

    fn path(&self) -> String {
        format!("services.{}", self.name)
    }

    /// Takes `enabled` out of `node`.
    fn new(name: &str, mut node: Node, report: &mut Report) -> Self {
        let mut enabled = None;
        let entry = node.map_mut().and_then(|map| map.remove("enabled"));
        if let Some(Entry { node: value, .. }) = entry
            && value.value != Value::Null
        {
            enabled = de::parse(&value, &format!("services.{name}.enabled"), &[], report);
        }
        Section { name: name.to_owned(), enabled, node }
    }

    /// Rules that hold for every service: qos 0 is not for what must arrive.
    fn check_qos(&mut self, service: &ServiceSchema, report: &mut Report) {
        let zero = self.node.get("qos").filter(|qos| qos.value == Value::Int(0));
        let Some(at) = zero.map(|qos| qos.at.clone()) else { return };
        if old::INBOUND.contains(&self.name.as_str()) {
            let message = "must not be 0: requests to this service would get lost";
            report.problems.extend(self.error_at("qos", message).into_problems());
        }
        match self.node.get("delivery") {
            Some(Node { value: Value::Text(text), .. }) if text == "durable" => {
                let message = "durable is not possible with qos 0, which is never acknowledged";
                report.problems.extend(self.error_at("delivery", message).into_problems());
            }
            None if service.has_delivery() => {
                let live = Node::new(&at, Value::Text("live".into()));
                self.node.merge(Node::nested(["delivery"].into_iter(), live));
            }
            _ => {}
        }
    }
}

/// Checks every section under `services:` in `root`.
pub(super) fn check(root: &Node, registry: &[ServiceSchema], report: &mut Report) -> Services {
    let services = root.section("services");
    let Some(sections) = services.map() else {
        report.problem(
            &services.at,
            "services",
            format!("expected a map of services, found {}", services.value),
        );
        return Services(BTreeMap::new());
    };
    let all = all(registry);
    for (name, entry) in sections.iter().filter(|(name, _)| !all.contains_key(name.as_str())) {
        let hint = suggestion(name, all.keys().copied());
        report.problem(&entry.key, format!("services.{name}"), format!("unknown service; {hint}"));
    }
    let mut checked = BTreeMap::new();
    for (name, service) in &all {
        let mut section = Section::new(name, services.section(name), report);
        section.check_qos(service, report);
        service.effective(&section, report);
        checked.insert((*name).to_owned(), section);
    }
    Services(checked)
}

/// The sections of `root` as they take effect, `enabled` included, by name.
pub(super) fn effective(root: &Node, registry: &[ServiceSchema], checked: &Services) -> serde_json::Value {
    let mut effective = serde_json::Map::new();
    for (name, service) in all(registry) {
        let mut ignored = Report::default();
        let section = match (checked.section(name), root.find(["services", name])) {
            (Some(section), _) => section.clone(),
            (None, Some(node)) => Section::new(name, node.clone(), &mut ignored),
            (None, None) => continue,
        };
        if let Some(mut value) = service.effective(&section, &mut ignored) {
            value["enabled"] = section.enabled.unwrap_or(service.default_enabled).into();
            effective.insert(name.to_owned(), value);
        }
    }
    effective.into()
}
