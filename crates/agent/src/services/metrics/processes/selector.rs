//! Which processes a name in the report stands for.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use regex_lite::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, Visitor, value::MapAccessDeserializer},
};

use crate::services::metrics::glob::Glob;

/// The longest name, pattern or path.
const LONGEST: usize = 1024;

/// What a compiled pattern may take in memory.
const PATTERN_SIZE: usize = 256 * 1024;

/// What systemd calls a unit's kind; without one it is a service.
const KINDS: [&str; 11] = [
    ".service",
    ".socket",
    ".device",
    ".mount",
    ".automount",
    ".swap",
    ".target",
    ".path",
    ".timer",
    ".slice",
    ".scope",
];

/// One entry of the list: what to look for, and what to call it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(into = "Written")]
pub(crate) struct Selector {
    /// What it is found by.
    pub(super) by: By,
    key: Option<String>,
}

/// What processes are found by.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum By {
    /// Its name, exactly.
    Name(String),
    /// Its name, with `*` for any number of characters and `?` for one.
    Glob { text: String, glob: Glob },
    /// A regular expression found anywhere in its arguments, joined by spaces.
    Cmdline(Pattern),
    /// A file with its process id.
    PidFile(PathBuf),
    /// A unit of systemd, with its kind.
    Unit { written: String, full: String },
}

/// A regular expression, equal to another of the same text.
#[derive(Debug, Clone)]
pub(super) struct Pattern(Regex);

