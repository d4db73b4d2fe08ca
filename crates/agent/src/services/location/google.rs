//! A geolocation service: a place by the networks that are heard. Google's, or any that speaks as it does.
//!
//! Each request may cost money. So one is only sent while no source before this one knows the place, only for
//! surroundings that no answer of late was about, and only so often a day. The key is in the request and nowhere else.

mod answer;
mod memory;
mod surroundings;
mod tally;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use hyper::Request;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

#[cfg(any(test, feature = "fuzzing"))]
pub(super) use self::answer::check as check_answer;
pub(super) use self::tally::Tally;
use self::{answer::Answer, memory::Memory, surroundings::Surroundings};
use super::{
    fix::Fix,
    networks::{Ears, Heard},
    settings::{Config, Endpoint, NO_KEY},
    source::Teller,
};
use crate::{clock::Clock, config::Secret, http::Client, log::chain, mqtt::Backoff, outbox::apart};

/// Between two times of listening at most, and at least.
const SELDOM: Duration = Duration::from_secs(60);
const OFTEN: Duration = Duration::from_secs(1);
/// How long the body of an answer may take, and be in bytes. Google's has a hundred.
const BODY: Duration = Duration::from_secs(30);
const LONGEST: usize = 16 << 10;
/// After an answer that may be another soon, where it does not say when.
const AGAIN: Backoff =
    Backoff { min: Duration::from_secs(2), max: Duration::from_secs(3600), reset_after: Duration::ZERO };
/// After one that stays until somebody changes something.
const REFUSED: Duration = Duration::from_secs(3600);

/// Listens and asks while it is `wanted`; never returns.
pub(super) async fn run(
    config: Config,
    clock: Clock,
    tally: Tally,
    mut wanted: watch::Receiver<bool>,
    tell: Teller,
) {
    let url = config.geolocation_url.clone().unwrap_or_else(Endpoint::google);
    let client = match config.check_geolocation() {
        Ok(()) => Client::new(url.0.clone(), clock).map_err(|error| chain(&error)),
        Err(_) => Err(NO_KEY.to_owned()),
    };
    let client = match client {
        Ok(client) => client,
        Err(why) => {
            tell.down(why);
            return std::future::pending().await;
        }
    };
    let (mut ears, mut asker) = (Ears::new(), Asker::new(config, url, client, tally));
    loop {
        // Its sender ends when this does.
        wanted.wait_for(|wanted| *wanted).await.ok();
        let next = Instant::now() + asker.period;
        let heard = ears.hear().await;
        asker.judge(&heard, &tell).await;
        sleep_until(asker.retry().map_or(next, |retry| retry.min(next))).await;
    }
}

/// Knows what was asked, and when to ask.
struct Asker {
    config: Config,
    url: Endpoint,
    client: Client,
    tally: Tally,
    /// Between two times of listening.
    period: Duration,
    memory: Memory,
    /// When networks last told a place.
    known: Option<Instant>,
    /// Since the last answer that was one.
    failures: u32,
    /// Until when nothing is asked, and why.
    pause: Option<(Instant, Trouble)>,
}

/// Why there is no place, and whether one is worth waiting for.
#[derive(Debug, Clone)]
struct Trouble {
    why: String,
    passes: bool,
}

impl Asker {
    fn new(config: Config, url: Endpoint, client: Client, tally: Tally) -> Self {
        let period = config.interval.get().min(config.max_age.get() / 2).clamp(OFTEN, SELDOM);
        let memory = Memory::default();
        Self { config, url, client, tally, period, memory, known: None, failures: 0, pause: None }
    }

    /// Tells the place of what is heard, asking for it where that has to be.
    async fn judge(&mut self, heard: &Heard, tell: &Teller) {
        let (around, now) = (Surroundings::of(heard, local_address), Instant::now());
        if !around.tell_a_place() && !self.config.consider_ip {
            let mut why = "neither two access points nor a cell are heard".to_owned();
            for trouble in &heard.troubles {
                why = format!("{why}; {trouble}");
            }
            return if heard.deaf { tell.down(why) } else { tell.none(why) };
        }
        let of_late = |at: Instant| now < at + self.config.max_age.get();
        if !around.tell_a_place() && self.known.is_some_and(of_late) {
            // A town by its address instead of a house, for a scan that has failed, would be no news.
            return;
        }
        if self.memory.find(&around, now).is_none()
            && let Err(Trouble { why, passes }) = self.ask(&around, now).await
        {
            return if passes { tell.none(why) } else { tell.down(why) };
        }
        match self.memory.find(&around, now).flatten() {
            // As old as the networks that say it is still the place.
            Some((point, accuracy)) => {
                let at = now.checked_sub(around.age()).unwrap_or(now);
                self.known = around.tell_a_place().then_some(at);
                tell.fix(Fix::new(at, point, accuracy));
            }
            None => tell.down(format!("{} knows none of the networks around", self.url.0.host())),
        }
    }

