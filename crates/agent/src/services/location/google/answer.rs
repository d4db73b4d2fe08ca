//! What a geolocation service answers:
//! <https://developers.google.com/maps/documentation/geolocation/requests-geolocation-errors>.

use std::time::Duration;

use serde::Deserialize;

use super::super::fix::Point;

/// Longer than once around the earth is no accuracy.
const EARTH: f64 = 40_100_000.0;
/// How long a service may make us wait.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// Of the service's own words, how many letters reach a log.
const REASON: usize = 40;

/// What follows from an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// The place, and how far off it may be, in metres.
    Place(Point, f64),
    /// The service knows nothing of these surroundings.
    Unknown,
    /// It may have another one later; after this time, where it says so.
    Again { why: String, after: Option<Duration> },
    /// It will not have another one before somebody has changed something.
    Refused(String),
}

#[derive(Deserialize)]
struct Success {
    location: At,
    accuracy: f64,
}

#[derive(Deserialize)]
struct At {
    lat: f64,
    lng: f64,
}

#[derive(Deserialize)]
struct Failure {
    error: Problem,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    errors: Vec<Reason>,
    /// Google's newer form.
    #[serde(default)]
    details: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    reason: String,
}

impl Answer {
    /// Reads an answer of `host`; `after` is what it says of the next try.
    pub(super) fn read(host: &str, status: u16, after: Option<Duration>, body: &[u8]) -> Self {
        let reasons = reasons(body);
        let is = |reason: &str| reasons.iter().any(|known| known.eq_ignore_ascii_case(reason));
        let told = reasons.first().map_or(String::new(), |reason| format!(", {reason}"));
        let refused = |why: &str| Self::Refused(format!("{host} {why} ({status}{told})"));
        let again = |why: &str| Self::Again { why: format!("{host} {why} ({status}{told})"), after };
        match status {
            200 => place(body).unwrap_or_else(|| again("answers, but not with a place")),
            404 if is("notFound") => Self::Unknown,
            404 => refused("has no geolocation service there: look at geolocation_url"),
            300..=399 => refused("sends us elsewhere: set geolocation_url to where the service is now"),
            400 if is("keyInvalid") || is("API_KEY_INVALID") => refused(
                "does not know the key: look at api_key_file, and whether the Geolocation API is enabled for the key",
            ),
            400 => {
                refused("does not understand the request: is geolocation_url that of a geolocation service?")
            }
            403 if is("dailyLimitExceeded") => {
                refused("has answered as often today as the key may ask: raise the limit at the service")
            }
            429 => again("is asked too often"),
            403 if is("userRateLimitExceeded") || is("rateLimitExceeded") => again("is asked too often"),
            401 | 403 => refused(
                "does not accept the key: look at api_key_file, at the key's restrictions, and at its billing",
            ),
            500.. | 408 => again("cannot answer now"),
            _ => refused("does not answer as a geolocation service does: look at geolocation_url"),
        }
    }
}

fn place(body: &[u8]) -> Option<Answer> {
    let Success { location, accuracy } = serde_json::from_slice(body).ok()?;
    let point = Point::new(location.lat, location.lng)?;
    (accuracy > 0.0 && accuracy <= EARTH).then_some(Answer::Place(point, accuracy))
}

/// Names, and no more of what a stranger may say.
fn reasons(body: &[u8]) -> Vec<String> {
    let Ok(Failure { error }) = serde_json::from_slice(body) else { return Vec::new() };
    let names = error.errors.into_iter().chain(error.details).map(|reason| {
        let letters = reason.reason.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_');
        letters.take(REASON).collect::<String>()
    });
    names.filter(|name| !name.is_empty()).collect()
}

/// What `Retry-After` says in seconds, within bounds. A date in it is passed over: our clock may be wrong.
pub(super) fn wait(retry_after: Option<&str>) -> Option<Duration> {
    let seconds = retry_after?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).clamp(Duration::from_secs(1), LONGEST_WAIT))
}

/// What must hold for any answer.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check(status: u16, body: &[u8]) {
    match Answer::read("geo.example", status, None, body) {
        Answer::Place(point, accuracy) => {
            assert!(status == 200 && accuracy > 0.0 && accuracy.is_finite(), "{accuracy}");
            assert_eq!(Point::new(point.latitude, point.longitude), Some(point));
        }
        Answer::Unknown => assert_eq!(status, 404),
        Answer::Again { why, .. } | Answer::Refused(why) => assert!(why.len() < 300, "{why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: &str) -> String {
        format!(
            r#"{{"error": {{"errors": [{{"domain": "usageLimits", "reason": "{reason}", "message": "hunter2"}}],
                "code": 400, "message": "hunter2"}}}}"#
        )
    }

    #[test]
    fn documented_answers_are_understood() {
        let zurich = r#"{"location": {"lat": 47.3769, "lng": 8.5417}, "accuracy": 25.5}"#;
        let place = Answer::Place(Point { latitude: 47.3769, longitude: 8.5417 }, 25.5);
        assert_eq!(Answer::read("g", 200, None, zurich.as_bytes()), place);
        assert_eq!(Answer::read("g", 404, None, failure("notFound").as_bytes()), Answer::Unknown);
        let newer = r#"{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT",
            "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]}}"#;
        for (status, body, expected) in [
            (400, failure("keyInvalid"), "g does not know the key: look at api_key_file"),
            (400, newer.to_owned(), "g does not know the key: look at api_key_file"),
            (400, failure("parseError"), "g does not understand the request"),
            (403, failure("dailyLimitExceeded"), "raise the limit at the service (403, dailyLimitExceeded)"),
            (403, failure("accessNotConfigured"), "g does not accept the key"),
            (404, "<html>".to_owned(), "look at geolocation_url (404)"),
            (301, String::new(), "set geolocation_url to where the service is now (301)"),
            (418, String::new(), "look at geolocation_url (418)"),
        ] {
            let Answer::Refused(why) = Answer::read("g", status, None, body.as_bytes()) else {
                panic!("{status}")
            };
            assert!(why.contains(expected) && !why.contains("hunter2"), "{why}");
        }
        for (status, body) in [
            (403, failure("userRateLimitExceeded")),
            (429, String::new()),
            (500, failure("backendError")),
            (503, String::new()),
            (200, "<html>Please log in to the hotel's network".to_owned()),
            (200, r#"{"location": {"lat": 91, "lng": 8}, "accuracy": 25}"#.to_owned()),
            (200, r#"{"location": {"lat": 47, "lng": 8}, "accuracy": 0}"#.to_owned()),
            (200, r#"{"location": {"lat": 47, "lng": 8}, "accuracy": 1e300}"#.to_owned()),
            (200, r#"{"location": {"lat": 47, "lng": 8}}"#.to_owned()),
            (200, String::new()),
        ] {
            let after = Some(Duration::from_secs(7));
            let answer = Answer::read("g", status, after, body.as_bytes());
            assert!(
                matches!(&answer, Answer::Again { after: told, .. } if *told == after),
                "{body}: {answer:?}"
            );
        }
    }

    #[test]
    fn waits_are_bounded() {
        for (header, seconds) in [
            (Some("7"), Some(7)),
            (Some(" 0 "), Some(1)),
            (Some("99999999999"), Some(24 * 3600)),
            (Some("-1"), None),
            (Some("Wed, 21 Oct 2026 07:28:00 GMT"), None),
            (None, None),
        ] {
            assert_eq!(wait(header).map(|wait| wait.as_secs()), seconds, "{header:?}");
        }
    }
}