impl Pattern {
    pub(super) fn found_in(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Selector {
    /// What the report calls it: `as`, else the selector itself.
    pub(crate) fn key(&self) -> &str {
        self.key.as_deref().unwrap_or_else(|| match &self.by {
            By::Name(text) | By::Glob { text, .. } | By::Unit { written: text, .. } => text,
            By::Cmdline(pattern) => pattern.0.as_str(),
            By::PidFile(path) => path.to_str().unwrap_or_default(),
        })
    }

    fn plain(text: &str) -> Result<Self, String> {
        checked("a name", text)?;
        let by = if is_glob(text) { by_glob(text.to_owned()) } else { By::Name(text.to_owned()) };
        Ok(Self { by, key: None })
    }
}

fn by_glob(text: String) -> By {
    By::Glob { glob: Glob::new(&text), text }
}

/// Whether a plain string is meant as a glob.
fn is_glob(text: &str) -> bool {
    text.contains(['*', '?'])
}

fn checked(what: &str, text: &str) -> Result<(), String> {
    if text.trim().is_empty() {
        return Err(format!("{what} must not be empty"));
    }
    if text.contains(char::is_control) {
        return Err(format!("{what} must not hold control characters"));
    }
    if text.len() > LONGEST {
        return Err(format!("{what} must not be longer than {LONGEST} bytes"));
    }
    Ok(())
}

/// As it stands in the configuration, when it is more than a string.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Map {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    glob: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cmdline: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pid_file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// As it stands in the configuration.
#[derive(Serialize)]
#[serde(untagged)]
enum Written {
    Plain(String),
    Map(Box<Map>),
}

impl From<Selector> for Written {
    fn from(selector: Selector) -> Self {
        let Selector { by, key } = selector;
        let mut map = Map { name: None, glob: None, cmdline: None, pid_file: None, unit: None, key };
        match by {
            By::Name(text) if map.key.is_none() && !is_glob(&text) => return Self::Plain(text),
            By::Glob { text, .. } if map.key.is_none() && is_glob(&text) => return Self::Plain(text),
            By::Name(text) => map.name = Some(text),
            By::Glob { text, .. } => map.glob = Some(text),
            By::Cmdline(pattern) => map.cmdline = Some(pattern.0.as_str().to_owned()),
            By::PidFile(path) => map.pid_file = Some(path.to_string_lossy().into_owned()),
            By::Unit { written, .. } => map.unit = Some(written),
        }
        Self::Map(Box::new(map))
    }
}

impl TryFrom<Map> for Selector {
    type Error = String;

    fn try_from(map: Map) -> Result<Self, String> {
        let Map { name, glob, cmdline, pid_file, unit, key } = map;
        let by = match (name, glob, cmdline, pid_file, unit) {
            (Some(name), None, None, None, None) => checked("name", &name).map(|()| By::Name(name))?,
            (None, Some(glob), None, None, None) => checked("glob", &glob).map(|()| by_glob(glob))?,
            (None, None, Some(text), None, None) => By::Cmdline(pattern(&text)?),
            (None, None, None, Some(path), None) => By::PidFile(pid_file_path(path)?),
            (None, None, None, None, Some(unit)) => by_unit(unit)?,
            _ => return Err("exactly one of name, glob, cmdline, pid_file and unit is needed".to_owned()),
        };
        if let Some(key) = &key {
            checked("as", key)?;
        }
        Ok(Self { by, key })
    }
}

fn pattern(text: &str) -> Result<Pattern, String> {
    checked("cmdline", text)?;
    let compiled = RegexBuilder::new(text).size_limit(PATTERN_SIZE).build();
    let regex = compiled.map_err(|error| format!("cmdline is not a regular expression: {error}"))?;
    Ok(Pattern(regex))
}

fn pid_file_path(path: String) -> Result<PathBuf, String> {
    checked("pid_file", &path)?;
    if !path.starts_with('/') {
        return Err("pid_file must be an absolute path".to_owned());
    }
    Ok(PathBuf::from(path))
}

fn by_unit(written: String) -> Result<By, String> {
    checked("unit", &written)?;
    if written.contains('/') {
        return Err("unit must be a name, without a slash".to_owned());
    }
    let known = KINDS.iter().any(|kind| written.ends_with(kind));
    let full = if known { written.clone() } else { format!("{written}.service") };
    Ok(By::Unit { written, full })
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

/// By hand: what serde would say of an untagged enum helps nobody.
struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Selector;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a process, or a map with name, glob, cmdline, pid_file or unit")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Selector, E> {
        Selector::plain(text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Selector, A::Error> {
        let map = Map::deserialize(MapAccessDeserializer::new(map))?;
        Selector::try_from(map).map_err(de::Error::custom)
    }
}

impl JsonSchema for Selector {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Process".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let text =
            |description: &str| json_schema!({"type": "string", "minLength": 1, "description": description});
        json_schema!({
            "description": "Which processes: a name (a glob if it has * or ?), or a map with one way to find them.",
            "oneOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "name": text("The name, exactly."),
                        "glob": text("The name, with * for any characters and ? for one."),
                        "cmdline": text("A regular expression, found anywhere in the arguments joined by spaces."),
                        "pid_file": text("Absolute path of a file with the process id."),
                        "unit": text("A unit of systemd; without a suffix, a service."),
                        "as": text("What it is called in the report; by default the selector itself."),
                    },
                    "oneOf": [
                        {"required": ["name"]}, {"required": ["glob"]}, {"required": ["cmdline"]},
                        {"required": ["pid_file"]}, {"required": ["unit"]},
                    ],
                },
            ],
        })
    }
}

/// A list of them, no two by the same name in the report. One that is there twice counts once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
#[serde(transparent)]
pub(crate) struct Selectors(pub(crate) Vec<Selector>);

impl<'de> Deserialize<'de> for Selectors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut keys: BTreeMap<String, Selector> = BTreeMap::new();
        let mut selectors = Vec::new();
        for selector in Vec::<Selector>::deserialize(deserializer)? {
            match keys.get(selector.key()) {
                None => drop(keys.insert(selector.key().to_owned(), selector.clone())),
                Some(known) if *known == selector => continue,
                Some(_) => {
                    let key = selector.key();
                    return Err(de::Error::custom(format!("two selectors are called {key:?}; set `as`")));
                }
            }
            selectors.push(selector);
        }
        Ok(Self(selectors))
    }
}

#[cfg(test)]
mod tests;
