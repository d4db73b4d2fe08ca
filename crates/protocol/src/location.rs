//! Where a device is, and how sure it is of that.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DeviceId, Timestamp};

/// The payload of `{prefix}/{device_id}/location` (`iot-location` in the IOT-Cloud layout). A backend that reads only
/// `latitude`, `longitude` and `accuracy` keeps working.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Location {
    /// Who.
    pub device_id: DeviceId,
    /// When it was sent on its way; the fix is `fix_age_s` older.
    pub timestamp: Timestamp,
    /// Counts from 1; a gap is a message that got lost.
    pub seq: u64,
    /// The place.
    #[serde(flatten)]
    pub place: Place,
}

/// A place, as one source told it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Degrees north of the equator, WGS 84.
    pub latitude: f64,
    /// Degrees east of Greenwich, WGS 84.
    pub longitude: f64,
    /// Metres: the place is within this distance with a probability of 68 %.
    pub accuracy: f64,
    /// Metres above mean sea level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub altitude: Option<f64>,
    /// Metres a second over ground.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speed: Option<f64>,
    /// Degrees from true north, clockwise, in [0, 360).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heading: Option<f64>,
    /// What knows it.
    pub source: Source,
    /// How old the fix is, in seconds.
    pub fix_age_s: u64,
    /// Satellites it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub satellites: Option<u32>,
    /// Horizontal dilution of precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hdop: Option<f64>,
}

/// What knows where the device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A receiver on a serial port.
    Gps,
    /// A receiver that gpsd reads.
    Gpsd,
    /// A geolocation service, by the networks that are heard.
    Google,
    /// The configuration.
    Fixed,
}

impl Source {
    /// Its name, as in payloads and in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gps => "gps",
            Self::Gpsd => "gpsd",
            Self::Google => "google",
            Self::Fixed => "fixed",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
