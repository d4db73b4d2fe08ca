//! Settings under `services.location`.

mod geolocation;

use std::{borrow::Cow, fmt};

use protocol::location::Source;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor},
};

use super::fix::Point;
use crate::{
    config::{Bracketed, Delivery, FilePath, Interval, Qos, Secret, SecretFile, Topic, scalar_schema},
    service::Invalid,
};
pub(super) use geolocation::{Endpoint, NO_KEY, Requests};

/// Settings under `services.location`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Topic; by default that of the layout.
    pub(super) topic: Option<Topic>,
    /// Quality of service.
    pub(super) qos: Qos,
    /// What becomes of a location while the broker is out of reach.
    pub(super) delivery: Delivery,
    /// Time between two locations.
    pub(super) interval: Interval,
    /// What is asked for the place, in this order; by default all that is configured.
    pub(super) sources: Option<Vec<Asked>>,
    /// Serial port of the receiver, or a pty or FIFO.
    pub(super) gps_device_path: Option<FilePath>,
    /// Its bits a second, or auto to find out.
    pub(super) gps_baud_rate: BaudRate,
    /// Host and port of gpsd.
    pub(super) gpsd: Option<Server>,
    /// A place that never changes.
    pub(super) fixed: Option<Fixed>,
    /// Metres that the device has to move for a location to be sent before its time.
    pub(super) min_distance: Option<Positive>,
    /// The age of a fix from which on it is not sent any more.
    pub(super) max_age: Interval,
    /// Degrees that latitude and longitude are rounded to, for privacy.
    pub(super) round_to: Option<Positive>,
    /// Whether to ask a geolocation service.
    pub(super) use_google_geolocation: bool,
    /// Its key.
    pub(super) api_key: Option<Secret>,
    /// File with its key.
    pub(super) api_key_file: Option<SecretFile>,
    /// Where it is; by default Google's.
    pub(super) geolocation_url: Option<Endpoint>,
    /// Most requests to it in a day (UTC).
    pub(super) geolocation_daily_limit: Requests,
    /// Whether it may go by the address of the device.
    pub(super) consider_ip: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            topic: None,
            qos: Qos::AtLeastOnce,
            delivery: Delivery::Durable,
            interval: Interval::seconds(60),
            sources: None,
            gps_device_path: None,
            gps_baud_rate: BaudRate::Auto,
            gpsd: None,
            fixed: None,
            min_distance: None,
            max_age: Interval::seconds(120),
            round_to: None,
            use_google_geolocation: false,
            api_key: None,
            api_key_file: None,
            geolocation_url: None,
            // Google's first 10,000 requests of a month are free.
            geolocation_daily_limit: Requests(300),
            consider_ip: false,
        }
    }
}

impl Config {
    /// What is to be asked, in its order.
    ///
    /// # Errors
    /// A list that cannot work.
    pub(super) fn sources(&self) -> Result<Vec<Source>, Invalid> {
        let set = [
            (Source::Gps, self.gps_device_path.is_some(), "gps_device_path"),
            (Source::Gpsd, self.gpsd.is_some(), "gpsd"),
            (Source::Google, self.use_google_geolocation, "use_google_geolocation"),
            (Source::Fixed, self.fixed.is_some(), "fixed"),
        ];
        let Some(asked) = &self.sources else {
            return Ok(set.iter().filter(|(_, set, _)| *set).map(|(source, ..)| *source).collect());
        };
        let mut sources: Vec<Source> = Vec::new();
        for &Asked(source) in asked {
            if sources.contains(&source) {
                return Err(Invalid::key("sources", format!("{source} is there twice")));
            }
            // To list it is to want it; all else about it has defaults.
            if let Some((.., key)) =
                set.iter().find(|(name, set, _)| *name == source && !*set && source != Source::Google)
            {
                return Err(Invalid::key("sources", format!("{source} needs {key}")));
            }
            sources.push(source);
        }
        if sources.is_empty() {
            return Err(Invalid::key(
                "sources",
                "must not be empty; leave it out to use all that is configured",
            ));
        }
        Ok(sources)
    }
}

/// A name in `sources`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked(pub(super) Source);

const SOURCES: [Source; 4] = [Source::Gps, Source::Gpsd, Source::Google, Source::Fixed];

impl std::str::FromStr for Asked {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = SOURCES.into_iter().find(|source| source.as_str() == name);
        known.map(Self).ok_or_else(|| format!("expected gps, gpsd, google or fixed, found {name:?}"))
    }
}

impl<'de> Deserialize<'de> for Asked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Asked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_str())
    }
}

/// Bits a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BaudRate {
    /// Those at which something sensible is heard.
    Auto,
    /// These.
    Is(u32),
}

struct BaudRateVisitor;

