//! A GPS receiver on a pseudoterminal: it says something every now and then, and can be unplugged.

use std::{
    fs,
    os::fd::OwnedFd,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use rustix::{
    fs::{OFlags, fcntl_setfl},
    io::Errno,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, tcgetattr},
};
use tokio::{task::JoinHandle, time::sleep};

/// Between two looks at a line, or two pieces of a recording.
const TICK: Duration = Duration::from_millis(5);
/// Bytes at once.
const PIECE: usize = 1024;
/// How often it speaks.
pub const EVERY: Duration = Duration::from_millis(200);

type Say = Box<dyn FnMut(u32) -> String + Send>;

/// The receiver; unplugged when dropped.
pub struct Receiver {
    link: PathBuf,
    device: PathBuf,
    say: Arc<Mutex<Say>>,
    speaking: JoinHandle<()>,
}

impl Receiver {
    /// Plugs it in: `link` names its device from now on. It says what `say` makes of the number of the moment.
    ///
    /// # Errors
    /// When there are no pseudoterminals.
    pub fn plug(link: &Path, say: impl FnMut(u32) -> String + Send + 'static) -> anyhow::Result<Self> {
        let (master, device) = pseudoterminal()?;
        symlink(&device, link).with_context(|| format!("make {}", link.display()))?;
        let say: Arc<Mutex<Say>> = Arc::new(Mutex::new(Box::new(say)));
        let speaking = tokio::spawn(speak(master, Arc::clone(&say)));
        Ok(Self { link: link.to_owned(), device, say, speaking })
    }

    /// The device itself.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Says something else from now on.
    pub fn says(&self, say: impl FnMut(u32) -> String + Send + 'static) {
        *self.say.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(say);
    }

    /// Unplugs it; its device is gone when this returns.
    pub async fn unplug(mut self) {
        self.speaking.abort();
        // The end of the task closes the pseudoterminal; that it was aborted is known.
        drop((&mut self.speaking).await);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.speaking.abort();
        // It goes with the folder that it is in, at the latest.
        fs::remove_file(&self.link).ok();
    }
}

/// Both ends of a line.
fn pseudoterminal() -> anyhow::Result<(OwnedFd, PathBuf)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .context("open a pseudoterminal")?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let device = PathBuf::from(ptsname(&master, Vec::new())?.into_string()?);
    // A program that gives its rights away can open it again.
    fs::set_permissions(&device, fs::Permissions::from_mode(0o666))?;
    // A line waits for nobody: what is not read in time is lost.
    fcntl_setfl(&master, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok((master, device))
}

/// A line on which a recording can be played; unplugged when dropped.
pub struct Line {
    master: OwnedFd,
    device: PathBuf,
}

impl Line {
    /// A line that nobody has opened yet.
    ///
    /// # Errors
    /// When there are no pseudoterminals.
    pub fn new() -> anyhow::Result<Self> {
        let (master, device) = pseudoterminal()?;
        Ok(Self { master, device })
    }

    /// What a program opens.
    pub fn device(&self) -> &Path {
        &self.device
    }

    /// Waits until a program has made the line raw, and plays these bytes, each once.
    ///
    /// # Errors
    /// When the line breaks.
    pub async fn play(&self, bytes: &[u8]) -> anyhow::Result<()> {
        // What has come before is thrown away just after that: it must have been so twice.
        let mut raw = 0;
        while raw < 2 {
            sleep(TICK).await;
            let echoes = tcgetattr(&self.master)?.local_modes.contains(LocalModes::ECHO);
            raw = if echoes { 0 } else { raw + 1 };
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match rustix::io::write(&self.master, &rest[..rest.len().min(PIECE)]) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            sleep(TICK).await;
        }
        Ok(())
    }
}

async fn speak(master: OwnedFd, say: Arc<Mutex<Say>>) {
    let mut ticks = tokio::time::interval(EVERY);
    for moment in 0.. {
        ticks.tick().await;
        let text = (say.lock().unwrap_or_else(PoisonError::into_inner))(moment);
        // Nobody may be there to read it.
        rustix::io::write(&master, text.as_bytes()).ok();
    }
}

/// A sentence of NMEA 0183 with its checksum and line end, of what is between `$` and `*`.
pub fn sentence(text: &str) -> String {
    format!("${text}*{:02X}\r\n", text.bytes().fold(0, |sum, byte| sum ^ byte))
}

/// What a receiver at this place (as NMEA writes it) says of a moment, a second each from noon on.
pub fn moment(place: &str, number: u32) -> String {
    let time = time(number);
    [
        format!("GNRMC,{time},A,{place},3.888,271.30,310126,,,A,V"),
        format!("GNGGA,{time},{place},1,09,1.00,408.6,M,47.3,M,,"),
        "GNGSA,A,3,01,02,03,04,05,06,07,08,09,,,,1.50,1.00,1.20".to_owned(),
    ]
    .iter()
    .map(|text| sentence(text))
    .collect()
}

/// What one without a fix says.
pub fn lost(number: u32) -> String {
    let time = time(number);
    let texts = [
        format!("GNRMC,{time},V,,,,,,,310126,,,N,V"),
        format!("GNGGA,{time},,,,,0,03,99.99,,,,,,"),
        "GNGSA,A,1,,,,,,,,,,,,,99.99,99.99,99.99".to_owned(),
    ];
    texts.iter().map(|text| sentence(text)).collect()
}

fn time(number: u32) -> String {
    let seconds = (43_200 + number) % 86_400;
    format!("{:02}{:02}{:02}.00", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
