//! The registry: every service of this agent. One file and two lines here are all a new one costs.

mod heartbeat;
pub(crate) mod registration;

use crate::{config::ServiceSchema, service::Entry};

/// In the order in which `status` shows them.
pub const REGISTRY: &[Entry] =
    &[Entry::of::<registration::Registration>(), Entry::of::<heartbeat::Heartbeat>()];

/// What the configuration has to know of them.
pub fn schemas() -> Vec<ServiceSchema> {
    REGISTRY.iter().map(|entry| entry.schema).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in `services/` that the registry lacks would never run.
    #[test]
    fn every_file_is_registered() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/services");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|name| name != "mod")
            .collect();
        let mut names: Vec<_> = REGISTRY.iter().map(|entry| entry.name.to_owned()).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
    }
}
