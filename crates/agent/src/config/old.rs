//! Files of the Go agent (end of 2024 and later): their names become ours, with one notice each.

use super::finding::Report;
use super::node::{At, Entry, Map, Node, Value};

/// The registration topic by which a file of the Go agent is known where it has no old name.
const FLAT_REGISTRATION: &str = "iot-registration";

const SECTIONS: [(&str, &str); 3] =
    [("command_service", "command"), ("location_service", "location"), ("update_service", "update")];

/// Keys of `services.location`. `sensor_based` also has the opposite sense.
const LOCATION_KEYS: [(&str, &str); 4] = [
    (SENSOR_BASED, "use_google_geolocation"),
    ("maps_api_key", "api_key"),
    ("gps_device_port", "gps_device_path"),
    ("gps_device_baud_rate", "gps_baud_rate"),
];
const SENSOR_BASED: &str = "sensor_based";

/// Sections and keys that mean nothing here, wherever they stand.
const IGNORED: [&str; 20] = [
    "acknowledgement_topic",
    "acknowledgement_url",
    "auto_disconnect",
    "base_delay",
    "commands_state_file",
    "deviceid_file",
    "forward_timeout",
    "jwt_file",
    "max_backoff",
    "max_backoff_seconds",
    "max_listeners",
    "max_retries",
    "max_ssh_connections",
    "metadata_file",
    "middlewares",
    "security",
    "server_public_key_path",
    "state_file",
    "status_endpoint",
    "update_file_path",
];

/// Those of [`IGNORED`] by which the Go agent's own file of the end of 2024 is known. The others are names that anybody
/// could make up; to send the secret in clear for such a one would be a trap.
const TELLING: [&str; 3] = ["deviceid_file", "state_file", "update_file_path"];

/// Keys with whole seconds in files of the Go agent.
const SECONDS: [&str; 4] = ["connection_timeout", "interval", "max_execution_time", "timeout"];

/// Services to which something is sent. A message for them must not get lost.
pub(super) const INBOUND: [&str; 3] = ["command", "ssh", "update"];

/// Renames what is old in the file `root`. Returns by what it was known as one for the Go agent's backend.
pub(super) fn translate(root: &mut Node, report: &mut Report) -> Option<At> {
    let mut old = Old { report, known_by: None, later: false };
    old.sections(root);
    if old.known_by.is_none() && root.find(["mqtt", "layout"]).is_none() {
        old.known_by = flat_registration(root).cloned();
    }
    if old.known_by.is_some() || old.later {
        old.values(root);
    }
    old.known_by
}

/// The layout of the Go agent's backend, unless `root` says otherwise.
pub(super) fn settle_layout(root: &mut Node, old: Option<At>, report: &mut Report) {
    if root.find(["mqtt", "layout"]).is_some() {
        return;
    }
    let Some(at) = old.or_else(|| flat_registration(root).cloned()) else { return };
    let mut message = "iot-cloud, as in files of the Go agent".to_owned();
    let proof = ["services", "registration", "proof"];
    if root.find(proof).is_none() {
        message += ", and services.registration.proof: plain";
        root.merge(Node::nested(proof.into_iter(), Node::new(&at, Value::Text("plain".into()))));
    }
    root.merge(Node::nested(["mqtt", "layout"].into_iter(), Node::new(&at, Value::Text("iot-cloud".into()))));
    report.notice(&at, "mqtt.layout", format!("{message}; write mqtt.layout to choose"));
}

fn flat_registration(root: &Node) -> Option<&At> {
    let topic = root.find(["services", "registration", "topic"])?;
    (topic.text() == Some(FLAT_REGISTRATION)).then_some(&topic.at)
}

struct Old<'a> {
    report: &'a mut Report,
    known_by: Option<At>,
    /// It has keys that the Go agent gained later.
    later: bool,
}

