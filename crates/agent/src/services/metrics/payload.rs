//! A look at the machine, and as it is sent.

use std::collections::BTreeMap;

use protocol::{
    DeviceId, Timestamp,
    metrics::{self, Metric},
};
use serde::{Serialize, Serializer};

use super::{
    change::{Changes, Extent},
    sample::{Process, Value, Values},
    system::Summary,
};

/// What was seen. What came too late is absent.
#[derive(Debug)]
pub(super) struct Look<'a> {
    /// The monitored ones.
    pub(super) summary: Summary,
    /// The machine's values, and the agent's own.
    pub(super) values: &'a Values,
    /// By the selector's name.
    pub(super) processes: &'a BTreeMap<String, Process>,
}

impl Look<'_> {
    /// Every value by name.
    pub(super) fn values(&self) -> impl Iterator<Item = (&str, Value)> {
        self.values.iter()
    }

    /// The monitored ones by name, with their units.
    #[allow(clippy::cast_precision_loss, reason = "compared, not counted")]
    pub(super) fn summary(&self) -> [(&'static str, &'static str, Option<f64>); 4] {
        let Summary { cpu_usage, memory, disk, network } = self.summary;
        [
            ("cpu_usage", "%", cpu_usage),
            ("memory", "%", memory),
            ("disk", "%", disk),
            ("network", "B", network.map(|bytes| bytes as f64)),
        ]
    }

    /// As JSON; of the values only what has changed, where `changes` says so.
    pub(super) fn encode(&self, head: Head<'_>, chosen: (Extent, &Changes)) -> Vec<u8> {
        let chosen = match chosen {
            (Extent::Full, _) => None,
            (Extent::Changed, changes) => Some(changes),
        };
        let metrics = Named { look: self, chosen };
        let any = metrics.iter().next().is_some();
        let sample = metrics::Metrics {
            device_id: head.device_id.clone(),
            timestamp: head.timestamp,
            seq: head.seq,
            cpu_usage: self.summary.cpu_usage,
            memory: self.summary.memory,
            disk: self.summary.disk,
            network: self.summary.network,
            processes: Processes(self.processes),
            metrics: any.then_some(metrics),
        };
        serde_json::to_vec(&sample).expect("strings and numbers make JSON")
    }
}

/// Of whom, when, and which.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) device_id: &'a DeviceId,
    pub(super) timestamp: Timestamp,
    pub(super) seq: u64,
}

/// As [`metrics::Metrics::metrics`], without a copy of all names.
struct Named<'a> {
    look: &'a Look<'a>,
    chosen: Option<&'a Changes>,
}

impl Named<'_> {
    fn iter(&self) -> impl Iterator<Item = (&str, Value)> {
        self.look.values().filter(|(name, _)| self.chosen.is_none_or(|changes| changes.has(name)))
    }
}

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let metric = |value: Value| Metric { value: value.value, unit: value.unit.into() };
        serializer.collect_map(self.iter().map(|(name, value)| (name, metric(value))))
    }
}

/// As [`metrics::Metrics::processes`].
struct Processes<'a>(&'a BTreeMap<String, Process>);

impl Serialize for Processes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, process)| (name, metrics::Process::from(process))))
    }
}

impl From<&Process> for metrics::Process {
    fn from(process: &Process) -> Self {
        let Process {
            count,
            cpu_usage,
            memory,
            threads,
            fds,
            read_bytes,
            write_bytes,
            read_ops,
            write_ops,
            started,
        } = *process;
        Self { count, cpu_usage, memory, threads, fds, read_bytes, write_bytes, read_ops, write_ops, started }
    }
}
