//! Topics: the two layouts, templates over them, and reading a device's id out of a received topic.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{ClientId, DeviceId, MAX_ID, unprintable};

/// The longest topic MQTT can carry, in bytes.
pub const MAX_TOPIC: usize = 65_535;
/// What may be appended to a template: `/{device_id}`, then `/response/{client_id}`.
const MAX_TAIL: usize = "/".len() + MAX_ID + "/response/".len() + MAX_ID;
/// The longest prefix, in bytes.
pub const MAX_PREFIX: usize = 256;
/// Where a device says whether it is there; retained, and the topic of its will. The same in both layouts.
pub const PRESENCE: &str = "{prefix}/{device_id}/status";

/// How topics are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// A tree per device: `iot/{device_id}/heartbeat`.
    #[default]
    Device,
    /// The flat topics of the IOT-Cloud backend: `iot-heartbeat`.
    IotCloud,
}

/// Why a text cannot be a topic template or a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// No characters at all.
    #[error("a topic must not be empty")]
    Empty,
    /// Resolved with the longest ids, it or its reply topic could exceed [`MAX_TOPIC`]; or a prefix over
    /// [`MAX_PREFIX`].
    #[error("a topic of {0} bytes is too long")]
    TooLong(usize),
    /// `+` or `#`.
    #[error("the wildcard {0:?} is for subscriptions; it cannot stand in a topic")]
    Wildcard(char),
    /// A leading `$`.
    #[error("a topic must not begin with '$': brokers keep such topics for themselves")]
    Dollar,
    /// A control character, or a code point that MQTT brokers refuse.
    #[error("a topic must not contain the control character {0:?}")]
    Control(char),
    /// `{` without `}`, or the reverse.
    #[error("a brace without its partner")]
    Brace,
    /// `{}`.
    #[error("{{}} names nothing; known are {{prefix}}, {{device_id}}, {{client_id}}")]
    EmptyPlaceholder,
    /// A name in braces that means nothing here.
    #[error("{{{0}}} is unknown; known are {{prefix}}, {{device_id}}, {{client_id}}")]
    UnknownPlaceholder(String),
    /// A prefix with a leading, trailing or doubled `/`.
    #[error("a prefix must not have an empty level: no leading, trailing or doubled '/'")]
    EmptyLevel,
    /// A prefix with a brace.
    #[error("a prefix is plain text; it cannot contain placeholders")]
    PlaceholderInPrefix,
}

/// A topic with the placeholders `{prefix}`, `{device_id}` and `{client_id}`. Valid by construction: whatever
/// valid ids and prefix are filled in, the outcome is a topic one may publish to.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Template(String);

enum Part<'a> {
    Text(&'a str),
    Prefix,
    DeviceId,
    ClientId,
}

impl Template {
    /// Checks a template as a user writes it.
    pub fn parse(text: &str) -> Result<Template, TopicError> {
        plain(text)?;
        let mut longest = 0;
        for part in parts(text) {
            longest += match part? {
                Part::Text(text) => text.len(),
                Part::Prefix => MAX_PREFIX,
                Part::DeviceId | Part::ClientId => MAX_ID,
            };
        }
        if longest + MAX_TAIL > MAX_TOPIC {
            return Err(TopicError::TooLong(longest));
        }
        Ok(Template(text.to_owned()))
    }

    /// The topic, or `None` while the device id that it names is unknown. Ids are filled in once, in one pass:
    /// braces inside an id mean nothing.
    pub fn resolve(&self, prefix: &str, device_id: Option<&str>, client_id: &str) -> Option<String> {
        let mut topic = String::with_capacity(self.0.len() + 64);
        for part in parts(&self.0) {
            topic.push_str(match part.ok()? {
                Part::Text(text) => text,
                Part::Prefix => prefix,
                Part::DeviceId => device_id?,
                Part::ClientId => client_id,
            });
        }
        Some(topic)
    }

    /// Whether `{device_id}` stands in it, so that it cannot be used before enrolment.
    pub fn names_device(&self) -> bool {
        self.0.contains("{device_id}")
    }

    /// The template of a topic on which orders arrive: `/{device_id}` is appended where the device is not
    /// named, so that no setting makes a device hear another's orders.
    pub fn for_requests(self) -> Template {
        if self.names_device() { self } else { self.with("/{device_id}") }
    }

    /// The template as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn with(mut self, tail: &str) -> Template {
        self.0.push_str(tail);
        self
    }
}

impl TryFrom<String> for Template {
    type Error = TopicError;

    fn try_from(text: String) -> Result<Template, TopicError> {
        Template::parse(&text)
    }
}

