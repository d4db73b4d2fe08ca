//! What is under `services.command`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    config::{ByteSize, Delivery, Interval, Qos, Topic},
    executor,
    service::Invalid,
};

/// Settings under `services.command`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Topic of the requests; by default that of the layout. Where it lacks {device_id}, that is appended.
    pub(super) topic: Option<Topic>,
    /// Quality of service of the status.
    pub(super) qos: Qos,
    /// What becomes of a status while the broker is out of reach.
    pub(super) delivery: Delivery,
    /// Bytes kept of each of the two outputs of a command: the beginning and the end.
    pub(super) output_size_limit: ByteSize,
    /// How long a command may take; a request may ask for less.
    pub(super) max_execution_time: Interval,
    /// How many commands run at once.
    pub(super) max_concurrent: u32,
    /// How many more wait; a further one is rejected.
    pub(super) queue: u32,
    /// What runs a command, by `-c`.
    pub(super) shell: String,
    /// The user that commands run as (`user`, `user:group` or numbers); by default that of the agent.
    pub(super) run_as: Option<String>,
    /// Variables that a request may set; those it does not set are the agent's own.
    pub(super) env: Vec<String>,
    /// What the processes of one command may use.
    pub(super) limits: Limits,
    /// How often output is sent of a command with `stream`.
    pub(super) stream_interval: Interval,
}

/// What the processes of one command may use.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Limits {
    /// Memory, in bytes; by default as much as there is.
    pub(super) memory: Option<ByteSize>,
    /// Processes and threads.
    pub(super) pids: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { memory: None, pids: Some(512) }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topic: None,
            qos: Qos::AtLeastOnce,
            delivery: Delivery::Durable,
            output_size_limit: ByteSize::bytes(64 << 10),
            max_execution_time: Interval::seconds(60),
            max_concurrent: 4,
            queue: 64,
            shell: "/bin/sh".to_owned(),
            run_as: None,
            env: Vec::new(),
            limits: Limits::default(),
            stream_interval: Interval::seconds(1),
        }
    }
}

impl Config {
    /// What can be said without looking at the machine.
    ///
    /// # Errors
    /// The key that cannot work.
    pub(super) fn check(&self) -> Result<(), Invalid> {
        if self.max_concurrent == 0 {
            return Err(Invalid::key("max_concurrent", "must be at least 1"));
        }
        if !self.shell.starts_with('/') {
            return Err(Invalid::key("shell", "must be an absolute path, such as /bin/sh"));
        }
        if self.limits.pids.is_some_and(|pids| pids < 2) {
            return Err(Invalid::key("limits.pids", "must be at least 2: the shell, and what it runs"));
        }
        if let Some(name) = self.env.iter().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
            return Err(Invalid::key("env", format!("{name:?} cannot be the name of a variable")));
        }
        Ok(())
    }

    /// As the executor takes them.
    pub(super) fn limits(&self) -> executor::Limits {
        executor::Limits { memory: self.limits.memory.map(ByteSize::get), pids: self.limits.pids }
    }
}
