//! The registry: every service of this agent. One file and two lines here are all a new one costs.

pub(crate) mod command;
mod heartbeat;
pub(crate) mod location;
pub(crate) mod metrics;
pub(crate) mod registration;
#[doc(hidden)]
pub mod ssh;
pub mod update;

use crate::{
    config::{SectionSchema, ServiceSchema},
    service::{Entry, Service},
};

macro_rules! registry {
    ($($service:ty,)*) => {
        /// In the order in which `status` shows them.
        pub const REGISTRY: &[Entry] = &[$(Entry::of::<$service>(),)*];

        /// The JSON Schemas of their sections. Apart from the rest, since the program has them as text.
        pub fn sections() -> Vec<SectionSchema> {
            vec![$(SectionSchema::of::<<$service as Service>::Config>(
                <$service as Service>::NAME,
                <$service as Service>::ENABLED,
            ),)*]
        }
    };
}

registry! {
    registration::Registration,
    heartbeat::Heartbeat,
    metrics::Metrics,
    command::Command,
    location::Locations,
    ssh::Ssh,
    update::Update,
}

/// What the configuration has to know of them.
pub fn schemas() -> Vec<ServiceSchema> {
    REGISTRY.iter().map(|entry| entry.schema).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A file in `services/` that the registry lacks would never run.
    #[test]
    fn every_file_is_registered() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/services");
        let files: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|name| name != "mod")
            .collect();
        let names: BTreeSet<String> = REGISTRY.iter().map(|entry| entry.name.to_owned()).collect();
        assert_eq!(files, names);
        assert_eq!(names.len(), REGISTRY.len(), "each once");
    }
}
