//! The configuration from outside: what loads, what is refused and with which words.
//!
//! `config/valid` and `config/invalid` are swept: a new case is a new file. An invalid `NAME.yaml` has its messages in
//! `NAME.expected`, line for line; a valid one may have its notices in `NAME.notices`.
//!
//! Long because each rule of the configuration has its story here, and they share the folder they run in.

#![allow(clippy::unwrap_used, reason = "what the fixtures unwrap is the test's own")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use iot_agent::config::{
    self, Config, Delivery, Error, Interval, Loaded, Qos, Secret, SecretFile, ServiceSchema, Sources, Topic,
};
use iot_agent::services::{schemas, sections};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use protocol::topic::Layout;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `services.registration`, as it is documented.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Registration {
    topic: Option<Topic>,
    qos: Qos,
    device_secret_file: Option<SecretFile>,
    device_secret: Option<Secret>,
    proof: Proof,
    response_timeout: Timeout,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Proof {
    #[default]
    PskHmac,
    Plain,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct Timeout(Interval);

impl Default for Timeout {
    fn default() -> Self {
        Timeout(Interval::seconds(30))
    }
}

/// `services.heartbeat`, as it is documented.
#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Heartbeat {
    topic: Option<Topic>,
    qos: Qos,
    delivery: Delivery,
    interval: Interval,
}

impl Default for Heartbeat {
    fn default() -> Self {
        let interval = Interval::seconds(30);
        Heartbeat { topic: None, qos: Qos::default(), delivery: Delivery::Live, interval }
    }
}

const BROKER: &str = "mqtt: {broker: mqtts://broker.example}\n";

/// A folder with a configuration.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(text: &str) -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        folder.write("config.yaml", text, 0o600);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn sources(&self) -> Sources {
        Sources { file: self.path("config.yaml"), ..Sources::default() }
    }

    /// The messages without the folder's name.
    fn short(&self, text: impl ToString) -> String {
        text.to_string().replace(&format!("{}/", self.0.path().display()), "")
    }

    fn load(&self, sources: &Sources) -> Result<Loaded, String> {
        config::load(sources, &schemas()).map_err(|error| self.short(error))
    }

    fn notices(&self, loaded: &Loaded) -> Vec<String> {
        loaded.notices.iter().map(|notice| self.short(notice)).collect()
    }
}

fn load(text: &str) -> Result<Loaded, String> {
    let folder = Folder::new(text);
    folder.load(&folder.sources())
}

fn config(text: &str) -> Config {
    load(text).unwrap_or_else(|error| panic!("{error}")).config
}

/// The files `*.yaml` of `tests/config/NAME`.
fn cases(name: &str) -> BTreeMap<String, PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(name);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let yaml = files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    yaml.map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path)).collect()
}

fn expected(path: &Path, extension: &str) -> Option<String> {
    fs::read_to_string(path.with_extension(extension)).ok().map(|text| text.trim_end().to_owned())
}

