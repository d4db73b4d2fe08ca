//! A secret key and its password, which is asked for where nobody sees it.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
};

use anyhow::Context as _;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::services::update::package::{Password, Sealed, SecretKey};

/// The key in a file, opened.
pub(super) fn open(file: &Path, password_file: Option<&Path>) -> anyhow::Result<SecretKey> {
    let text = fs::read_to_string(file).with_context(|| format!("read the secret key {}", file.display()))?;
    let text = zeroize::Zeroizing::new(text);
    let sealed = Sealed::parse(&text)?;
    let password = match password_file {
        _ if !sealed.has_password() => None,
        Some(file) => {
            let bytes = fs::read(file).with_context(|| format!("read the password in {}", file.display()))?;
            Some(Password::new(bytes))
        }
        None => Some(ask().context("ask for the key's password; without a terminal, use --password-file")?),
    };
    Ok(sealed.open(password.as_ref())?)
}

/// On the terminal itself, wherever standard input comes from.
fn ask() -> anyhow::Result<Password> {
    let terminal = File::options().read(true).write(true).open("/dev/tty").context("open the terminal")?;
    // First silent: whoever sees the prompt may type.
    let quiet = Quiet::new(&terminal)?;
    write!(&terminal, "Password of the secret key: ")?;
    let mut line = Vec::new();
    let read = BufReader::new(&terminal).read_until(b'\n', &mut line);
    drop(quiet);
    let password = Password::new(line);
    writeln!(&terminal)?;
    read.context("read the password")?;
    Ok(password)
}

/// A terminal that does not show what is typed, for as long as this lives.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File) -> anyhow::Result<Self> {
        let before = tcgetattr(terminal).context("ask the terminal")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent).context("silence the terminal")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // If that fails there is no terminal any more.
        tcsetattr(self.terminal, OptionalActions::Flush, &self.before).ok();
    }
}
