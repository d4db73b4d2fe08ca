//! Which containment there is on this machine: cgroup v2, else v1, else limits of each process, else none.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Group, Kind, Plan};
use crate::executor::{os, plain};

/// Which kinds may be chosen. The agent takes the best; tests take each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// The best there is.
    Best,
    /// cgroup v2, also where it has no controllers and only kills.
    Unified,
    /// cgroup v1.
    Hierarchies,
    /// No cgroups.
    Nothing,
}

/// The controllers that limit a job.
const LIMITING: [&str; 2] = ["pids", "memory"];

/// What to do for each job, and how to say it.
pub(in crate::executor) fn decide(run_as: Option<&str>, within: Within) -> (Plan, String) {
    let mut reasons = Vec::new();
    let tables = Tables::read();
    if matches!(within, Within::Best | Within::Unified) {
        match unified(&tables, within == Within::Unified) {
            Ok(found) => return found,
            Err(why) => reasons.push(format!("cgroup v2: {why}")),
        }
    }
    if matches!(within, Within::Best | Within::Hierarchies) {
        match hierarchies(&tables) {
            Ok(found) => return found,
            Err(why) => reasons.push(format!("cgroup v1: {why}")),
        }
    }
    if let Some(user) = run_as {
        return (Plan { groups: Vec::new(), rlimits: true }, format!("rlimits under run_as {user}"));
    }
    reasons.push("no run_as".into());
    (Plan::default(), format!("process tree only; limits do not hold: {}", reasons.join(", ")))
}

/// Where this process is in each hierarchy, and where these are mounted.
struct Tables {
    /// `/proc/self/cgroup`: `4:memory:/path`, and `0::/path` for v2.
    own: String,
    /// `/proc/self/mountinfo`.
    mounts: String,
}

impl Tables {
    fn read() -> Self {
        let read = |name: &str| fs::read_to_string(name).unwrap_or_default();
        Self { own: read("/proc/self/cgroup"), mounts: read("/proc/self/mountinfo") }
    }

    /// The folder of this process's own group, of a controller of v1 or (empty) of v2.
    fn own(&self, controller: &str) -> Option<PathBuf> {
        let path = self.own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (_number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            controllers.split(',').any(|name| name == controller).then_some(path)
        })?;
        let (root, point) = self.mounts.lines().find_map(|line| mount(line, controller))?;
        // In a container the mount may show a part of the hierarchy only.
        let inner = Path::new(path).strip_prefix(root).ok()?;
        // Joining nothing would add a slash.
        Some(if inner.as_os_str().is_empty() { point.into() } else { Path::new(point).join(inner) })
    }
}

/// `36 35 0:31 ROOT POINT options … - cgroup source rw,memory`: root and mount point.
fn mount<'a>(line: &'a str, controller: &str) -> Option<(&'a str, &'a str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut of_type = right.split(' ');
    let (kind, _source, options) = (of_type.next()?, of_type.next()?, of_type.next()?);
    let wanted = if controller.is_empty() {
        kind == "cgroup2"
    } else {
        kind == "cgroup" && options.split(',').any(|name| name == controller)
    };
    let mut fields = left.split(' ').skip(3);
    let place = (fields.next()?, fields.next()?);
    wanted.then_some(place)
}

fn text(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap_or_default()
}

/// Those of the limiting controllers that a file names.
fn controllers(folder: &Path, file: &str) -> Vec<&'static str> {
    let text = text(folder, file);
    LIMITING.into_iter().filter(|name| text.split_whitespace().any(|word| word == *name)).collect()
}

fn unified(tables: &Tables, killing_is_enough: bool) -> Result<(Plan, String), String> {
    let own = tables.own("").ok_or("not mounted")?;
    let base = base(&own);
    let mut limits = controllers(&base, "cgroup.subtree_control");
    if limits.is_empty() {
        match enable(&base) {
            Ok(enabled) => limits = enabled,
            Err(_) if killing_is_enough => {}
            Err(why) => return Err(why),
        }
    }
    probe(&base)?;
    let plan = Plan { groups: vec![Group { kind: Kind::Unified, parent: base }], rlimits: false };
    let text = if limits.is_empty() { "kill only; limits do not hold".into() } else { limits.join(", ") };
    Ok((plan, format!("cgroup v2: {text}")))
}

/// The name of the group into which the agent itself moves: on v2 a group with groups below it that are limited has no
/// process of its own.
const AGENT: &str = "agent";

