//! Commands: what a backend asks a device to run, and what it is told of it.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    DeviceId, IdError, Timestamp,
    fields::{Fields, kind},
    id::check,
};

/// The id of a command: chosen by the backend, once for each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExecutionId(String);

impl ExecutionId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ExecutionId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        check(&text).map(|()| Self(text))
    }
}

impl From<ExecutionId> for String {
    fn from(id: ExecutionId) -> Self {
        id.0
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// Run a command.
    Run {
        /// Its id.
        execution_id: ExecutionId,
        /// After which it is not to begin any more.
        expires_at: Option<Timestamp>,
        /// What to run, and how.
        order: Order,
    },
    /// End a command before it ends by itself.
    Cancel {
        /// Which.
        execution_id: ExecutionId,
    },
}

/// What to run, and how.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Order {
    /// A line for the shell, or the name of a command of the owner's policy.
    pub command: String,
    /// Of a named command, its arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<BTreeMap<String, String>>,
    /// It succeeds when the machine has been restarted.
    #[serde(skip_serializing_if = "is_false")]
    pub expect_reboot: bool,
    /// How long it may take, in seconds; at most as long as the device allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// Variables of its environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Its output is sent while it runs.
    #[serde(skip_serializing_if = "is_false")]
    pub stream: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Why a payload is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// Whom to answer, where that can be told.
    pub execution_id: Option<String>,
    /// The id can be one, so that the answer can be kept.
    pub valid_id: bool,
    /// What is wrong.
    pub reason: String,
}

impl Request {
    /// Reads a payload. Unknown fields are ignored, and `null` is as good as absent.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let unreadable = |reason: String| Malformed { execution_id: None, valid_id: false, reason };
        let value =
            serde_json::from_slice(payload).map_err(|error| unreadable(format!("not JSON: {error}")))?;
        let Value::Object(fields) = value else {
            return Err(unreadable("not a JSON object".to_owned()));
        };
        let id = match fields.get("execution_id") {
            Some(Value::String(id)) => id.clone(),
            Some(other) => {
                return Err(unreadable(format!("execution_id: expected a string, found {}", kind(other))));
            }
            None => return Err(unreadable("execution_id: missing".to_owned())),
        };
        let execution_id = ExecutionId::try_from(id.clone()).map_err(|error| Malformed {
            execution_id: Some(id.clone()),
            valid_id: false,
            reason: format!("execution_id: {error}"),
        })?;
        Fields(&fields).request(execution_id).map_err(|reason| Malformed {
            execution_id: Some(id),
            valid_id: true,
            reason,
        })
    }
}

impl Fields<'_> {
    fn request(&self, execution_id: ExecutionId) -> Result<Request, String> {
        if self.flag("cancel")? {
            return Ok(Request::Cancel { execution_id });
        }
        let order = Order {
            command: self.command()?,
            args: self.texts("args")?,
            expect_reboot: self.flag("expect_reboot")?,
            timeout_s: self.seconds("timeout_s")?,
            env: self.env()?,
            cwd: self.cwd()?,
            stream: self.flag("stream")?,
        };
        let expires_at = self.time("expires_at")?;
        Ok(Request::Run { execution_id, expires_at, order })
    }

    fn command(&self) -> Result<String, String> {
        let command = self.text("command")?.ok_or("command: missing")?;
        if command.trim().is_empty() {
            return Err("command: empty".to_owned());
        }
        plain("command", command)
    }

    fn env(&self) -> Result<BTreeMap<String, String>, String> {
        let env = self.texts("env")?.unwrap_or_default();
        match env.keys().find(|name| name.is_empty() || name.contains('=')) {
            Some(name) => Err(format!("env: {name:?} cannot be the name of a variable")),
            None => Ok(env),
        }
    }

    fn cwd(&self) -> Result<Option<String>, String> {
        match self.text("cwd")? {
            Some(path) if path.starts_with('/') => plain("cwd", path).map(Some),
            Some(path) => Err(format!("cwd: must be an absolute path, found {path:?}")),
            None => Ok(None),
        }
    }

    fn texts(&self, key: &str) -> Result<Option<BTreeMap<String, String>>, String> {
        let fields = match self.get(key) {
            None => return Ok(None),
            Some(Value::Object(fields)) => fields,
            Some(other) => return Err(format!("{key}: expected an object, found {}", kind(other))),
        };
        let text = |(name, value): (&String, &Value)| match value {
            Value::String(text) => {
                plain(key, name.clone())?;
                Ok((name.clone(), plain(key, text.clone())?))
            }
            other => Err(format!("{key}.{name}: expected a string, found {}", kind(other))),
        };
        fields.iter().map(text).collect::<Result<_, String>>().map(Some)
    }
}

/// A NUL ends a text for the system, and what follows would get lost.
fn plain(key: &str, text: String) -> Result<String, String> {
    if text.contains('\0') { Err(format!("{key}: contains a NUL character")) } else { Ok(text) }
}

/// How far a command is. The last seven are final: one of them, once, for each id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Written down, and it will be run.
    Accepted,
    /// It runs.
    InProgress,
    /// It exited with 0; or the machine was restarted, where that was expected.
    Success,
    /// It exited with another code, was ended by a signal, or could not be started.
    Failed,
    /// It took too long.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// The agent or the machine ended before it did, and it is not run again.
    Interrupted,
    /// It is not run: `message` says why.
    Rejected,
    /// It came, or its turn came, after `expires_at`.
    Expired,
}

/// The payload of `{prefix}/{device_id}/command/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Who.
    pub device_id: DeviceId,
    /// Which command: as it was asked, even where it cannot be an id.
    pub execution_id: String,
    /// Counts from 1, without gaps, across restarts.
    pub seq: u64,
    /// How far it is.
    #[serde(flatten)]
    pub report: Report,
}

/// What is told of a command, once or again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How far it is.
    pub status: State,
    /// Since when.
    pub timestamp: Timestamp,
    /// Of output that is sent while the command runs: the number of the piece, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u64>,
    /// The code with which the shell has exited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The number of the signal that ended the shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What it wrote, or the beginning and the end of that.
    #[serde(flatten)]
    pub output: Output,
    /// How long it took, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// What there is to say in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What a command wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// To its standard output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// To its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// Bytes left out of the middle of `stdout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout_dropped: Option<u64>,
    /// Bytes left out of the middle of `stderr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr_dropped: Option<u64>,
    /// Some bytes were no UTF-8, and have been replaced.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lossy: bool,
}

impl Report {
    /// That and nothing more.
    pub fn of(status: State, timestamp: Timestamp) -> Self {
        let (chunk, exit_code, signal, duration_ms, message) = (None, None, None, None, None);
        Self { status, timestamp, chunk, exit_code, signal, output: Output::default(), duration_ms, message }
    }

    /// The same with a reason.
    #[must_use]
    pub fn because(self, message: impl Into<String>) -> Self {
        Self { message: Some(message.into()), ..self }
    }
}

#[cfg(test)]
mod tests;
