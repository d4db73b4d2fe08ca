//! The configuration: a file, `conf.d/*.yaml` beside it, the environment and `--set`, laid on each other and read
//! strictly. Every error and notice has its place.
//!
//! Never here: a service's own settings. They live in the service's file, as the type it hands to [`ServiceSchema::of`].

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod de;
mod files;
mod finding;
mod layers;
mod mqtt;
mod node;
mod old;
mod schema;
mod services;
mod show;
mod stamp;
mod url;
mod values;
mod yaml;

pub(crate) use files::open;
pub use files::{FilePath, InputFile, KeyOrFile, Secret, SecretError, SecretFile};
pub use finding::{Error, Finding, Notice};
pub use mqtt::{Mqtt, Reconnect};
pub use schema::{SectionSchema, known_schema, schema};
pub use services::{Section, ServiceSchema, Services};
pub use show::{Shown, show};
pub(crate) use stamp::Stamp;
pub(crate) use url::{Bracketed, host_and_port, is_loopback};
pub use url::{BrokerUrl, Proxy, ProxyKind, Scheme};
pub(crate) use values::schema as scalar_schema;
pub use values::{ByteSize, Delivery, Interval, Qos, Span, Topic, Version};

use finding::{Report, sort, suggestion};
use node::Node;

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file; beside it `conf.d/*.yaml`.
    pub file: PathBuf,
    /// `section.key=value`, the value as YAML.
    pub sets: Vec<String>,
    /// The environment. What does not begin with `IOT_AGENT__` is not looked at.
    pub env: Vec<(String, String)>,
}

/// A configuration without errors.
#[derive(Clone)]
pub struct Loaded {
    /// What takes effect.
    pub config: Config,
    /// What its author should know.
    pub notices: Vec<Notice>,
    root: Node,
}

/// Not derived: the tree may hold secrets.
impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("config", &self.config).field("notices", &self.notices).finish()
    }
}

/// The configuration of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "iot-agent")]
pub struct Config {
    /// The broker and how to get there.
    pub mqtt: Mqtt,
    /// Messages that wait for the broker.
    #[serde(default)]
    pub outbox: Outbox,
    /// Who this device is.
    #[serde(default)]
    pub identity: Identity,
    /// Folders.
    #[serde(default)]
    pub paths: Paths,
    /// File with the owner's policy: which remote actions are allowed. Without it, what the services' keys allow.
    #[serde(default)]
    pub policy: Option<PathBuf>,
    /// Logging.
    #[serde(default)]
    pub log: Log,
    #[serde(skip)]
    /// The services' sections.
    pub services: Services,
}

/// Reads a file of JSON that a key of the configuration names, as strictly as the configuration.
///
/// # Errors
/// All that is wrong with it, each with its place.
pub(crate) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let mut report = Report::default();
    let node = layers::json(path, &mut report);
    let parsed = node.and_then(|node| de::parse(&node, "", &[], &mut report));
    parsed.ok_or_else(|| Error::new(report.problems))
}

/// Reads a file of YAML that a key of the configuration names, as strictly as the configuration. `judge` says of the
/// file that was opened why it is not to be used.
///
/// # Errors
/// All that is wrong with it, each with its place.
pub(crate) fn yaml<T: DeserializeOwned>(path: &Path, judge: layers::Judge) -> Result<T, Error> {
    let mut report = Report::default();
    let node = layers::yaml_file(path, judge, &mut report);
    let parsed = node.and_then(|node| de::parse(&node, "", &[], &mut report));
    parsed.ok_or_else(|| Error::new(report.problems))
}

impl Loaded {
    /// An error in the value of the dotted `key`; if that is not set, in the nearest section around it.
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> Error {
        let mut node = &self.root;
        for part in key.split('.') {
            node = node.get(part).unwrap_or(node);
        }
        Error::new(vec![Finding::new(&node.at, key, message)])
    }
}

impl Config {
    /// The sections, services apart, in which `other` is different: a running agent cannot change those.
    pub fn differences(&self, other: &Config) -> Vec<&'static str> {
        let same = [
            ("mqtt", self.mqtt == other.mqtt),
            ("outbox", self.outbox == other.outbox),
            ("identity", self.identity == other.identity),
            ("paths", self.paths == other.paths),
            ("policy", self.policy == other.policy),
            ("log.format", self.log.format == other.log.format),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(section, _)| section).collect()
    }
}

/// The keys of [`Config`].
const SECTIONS: [&str; 7] = ["identity", "log", "mqtt", "outbox", "paths", "policy", "services"];

