//! A geolocation service: a place by the networks that are heard.

mod surroundings;
