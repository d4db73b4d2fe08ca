//! A disk whose power can be cut: ext4 on a loop device over a file. Linux and root only.
//!
//! `EXT4_IOC_SHUTDOWN` without a flush of the log leaves on the device what had reached it, and nothing after; mounted
//! again, ext4 recovers as it does after a real loss of power.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use tempfile::TempDir;

/// A mounted file system, gone with this value. To be used in a process started by [`command`], whose mounts are its
/// own: killed, it leaves nothing behind.
#[derive(Debug)]
pub struct PowerCut {
    dir: TempDir,
}

/// A command that runs `program` with mounts of its own.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private"]).arg(program);
    command
}

impl PowerCut {
    /// Makes a disk of so many MiB and mounts it.
    ///
    /// # Errors
    /// When it cannot be formatted or mounted.
    ///
    /// # Panics
    /// When not run as root, or without loop devices.
    pub fn new(mebibytes: u64) -> anyhow::Result<Self> {
        assert!(rustix::process::geteuid().is_root(), "power cuts need mounts: run these tests as root");
        assert!(
            Path::new("/dev/loop-control").exists(),
            "power cuts need loop devices, but there is no /dev/loop-control: `modprobe loop`, or another machine"
        );
        let dir = tempfile::Builder::new().prefix("powercut-").tempdir().context("create its folder")?;
        let disk = Self { dir };
        let image = File::create(disk.image()).context("create the image")?;
        image.set_len(mebibytes << 20).context("size the image")?;
        std::fs::create_dir(disk.path()).context("create the mount point")?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(disk.image()))?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// Cuts the power: whoever writes or reads from now on gets an error.
    ///
    /// # Errors
    /// When the system will not.
    pub fn cut(&self) -> anyhow::Result<()> {
        let root = File::open(self.path()).context("open the disk")?;
        ioctl::shut_down_without_flush(&root).context("shut the file system down")
    }

    /// The power is back. Nobody may have a file of the disk open.
    ///
    /// # Errors
    /// When it cannot be mounted again.
    pub fn restore(&self) -> anyhow::Result<()> {
        run(Command::new("umount").arg(self.path()))?;
        self.mount()
    }

    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn mount(&self) -> anyhow::Result<()> {
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(self.image()).arg(self.path()))
    }
}

impl Drop for PowerCut {
    fn drop(&mut self) {
        // Lazily, for a test that failed with the writer still at work. Not mounted at all: nothing to undo.
        Command::new("umount").arg("--lazy").arg(self.path()).output().ok();
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let done = match command.env("PATH", path).output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            panic!("{command:?}: not installed; `scripts/tools check` installs it")
        }
        done => done.with_context(|| format!("run {command:?}"))?,
    };
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr).trim());
    Ok(())
}

/// The one call that no crate wraps.
mod ioctl {
    #![allow(unsafe_code, reason = "an ioctl without a safe wrapper; never part of the agent")]

    use std::{fs::File, io};

    use rustix::ioctl::{Setter, ioctl, opcode};

    /// `_IOR('X', 125, __u32)`; the kernel's Documentation/admin-guide/ext4.rst, `EXT4_IOC_SHUTDOWN`.
    const EXT4_IOC_SHUTDOWN: rustix::ioctl::Opcode = opcode::read::<u32>(b'X', 125);
    const NO_LOG_FLUSH: u32 = 2;

    pub(super) fn shut_down_without_flush(root: &File) -> io::Result<()> {
        // SAFETY: the call reads a `u32` by the pointer that `Setter` passes, and writes nothing.
        unsafe { Ok(ioctl(root, Setter::<EXT4_IOC_SHUTDOWN, u32>::new(NO_LOG_FLUSH))?) }
    }
}
