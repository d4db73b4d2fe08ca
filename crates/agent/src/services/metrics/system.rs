//! The whole machine: all collectors but that of processes.

use std::time::Duration;

use super::{
    cpu::Cpu, disks::Disks, files::Root, filesystems::FileSystems, glob::Choice, host::Host, memory::Memory,
    network::Network, own::Own, pressure::Pressure, sample::Values, sensors::Sensors,
};
use crate::clock::Clock;

/// What is wanted of the machine. What is not named here (`host.*`) always is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// `cpu.*`, `load.*`, `pressure.cpu.*`, `temp.*`.
    pub(crate) cpu: bool,
    /// `memory.*`, `swap.*`, `pressure.memory.*`.
    pub(crate) memory: bool,
    /// `fs.*`, `disk.*`, `pressure.io.*`.
    pub(crate) disk: bool,
    /// `net.*`.
    pub(crate) network: bool,
    /// `agent.*`.
    pub(crate) own: bool,
    /// Of the file systems, by where they are mounted.
    pub(crate) filesystems: Choice,
    /// Of the disks, by name.
    pub(crate) disks: Choice,
    /// Of the interfaces, by name.
    pub(crate) interfaces: Choice,
}

/// The values that every sample names; each absent where it is not wanted, not known, or not known yet.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Summary {
    /// Percent of all cores.
    pub(crate) cpu_usage: Option<f64>,
    /// Percent.
    pub(crate) memory: Option<f64>,
    /// Percent of "/".
    pub(crate) disk: Option<f64>,
    /// Bytes received since boot, over the interfaces that count.
    pub(crate) network: Option<u64>,
}

/// The collectors that are wanted.
#[derive(Debug)]
pub(crate) struct System {
    cpu: Option<Cpu>,
    sensors: Option<Sensors>,
    memory: Option<Memory>,
    filesystems: Option<FileSystems>,
    disks: Option<Disks>,
    network: Option<Network>,
    pressures: Vec<Pressure>,
    host: Option<Host>,
    own: Option<Own>,
    #[cfg(not(target_os = "linux"))]
    portable: super::portable::Portable,
}

impl System {
    /// Opens nothing yet. Other systems have no `/proc`: there a library is asked, and the file systems by our own
    /// means still, as one of them may hang.
    pub(crate) fn new(root: &Root, wanted: Wanted, clock: Clock) -> Self {
        let linux = cfg!(target_os = "linux");
        let pressures = [(wanted.cpu, "cpu"), (wanted.memory, "memory"), (wanted.disk, "io")];
        let pressures = pressures.iter().filter(|(wanted, _)| linux && *wanted);
        Self {
            #[cfg(not(target_os = "linux"))]
            portable: super::portable::Portable::new(wanted.clone()),
            cpu: (linux && wanted.cpu).then(|| Cpu::new(root)),
            sensors: (linux && wanted.cpu).then(|| Sensors::new(root)),
            memory: (linux && wanted.memory).then(|| Memory::new(root)),
            filesystems: wanted.disk.then(|| FileSystems::new(root, wanted.filesystems)),
            disks: (linux && wanted.disk).then(|| Disks::new(root, wanted.disks)),
            network: (linux && wanted.network).then(|| Network::new(root, wanted.interfaces)),
            pressures: pressures.map(|(_, resource)| Pressure::new(root, resource)).collect(),
            host: linux.then(|| Host::new(root, clock)),
            own: (linux && wanted.own).then(|| Own::new(root)),
        }
    }

    /// Takes a look. `elapsed` is how long the last one is ago by the monotonic clock: nothing at the first, and
    /// after a suspension, so that what happened meanwhile makes no rate.
    pub(crate) fn collect(&mut self, elapsed: Option<Duration>, values: &mut Values) -> Summary {
        let cpu_usage = self.cpu.as_mut().and_then(|cpu| cpu.collect(elapsed, values));
        let memory = self.memory.as_mut().and_then(|memory| memory.collect(values));
        let disk = self.filesystems.as_mut().and_then(|filesystems| filesystems.collect(values));
        let network = self.network.as_mut().and_then(|network| network.collect(elapsed, values));
        if let Some(disks) = &mut self.disks {
            disks.collect(elapsed, values);
        }
        if let Some(sensors) = &mut self.sensors {
            sensors.collect(values);
        }
        for pressure in &mut self.pressures {
            pressure.collect(values);
        }
        if let Some(host) = &mut self.host {
            host.collect(values);
        }
        if let Some(own) = &mut self.own {
            own.collect(values);
        }
        let summary = Summary { cpu_usage, memory, disk, network };
        #[cfg(not(target_os = "linux"))]
        let summary = Summary { disk: summary.disk, ..self.portable.collect(elapsed, values) };
        summary
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod cost;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod oracle;
#[cfg(test)]
mod tests;