impl From<Template> for String {
    fn from(template: Template) -> String {
        template.0
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Checks the prefix that stands for `{prefix}`: one or more non-empty levels of plain text, at most
/// [`MAX_PREFIX`] bytes.
pub fn check_prefix(prefix: &str) -> Result<(), TopicError> {
    plain(prefix)?;
    if prefix.len() > MAX_PREFIX {
        return Err(TopicError::TooLong(prefix.len()));
    }
    if prefix.contains(['{', '}']) {
        return Err(TopicError::PlaceholderInPrefix);
    }
    if prefix.split('/').any(str::is_empty) {
        return Err(TopicError::EmptyLevel);
    }
    Ok(())
}

/// The template a service uses when its `topic` key is not set; `None` for a service without a topic.
pub fn default_topic(layout: Layout, service: &str) -> Option<&'static str> {
    let (device, iot_cloud) = match service {
        "registration" => ("{prefix}/registration/{client_id}", "iot-registration"),
        "heartbeat" => ("{prefix}/{device_id}/heartbeat", "iot-heartbeat"),
        "metrics" => ("{prefix}/{device_id}/metrics", "iot-metrics"),
        "location" => ("{prefix}/{device_id}/location", "iot-location"),
        "command" => ("{prefix}/{device_id}/command", "iot-commands/{device_id}"),
        "ssh" => ("{prefix}/{device_id}/ssh", "iot-ssh/{device_id}"),
        "update" => ("{prefix}/{device_id}/update", "iot-update/{device_id}"),
        _ => return None,
    };
    Some(match layout {
        Layout::Device => device,
        Layout::IotCloud => iot_cloud,
    })
}

/// Where a device tells what becomes of the orders that arrive on `request`: `…/status`, or in the IOT-Cloud layout
/// `<topic>/response/{device_id}`, where the topic ends in the device's id as `iot-commands/response/{device_id}`.
pub fn order_status(layout: Layout, request: &Template) -> Template {
    match layout {
        Layout::Device => request.clone().with("/status"),
        Layout::IotCloud => {
            let topic = request.as_str().strip_suffix("/{device_id}").unwrap_or(request.as_str());
            Template(topic.to_owned()).with("/response/{device_id}")
        }
    }
}

/// Under which a device tells each server, by its id, of the tunnels that end there; in the IOT-Cloud layout, and for the
/// requests of the ssh service that arrive on `request`.
pub fn ssh_servers(request: &Template) -> Template {
    Template(request.as_str().strip_suffix("/{device_id}").unwrap_or(request.as_str()).to_owned())
}

/// Where the reply to a registration sent on `request` arrives.
pub fn registration_reply(layout: Layout, request: &Template) -> Template {
    request.clone().with(match layout {
        Layout::Device => "/reply",
        Layout::IotCloud => "/response/{client_id}",
    })
}

/// Where a device says whether it is there; see [`PRESENCE`].
pub fn presence(prefix: &str, device_id: &DeviceId) -> String {
    format!("{prefix}/{device_id}/status")
}

/// The device of a received `{prefix}/{device_id}/{leaf}`; `None` for any other topic.
pub fn device_of(prefix: &str, topic: &str, leaf: &str) -> Option<DeviceId> {
    topic.strip_prefix(prefix)?.strip_prefix('/')?.strip_suffix(leaf)?.strip_suffix('/')?.parse().ok()
}

/// The client of a received `{prefix}/registration/{client_id}`; `None` for any other topic.
pub fn registering_client(prefix: &str, topic: &str) -> Option<ClientId> {
    topic.strip_prefix(prefix)?.strip_prefix("/registration/")?.parse().ok()
}

fn plain(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_TOPIC {
        return Err(TopicError::TooLong(text.len()));
    }
    if text.starts_with('$') {
        return Err(TopicError::Dollar);
    }
    match text.chars().find(|c| matches!(c, '+' | '#') || unprintable(*c)) {
        Some(c @ ('+' | '#')) => Err(TopicError::Wildcard(c)),
        Some(c) => Err(TopicError::Control(c)),
        None => Ok(()),
    }
}

fn parts(text: &str) -> impl Iterator<Item = Result<Part<'_>, TopicError>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let part = next_part(&mut rest)?;
        if part.is_err() {
            rest = "";
        }
        Some(part)
    })
}

fn next_part<'a>(rest: &mut &'a str) -> Option<Result<Part<'a>, TopicError>> {
    if rest.is_empty() {
        return None;
    }
    let Some(inner) = rest.strip_prefix('{') else {
        let (text, tail) = rest.split_at(rest.find(['{', '}']).unwrap_or(rest.len()));
        *rest = tail;
        return Some(if text.is_empty() { Err(TopicError::Brace) } else { Ok(Part::Text(text)) });
    };
    let Some((name, tail)) = inner.split_once('}') else { return Some(Err(TopicError::Brace)) };
    *rest = tail;
    Some(match name {
        "prefix" => Ok(Part::Prefix),
        "device_id" => Ok(Part::DeviceId),
        "client_id" => Ok(Part::ClientId),
        "" => Err(TopicError::EmptyPlaceholder),
        name if name.contains('{') => Err(TopicError::Brace),
        name => Err(TopicError::UnknownPlaceholder(name.chars().take(64).collect())),
    })
}

#[cfg(test)]
mod tests;
