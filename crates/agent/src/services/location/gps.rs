//! A receiver on a serial port, as long as it is there and again when it is back.

use std::{io, path::Path, time::Duration};

use protocol::location::Source;
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};
use tracing::info;

use super::{
    nmea::{Epochs, Judgement, Sentence, Splitter},
    port::Port,
    settings::BaudRate,
    source::Teller,
};
use crate::mqtt::Backoff;

/// The speeds of receivers, the usual ones first.
const RATES: [u32; 8] = [9600, 115_200, 38_400, 4800, 57_600, 19_200, 230_400, 460_800];
/// How long a sentence is waited for at each. Receivers say something every second.
const TRY: Duration = Duration::from_millis(2500);
/// How long a receiver may be silent before that is told, and its speed is looked for again.
const SILENCE: Duration = Duration::from_secs(10);
/// A pause of the line after which a moment is over.
const PAUSE: Duration = Duration::from_millis(250);
/// How long bytes may gather: a wake-up for each few of them would cost more than they do.
const GATHER: Duration = Duration::from_millis(20);
/// What is read at most before others have their turn.
const TURN: usize = 64 << 10;
/// How long opening the port may take before that is told.
const OPENING: Duration = Duration::from_secs(10);
/// Between two attempts to open it.
const AGAIN: Backoff =
    Backoff { min: Duration::from_millis(500), max: Duration::from_secs(5), reset_after: Duration::ZERO };

/// Reads the receiver; never returns.
pub(super) async fn run(path: &Path, rate: BaudRate, tell: &Teller) {
    let mut tries = 0;
    loop {
        let why = match open(path, tell).await {
            Ok(port) => {
                tries = 0;
                match Listener::new(port, rate, tell) {
                    Ok(mut listener) => listener.listen().await,
                    Err(why) => why,
                }
            }
            Err(why) => why,
        };
        tell.down(format!("{}: {why}", path.display()));
        sleep(AGAIN.delay(tries)).await;
        tries = (tries + 1).min(8);
    }
}

/// One attempt at a time, however long it takes.
async fn open(path: &Path, tell: &Teller) -> Result<Port, String> {
    let there = path.to_owned();
    let mut opening = spawn_blocking(move || Port::open(&there));
    loop {
        match timeout(OPENING, &mut opening).await {
            Ok(opened) => return opened.unwrap_or_else(|panic| Err(panic.to_string())),
            Err(_) => tell.down(format!("{} does not let itself be opened", path.display())),
        }
    }
}

struct Listener<'a> {
    port: AsyncFd<Port>,
    tell: &'a Teller,
    rates: Rates,
    splitter: Splitter,
    epochs: Epochs,
    /// Since when no sentence was heard.
    silent: Instant,
    /// Bytes since then.
    noise: u64,
    /// There are sentences that no judgement has been made of.
    unjudged: bool,
}

/// The speed, and those to be tried.
struct Rates {
    fixed: bool,
    at: usize,
    settled: bool,
}

impl<'a> Listener<'a> {
    fn new(port: Port, rate: BaudRate, tell: &'a Teller) -> Result<Self, String> {
        let fixed = match rate {
            BaudRate::Is(rate) => {
                port.set_rate(rate)?;
                true
            }
            BaudRate::Auto => !port.has_rate(),
        };
        let mut rates = Rates { fixed, at: 0, settled: fixed };
        if !fixed && port.set_rate(RATES[0]).is_err() {
            rates.next(&port);
        }
        #[allow(
            deprecated,
            reason = "its successor is unsafe; a Port has one descriptor as long as it lives"
        )]
        let port = AsyncFd::with_interest(port, Interest::READABLE).map_err(|error| error.to_string())?;
        tell.none("nothing has been heard of the receiver yet");
        Ok(Self {
            port,
            tell,
            rates,
            splitter: Splitter::default(),
            epochs: Epochs::default(),
            silent: Instant::now(),
            noise: 0,
            unjudged: false,
        })
    }

    /// Until the port is gone; tells why.
    async fn listen(&mut self) -> String {
        loop {
            let wait =
                if self.unjudged { PAUSE } else { self.patience().saturating_sub(self.silent.elapsed()) };
            match timeout(wait, self.port.readable()).await {
                Ok(Ok(ready)) => drop(ready),
                Ok(Err(error)) => return error.to_string(),
                Err(_) if self.unjudged => {
                    self.unjudged = false;
                    self.judged(self.epochs.pause());
                }
                Err(_) => {}
            }
            sleep(GATHER).await;
            if let Err(error) = self.read() {
                return error.to_string();
            }
            if self.silent.elapsed() >= self.patience() {
                self.lost();
            }
        }
    }

    fn patience(&self) -> Duration {
        if self.rates.settled { SILENCE } else { TRY }
    }

    fn read(&mut self) -> io::Result<()> {
        let (mut bytes, mut total) = ([0; 4096], 0);
        while total < TURN {
            let count = match self.port.try_io(Interest::READABLE, |port| port.read(&mut bytes)) {
                Ok(0) => return Err(io::Error::other("it is gone")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            total += count;
            self.take(&bytes[..count], Instant::now());
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], now: Instant) {
        self.noise += bytes.len() as u64;
        for byte in bytes {
            let Some(text) = self.splitter.push(*byte) else { continue };
            let sentence = Sentence::parse(text);
            (self.silent, self.noise) = (now, 0);
            if !std::mem::replace(&mut self.rates.settled, true) {
                info!(source = %Source::Gps, rate = RATES[self.rates.at], "the receiver has been heard");
            }
            let Some(sentence) = sentence else { continue };
            self.unjudged = true;
            let judgement = self.epochs.push(sentence, now);
            self.judged(judgement);
        }
    }

    fn judged(&self, judgement: Option<Judgement>) {
        match judgement {
            Some(Judgement::Fix(fix)) => self.tell.fix(fix),
            Some(Judgement::NoFix(Some(count))) => {
                self.tell.none(format!("the receiver has no fix, with {count} satellites"));
            }
            Some(Judgement::NoFix(None)) => self.tell.none("the receiver has no fix"),
            None => {}
        }
    }

    /// Nothing sensible for too long.
    fn lost(&mut self) {
        let heard = match self.noise {
            0 => "nothing is heard of the receiver".to_owned(),
            noise => format!("no sentence of NMEA 0183 in {noise} bytes of the receiver"),
        };
        if self.rates.fixed {
            self.tell.down(heard);
        } else {
            self.tell.none(format!("{heard} at {} bit/s; trying others", RATES[self.rates.at]));
            self.rates.next(self.port.get_ref());
        }
        (self.silent, self.noise) = (Instant::now(), 0);
    }
}

impl Rates {
    /// The next speed that the port can do.
    fn next(&mut self, port: &Port) {
        self.settled = false;
        for _ in RATES {
            self.at = (self.at + 1) % RATES.len();
            if port.set_rate(RATES[self.at]).is_ok() {
                return;
            }
        }
    }
}
