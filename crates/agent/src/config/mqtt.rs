//! `mqtt:` — the broker and how to get there.

use protocol::ClientId;
use protocol::topic::{Layout, check_prefix};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::files::{InputFile, Secret, SecretFile};
use super::finding::Report;
use super::node::Node;
use super::url::{BrokerUrl, Proxy};
use super::values::{ByteSize, Interval, Span, Version};

/// What is appended to a client id that ends in `-`: 128 random bits in hex.
const MADE_ID: &str = "00000000000000000000000000000000";

/// The longest string that MQTT can carry.
const MAX_STRING: usize = 65_535;

/// The broker and how to get there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// URL of the broker: `mqtts://HOST:PORT`, also ssl, tls, wss, or `unix:///PATH`. mqtt, tcp and ws only to this
    /// machine, unless allow_plaintext is true.
    pub broker: BrokerUrl,
    /// Whether the way to a broker on another machine may be unencrypted.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Version of the protocol.
    #[serde(default)]
    pub version: Version,
    /// Client id; one that ends in "-" is a prefix to the id that is made by default and kept in the state folder.
    #[serde(default)]
    pub client_id: String,
    /// File (PEM) with the authorities that may have signed the broker's certificate, instead of the system's roots.
    #[serde(default)]
    pub ca_certificate: Option<InputFile>,
    /// File (PEM) with the agent's own certificate.
    #[serde(default)]
    pub client_certificate: Option<InputFile>,
    /// File (PEM) with the key of the agent's own certificate, readable by its owner only.
    #[serde(default)]
    pub client_key: Option<SecretFile>,
    /// User name at the broker.
    #[serde(default)]
    pub username: Option<String>,
    /// Password at the broker; password_file is the better place.
    #[serde(default)]
    pub password: Option<Secret>,
    /// File with the password, readable by its owner only.
    #[serde(default)]
    pub password_file: Option<SecretFile>,
    /// URL of a proxy on the way: `http://HOST:PORT` or `socks5://HOST:PORT`, with `USER:PASSWORD@` if need be.
    #[serde(default)]
    pub proxy: Option<Proxy>,
    /// How topics are laid out: a tree per device, or the flat topics of IOT-Cloud.
    #[serde(default)]
    #[schemars(schema_with = "layouts")]
    pub layout: Layout,
    /// First level of the topics.
    #[serde(default = "prefix")]
    pub prefix: String,
    /// Longest silence on the connection, whole seconds from 1s to 65535s.
    #[serde(default = "keep_alive")]
    pub keep_alive: Interval,
    /// How long the broker keeps the session of an absent device, whole seconds.
    #[serde(default = "session_expiry")]
    pub session_expiry: Interval,
    /// Largest packet that is accepted, 1KiB to 256MiB.
    #[serde(default = "max_packet_size")]
    pub max_packet_size: ByteSize,
    /// Pauses between attempts to connect.
    #[serde(default)]
    pub reconnect: Reconnect,
}

/// Pauses between attempts to connect: random, and longer from attempt to attempt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Reconnect {
    /// Bound of the first pause.
    pub min: Interval,
    /// Bound of every pause.
    pub max: Interval,
    /// How long a connection has to last for the next pause to be a first one.
    pub reset_after: Span,
}

impl Default for Reconnect {
    fn default() -> Self {
        Reconnect { min: Interval::seconds(1), max: Interval::seconds(300), reset_after: Span::seconds(60) }
    }
}

fn prefix() -> String {
    "iot".to_owned()
}

fn keep_alive() -> Interval {
    Interval::seconds(30)
}

fn session_expiry() -> Interval {
    Interval::seconds(7 * 86_400)
}

fn max_packet_size() -> ByteSize {
    ByteSize::bytes(256 * 1024)
}

fn layouts(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": ["device", "iot-cloud"] })
}

impl Mqtt {
    /// The rules that one value alone cannot tell. `root` is the whole configuration.
    pub(super) fn check(&self, root: &Node, report: &mut Report) {
        for (key, message) in self.faults() {
            let place = root.find(["mqtt"].into_iter().chain(key.split('.')));
            let at = &place.or(root.get("mqtt")).unwrap_or(root).at;
            report.problem(at, format!("mqtt.{key}"), message);
        }
    }

    fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        let mut refuse = |wrong: bool, key, message: &str| {
            if wrong {
                faults.push((key, message.to_owned()));
            }
        };
        refuse(
            self.broker.is_plaintext() && !self.broker.is_local() && !self.allow_plaintext,
            "broker",
            "unencrypted to another machine; use mqtts:// or wss://, or write allow_plaintext: true",
        );
        let certificate = (self.client_certificate.is_some(), self.client_key.is_some());
        refuse(certificate == (true, false), "client_certificate", "is of no use without client_key");
        refuse(certificate == (false, true), "client_key", "is of no use without client_certificate");
        let password = self.password.is_some() || self.password_file.is_some();
        refuse(
            self.password.is_some() && self.password_file.is_some(),
            "password",
            "is also in password_file",
        );
        refuse(
            password && self.username.is_none() && self.version != Version::V5,
            if self.password.is_some() { "password" } else { "password_file" },
            "needs a username, unless version is 5",
        );
        let unsendable = |text: &str| text.len() > MAX_STRING || text.contains('\0');
        refuse(self.username.as_deref().is_some_and(unsendable), "username", "cannot be sent by MQTT");
        let (keep_alive, expiry) = (self.keep_alive.get(), self.session_expiry.get());
        let whole = keep_alive.subsec_nanos() == 0 && keep_alive.as_secs() <= u16::MAX.into();
        refuse(!whole, "keep_alive", "must be whole seconds from 1s to 65535s");
        let whole = expiry.subsec_nanos() == 0 && expiry.as_secs() <= u32::MAX.into();
        refuse(!whole, "session_expiry", "must be whole seconds, at most 4294967295");
        let packet = (1024..=256 << 20).contains(&self.max_packet_size.get());
        refuse(!packet, "max_packet_size", "must be from 1KiB to 256MiB");
        let Reconnect { min, max, .. } = self.reconnect;
        refuse(min > max, "reconnect.min", &format!("must not be longer than max, which is {max}"));
        faults.extend(check_prefix(&self.prefix).err().map(|error| ("prefix", error.to_string())));
        faults.extend(client_id_fault(&self.client_id).map(|message| ("client_id", message)));
        faults
    }
}

fn client_id_fault(id: &str) -> Option<String> {
    if id.contains(['{', '}']) {
        return Some("must not contain braces: it stands in topics, where they are placeholders".to_owned());
    }
    let whole = if id.ends_with('-') { format!("{id}{MADE_ID}") } else { id.to_owned() };
    if id.is_empty() { None } else { ClientId::try_from(whole).err().map(|error| error.to_string()) }
}