    /// Asks, unless it is too early, too often or in vain; what the service knows is in the memory then.
    async fn ask(&mut self, around: &Surroundings, now: Instant) -> Result<(), Trouble> {
        if let Some((_, trouble)) = self.pause.as_ref().filter(|(until, _)| now < *until) {
            return Err(trouble.clone());
        }
        let lasting = |why| Trouble { why, passes: false };
        let key = key(&self.config).await.map_err(lasting)?;
        self.tally.take().await.map_err(lasting)?;
        let answer = self.exchange(around, key.as_ref()).await;
        let (wait, trouble) = match answer {
            Answer::Place(point, accuracy) => {
                debug!(accuracy, requests = self.tally.today(), "asked for the place");
                self.learn(around, Some((point, accuracy)));
                return Ok(());
            }
            Answer::Unknown => {
                self.learn(around, None);
                return Ok(());
            }
            Answer::Again { why, after } => {
                self.failures = self.failures.saturating_add(1);
                let wait = after.unwrap_or_else(|| AGAIN.delay(self.failures.min(16) - 1));
                debug!(why, wait_s = wait.as_secs(), "will ask for the place again");
                (wait, Trouble { why, passes: true })
            }
            Answer::Refused(why) => {
                warn!(why, wait_s = REFUSED.as_secs(), "no answer about the place");
                (REFUSED, lasting(why))
            }
        };
        self.pause = Some((Instant::now() + wait, trouble.clone()));
        Err(trouble)
    }

    /// When the service may be asked again, where it could not be now: who listens seldom need not wait that long.
    fn retry(&self) -> Option<Instant> {
        let passing = self.pause.as_ref().filter(|(_, trouble)| trouble.passes);
        passing.map(|(until, _)| *until).filter(|until| *until > Instant::now())
    }

    fn learn(&mut self, around: &Surroundings, answer: memory::Known) {
        let now = Instant::now();
        self.memory.learn(around.clone(), answer, now);
        self.failures = 0;
        // What nobody would be told of is not asked for: who moves is of interest once an interval, unless it is how far.
        // Networks that are heard after a place by the address are worth a question at once.
        let idle = self.config.interval.get().saturating_sub(2 * self.period);
        let why = "the networks around are others, and will be asked for when a location is due".to_owned();
        let asked = answer.is_some() && around.tell_a_place();
        let waits = self.config.min_distance.is_none() && asked && !idle.is_zero();
        self.pause = waits.then(|| (now + idle, Trouble { why, passes: true }));
    }

    async fn exchange(&mut self, around: &Surroundings, key: Option<&Secret>) -> Answer {
        let request = Request::post(target(self.client.url().target(), key))
            .header("content-type", "application/json")
            .body(around.request(self.config.consider_ip))
            .expect("a URL's path and a key in percents make a request");
        let response = match self.client.send(request).await {
            Ok(response) => response,
            Err(error) => {
                if error.is_before_the_request() {
                    self.tally.give_back();
                }
                return Answer::Again { why: chain(&error), after: None };
            }
        };
        let (status, after) = (response.status().as_u16(), answer::wait(response.header("retry-after")));
        match response.body(LONGEST, BODY).await {
            Ok(body) => Answer::read(self.url.0.host(), status, after, &body),
            Err(error) => Answer::Again { why: chain(&error), after },
        }
    }
}

/// Read for each request: a key may be replaced.
async fn key(config: &Config) -> Result<Option<Secret>, String> {
    let Some(file) = config.api_key_file.clone() else { return Ok(config.api_key.clone()) };
    if config.api_key.is_some() {
        return Ok(config.api_key.clone());
    }
    apart(move || file.read()).await.map(Some).map_err(|error| chain(&error))
}

/// Path and query with the key at the end.
fn target(base: &str, key: Option<&Secret>) -> String {
    use std::fmt::Write as _;

    let mut target = base.to_owned();
    let Some(key) = key else { return target };
    target += if base.contains('?') { "&key=" } else { "?key=" };
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                target.push(char::from(*byte))
            }
            // To a string: it cannot fail.
            _ => write!(target, "%{byte:02X}").unwrap_or_default(),
        }
    }
    target
}

/// The address that the device has on its way to others. Nothing is sent: 192.0.2.1 is nobody's (RFC 5737).
fn local_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    socket.local_addr().ok().as_ref().map(SocketAddr::ip)
}

#[cfg(test)]
mod tests;
