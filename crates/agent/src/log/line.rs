//! One line in each of its forms.

use std::fmt::{self, Write};
use std::time::SystemTime;

use protocol::Timestamp;
use serde_json::Value;
use tracing::Level;

use super::fields::Fields;

/// What each line has; a field of such a name gets a `_` at its end.
const OWN: [&str; 4] = ["timestamp", "level", "target", "message"];

pub(super) struct Line<'a> {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) target: &'a str,
    pub(super) fields: &'a Fields,
}

impl Line<'_> {
    /// `2026-11-22T12:00:00.000Z INFO  connected broker=mqtts://…`
    pub(super) fn text(&self, colour: bool) -> String {
        let (dim, paint, off) = match self.level {
            _ if !colour => ("", "", ""),
            Level::ERROR => ("\x1b[2m", "\x1b[31m", "\x1b[0m"),
            Level::WARN => ("\x1b[2m", "\x1b[33m", "\x1b[0m"),
            Level::INFO => ("\x1b[2m", "\x1b[32m", "\x1b[0m"),
            _ => ("\x1b[2m", "\x1b[34m", "\x1b[0m"),
        };
        let (time, level) = (Timestamp::from_system_time(self.time), self.level.as_str());
        let mut line = format!("{dim}{time}{off} {paint}{level:5}{off} {}", Plain(&self.fields.message));
        for (name, value) in &self.fields.named {
            line += &format!(" {dim}{}={off}{}", bare(name), Shown(value));
        }
        line.push('\n');
        line
    }

    /// One flat object.
    pub(super) fn json(&self) -> String {
        let (time, level) = (Timestamp::from_system_time(self.time), level_name(self.level));
        let target = Value::from(self.target);
        let message = Value::from(self.fields.message.as_str());
        let mut line =
            format!(r#"{{"timestamp":"{time}","level":"{level}","target":{target},"message":{message}"#);
        for (name, value) in &self.fields.named {
            let name = bare(name);
            let suffix = if OWN.contains(&name) { "_" } else { "" };
            line += &format!(",{}:{value}", Value::from(format!("{name}{suffix}")));
        }
        line.push_str("}\n");
        line
    }

    /// One entry in journald's native protocol. MESSAGE has the fields too, as that is all `journalctl` shows.
    pub(super) fn journal(&self) -> Vec<u8> {
        let mut message = Plain(&self.fields.message).to_string();
        let mut entry = Vec::new();
        for (name, value) in &self.fields.named {
            message += &format!(" {}={}", bare(name), Shown(value));
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            entry_field(&mut entry, &journal_name(bare(name)), &text);
        }
        entry_field(&mut entry, "MESSAGE", &message);
        entry_field(&mut entry, "PRIORITY", priority(self.level));
        entry_field(&mut entry, "TARGET", self.target);
        entry
    }
}

/// A name without the mark of a keyword (`r#type`).
fn bare(name: &'static str) -> &'static str {
    name.strip_prefix("r#").unwrap_or(name)
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// syslog(3)'s numbers.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// Upper case, digits and `_`, not at the beginning: all that journald takes. One of its own names gets a `_`.
fn journal_name(name: &str) -> String {
    const OWN: [&str; 3] = ["MESSAGE", "PRIORITY", "TARGET"];
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(upper).take(60).collect();
    match name.chars().next() {
        Some('A'..='Z') if OWN.contains(&name.as_str()) => name + "_",
        Some('A'..='Z') => name,
        _ => format!("F{name}"),
    }
}

/// With its length, so that the value may contain whatever it likes.
fn entry_field(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// Text from anywhere, unable to forge a line or to steer a terminal.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() { write!(f, "{}", c.escape_default())? } else { f.write_char(c)? }
        }
        Ok(())
    }
}

/// A value; in quotes where it would otherwise not be seen where it ends.
struct Shown<'a>(&'a Value);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::String(text) if text.is_empty() || text.contains([' ', '"', '=']) => {
                write!(f, "{}", Plain(&format!("{text:?}")))
            }
            Value::String(text) => write!(f, "{}", Plain(text)),
            other => write!(f, "{other}"),
        }
    }
}
