//! What gpsd reports: TPV (a fix) and SKY (the satellites), of each receiver it has.

use std::time::{Duration, SystemTime};

use protocol::Timestamp;
use serde::Deserialize;
use tokio::time::Instant;

use crate::services::location::fix::{Fix, Point};

/// Of how many receivers something is kept.
const DEVICES: usize = 8;
/// The longest name of one.
const NAME: usize = 256;
/// From 95 % to 68 % in one dimension: a normal distribution, 1.96 standard deviations.
const ONE_DIMENSION: f64 = 1.96;
/// The same in two, for equal errors in both: a Rayleigh distribution, sqrt(ln 0.05 / ln 0.3173).
const TWO_DIMENSIONS: f64 = 1.615;
/// The errors where gpsd tells none: as of a receiver with neither GST nor HDOP.
const UNKNOWN: f64 = 35.0;
/// What a clock that is right can say of a fix. What is older comes from a recording.
const DAY: Duration = Duration::from_secs(86_400);

/// One line. What is missing, or not as expected, is none.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Report {
    class: String,
    device: String,
    /// 0 and 1: no fix; 2: without altitude; 3.
    mode: u8,
    /// 7: surveyed or typed; 8: simulated.
    status: u8,
    time: Option<String>,
    lat: Option<f64>,
    lon: Option<f64>,
    /// Before gpsd 3.20 above mean sea level; since then of no certain meaning.
    alt: Option<f64>,
    #[serde(rename = "altMSL")]
    above_sea: Option<f64>,
    #[serde(rename = "altHAE")]
    above_ellipsoid: Option<f64>,
    /// Metres at 95 %: east, north, both together (since gpsd 3.20).
    epx: Option<f64>,
    epy: Option<f64>,
    eph: Option<f64>,
    speed: Option<f64>,
    track: Option<f64>,
    hdop: Option<f64>,
    #[serde(rename = "uSat")]
    used: Option<u32>,
    satellites: Vec<Satellite>,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Satellite {
    used: bool,
}

/// What a report comes to.
#[derive(Debug, PartialEq)]
pub(in super::super) enum Told {
    Fix(Fix),
    None(String),
}

/// The receivers that gpsd has told of.
#[derive(Debug, Default)]
pub(in super::super) struct Devices(Vec<Device>);

#[derive(Debug)]
struct Device {
    name: String,
    /// The time of the latest fix, and when that was.
    latest: Option<(String, Instant)>,
    /// It has a fix now.
    fixed: bool,
    satellites: Option<u32>,
    hdop: Option<f64>,
}

impl Devices {
    /// A line at `now`, which is `clock` by the clock of the device.
    pub(in super::super) fn take(&mut self, line: &[u8], now: Instant, clock: SystemTime) -> Option<Told> {
        let report: Report = serde_json::from_slice(line).ok()?;
        match report.class.as_str() {
            "TPV" => self.fix(report, now, clock),
            "SKY" => {
                let device = self.device(&report.device)?;
                let counted = report.satellites.iter().filter(|satellite| satellite.used).count();
                let counted = u32::try_from(counted).ok().filter(|_| !report.satellites.is_empty());
                // Some reports have dilutions and no satellites, or the reverse.
                device.satellites = report.used.or(counted).or(device.satellites);
                device.hdop = report.hdop.filter(|hdop| *hdop > 0.0 && *hdop < 99.0).or(device.hdop);
                None
            }
            "ERROR" => Some(Told::None(format!("gpsd says: {}", report.message))),
            _ => None,
        }
    }

    fn device(&mut self, name: &str) -> Option<&mut Device> {
        let at = match self.0.iter().position(|device| device.name == name) {
            Some(at) => at,
            None if self.0.len() < DEVICES && name.len() <= NAME => {
                let name = name.to_owned();
                self.0.push(Device { name, latest: None, fixed: false, satellites: None, hdop: None });
                self.0.len() - 1
            }
            None => return None,
        };
        self.0.get_mut(at)
    }

    fn fix(&mut self, report: Report, now: Instant, clock: SystemTime) -> Option<Told> {
        let device = self.device(&report.device)?;
        let point = report.lat.zip(report.lon).and_then(|(lat, lon)| Point::new(lat, lon));
        device.fixed = report.mode >= 2 && !matches!(report.status, 7 | 8) && point.is_some();
        let Some(point) = point.filter(|_| device.fixed) else {
            let (name, satellites) = (device.name.clone(), device.satellites);
            // Another receiver's fix is not undone by one that has none.
            let others = self.0.iter().any(|device| device.fixed);
            return (!others).then(|| Told::None(no_fix(&name, satellites)));
        };
        let at = device.made(report.time.as_deref(), now, clock);
        let positive = |value: Option<f64>| value.filter(|value| (0.0..1e7).contains(value));
        let altitude = report.above_sea.or(report.alt.filter(|_| report.above_ellipsoid.is_none()));
        let accuracy = accuracy(&report);
        Some(Told::Fix(Fix {
            altitude: altitude.filter(|altitude| report.mode >= 3 && altitude.is_finite()),
            speed: positive(report.speed),
            heading: positive(report.track).map(|track| track % 360.0),
            satellites: device.satellites,
            hdop: device.hdop,
            ..Fix::new(at, point, accuracy)
        }))
    }
}

impl Device {
    /// When the fix of this time was made.
    fn made(&mut self, time: Option<&str>, now: Instant, clock: SystemTime) -> Instant {
        // A receiver that tells no date has no time: then every fix is a new one.
        let Some(time) = time.filter(|time| time.len() <= NAME) else { return now };
        let at = match &self.latest {
            Some((latest, at)) if latest == time => return *at,
            // It goes on, so the clock does not matter.
            Some(_) => now,
            None => {
                let made = time.parse().map(Timestamp::to_system_time).unwrap_or(clock);
                let age = clock.duration_since(made).unwrap_or_default();
                now.checked_sub(age).filter(|_| age <= DAY).unwrap_or(now)
            }
        };
        self.latest = Some((time.to_owned(), at));
        at
    }
}

/// Metres at 68 %.
fn accuracy(report: &Report) -> f64 {
    let known = |error: Option<f64>| error.filter(|error| *error > 0.0 && *error < 1e7);
    if let Some(both) = known(report.eph) {
        return both / TWO_DIMENSIONS;
    }
    match (known(report.epx), known(report.epy)) {
        (Some(east), Some(north)) => east.hypot(north) / ONE_DIMENSION,
        _ => UNKNOWN,
    }
}

fn no_fix(device: &str, satellites: Option<u32>) -> String {
    match satellites {
        Some(count) => format!("gpsd has no fix of {device}, with {count} satellites"),
        None => format!("gpsd has no fix of {device}"),
    }
}
