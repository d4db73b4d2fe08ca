//! Which file systems are mounted where: `/proc/self/mountinfo`.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "elsewhere a library lists them"))]

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf, sync::Arc};

use super::{
    files::Root,
    glob::Choice,
    text::{lines, words},
    watched::Watched,
};
use crate::mountinfo::unescape;

/// A file system to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub(super) at: Arc<PathBuf>,
    /// Whether its values are wanted. "/" is looked at in any case, for the summary.
    pub(super) wanted: bool,
}

/// What is mounted, by the kernel's list.
#[derive(Debug)]
pub(super) struct Mounted {
    mountinfo: Watched,
    /// What was last chosen from.
    text: Vec<u8>,
}

impl Mounted {
    pub(super) fn new(root: &Root) -> Self {
        Self { mountinfo: Watched::new(root, "proc/self/mountinfo"), text: Vec::new() }
    }

    /// Chooses anew only where there are others than the last time.
    pub(super) fn choose(&mut self, choice: &Choice, mounts: &mut Vec<Mount>) {
        let Some(text) = self.mountinfo.read() else {
            // Without /proc there is "/" still.
            self.text.clear();
            *mounts = choose(b"1 1 0:1 / / - unknown -", choice);
            return;
        };
        if text != self.text {
            *mounts = choose(text, choice);
            self.text.clear();
            self.text.extend_from_slice(text);
        }
    }
}

/// Those wanted: one for each device, and the real ones only unless they were chosen by name.
fn choose(text: &[u8], choice: &Choice) -> Vec<Mount> {
    let all: Vec<Entry> = lines(text).filter_map(Entry::parse).collect();
    let mut chosen: Vec<&Entry> = Vec::new();
    for entry in &all {
        let is_root = entry.at == b"/";
        if !(is_root || choice.takes(&entry.at, entry.is_real())) || !entry.is_visible(&all) {
            continue;
        }
        match chosen.iter_mut().find(|other| other.device == entry.device) {
            Some(other) if entry.rank() < other.rank() => *other = entry,
            Some(_) => {}
            None => chosen.push(entry),
        }
    }
    // Where many hang, and the others wait for them, "/" does not.
    chosen.sort_by_key(|entry| entry.at != b"/");
    let mount = |entry: &Entry| Mount {
        at: Arc::new(PathBuf::from(OsString::from_vec(entry.at.clone()))),
        wanted: choice.takes(&entry.at, true),
    };
    chosen.into_iter().map(mount).collect()
}

/// A line: `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [FIELDS…] - TYPE SOURCE SUPER_OPTIONS`.
#[derive(Debug, PartialEq, Eq)]
struct Entry<'a> {
    id: &'a [u8],
    parent: &'a [u8],
    device: &'a [u8],
    /// Which part of the file system is mounted; the whole is `/`.
    part: &'a [u8],
    at: Vec<u8>,
    kind: &'a [u8],
}

/// Made up by the kernel or by a program, in memory only, or an image that is full by nature.
const UNREAL: &[&str] = &[
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "cramfs",
    "debugfs",
    "devfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "erofs",
    "functionfs",
    "fuse.gvfsd-fuse",
    "fuse.lxcfs",
    "fuse.portal",
    "fuse.snapfuse",
    "fusectl",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "nfsd",
    "none",
    "nsfs",
    "overlay",
    "overlayfs",
    "pipefs",
    "proc",
    "pstore",
    "ramfs",
    "resctrl",
    "romfs",
    "rootfs",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sockfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "tracefs",
    "udf",
    "usbfs",
    "xenfs",
];

/// Single files that a container is lent by its host, each a mount of the host's disk.
const LENT: &[&str] = &["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut words = words(line);
        let mut next = || words.next();
        let (id, parent, device, part, at) = (next()?, next()?, next()?, next()?, next()?);
        words.find(|word| *word == b"-")?;
        let kind = words.next()?;
        let at = unescape(at);
        at.starts_with(b"/").then_some(Self { id, parent, device, part, at, kind })
    }

    fn is_real(&self) -> bool {
        !UNREAL.iter().any(|kind| kind.as_bytes() == self.kind)
            && !LENT.iter().any(|at| at.as_bytes() == self.at)
    }

    /// Whether a path still leads to it: nothing is mounted over it, or over a folder on the way to it.
    fn is_visible(&self, all: &[Entry]) -> bool {
        !all.iter().any(|other| {
            let over = other.parent == self.id && other.at == self.at;
            let above = other.parent == self.parent && other.id != self.id && is_below(&self.at, &other.at);
            // The root of all is its own parent's child, as everything next to it may be.
            (over || above) && other.id != other.parent
        })
    }

    /// Of several mounts of one device the lowest is shown: "/", else the whole before a part, then the shortest.
    fn rank(&self) -> (bool, bool, usize) {
        (self.at != b"/", self.part != b"/", self.at.len())
    }
}

fn is_below(path: &[u8], folder: &[u8]) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| folder == b"/" && !rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests;
