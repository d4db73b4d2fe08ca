//! How full the file systems are. None is asked on the thread of the caller: a dead NFS server answers `statvfs`
//! after hours or never.

use std::{io, path::Path, time::Duration};

use super::{
    asker::{Asker, Space, ask},
    files::Root,
    glob::Choice,
    mounts::Mount,
    name::Name,
    sample::Values,
    text::percent,
};

#[cfg(target_os = "linux")]
use super::mounts::Mounted;
#[cfg(not(target_os = "linux"))]
use super::portable::Mounted;

/// How long one file system may take to answer. Answers take microseconds, or the time to a server.
const DEADLINE: Duration = Duration::from_millis(200);

/// The file systems' collector.
#[derive(Debug)]
pub(super) struct FileSystems {
    mounted: Mounted,
    choice: Choice,
    mounts: Vec<Mount>,
    asker: Asker,
    name: Name,
}

impl FileSystems {
    pub(super) fn new(root: &Root, choice: Choice) -> Self {
        Self::with(root, choice, DEADLINE, ask)
    }

    /// With another way to ask.
    fn with(
        root: &Root,
        choice: Choice,
        deadline: Duration,
        ask: impl Fn(&Path) -> io::Result<Space> + Send + Sync + 'static,
    ) -> Self {
        Self {
            mounted: Mounted::new(root),
            choice,
            mounts: Vec::new(),
            asker: Asker::new(deadline, ask),
            name: Name::default(),
        }
    }

    /// Puts `fs.MOUNTPOINT.*`; returns how full "/" is, in percent.
    pub(super) fn collect(&mut self, values: &mut Values) -> Option<f64> {
        self.mounted.choose(&self.choice, &mut self.mounts);
        let (name, mut disk) = (&mut self.name, None);
        self.asker.collect(&self.mounts, |mount, space| {
            if mount.at.as_path() == Path::new("/") {
                disk = space.used();
            }
            if mount.wanted {
                name.begin("fs", mount.at.as_os_str().as_encoded_bytes());
                put(name, space, values);
            }
        });
        disk
    }
}

fn put(name: &mut Name, space: &Space, values: &mut Values) {
    // What has no blocks is none that could fill up.
    let Some(used) = space.used() else { return };
    values.put(name.of("used"), "%", used);
    values.put(name.of("total"), "B", space.total as f64);
    values.put(name.of("free"), "B", space.available as f64);
    let inodes = space.inodes.checked_sub(space.free_inodes).and_then(|used| percent(used, space.inodes));
    values.put_known(name.of("inodes_used"), "%", inodes);
}

impl Space {
    /// In percent of what ordinary users can have, as `df` tells it.
    fn used(&self) -> Option<f64> {
        let used = self.total.checked_sub(self.free)?;
        percent(used, used.checked_add(self.available)?)
    }
}

#[cfg(test)]
mod tests;
