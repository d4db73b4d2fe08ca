//! The memory limit that this program itself lives under, set by a container or a unit: of cgroup v2, else v1.

use std::io;

use super::{
    files::{Root, Source},
    sample::Values,
    text::{lines, number, percent},
};

/// The groups that this program is in, from the innermost out, as far as they tell a limit.
#[derive(Debug, Default)]
pub(super) struct Cgroup(Vec<Level>);

#[derive(Debug)]
struct Level {
    limit: Source,
    used: Source,
}

impl Cgroup {
    /// Looks up once where it is: a program is hardly ever moved.
    pub(super) fn new(root: &Root) -> Self {
        let text = std::fs::read(root.path("proc/self/cgroup")).unwrap_or_default();
        let mut levels = Vec::new();
        for (folder, path, files) in places(&text) {
            let mut path = path.as_str();
            loop {
                let level = Level::open(root, &format!("{folder}{path}"), files);
                levels.extend(level.inspect_err(|error| absent(error, path)).ok());
                // A container sees its own group as the root of all, whatever path it is told.
                let Some(end) = path.rfind('/') else { break };
                path = &path[..end];
            }
        }
        Self(levels)
    }

    /// Puts `memory.cgroup_*` of the group that has the tightest limit, where one is below the machine's memory.
    pub(super) fn collect(&mut self, total: Option<u64>, values: &mut Values) {
        let tightest = self.0.iter_mut().filter_map(|level| level.read()).min_by_key(|(limit, _)| *limit);
        let Some((limit, used)) = tightest.filter(|(limit, _)| *limit < total.unwrap_or(u64::MAX)) else {
            return;
        };
        values.put("memory.cgroup_limit", "B", limit as f64);
        values.put("memory.cgroup_used_bytes", "B", used as f64);
        values.put_known("memory.cgroup_used", "%", percent(used, limit));
    }
}

/// What v1 says where there is no limit: the largest number of pages, which are of 4 to 64 KiB.
const NO_LIMIT: u64 = 1 << 62;

impl Level {
    fn open(root: &Root, folder: &str, [limit, used]: [&str; 2]) -> io::Result<Self> {
        let mut level = Self {
            limit: Source::new(root.path(&format!("{folder}/{limit}"))),
            used: Source::new(root.path(&format!("{folder}/{used}"))),
        };
        level.limit.read()?;
        level.used.read()?;
        Ok(level)
    }

    /// The limit and what is used of it. A level without a limit ("max") has nothing to tell.
    fn read(&mut self) -> Option<(u64, u64)> {
        let limit = number(self.limit.read().ok()?).filter(|limit| *limit < NO_LIMIT)?;
        Some((limit, number(self.used.read().ok()?)?))
    }
}

fn absent(error: &io::Error, path: &str) {
    if error.kind() != io::ErrorKind::NotFound {
        tracing::warn!(path, %error, "cannot read the memory limit of the cgroup, so it is absent");
    }
}

const V2: [&str; 2] = ["memory.max", "memory.current"];
const V1: [&str; 2] = ["memory.limit_in_bytes", "memory.usage_in_bytes"];

/// Where to look, of `/proc/self/cgroup`: lines `NUMBER:CONTROLLERS:PATH`, and no controllers for v2.
fn places(text: &[u8]) -> Vec<(&'static str, String, [&'static str; 2])> {
    let mut places = Vec::new();
    for line in lines(text) {
        let mut parts = line.splitn(3, |byte| *byte == b':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let path = String::from_utf8_lossy(path).trim_end_matches('/').to_owned();
        if controllers.is_empty() {
            places.push(("sys/fs/cgroup", path.clone(), V2));
            // Beside v1, where systemd is in its hybrid mode.
            places.push(("sys/fs/cgroup/unified", path, V2));
        } else if controllers.split(|byte| *byte == b',').any(|name| name == b"memory") {
            places.push(("sys/fs/cgroup/memory", path, V1));
        }
    }
    places
}

#[cfg(test)]
mod tests;
