//! What is looked at: under `services.metrics`, and in the JSON file that it may name.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    change::OnChange,
    glob::{self, Glob},
    processes::{self, Selector, Selectors},
    system,
};
use crate::{
    config::{self, Delivery, InputFile, Interval, Qos, Stamp, Topic},
    service::Invalid,
};

/// Defines [`Config`] and [`Overlay`], which has those of its keys that may also stand in the JSON file.
macro_rules! settings {
    (
        config { $($(#[doc = $own_doc:literal])* $own:ident: $own_type:ty = $own_default:expr,)* }
        choice { $($(#[doc = $doc:literal])* $key:ident: $type:ty = $default:expr,)* }
    ) => {
        /// Settings under `services.metrics`.
        #[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct Config {
            $($(#[doc = $own_doc])* pub(super) $own: $own_type,)*
            $($(#[doc = $doc])* pub(super) $key: $type,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($own: $own_default,)* $($key: $default,)* }
            }
        }

        /// The JSON file; what is not in it stands as in the YAML.
        #[derive(Debug, Clone, Default, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(super) struct Overlay {
            $($key: Option<$type>,)*
        }

        impl Overlay {
            /// These settings over those.
            pub(super) fn over(self, mut config: Config) -> Config {
                $(if let Some(value) = self.$key { config.$key = value; })*
                config
            }
        }
    };
}

settings! {
    config {
        /// Topic; by default that of the layout.
        topic: Option<Topic> = None,
        /// Quality of service.
        qos: Qos = Qos::AtLeastOnce,
        /// What becomes of a sample while the broker is out of reach.
        delivery: Delivery = Delivery::Durable,
        /// Time between two looks.
        interval: Interval = Interval::seconds(60),
        /// How long a look may take; what takes longer is not in the sample.
        timeout: Interval = Interval::seconds(10),
        /// File (JSON) with any of the keys below, over those here; read again when it changes.
        metrics_config_file: Option<InputFile> = None,
    }
    choice {
        /// Processors: use, load, pressure.
        monitor_cpu: bool = true,
        /// Memory, swap and their pressure.
        monitor_memory: bool = true,
        /// File systems and disks.
        monitor_disk: bool = true,
        /// Network interfaces.
        monitor_network: bool = true,
        /// Of the processes: processor time.
        monitor_proc_cpu: bool = true,
        /// Of the processes: memory.
        monitor_proc_mem: bool = true,
        /// Of the processes: bytes and operations of input and output.
        monitor_proc_iops: bool = true,
        /// The agent itself: tasks, threads, open files, memory, outbox.
        monitor_goroutines: bool = true,
        /// Processes by exact name.
        process_names: Selectors = Selectors::default(),
        /// Processes by name or otherwise.
        processes: Selectors = Selectors::default(),
        /// Which file systems, by where they are mounted.
        filesystems: Names = Names::default(),
        /// Which disks, by name.
        disks: Names = Names::default(),
        /// Which network interfaces, by name.
        network: Names = Names::default(),
        /// Whether only what has changed is sent.
        on_change: OnChange = OnChange::default(),
    }
}

/// Which of many, by glob over their names.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Names {
    /// Where there are any: these and no others.
    include: Vec<String>,
    /// Never these.
    exclude: Vec<String>,
}

impl Names {
    pub(super) fn choice(&self) -> glob::Choice {
        let globs = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect();
        glob::Choice { include: globs(&self.include), exclude: globs(&self.exclude) }
    }
}

impl Config {
    /// All selectors, each name once.
    ///
    /// # Errors
    /// A name that two of them would have.
    pub(super) fn selectors(&self) -> Result<Vec<Selector>, String> {
        let mut selectors = self.process_names.0.clone();
        for selector in &self.processes.0 {
            match selectors.iter().find(|other| other.key() == selector.key()) {
                // Twice the same does no harm.
                Some(other) if other == selector => {}
                Some(_) => return Err(format!("{:?} is in process_names, too; set `as`", selector.key())),
                None => selectors.push(selector.clone()),
            }
        }
        Ok(selectors)
    }

    /// These settings and those of the file, if it is there.
    ///
    /// # Errors
    /// What is wrong in it, or between the two.
    pub(super) fn with_file(&self) -> anyhow::Result<Self> {
        let Some(path) = self.metrics_config_file.as_ref().filter(|path| path.exists()) else {
            return Ok(self.clone());
        };
        let config = config::json::<Overlay>(path)?.over(self.clone());
        let checked = config.selectors();
        checked.map_err(|why| Invalid::key("metrics_config_file", format!("processes: {why}")))?;
        Ok(config)
    }

    /// What is told of the machine.
    pub(super) fn machine(&self) -> system::Wanted {
        system::Wanted {
            cpu: self.monitor_cpu,
            memory: self.monitor_memory,
            disk: self.monitor_disk,
            network: self.monitor_network,
            own: self.monitor_goroutines,
            filesystems: self.filesystems.choice(),
            disks: self.disks.choice(),
            interfaces: self.network.choice(),
        }
    }

    /// What is told of processes.
    pub(super) fn of_processes(&self) -> processes::Wanted {
        processes::Wanted {
            cpu: self.monitor_proc_cpu,
            memory: self.monitor_proc_mem,
            io: self.monitor_proc_iops,
        }
    }
}

/// The JSON file, read again when it is another.
#[derive(Debug)]
pub(super) struct OverlayFile {
    path: PathBuf,
    seen: Option<Option<Stamp>>,
}

impl OverlayFile {
    /// Reads nothing yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// What holds now, when the file is not what it was the last time, or why it cannot.
    pub(super) fn news(&mut self, written: Config) -> Option<Result<Config, String>> {
        // Before it is read: what changes meanwhile is found the next time.
        let stamp = Stamp::of(&self.path).ok();
        if self.seen.as_ref() == Some(&stamp) {
            return None;
        }
        self.seen = Some(stamp);
        let overlay =
            config::json::<Overlay>(&self.path).map_err(|error| error.to_string().replace('\n', "; "));
        Some(overlay.map(|overlay| overlay.over(written)).and_then(|config| match config.selectors() {
            Ok(_) => Ok(config),
            Err(why) => Err(format!("{}: processes: {why}", self.path.display())),
        }))
    }
}
