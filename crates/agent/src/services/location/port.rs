//! A serial port, or what stands for one: opened for us alone, raw, and never waited for.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, flock},
    termios::{
        ControlModes, InputModes, OptionalActions, QueueSelector, ioctl_tiocexcl, ioctl_tiocnxcl, isatty,
        tcflush, tcgetattr, tcsetattr,
    },
};

/// An open port.
#[derive(Debug)]
pub(super) struct Port {
    descriptor: OwnedFd,
    is_tty: bool,
}

impl AsRawFd for Port {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl Port {
    /// Opens it. May take long where a driver does: not on the thread of everything else.
    ///
    /// # Errors
    /// Why it cannot be had, in words.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let told = |error: io::Error| match error.raw_os_error() {
            Some(libc::EBUSY) => "another program uses it".to_owned(),
            _ => error.to_string(),
        };
        let kind = fs::metadata(path).map_err(told)?.file_type();
        if !kind.is_char_device() && !kind.is_fifo() {
            return Err("it is neither a serial port nor a FIFO".to_owned());
        }
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        // With a writer of its own, us, a FIFO does not end when the others go.
        let shared = kind.is_fifo().then(|| options.clone().write(true).open(path).ok()).flatten();
        let descriptor: OwnedFd = match shared {
            Some(file) => file.into(),
            None => options.open(path).map_err(told)?.into(),
        };
        let port = Self { is_tty: isatty(&descriptor), descriptor };
        port.claim().map_err(|error| told(error.into()))?;
        if port.is_tty {
            port.make_raw().map_err(|error| error.to_string())?;
        }
        Ok(port)
    }

    /// Two that read one port get half of the sentences each. The lock binds root too, where it is looked at.
    fn claim(&self) -> rustix::io::Result<()> {
        // Where the system knows no locks on devices there is nothing to ask.
        let lock = flock(&self.descriptor, FlockOperation::NonBlockingLockExclusive);
        if lock == Err(rustix::io::Errno::WOULDBLOCK) {
            return Err(rustix::io::Errno::BUSY);
        }
        if self.is_tty { ioctl_tiocexcl(&self.descriptor) } else { Ok(()) }
    }

    /// Eight bits, no parity, no handshake, no meaning to any byte.
    fn make_raw(&self) -> rustix::io::Result<()> {
        let mut settings = tcgetattr(&self.descriptor)?;
        settings.make_raw();
        settings.input_modes.remove(InputModes::IXOFF | InputModes::IXANY);
        settings.control_modes.remove(ControlModes::CSTOPB | ControlModes::CRTSCTS);
        settings.control_modes.insert(ControlModes::CLOCAL | ControlModes::CREAD);
        tcsetattr(&self.descriptor, OptionalActions::Now, &settings)?;
        // What has waited here for who knows how long is no news.
        tcflush(&self.descriptor, QueueSelector::IFlush)
    }

    /// Sets the speed; what has come at another one is thrown away. What is no serial port has none.
    ///
    /// # Errors
    /// What the port cannot do.
    pub(super) fn set_rate(&self, rate: u32) -> Result<(), String> {
        if !self.is_tty {
            return Ok(());
        }
        let set = || {
            let mut settings = tcgetattr(&self.descriptor)?;
            if settings.input_speed() == rate && settings.output_speed() == rate {
                return Ok(());
            }
            settings.set_speed(rate)?;
            tcsetattr(&self.descriptor, OptionalActions::Now, &settings)?;
            tcflush(&self.descriptor, QueueSelector::IFlush)
        };
        set().map_err(|error: rustix::io::Errno| format!("{rate} bit/s: {error}"))
    }

    /// Whether there is a speed to find out.
    pub(super) fn has_rate(&self) -> bool {
        self.is_tty
    }

    /// What has come.
    ///
    /// # Errors
    /// Also `WouldBlock`.
    pub(super) fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.descriptor, bytes)?)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if self.is_tty {
            // It is gone, or closed next: then nobody is left to keep out.
            ioctl_tiocnxcl(&self.descriptor).ok();
        }
    }
}