#[test]
fn valid_files_load_with_their_notices() {
    let cases = cases("valid");
    assert!(cases.len() >= 8, "{} cases", cases.len());
    for (name, path) in cases {
        let folder = Folder::new(&fs::read_to_string(&path).unwrap());
        let loaded = folder.load(&folder.sources()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let notices = folder.notices(&loaded).join("\n");
        assert_eq!(notices, expected(&path, "notices").unwrap_or_default(), "{name}");
        assert!(notices.lines().count() == loaded.notices.len(), "{name}: a notice is one line");
        assert_eq!(config::load(&folder.sources(), &schemas()).unwrap().config, loaded.config, "{name}");
    }
}

#[test]
fn invalid_files_are_refused_with_their_messages() {
    let cases = cases("invalid");
    assert!(cases.len() >= 40, "{} cases", cases.len());
    for (name, path) in cases {
        let folder = Folder::new("");
        folder.write("config.yaml", fs::read(&path).unwrap(), 0o600);
        let error = folder.load(&folder.sources()).err().unwrap_or_else(|| panic!("{name} was accepted"));
        assert_eq!(Some(error), expected(&path, "expected"), "{name}");
    }
}

#[test]
fn the_valid_files_have_every_key() {
    let files: String = cases("valid").values().map(|path| fs::read_to_string(path).unwrap()).collect();
    for key in schema_keys() {
        let name = key.rsplit('.').next().unwrap();
        assert!(files.contains(&format!("{name}:")), "no file in tests/config/valid has {key}");
    }
}

/// The dotted keys of the JSON Schema.
fn schema_keys() -> Vec<String> {
    fn collect(schema: &serde_json::Value, path: &str, keys: &mut Vec<String>) {
        let Some(properties) = schema["properties"].as_object() else {
            return keys.push(path.to_owned());
        };
        for (key, schema) in properties {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            collect(schema, &path, keys);
        }
    }
    let mut keys = Vec::new();
    collect(&config::schema(&sections()), "", &mut keys);
    assert!(keys.len() > 60, "{keys:?}");
    keys
}

fn sample() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/config.yaml");
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_sample_has_every_key_and_the_defaults() {
    let folder = Folder::new(&sample());
    let error = folder.load(&folder.sources()).unwrap_err();
    let line = sample().lines().position(|line| line == "  broker: null").unwrap() + 1;
    assert_eq!(error, format!("config.yaml:{line}:11: mqtt.broker: must be set, there is no default"));

    let mut sources = folder.sources();
    sources.sets.push("mqtt.broker=mqtts://broker.example".to_owned());
    let loaded = folder.load(&sources).unwrap();
    let mut default = config(BROKER);
    assert_eq!(loaded.config.mqtt, default.mqtt);
    for (name, service) in [("registration", true), ("heartbeat", true), ("metrics", true)] {
        assert_eq!(loaded.config.services.section(name).unwrap().enabled(), Some(service), "{name}");
    }
    let registration: Registration = loaded.config.services.section("registration").unwrap().parse().unwrap();
    assert_eq!(registration, Registration::default());
    let heartbeat: Heartbeat = loaded.config.services.section("heartbeat").unwrap().parse().unwrap();
    assert_eq!(heartbeat, Heartbeat::default());
    default.services = loaded.config.services.clone();
    assert_eq!(loaded.config, default);
    assert_eq!(folder.notices(&loaded), Vec::<String>::new());

    for key in schema_keys() {
        let name = key.rsplit('.').next().unwrap();
        assert!(sample().contains(name), "the sample lacks {key}");
        let reserved = ["command"];
        if !reserved.iter().any(|service| key.starts_with(&format!("services.{service}."))) {
            assert!(
                sample().contains(&format!(" {name}: ")) || sample().contains(&format!("\n{name}: ")),
                "{key}"
            );
        }
    }
}

#[test]
fn layers_lie_on_each_other_in_their_order() {
    let folder =
        Folder::new(&format!("{BROKER}log: {{level: error, format: json}}\npaths: {{state: /a, run: /b}}\n"));
    folder.write("conf.d/20-b.yaml", "log: {level: debug}\nmqtt:\n  reconnect: {max: 20s}\n", 0o600);
    folder.write("conf.d/10-a.yaml", "log: {level: warn}\nmqtt:\n  reconnect: {min: 2s, max: 10s}\n", 0o600);
    folder.write("conf.d/30-empty.yaml", "mqtt:\n# nothing\n", 0o600);
    folder.write("conf.d/.hidden.yaml", "nonsense", 0o600);
    folder.write("conf.d/40-other.yml", "nonsense", 0o600);
    folder.write("conf.d/readme.txt", "nonsense", 0o600);
    let mut sources = folder.sources();
    let loaded = folder.load(&sources).unwrap();
    assert_eq!(folder.notices(&loaded), ["conf.d/40-other.yml: not read: the name has to end in .yaml"]);
    let reconnect = loaded.config.mqtt.reconnect;
    assert_eq!((reconnect.min, reconnect.max), (Interval::seconds(2), Interval::seconds(20)));
    assert_eq!(loaded.config.log.level, config::Level::Debug);
    assert_eq!(loaded.config.log.format, config::Format::Json);

    sources.env = [
        ("IOT_AGENT__LOG__LEVEL", "trace"),
        ("IOT_AGENT__MQTT", "{prefix: fleet, keep_alive: 5}"),
        ("IOT_AGENT__MQTT__KEEP_ALIVE", "7s"),
        ("IOT_AGENT__SERVICES__HEARTBEAT__INTERVAL", "11"),
        ("IOT_AGENT_OTHER", "not ours"),
        ("PATH", "/bin"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    sources.sets = vec!["services.heartbeat.interval=12s".to_owned(), "log={format: null}".to_owned()];
    let loaded = folder.load(&sources).unwrap();
    assert_eq!(loaded.config.log.level, config::Level::Trace);
    assert_eq!(loaded.config.log.format, config::Format::Auto, "null brings the default back");
    assert_eq!(loaded.config.mqtt.prefix, "fleet");
    assert_eq!(loaded.config.mqtt.keep_alive, Interval::seconds(7));
    let heartbeat: Heartbeat = loaded.config.services.section("heartbeat").unwrap().parse().unwrap();
    assert_eq!(heartbeat.interval, Interval::seconds(12));
}

#[test]
fn each_layer_is_named_in_its_errors() {
    let folder = Folder::new(BROKER);
    folder.write("conf.d/a.yaml", "log:\n  level: loud\n", 0o600);
    let refused = |env: &[(&str, &str)], sets: &[&str]| {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let sets = sets.iter().map(|set| (*set).to_owned()).collect();
        folder.load(&Sources { env, sets, ..folder.sources() }).unwrap_err()
    };
    let level = "log.level: expected one of error, warn, info, debug, trace, found \"loud\"";
    assert_eq!(refused(&[], &[]), format!("conf.d/a.yaml:2:10: {level}"));
    folder.write("conf.d/a.yaml", "", 0o600);
    for (env, sets, message) in [
        (
            &[("IOT_AGENT__LOG__LEVEL", "loud")][..],
            &[][..],
            &*format!("environment IOT_AGENT__LOG__LEVEL: {level}"),
        ),
        (
            &[("IOT_AGENT__MQTT__BROKR", "x")],
            &[],
            "environment IOT_AGENT__MQTT__BROKR: mqtt.brokr: unknown key; did you mean `broker`?",
        ),
        (
            &[("IOT_AGENT__MQT__BROKER", "x")],
            &[],
            "environment IOT_AGENT__MQT__BROKER: mqt: unknown key; did you mean `mqtt`?",
        ),
        (&[("IOT_AGENT__", "x")], &[], "environment IOT_AGENT__: names no key"),
        (&[("IOT_AGENT__MQTT____X", "x")], &[], "environment IOT_AGENT__MQTT____X: names no key"),
        (&[], &["log.level"], "--set: expected section.key=value"),
        (&[], &["log..level=x"], "--set log..level: names no key"),
        (&[], &["log.level=[a"], "--set log.level: not YAML: unclosed bracket '['"),
        (&[], &["log.level=loud"], &format!("--set log.level: {level}")),
        (&[], &["mqtt=5"], "--set mqtt: mqtt: expected a map of keys and values, found the integer 5"),
        (&[], &["mqtt.broker.x=5"], "--set mqtt.broker.x: mqtt.broker: expected a string, found a map"),
    ] {
        assert_eq!(refused(env, sets), message);
    }
}

#[test]
fn secrets_are_refused_where_others_can_see_them() {
    let refusal = "is a secret and is refused here, where other processes can see it; write it in a file, or give the \
                   name of a file with the key that ends in _file";
    let folder = Folder::new("mqtt: {broker: mqtts://broker.example, username: me}\n");
    folder.write("psk", "0123456789abcdef", 0o600);
    for (key, value) in [
        ("mqtt.password", "hunter2"),
        ("mqtt.proxy", "http://me:hunter2@proxy.example:3128"),
        ("services.registration.device_secret", "hunter2"),
        ("services.location.api_key", "hunter2"),
        ("services.location", "{api_key: hunter2}"),
    ] {
        let mut sources = folder.sources();
        sources.sets.push(format!("{key}={value}"));
        let error = folder.load(&sources).unwrap_err();
        let at = if value.starts_with('{') { "services.location.api_key" } else { key };
        assert_eq!(error, format!("--set {key}: {at}: {refusal}"));
        let name = format!("IOT_AGENT__{}", key.replace('.', "__").to_uppercase());
        let env = vec![(name.clone(), value.to_owned())];
        let error = folder.load(&Sources { env, ..folder.sources() }).unwrap_err();
        assert_eq!(error, format!("environment {name}: {at}: {refusal}"));
    }
    let mut sources = folder.sources();
    sources.sets = vec![
        format!("services.registration.device_secret_file={}", folder.path("psk").display()),
        "mqtt.proxy=http://proxy.example:3128".to_owned(),
    ];
    let loaded = folder.load(&sources).unwrap();
    let registration: Registration = loaded.config.services.section("registration").unwrap().parse().unwrap();
    assert_eq!(registration.device_secret_file.unwrap().read().unwrap().bytes(), b"0123456789abcdef");
}

#[test]
fn no_message_repeats_a_secret() {
    for text in [
        "mqtt: {broker: 'mqtts://me:hunter2@broker.example'}",
        "mqtt: {broker: mqtts://b, proxy: 'htp://me:hunter2@proxy.example:1'}",
        "mqtt: {broker: mqtts://b, proxy: 'http://me:hunter2%@proxy.example'}",
        "mqtt: {broker: mqtts://b, password: [hunter2]}",
        "mqtt: {broker: mqtts://b, passwort: hunter2}",
    ] {
        let error = load(text).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
    let error = load("mqtt: {broker: mqtts://b, username: me, password: 1234567}").unwrap_err();
    assert_eq!(
        error,
        "config.yaml:1:51: mqtt.password: expected a string, found something else; put it in quotes"
    );
    let loaded = load("mqtt: {broker: mqtts://b, username: me, password: hunter2}").unwrap();
    assert!(!format!("{loaded:?}").contains("hunter2"));
    let shown = config::show(&loaded, &schemas());
    assert!(shown.iter().all(|shown| !shown.to_string().contains("hunter2")), "{shown:?}");
}

#[test]
fn a_file_with_a_secret_has_to_be_private() {
    let folder = Folder::new(&format!("{BROKER}services: {{registration: {{device_secret_file: psk}}}}\n"));
    let psk = folder.path("psk").display().to_string();
    let loaded = folder.load(&folder.sources()).unwrap();
    assert_eq!(
        folder.notices(&loaded),
        ["config.yaml:2:47: services.registration.device_secret_file: psk cannot be read now: \
          No such file or directory (os error 2)"]
    );
    for mode in [0o644, 0o640, 0o604] {
        folder.write("psk", "0123456789abcdef", mode);
        assert_eq!(
            config::load(&folder.sources(), &schemas()).unwrap_err().to_string(),
            format!(
                "{}:2:47: services.registration.device_secret_file: {psk} holds a secret, but group or others can \
                 read it (mode {mode:04o}); chmod 600 it",
                folder.path("config.yaml").display()
            )
        );
    }
    folder.write("psk", "0123456789abcdef", 0o600);
    assert_eq!(folder.notices(&folder.load(&folder.sources()).unwrap()), Vec::<String>::new());

    let text = "mqtt: {broker: mqtts://b, username: me, password: hunter2}\n";
    folder.write("config.yaml", text, 0o644);
    assert_eq!(
        folder.notices(&folder.load(&folder.sources()).unwrap()),
        [
            "config.yaml:1:51: mqtt.password: is a secret in a file that group or others can read; chmod 600 that file"
        ]
    );
}

#[test]
fn relative_paths_start_at_the_file_that_names_them() {
    let folder = Folder::new(BROKER);
    folder.write("ca.pem", "", 0o644);
    folder.write("conf.d/ca.pem", "", 0o644);
    folder.write(
        "conf.d/a.yaml",
        "mqtt: {ca_certificate: ca.pem, client_certificate: ../ca.pem, client_key: k}",
        0o600,
    );
    folder.write("conf.d/k", "", 0o600);
    let loaded = folder.load(&folder.sources()).unwrap();
    assert_eq!(loaded.config.mqtt.ca_certificate.unwrap().to_path_buf(), folder.path("conf.d/ca.pem"));
    let certificate = loaded.config.mqtt.client_certificate.unwrap().to_path_buf();
    assert_eq!(certificate, folder.path("conf.d/../ca.pem"));

    // The working directory of this test is the crate's folder, which has a Cargo.toml and the folder src.
    let here = std::env::current_dir().unwrap();
    fs::remove_dir_all(folder.path("conf.d")).unwrap();
    folder.write(
        "config.yaml",
        "mqtt: {broker: mqtts://b, ca_certificate: Cargo.toml}\npaths: {state: src, run: r}\n",
        0o600,
    );
    let loaded = folder.load(&folder.sources()).unwrap();
    assert_eq!(loaded.config.mqtt.ca_certificate.as_deref(), Some(&*here.join("Cargo.toml")));
    assert_eq!(loaded.config.paths.state.to_path_buf(), here.join("src"));
    assert_eq!(loaded.config.identity.device_file.to_path_buf(), here.join("src/device.json"));
    assert_eq!(loaded.config.paths.run.to_path_buf(), folder.path("r"));
    let used = |name: &str| format!("{name} is not there; using {}", here.join(name).display());
    assert_eq!(
        folder.notices(&loaded),
        [
            format!("config.yaml:1:43: mqtt.ca_certificate: {}", used("Cargo.toml")),
            format!("config.yaml:2:16: paths.state: {}", used("src")),
        ]
    );
    let mut sources = folder.sources();
    sources.sets = vec!["mqtt.ca_certificate=Cargo.toml".to_owned(), "paths.state=/s".to_owned()];
    let loaded = folder.load(&sources).unwrap();
    assert_eq!(loaded.config.mqtt.ca_certificate.as_deref(), Some(&*here.join("Cargo.toml")));
    assert_eq!(folder.notices(&loaded), Vec::<String>::new());
}

#[test]
fn a_policy_has_to_be_there() {
    let folder = Folder::new(&format!("{BROKER}policy: policy.yaml\n"));
    assert_eq!(
        folder.load(&folder.sources()).unwrap_err(),
        "config.yaml:2:9: policy: there is no file policy.yaml"
    );
    folder.write("policy.yaml", "{}", 0o644);
    assert_eq!(folder.load(&folder.sources()).unwrap().config.policy, Some(folder.path("policy.yaml")));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = Folder::new("");
    let missing = Sources { file: folder.path("none.yaml"), ..Sources::default() };
    let error = folder.load(&missing).unwrap_err();
    assert_eq!(error, "none.yaml: cannot be read: No such file or directory (os error 2)");
    // Which would keep a running agent waiting for whoever writes to it.
    assert!(std::process::Command::new("mkfifo").arg(folder.path("none.yaml")).status().unwrap().success());
    let error = folder.load(&missing).unwrap_err();
    assert_eq!(error, "none.yaml: cannot be read: it is not a regular file");
    folder.write("config.yaml", vec![b'#'; 1024 * 1024 + 1], 0o600);
    let error = folder.load(&folder.sources()).unwrap_err();
    assert_eq!(error, "config.yaml: cannot be read: it is larger than 1 MiB");
    folder.write("config.yaml", b"log:\n  level: \xe9\xff\n", 0o600);
    let error = folder.load(&folder.sources()).unwrap_err();
    assert_eq!(error, "config.yaml:2:10: not UTF-8");
}

#[test]
fn show_tells_values_and_origins() {
    let folder = Folder::new(
        "mqtt:\n  broker: ssl://broker.example\n  username: me\n  password: hunter2\n\
         services:\n  heartbeat: {interval: 10, qos: 0}\n  location: {enabled: false, api_key: hunter2}\n",
    );
    folder.write("conf.d/a.yaml", "log: {level: warn}\n", 0o600);
    let mut sources = folder.sources();
    sources.sets.push("mqtt.keep_alive=45".to_owned());
    sources.env.push(("IOT_AGENT__OUTBOX__MAX_SIZE".to_owned(), "1048576".to_owned()));
    let loaded = folder.load(&sources).unwrap();
    let shown = config::show(&loaded, &schemas());
    let lines: Vec<String> = shown.iter().map(|shown| folder.short(shown)).collect();
    for line in [
        "identity.device_file: \"/var/lib/iot-agent/device.json\"  # default",
        "log.level: \"warn\"  # conf.d/a.yaml:1:14",
        "mqtt.broker: \"mqtts://broker.example:8883\"  # config.yaml:2:11",
        "mqtt.keep_alive: \"45s\"  # --set mqtt.keep_alive",
        "mqtt.password: \"********\"  # config.yaml:4:13",
        "mqtt.password_file: null  # default",
        "mqtt.reconnect.reset_after: \"1m\"  # default",
        "outbox.max_size: \"1MiB\"  # environment IOT_AGENT__OUTBOX__MAX_SIZE",
        "policy: null  # default",
        "services.heartbeat.delivery: \"live\"  # default",
        "services.heartbeat.enabled: true  # default",
        "services.heartbeat.interval: \"10s\"  # config.yaml:6:25",
        "services.heartbeat.qos: 0  # config.yaml:6:34",
        "services.location.api_key: \"********\"  # config.yaml:7:39",
        "services.location.enabled: false  # config.yaml:7:23",
        "services.registration.proof: \"psk-hmac\"  # default",
    ] {
        assert!(lines.iter().any(|shown| shown == line), "{line} is not in\n{}", lines.join("\n"));
    }
    let schema = schema_keys();
    for shown in &shown {
        // A map that is not set is shown as one key.
        let map = format!("{}.", shown.path);
        let known = |key: &String| *key == shown.path || key.starts_with(&map);
        assert!(schema.iter().any(known), "{} is not in the schema", shown.path);
    }
}

#[test]
fn the_schema_is_strict_and_has_the_defaults() {
    let schema = config::schema(&sections());
    let at = |pointer: &str| schema.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {schema:#}"));
    assert_eq!(at("/$schema"), "https://json-schema.org/draft/2020-12/schema");
    for section in
        ["", "/properties/mqtt", "/properties/services", "/properties/services/properties/heartbeat"]
    {
        assert_eq!(at(&format!("{section}/additionalProperties")), false, "{section}");
    }
    assert_eq!(at("/required"), &serde_json::json!(["mqtt"]));
    assert_eq!(at("/properties/mqtt/required"), &serde_json::json!(["broker"]));
    assert_eq!(at("/properties/mqtt/properties/password/writeOnly"), true);
    let heartbeat = "/properties/services/properties/heartbeat/properties";
    assert_eq!(at(&format!("{heartbeat}/interval/default")), "30s");
    assert_eq!(at(&format!("{heartbeat}/delivery/default")), "live");
    assert_eq!(at(&format!("{heartbeat}/enabled/default")), true);
}

/// The sample writes `null` for what is not set; an editor that checks it by the schema must not object.
#[test]
fn the_schema_lets_null_stand_for_not_set() {
    fn allows_null(schema: &serde_json::Value) -> bool {
        let allowed = |name: &str, null: serde_json::Value| match &schema[name] {
            serde_json::Value::Null => true,
            serde_json::Value::Array(list) => list.contains(&null),
            _ => false,
        };
        allowed("type", "null".into())
            && allowed("enum", serde_json::Value::Null)
            && allowed("oneOf", serde_json::json!({ "type": "null" }))
    }
    fn visit(schema: &serde_json::Value, path: &str, refusing: &mut Vec<String>) {
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}/{key}");
            visit(schema, &path, refusing);
            if !allows_null(schema) {
                refusing.push(path);
            }
        }
    }
    let mut refusing = Vec::new();
    visit(&config::schema(&sections()), "", &mut refusing);
    let fixed = "/services/location/fixed";
    let there = ["/mqtt/broker", "/mqtt", &format!("{fixed}/latitude"), &format!("{fixed}/longitude")];
    assert_eq!(refusing, there, "what has to be there");
}

#[test]
fn sections_tell_what_has_changed() {
    let load = |text: &str| config(&format!("{BROKER}services:\n{text}"));
    let before = load("  heartbeat: {interval: 10s}\n  registration: {proof: plain}\n");
    let after = load("\n\n  registration: {proof: plain}\n  heartbeat:\n    interval: 11s\n");
    let section = |config: &Config, name: &str| config.services.section(name).unwrap().clone();
    assert_ne!(section(&before, "heartbeat"), section(&after, "heartbeat"));
    assert_eq!(section(&before, "registration"), section(&after, "registration"));
    assert_eq!(before.mqtt, after.mqtt);
    let off = load("  heartbeat: {interval: 10s, enabled: false}\n");
    assert_ne!(section(&before, "heartbeat"), section(&off, "heartbeat"));
    assert_eq!(section(&off, "heartbeat").enabled(), Some(false));
    assert_eq!(section(&before, "heartbeat").enabled(), None);

    let error: Error = section(&after, "heartbeat").error_at("interval", "too long for this test");
    assert!(
        error.to_string().ends_with(":7:15: services.heartbeat.interval: too long for this test"),
        "{error}"
    );
    let error: Error = section(&after, "heartbeat").error_at("topic", "must be set");
    assert!(error.to_string().ends_with(":7:5: services.heartbeat.topic: must be set"), "{error}");
}

#[test]
fn a_registered_service_wins_over_its_reservation() {
    let registry = [ServiceSchema::of::<Heartbeat>("location", true)];
    let folder = Folder::new(&format!("{BROKER}services: {{location: {{interval: 1s}}}}\n"));
    let loaded = config::load(&folder.sources(), &registry).unwrap();
    assert!(loaded.notices.is_empty());
    assert!(loaded.config.services.section("location").is_some());
    let folder = Folder::new(&format!("{BROKER}services: {{location: {{gps_baud_rate: 1}}}}\n"));
    let error = config::load(&folder.sources(), &registry).unwrap_err().to_string();
    assert!(error.contains("gps_baud_rate: unknown key"), "{error}");
}

/// `proof: plain` sends the secret in clear: not for a key that anybody could have made up.
#[test]
fn a_key_that_is_only_ignored_does_not_choose_the_layout() {
    for key in ["max_retries: 3", "base_delay: 1", "metadata_file: m.json", "status_endpoint: /s"] {
        let folder = Folder::new(&format!("{BROKER}services: {{heartbeat: {{{key}}}}}\n"));
        let loaded = folder.load(&folder.sources()).unwrap();
        assert_eq!(loaded.config.mqtt.layout, Layout::Device, "{key}");
        let notices = folder.notices(&loaded);
        assert!(notices.len() == 1 && notices[0].ends_with("ignored"), "{key}: {notices:?}");
    }
    let folder = Folder::new(&format!("{BROKER}identity: {{deviceid_file: id}}\n"));
    assert_eq!(folder.load(&folder.sources()).unwrap().config.mqtt.layout, Layout::IotCloud);
}

#[test]
fn the_layout_of_an_old_file_is_chosen_by_all_layers() {
    let old = format!("{BROKER}services: {{registration: {{topic: iot-registration}}}}\n");
    let folder = Folder::new(&old);
    let loaded = folder.load(&folder.sources()).unwrap();
    assert_eq!(loaded.config.mqtt.layout, Layout::IotCloud);
    let registration: Registration = loaded.config.services.section("registration").unwrap().parse().unwrap();
    assert_eq!(registration.proof, Proof::Plain);
    assert_eq!(
        folder.notices(&loaded),
        [
            "config.yaml:2:34: mqtt.layout: iot-cloud, as in files of the Go agent, and services.registration.proof: \
          plain; write mqtt.layout to choose"
        ]
    );
    folder.write("conf.d/a.yaml", "mqtt: {layout: device}\n", 0o600);
    let loaded = folder.load(&folder.sources()).unwrap();
    assert_eq!(loaded.config.mqtt.layout, Layout::Device);
    let registration: Registration = loaded.config.services.section("registration").unwrap().parse().unwrap();
    assert_eq!(registration.proof, Proof::PskHmac);
    assert_eq!(folder.notices(&loaded), Vec::<String>::new());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("proptest-regressions/config.txt"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_mutation_of_a_valid_file_breaks_the_loader(
        case in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..6),
    ) {
        let cases: Vec<PathBuf> = cases("valid").into_values().collect();
        let mut text = fs::read(case.get(&cases)).unwrap();
        let alphabet = b" \n:-[]{}&*!|>'\"#%@`,?0\xff";
        for (place, byte, edit) in edits {
            if text.is_empty() {
                break;
            }
            let place = place.index(text.len());
            let byte = alphabet.get(usize::from(byte)).copied().unwrap_or(byte);
            match edit {
                0 => text[place] = byte,
                1 => text.insert(place, byte),
                2 => drop(text.remove(place)),
                _ => text.truncate(place.max(1)),
            }
        }
        let folder = Folder::new("");
        folder.write("config.yaml", &text, 0o600);
        match folder.load(&folder.sources()) {
            Ok(loaded) => prop_assert!(!config::show(&loaded, &schemas()).is_empty()),
            Err(error) => prop_assert!(error.lines().all(|line| line.starts_with("config.yaml:")), "{}", error),
        }
    }
}
