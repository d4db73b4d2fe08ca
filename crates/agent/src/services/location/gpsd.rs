//! A receiver that gpsd reads, by its JSON protocol (gpsd_json(5)).
//!
//! gpsd goes on telling the last fix when a receiver has lost it. A fix is as old as its `time`: that is when it was
//! first seen here or, where the clock of the device says that it was old already, then.

mod report;

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{settings::Server, source::Teller};
use crate::{clock::Clock, mqtt::Backoff};
pub(super) use report::{Devices, Told};

/// How long a connection may take, and the lookup before it.
const CONNECT: Duration = Duration::from_secs(10);
/// How long gpsd may be silent. With a receiver it says something every second.
const SILENCE: Duration = Duration::from_secs(30);
/// The longest report; a longer line is passed over. A sky of hundred satellites has 12 kB.
const LONGEST: usize = 64 << 10;
const AGAIN: Backoff = Backoff {
    min: Duration::from_millis(500),
    max: Duration::from_secs(30),
    reset_after: Duration::from_secs(10),
};
const WATCH: &[u8] = b"?WATCH={\"enable\":true,\"json\":true};\n";

/// Asks gpsd; never returns.
pub(super) async fn run(server: &Server, clock: &Clock, tell: &Teller) {
    let mut tries = 0;
    loop {
        let began = Instant::now();
        let why = match connect(server).await {
            Ok(stream) => listen(stream, clock, tell).await,
            Err(error) => format!("cannot be reached: {error}"),
        };
        tell.down(format!("gpsd at {server}: {why}"));
        tries = if began.elapsed() >= AGAIN.reset_after { 0 } else { tries + 1 };
        sleep(AGAIN.delay(tries.min(16))).await;
    }
}

async fn connect(server: &Server) -> io::Result<TcpStream> {
    let connect = TcpStream::connect((server.host.as_str(), server.port));
    timeout(CONNECT, connect).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Until the connection ends; tells why.
async fn listen(mut stream: TcpStream, clock: &Clock, tell: &Teller) -> String {
    if let Err(error) = stream.write_all(WATCH).await {
        return error.to_string();
    }
    tell.none("gpsd has told of no receiver yet");
    let (mut lines, mut devices) = (Lines::default(), Devices::default());
    let mut bytes = vec![0; 4096];
    loop {
        let count = match timeout(SILENCE, stream.read(&mut bytes)).await {
            Ok(Ok(0)) => return "it has ended the connection".to_owned(),
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("silent for {} s; has it a receiver?", SILENCE.as_secs()),
        };
        lines.push(&bytes[..count], |line| match devices.take(line, Instant::now(), clock.now()) {
            Some(Told::Fix(fix)) => tell.fix(fix),
            Some(Told::None(why)) => tell.none(why),
            None => {}
        });
        // A peer that never ends must leave room for others.
        tokio::task::yield_now().await;
    }
}

/// Cuts bytes into lines of bounded length.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: Vec<u8>,
    /// It is too long, and its rest is passed over.
    over: bool,
}

impl Lines {
    /// Each line that these bytes end.
    pub(super) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            self.over |= self.line.len() + text.len() > LONGEST;
            if !self.over {
                self.line.extend_from_slice(text);
            }
            if self.over {
                self.line = Vec::new();
            }
            if ended {
                if !self.over {
                    each(&self.line);
                }
                self.over = false;
                self.line.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests;