impl Visitor<'_> for BaudRateVisitor {
    type Value = BaudRate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("auto or a number of bits a second")
    }

    fn visit_u64<E: de::Error>(self, rate: u64) -> Result<BaudRate, E> {
        match u32::try_from(rate) {
            Ok(rate @ 50..=4_000_000) => Ok(BaudRate::Is(rate)),
            _ => Err(E::custom(format!("expected 50 to 4000000 bits a second, found {rate}"))),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<BaudRate, E> {
        let wrong = || E::custom(format!("expected auto or a number of bits a second, found {text:?}"));
        if text == "auto" { Ok(BaudRate::Auto) } else { Err(wrong()) }
    }
}

impl<'de> Deserialize<'de> for BaudRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BaudRateVisitor)
    }
}

impl Serialize for BaudRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Is(rate) => serializer.serialize_u32(*rate),
        }
    }
}

/// Host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
}

/// The port that gpsd has of IANA.
const GPSD: u16 = 2947;

impl Server {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map(|(host, port)| (host, port.strip_prefix(':')))?,
            // More than one colon without brackets is an address of IPv6 alone.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(GPSD), |port| port.parse().ok().filter(|port| *port != 0))?;
        let sound =
            !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
        sound.then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        write!(f, "{}:{port}", Bracketed(host))
    }
}

impl<'de> Deserialize<'de> for Server {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            de::Error::custom(format!("expected host:port, such as 127.0.0.1:2947, found {text:?}"))
        })
    }
}

impl Serialize for Server {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A number over zero.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Positive(pub(super) f64);

impl<'de> Deserialize<'de> for Positive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        let sound = number > 0.0 && number.is_finite();
        if sound { Ok(Self(number)) } else { Err(de::Error::custom("must be over 0")) }
    }
}

/// Where a device is that never moves.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fixed {
    /// Degrees north.
    latitude: Degrees<90>,
    /// Degrees east.
    longitude: Degrees<180>,
}

impl Fixed {
    pub(super) fn point(&self) -> Point {
        Point { latitude: self.latitude.0, longitude: self.longitude.0 }
    }
}

/// Degrees in both directions, up to `MOST`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Degrees<const MOST: u8>(f64);

impl<'de, const MOST: u8> Deserialize<'de> for Degrees<MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (degrees, most) = (f64::deserialize(deserializer)?, f64::from(MOST));
        let sound = (-most..=most).contains(&degrees);
        if sound {
            Ok(Self(degrees))
        } else {
            Err(de::Error::custom(format!("must be from -{MOST} to {MOST}")))
        }
    }
}

scalar_schema!(Asked, { "enum": ["gps", "gpsd", "google", "fixed"] });
scalar_schema!(BaudRate, { "type": ["string", "integer"], "minimum": 50, "maximum": 4_000_000, "pattern": "^auto$" });
scalar_schema!(Server, { "type": "string", "minLength": 1 });
scalar_schema!(Positive, { "type": "number", "exclusiveMinimum": 0 });

impl<const MOST: u8> JsonSchema for Degrees<MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Degrees{MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": -i32::from(MOST), "maximum": MOST })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_they_are_written() {
        for (text, shown) in [
            ("127.0.0.1:2947", Some("127.0.0.1:2947")),
            ("gps.example", Some("gps.example:2947")),
            ("gps.example:3000", Some("gps.example:3000")),
            ("[::1]:3000", Some("[::1]:3000")),
            ("::1", Some("[::1]:2947")),
            ("", None),
            (":2947", None),
            ("host:", None),
            ("host:0", None),
            ("host:70000", None),
            ("[::1", None),
            ("gpsd://host:1", None),
            ("a b", None),
        ] {
            assert_eq!(Server::parse(text).map(|server| server.to_string()).as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn sources_are_what_is_configured_unless_listed() {
        let config = |yaml: serde_json::Value| serde_json::from_value::<Config>(yaml).unwrap();
        let names = |config: &Config| {
            let sources = config.sources().map_err(|error| error.to_string());
            sources.map(|sources| sources.iter().map(|source| source.as_str()).collect::<Vec<_>>().join(" "))
        };
        let everything = serde_json::json!({
            "gpsd": "::1", "use_google_geolocation": true,
            "fixed": {"latitude": 1, "longitude": -2.5},
        });
        let mut config = config(everything);
        config.gps_device_path = Some(std::path::PathBuf::from("/dev/ttyS0").into());
        assert_eq!(names(&config).unwrap(), "gps gpsd google fixed");
        config.gpsd = None;
        assert_eq!(names(&config).unwrap(), "gps google fixed");
        config.sources = Some(vec![Asked(Source::Fixed), Asked(Source::Gps)]);
        assert_eq!(names(&config).unwrap(), "fixed gps");
        config.sources = Some(vec![Asked(Source::Gpsd)]);
        assert_eq!(names(&config).unwrap_err(), "sources: gpsd needs gpsd");
        config.sources = Some(vec![Asked(Source::Gps), Asked(Source::Gps)]);
        assert_eq!(names(&config).unwrap_err(), "sources: gps is there twice");
        config.sources = Some(Vec::new());
        assert!(names(&config).unwrap_err().contains("must not be empty"));
        assert_eq!(names(&Config::default()).unwrap(), "");
    }
}