/// Messages that wait for the broker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Outbox {
    /// Most disk space they may take, at least 64KiB; then the least important and oldest are dropped, and counted.
    pub max_size: ByteSize,
}

impl Outbox {
    /// Bytes: with less there is no room for what keeps the rest in order.
    const SMALLEST: u64 = 64 << 10;
}

impl Default for Outbox {
    fn default() -> Self {
        Outbox { max_size: ByteSize::bytes(64 << 20) }
    }
}

/// Who this device is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Identity {
    /// File with the device's id, name, organisation and metadata.
    pub device_file: FilePath,
}

/// What [`Identity::device_file`] is called in the state folder.
const DEVICE_FILE: &str = "device.json";

impl Default for Identity {
    /// As it is documented; [`load`] puts the state folder to it.
    fn default() -> Self {
        Identity { device_file: PathBuf::from("<state>").join(DEVICE_FILE).into() }
    }
}

/// Folders.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// What must survive a restart.
    pub state: FilePath,
    /// What need not: the control socket.
    pub run: FilePath,
}

impl Default for Paths {
    fn default() -> Self {
        Paths {
            state: PathBuf::from("/var/lib/iot-agent").into(),
            run: PathBuf::from("/run/iot-agent").into(),
        }
    }
}

/// Logging.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// How it is written.
    pub format: Format,
    /// The least important lines that are written.
    pub level: Level,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, journald's fields under systemd, JSON elsewhere.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// A JSON object per line.
    Json,
    /// Fields for systemd's journal.
    Journald,
}

/// How important a line of the log is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// A change of state.
    #[default]
    Info,
    /// For those who look for a fault.
    Debug,
    /// Everything.
    Trace,
}

/// Reads the configuration with the services of `registry`. The error has every mistake that was found.
pub fn load(sources: &Sources, registry: &[ServiceSchema]) -> Result<Loaded, Error> {
    let mut report = Report::default();
    let loaded = layers::gather(sources, &mut report)
        .and_then(|root| config(&root, registry, &mut report).map(|config| (config, root)));
    match loaded {
        Some((config, root)) if report.problems.is_empty() => {
            sort(&mut report.notices);
            Ok(Loaded { config, notices: report.notices, root })
        }
        _ => Err(Error::new(report.problems)),
    }
}

/// The state folder alone, also of a file that has something wrong elsewhere, or keys of another version.
pub(crate) fn state_folder(sources: &Sources) -> PathBuf {
    let root = layers::gather(sources, &mut Report::default());
    let node = root.as_ref().and_then(|root| root.find(["paths", "state"]));
    let state = node.and_then(|node| de::parse::<FilePath>(node, "paths.state", &[], &mut Report::default()));
    state.unwrap_or(Paths::default().state).into()
}

fn config(root: &Node, registry: &[ServiceSchema], report: &mut Report) -> Option<Config> {
    for (key, entry) in root.map()?.iter().filter(|(key, _)| !SECTIONS.contains(&key.as_str())) {
        report.problem(&entry.key, key, format!("unknown key; {}", suggestion(key, SECTIONS)));
    }
    let mqtt = section::<Mqtt>(root, "mqtt", report);
    if let Some(mqtt) = &mqtt {
        mqtt.check(root, report);
    }
    let outbox = section::<Outbox>(root, "outbox", report);
    if let Some(at) = root.find(["outbox", "max_size"]).map(|node| &node.at)
        && outbox.as_ref().is_some_and(|outbox| outbox.max_size.get() < Outbox::SMALLEST)
    {
        report.problem(at, "outbox.max_size", "must be at least 64KiB");
    }
    let identity = section::<Identity>(root, "identity", report);
    let paths = section::<Paths>(root, "paths", report);
    let policy = policy(root, report);
    let log = section(root, "log", report);
    let services = services::check(root, registry, report);
    let (mut identity, paths) = identity.zip(paths)?;
    if root.find(["identity", "device_file"]).is_none() {
        identity.device_file = paths.state.join(DEVICE_FILE).into();
    }
    Some(Config { mqtt: mqtt?, outbox: outbox?, identity, paths, policy, log: log?, services })
}

fn section<T: DeserializeOwned>(root: &Node, name: &str, report: &mut Report) -> Option<T> {
    de::parse(&root.section(name), name, &[], report)
}

/// A policy that cannot be found must not be taken for none: without one more is allowed, not less.
fn policy(root: &Node, report: &mut Report) -> Option<PathBuf> {
    let node = root.get("policy")?;
    let path: PathBuf = de::parse::<FilePath>(node, "policy", &[], report)?.into();
    if !path.is_file() {
        report.problem(&node.at, "policy", format!("there is no file {}", path.display()));
    }
    Some(path)
}
