//! A fix: a place, how sure it is, and when it was made.

use std::f64::consts::PI;

use protocol::location::{Place, Source};
use tokio::time::Instant;

/// Mean radius of the earth in metres (IUGG's R1).
const EARTH: f64 = 6_371_008.8;
/// Degrees to so many places are 11 mm; more of them is noise.
const DEGREES: f64 = 1e7;
/// Everything else to so many.
const OTHERS: f64 = 1e2;

/// A point on WGS 84, in degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    pub(crate) latitude: f64,
    pub(crate) longitude: f64,
}

impl Point {
    /// A point that there is.
    pub(super) fn new(latitude: f64, longitude: f64) -> Option<Self> {
        // A range holds no NaN.
        let there = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        there.then_some(Self { latitude, longitude })
    }

    /// Metres to another on a sphere, by the haversine formula (R. W. Sinnott, "Virtues of the Haversine", Sky and
    /// Telescope 68 (1984), p. 159); on the ellipsoid it is up to 0.6 % more or less.
    pub(super) fn distance(self, other: Self) -> f64 {
        let haversine = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
        let (from, to) = (self.latitude.to_radians(), other.latitude.to_radians());
        let h = haversine(other.latitude - self.latitude)
            + from.cos() * to.cos() * haversine(other.longitude - self.longitude);
        // Rounding can lead past 1 between antipodes.
        2.0 * EARTH * h.min(1.0).sqrt().asin()
    }

    /// The nearest point of a grid of so many degrees, and how far off it may be at most, in metres.
    fn rounded(self, step: f64) -> (Self, f64) {
        let to_grid = |degrees: f64, most: f64| ((degrees / step).round() * step).clamp(-most, most);
        let there =
            Self { latitude: to_grid(self.latitude, 90.0), longitude: to_grid(self.longitude, 180.0) };
        let (half, width) = (step / 2.0 * PI / 180.0 * EARTH, there.latitude.to_radians().cos());
        (there, half.hypot(half * width))
    }
}

/// A place, as a source has found it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fix {
    /// When, by a clock that nobody sets.
    pub(crate) at: Instant,
    pub(crate) point: Point,
    /// Metres at 68 %.
    pub(crate) accuracy: f64,
    pub(crate) altitude: Option<f64>,
    pub(crate) speed: Option<f64>,
    pub(crate) heading: Option<f64>,
    pub(crate) satellites: Option<u32>,
    pub(crate) hdop: Option<f64>,
}

impl Fix {
    /// A point and how sure it is; nothing else is known.
    pub(super) fn new(at: Instant, point: Point, accuracy: f64) -> Self {
        Self { at, point, accuracy, altitude: None, speed: None, heading: None, satellites: None, hdop: None }
    }

    /// As it is sent at `now`; on a grid of `round_to` degrees, where that is asked for.
    pub(super) fn place(&self, source: Source, now: Instant, round_to: Option<f64>) -> Place {
        let (point, off) = round_to.map_or((self.point, 0.0), |step| self.point.rounded(step));
        let round = |value: f64, places: f64| (value * places).round() / places;
        let other = |value: Option<f64>| value.map(|value| round(value, OTHERS));
        // What is behind the grid must not be told by what else is in the message.
        let exact = |value: Option<f64>| other(value.filter(|_| round_to.is_none()));
        Place {
            latitude: round(point.latitude, DEGREES),
            longitude: round(point.longitude, DEGREES),
            accuracy: round(self.accuracy.hypot(off), OTHERS),
            altitude: exact(self.altitude),
            speed: other(self.speed),
            heading: other(self.heading).map(|heading| if heading < 360.0 { heading } else { 0.0 }),
            source,
            fix_age_s: now.saturating_duration_since(self.at).as_secs(),
            satellites: self.satellites,
            hdop: other(self.hdop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn point(latitude: f64, longitude: f64) -> Point {
        Point::new(latitude, longitude).unwrap()
    }

    /// Great circles by hand: a degree of the equator or of a meridian, a quarter and half of the earth.
    #[test]
    fn distances_are_those_of_the_sphere() {
        let degree = EARTH * PI / 180.0;
        for (from, to, metres) in [
            ((0.0, 0.0), (0.0, 0.0), 0.0),
            ((0.0, 0.0), (0.0, 1.0), degree),
            ((47.0, 8.0), (48.0, 8.0), degree),
            ((0.0, 179.5), (0.0, -179.5), degree),
            ((89.5, 0.0), (89.5, 180.0), degree),
            ((0.0, 0.0), (90.0, 77.0), 90.0 * degree),
            ((12.0, -30.0), (-12.0, 150.0), 180.0 * degree),
        ] {
            let found = point(from.0, from.1).distance(point(to.0, to.1));
            assert!((found - metres).abs() < 1e-2, "{from:?} {to:?}: {found}, not {metres}");
        }
    }

    #[test]
    fn what_is_no_point_is_none() {
        for (latitude, longitude) in [(90.1, 0.0), (0.0, -180.1), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert_eq!(Point::new(latitude, longitude), None);
        }
    }

    #[test]
    fn rounding_hides_the_place_and_says_so() {
        let at = Instant::now();
        let fix = Fix {
            altitude: Some(408.123),
            heading: Some(359.999),
            ..Fix::new(at, point(47.376_912_345_67, -8.541_74), 3.0)
        };
        let exact = fix.place(Source::Gps, at + Duration::from_millis(1999), None);
        assert_eq!((exact.latitude, exact.longitude), (47.376_912_3, -8.541_74));
        assert_eq!((exact.accuracy, exact.altitude, exact.fix_age_s), (3.0, Some(408.12), 1));
        assert_eq!(exact.heading, Some(0.0));
        let coarse = fix.place(Source::Gps, at, Some(0.01));
        assert_eq!((coarse.latitude, coarse.longitude, coarse.altitude), (47.38, -8.54, None));
        // Half a cell: 556 m to the north, 376 m to the east.
        assert!((coarse.accuracy - 671.2).abs() < 2.0, "{coarse:?}");
        assert_eq!(Fix::new(at, point(89.9, 179.9), 1.0).place(Source::Gps, at, Some(7.0)).latitude, 90.0);
    }
}