/// Where the groups of jobs go: this process's own group, or the one above where it has moved aside before.
fn base(own: &Path) -> PathBuf {
    let above = own.parent().filter(|above| {
        own.file_name().is_some_and(|name| name == AGENT)
            && !controllers(above, "cgroup.subtree_control").is_empty()
            && text(above, "cgroup.procs").is_empty()
    });
    above.unwrap_or(own).to_owned()
}

/// Has groups below `base` limited. Nobody else's process is ever moved.
fn enable(base: &Path) -> Result<Vec<&'static str>, String> {
    let there = controllers(base, "cgroup.controllers");
    if there.is_empty() {
        return Err("neither pids nor memory".into());
    }
    // Only the hierarchy's root has no type, and it alone may have both processes and limited groups.
    let is_root = !base.join("cgroup.type").exists();
    let own = std::process::id().to_string();
    if !is_root {
        if !os::delegated(base) {
            return Err("not delegated".into());
        }
        if text(base, "cgroup.procs").lines().any(|pid| pid != own) {
            return Err("other processes share the agent's".into());
        }
        let aside = base.join(AGENT);
        let moved = fs::create_dir(&aside)
            .or_else(|error| if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })
            .and_then(|()| fs::write(aside.join("cgroup.procs"), &own));
        moved.map_err(|error| plain(&error))?;
    }
    let mut why = String::new();
    for name in there {
        if let Err(error) = fs::write(base.join("cgroup.subtree_control"), format!("+{name}")) {
            why = format!("{name}: {}", plain(&error));
        }
    }
    let enabled = controllers(base, "cgroup.subtree_control");
    if enabled.is_empty() && !is_root {
        // Back to where it was; where even that fails, it is as well off aside.
        fs::write(base.join("cgroup.procs"), &own).and_then(|()| fs::remove_dir(base.join(AGENT))).ok();
    }
    if enabled.is_empty() { Err(why) } else { Ok(enabled) }
}

fn hierarchies(tables: &Tables) -> Result<(Plan, String), String> {
    let (mut groups, mut names) = (Vec::new(), Vec::new());
    let mut why = "not mounted".to_owned();
    for (kind, name) in [(Kind::Pids, "pids"), (Kind::Memory, "memory"), (Kind::Freezer, "freezer")] {
        let Some(parent) = tables.own(name) else { continue };
        match probe(&parent) {
            Ok(()) => {
                groups.push(Group { kind, parent });
                names.push(name);
            }
            Err(error) => why = format!("{name}: {error}"),
        }
    }
    if !names.iter().any(|name| LIMITING.contains(name)) {
        return Err(why);
    }
    Ok((Plan { groups, rlimits: false }, format!("cgroup v1: {}", names.join(", "))))
}

/// Whether groups can be made there.
fn probe(parent: &Path) -> Result<(), String> {
    let folder =
        parent.join(format!("iot-agent-probe-{}-{:?}", std::process::id(), std::thread::current().id()));
    fs::create_dir(&folder).and_then(|()| fs::remove_dir(&folder)).map_err(|error| plain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(own: &str, mounts: &str) -> Tables {
        Tables { own: own.into(), mounts: mounts.into() }
    }

    const V1: &str = "31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n\
                      32 25 0:28 / /sys/fs/cgroup/cpu,pids rw - cgroup none rw,cpu,pids\n\
                      33 25 0:29 /part /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n";

    #[test]
    fn own_groups_are_found_in_either_version() {
        let v2 =
            tables("0::/system.slice/a.service\n", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(v2.own(""), Some("/sys/fs/cgroup/system.slice/a.service".into()));
        assert_eq!(v2.own("pids"), None);

        let v1 = tables("9:memory:/a\n8:cpu,pids:/\n7:freezer:/part/b:c\n0::/x\n", V1);
        assert_eq!(v1.own("memory"), Some("/sys/fs/cgroup/memory/a".into()));
        assert_eq!(v1.own("pids"), Some("/sys/fs/cgroup/cpu,pids".into()));
        assert_eq!(v1.own("freezer"), Some("/sys/fs/cgroup/freezer/b:c".into()));
        assert_eq!(v1.own(""), None, "v2 is not mounted");
    }

    #[test]
    fn a_group_outside_of_what_is_mounted_is_none() {
        let outside = tables("7:freezer:/elsewhere\n", V1);
        assert_eq!(outside.own("freezer"), None);
    }

    #[test]
    fn without_any_group_the_reasons_are_told() {
        let (plan, text) = decide(None, Within::Nothing);
        assert_eq!(
            (plan, text.as_str()),
            (Plan::default(), "process tree only; limits do not hold: no run_as")
        );
        let (plan, text) = decide(Some("nobody"), Within::Nothing);
        assert!(plan.rlimits);
        assert_eq!(text, "rlimits under run_as nobody");
    }
}
