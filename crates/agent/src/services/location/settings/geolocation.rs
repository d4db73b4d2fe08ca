//! Those of a geolocation service.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Config;
use crate::{config::scalar_schema, http::Url, service::Invalid};

impl Config {
    /// What a geolocation service needs, and is only told of while it is asked.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn check_geolocation(&self) -> Result<(), Invalid> {
        let needed = self.geolocation_url.as_ref().is_none_or(Endpoint::needs_key);
        if needed && self.api_key.is_none() && self.api_key_file.is_none() {
            return Err(Invalid::key("api_key_file", NO_KEY));
        }
        Ok(())
    }
}

/// Where a geolocation service is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint(pub(crate) Url);

/// What to do without a key.
pub(crate) const NO_KEY: &str = "Google's service needs a key; set api_key_file, or another geolocation_url";
/// Where Google's is.
const GOOGLE: &str = "https://www.googleapis.com/geolocation/v1/geolocate";

impl Endpoint {
    /// Google's, which answers nobody without a key.
    pub(crate) fn google() -> Self {
        Self(GOOGLE.parse().expect("a URL"))
    }

    /// Whether it is one that needs a key.
    fn needs_key(&self) -> bool {
        self.0.host() == "www.googleapis.com"
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let url: Url = Cow::<str>::deserialize(deserializer)?.parse().map_err(de::Error::custom)?;
        if url.has_parameter("key") {
            return Err(de::Error::custom("must not contain a key; use api_key_file"));
        }
        Ok(Self(url))
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A number of requests, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Requests(pub(crate) u32);

impl<'de> Deserialize<'de> for Requests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            0 => {
                Err(de::Error::custom("must be over 0; with use_google_geolocation: false nothing is asked"))
            }
            requests => Ok(Self(requests)),
        }
    }
}

scalar_schema!(Endpoint, { "type": "string", "pattern": "^https?://" });
scalar_schema!(Requests, { "type": "integer", "minimum": 1 });