impl Old<'_> {
    fn sections(&mut self, root: &mut Node) {
        let Some(map) = root.map_mut() else { return };
        self.ignore(map, "");
        for section in ["mqtt", "identity"] {
            if let Some(keys) = map.get_mut(section).and_then(|entry| entry.node.map_mut()) {
                self.ignore(keys, section);
            }
        }
        let Some(services) = map.get_mut("services").and_then(|entry| entry.node.map_mut()) else { return };
        for (old, new) in SECTIONS {
            self.rename(services, "services", old, new);
        }
        for (name, entry) in services {
            let Some(keys) = entry.node.map_mut() else { continue };
            let path = format!("services.{name}");
            self.ignore(keys, &path);
            if name == "location" {
                LOCATION_KEYS.iter().for_each(|(old, new)| self.rename(keys, &path, old, new));
            }
        }
    }

    fn ignore(&mut self, map: &mut Map, path: &str) {
        for key in IGNORED {
            let Some(entry) = map.remove(key) else { continue };
            if TELLING.contains(&key) {
                self.known_by.get_or_insert_with(|| entry.key.clone());
            }
            self.later = true;
            let message = "a key of the Go agent that has no meaning here; ignored";
            self.report.notice(&entry.key, join(path, key), message);
        }
    }

    fn rename(&mut self, map: &mut Map, path: &str, old: &str, new: &str) {
        let Some(mut entry) = map.remove(old) else { return };
        let place = join(path, old);
        if map.contains_key(new) {
            return self.say(
                &entry.key,
                &place,
                &format!("the old name of `{new}`, which is there, too; ignored"),
            );
        }
        match &mut entry.node.value {
            Value::Bool(sensor) if old == SENSOR_BASED => {
                *sensor = !*sensor;
                self.say(&entry.key, &place, &format!("an old name; it is now `{new}: {sensor}`"));
            }
            _ => self.say(&entry.key, &place, &format!("an old name; it is now `{new}`")),
        }
        map.insert(new.to_owned(), entry);
    }

    /// What the same key could mean otherwise.
    fn values(&mut self, root: &mut Node) {
        drop_empty(root);
        if let Some(broker) = root.find(["mqtt", "broker"])
            && broker.text().is_some_and(|url| url.starts_with("ssl://"))
        {
            self.report.notice(&broker.at, "mqtt.broker", "ssl:// is read as mqtts://");
        }
        if let Some(id) = root.find(["mqtt", "client_id"])
            && id.text().is_some_and(|id| id.ends_with('-'))
        {
            self.report.notice(
                &id.at,
                "mqtt.client_id",
                "read as a prefix, to which this device's own id is appended",
            );
        }
        let services = root.map_mut().and_then(|map| map.get_mut("services"));
        let Some(services) = services.and_then(|entry| entry.node.map_mut()) else { return };
        for (name, service) in services {
            let Some(keys) = service.node.map_mut() else { continue };
            for (key, Entry { node, .. }) in keys {
                self.value(name, key, node);
            }
        }
    }

    fn value(&mut self, service: &str, key: &str, node: &mut Node) {
        let path = format!("services.{service}.{key}");
        match node.value {
            Value::Int(seconds) if SECONDS.contains(&key) => {
                self.report.notice(&node.at, path, format!("{seconds} is read as {seconds}s"));
            }
            Value::Int(0) if key == "qos" && INBOUND.contains(&service) => {
                node.value = Value::Int(1);
                self.report.notice(&node.at, path, "0 is read as 1: with qos 0 requests would be lost");
            }
            _ => {}
        }
    }

    fn say(&mut self, at: &At, path: &str, message: &str) {
        self.known_by.get_or_insert_with(|| at.clone());
        self.report.notice(at, path, message);
    }
}

/// The Go agent takes an empty text for none.
fn drop_empty(node: &mut Node) {
    let Some(map) = node.map_mut() else { return };
    map.retain(|_, entry| entry.node.text() != Some(""));
    map.values_mut().for_each(|entry| drop_empty(&mut entry.node));
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
