//! Where the device is, by a geolocation service: a server of the test that answers as Google documents it, and worse.
//!
//! No networks are heard here: the place goes by the address of the device. What is said of networks is tested beside
//! the code.

use std::{fs, process::Command};

use protocol::location::{Location, Source};
use serde_json::{Value, json};
use testkit::{
    Mosquitto, Process, Watcher,
    certs::Pki,
    client::Message,
    web::{Answer, Web},
};

use crate::support::{
    Home, SOON,
    command::{Ended, end},
    wait_status,
};

/// What is in no log, answer or state.
const KEY: &str = "AIza-hunter2";
const PLACE: &str = r#"{"location": {"lat": 47.3769, "lng": 8.5417}, "accuracy": 2500.5}"#;

/// An error as Google documents it.
fn error(code: u16, domain: &str, reason: &str) -> Answer {
    let error = json!({"error": {
        "errors": [{"domain": domain, "reason": reason, "message": format!("The key {KEY} is the matter.")}],
        "code": code,
        "message": format!("The key {KEY} is the matter."),
    }});
    Answer::json(code, &error.to_string())
}

/// An enrolled agent that asks `web`.
struct Story {
    _broker: Mosquitto,
    watcher: Watcher,
    web: Web,
    home: Home,
}

fn configured(home: Home, web: &Web, more: &str) -> Home {
    home.file("key", &format!("{KEY}\n"), 0o600);
    home.yaml(&format!(
        "log: {{level: debug}}\nservices:\n  registration: {{enabled: false}}\n  \
         location: {{enabled: true, use_google_geolocation: true, api_key_file: key, consider_ip: true, \
         geolocation_url: '{}v1/geolocate', interval: 200ms, {more}}}",
        web.url()
    ))
}

impl Story {
    async fn begin(web: Web, more: &str) -> Self {
        let broker = Mosquitto::builder().start().await.unwrap();
        let watcher = Watcher::start(&broker, "iot/d1/location").await.unwrap();
        let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.addr().port())).device("d1");
        let home = configured(home, &web, more);
        Self { _broker: broker, watcher, web, home }
    }

    /// The next location of this source.
    async fn find(&self, source: Source) -> Location {
        let wanted = |message: &Message| decoded(message).place.source == source;
        decoded(&self.watcher.messages().next(wanted, SOON).await.unwrap())
    }

    async fn service(&self, state: &str, detail: &str) {
        wait_status(&self.home, |status| {
            let service = &status["services"]["location"];
            service["state"] == state && service["detail"].as_str().is_some_and(|said| said.contains(detail))
        })
        .await;
    }

    /// Ends the agent; the key is in nothing it has said or kept.
    async fn end(&self, mut agent: Process, state: &str) {
        let status = self.home.status().map_or(String::new(), |status| status.to_string());
        crate::support::stop(&mut agent, state).await;
        assert!(agent.stderr.all().len() > 1, "there is a log");
        let said = format!("{:?}{status}", agent.stderr.all());
        assert!(!said.contains(KEY) && !said.contains("hunter2"), "{state}: {said}");
        for file in [".", "location"].iter().flat_map(|dir| self.files(dir)) {
            let content = fs::read(&file).unwrap();
            assert!(!content.windows(7).any(|part| part == b"hunter2"), "{}", file.display());
        }
    }

    fn files(&self, folder: &str) -> Vec<std::path::PathBuf> {
        let Ok(entries) = fs::read_dir(self.home.path().join("state").join(folder)) else {
            return Vec::new();
        };
        entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect()
    }
}

fn decoded(message: &Message) -> Location {
    serde_json::from_slice(&message.payload).unwrap_or_else(|error| panic!("{error}: {}", message.text()))
}

fn trusting(mut command: Command, pki: &Pki) -> Command {
    command.env("SSL_CERT_FILE", pki.ca_file()).env_remove("SSL_CERT_DIR");
    command
}

#[tokio::test]
async fn the_place_is_asked_for_once_and_told_as_long_as_nothing_changes() {
    let pki = Pki::new().unwrap();
    let story = Story::begin(Web::start_tls(&pki).await.unwrap(), "").await;
    story.web.answers([Answer::json(200, PLACE)]);
    let agent = Process::run(trusting(story.home.command(&["run"]), &pki).into()).unwrap();
    let first = story.find(Source::Google).await;
    let place = &first.place;
    assert_eq!((place.latitude, place.longitude, place.accuracy), (47.3769, 8.5417, 2500.5));
    story.service("running", "the place is from google").await;
    // Three times listening, at one a second.
    for _ in 0..15 {
        let next = story.find(Source::Google).await;
        assert!(next.place.fix_age_s <= 5, "confirmed by what is heard: {next:?}");
    }
    let requests = story.web.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!(request.method, "POST");
    assert_eq!(request.target, format!("/v1/geolocate?key={KEY}"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), json!({"considerIp": true}));
    let count = fs::read(story.home.path().join("state/location/geolocation.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&count).unwrap()["requests"], 1);
    story.end(agent, "with a place").await;
}

#[tokio::test]
async fn what_passes_is_tried_again_with_patience() {
    let story = Story::begin(Web::start().await.unwrap(), "").await;
    story.web.answers([
        Answer::json(500, "{}"),
        Answer::with(429, "Retry-After: 1\r\n", "{}"),
        Answer::json(200, PLACE),
    ]);
    let agent = story.home.start();
    agent.find_line("127.0.0.1 cannot answer now (500)", SOON).await.unwrap();
    assert_eq!(story.find(Source::Google).await.place.accuracy, 2500.5);
    assert_eq!(story.web.requests().len(), 3);
    story.end(agent, "tried again").await;
}

/// Until somebody does something about it: not even a second request while others come.
#[tokio::test]
async fn what_stays_is_said_and_not_tried_again() {
    for (answer, said) in [
        (error(400, "usageLimits", "keyInvalid"), "does not know the key: look at api_key_file"),
        (error(400, "global", "parseError"), "does not understand the request"),
        (error(403, "usageLimits", "dailyLimitExceeded"), "has answered as often today as the key may ask"),
        (error(404, "geolocation", "notFound"), "knows none of the networks around"),
        (
            Answer::with(302, "Location: https://elsewhere.example/?key=hunter2\r\n", ""),
            "sends us elsewhere: set geolocation_url to where the service is now",
        ),
    ] {
        let story = Story::begin(Web::start().await.unwrap(), "fixed: {latitude: 1, longitude: 2}").await;
        story.web.answers([answer]);
        let agent = story.home.start();
        story.service("degraded", &format!("the place is from fixed, since google: 127.0.0.1 {said}")).await;
        story.watcher.messages().skip_to_end();
        for _ in 0..11 {
            story.find(Source::Fixed).await;
        }
        assert_eq!(story.web.requests().len(), 1, "{said}");
        story.end(agent, said).await;
    }
}

#[tokio::test]
async fn a_limit_holds_through_restarts() {
    let story = Story::begin(Web::start().await.unwrap(), "geolocation_daily_limit: 1").await;
    story.web.answers([Answer::json(200, PLACE), Answer::json(200, PLACE)]);
    let agent = story.home.start();
    story.find(Source::Google).await;
    story.end(agent, "the first").await;
    let agent = story.home.start();
    story.service("degraded", "google: asked 1 times today").await;
    assert_eq!(story.web.requests().len(), 1);
    story.end(agent, "the second").await;
}

async fn once(home: &Home, arguments: &[&str]) -> Ended {
    let mut command = home.command(&[&["location", "once", "--source", "google"], arguments].concat());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let ended = end(tokio::process::Command::from(command).spawn().unwrap()).await;
    assert!(!format!("{ended:?}").contains("hunter2"), "{ended:?}");
    ended
}

/// `location once` beside no daemon, and answers that are none: each has an end and its reason.
#[tokio::test]
async fn once_says_the_place_or_why_there_is_none() {
    let web = Web::start().await.unwrap();
    let home = configured(Home::new("mqtt://127.0.0.1:1"), &web, "");
    web.answers([Answer::json(200, PLACE)]);
    once(&home, &[]).await.assert(
        0,
        "source      google\nlatitude    47.3769 degrees\nlongitude   8.5417 degrees\naccuracy    2500.5 m\n\
         fix_age_s   0 s\n",
    );
    web.answers([error(403, "usageLimits", "forbidden")]);
    let refused = once(&home, &[]).await;
    refused.assert(1, "");
    refused.assert_said("no fix: google: 127.0.0.1 does not accept the key");
    let huge = format!("{{\"x\": \"{}\"", "y".repeat(20 << 10));
    for (answer, said) in [
        (Answer::json(200, "<html>Log in"), "answers, but not with a place"),
        (Answer::json(200, r#"{"location": {"lat": "x", "lng": 1}, "accuracy": 1}"#), "but not with a place"),
        (Answer::json(200, &huge), "is longer than 16384 bytes"),
        (Answer::raw("HTTP/1.1 200 OK\r\n\r\n{").then_for_ever(), "is longer than 16384 bytes"),
        (Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}"), "no whole answer of HTTP"),
        (Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}").then_silent(), "no fix within 1 s"),
        (Answer::raw("HTTP/1.1 200 OK\r\n").then_reset(), "no whole answer of HTTP"),
        (Answer::raw("220 mail.example ESMTP\r\n"), "no whole answer of HTTP"),
    ] {
        web.answers([answer]);
        let asked = web.requests().len();
        let ended = once(&home, &["--timeout", "1"]).await;
        ended.assert(1, "");
        ended.assert_said(said);
        assert_eq!(web.requests().len(), asked + 1, "{said}");
    }
}

/// A minute between two locations is no reason to wait a minute.
#[tokio::test]
async fn what_passes_is_tried_again_before_the_next_location_is_due() {
    let web = Web::start().await.unwrap();
    let home = Home::new("mqtt://127.0.0.1:1").yaml(&format!(
        "services:\n  registration: {{enabled: false}}\n  \
         location: {{interval: 1h, consider_ip: true, geolocation_url: '{}'}}",
        web.url()
    ));
    web.answers([
        Answer::with(429, "Retry-After: 1\r\n", "{}"),
        Answer::json(503, "{}"),
        Answer::json(200, PLACE),
    ]);
    let ended = once(&home, &["--timeout", "15"]).await;
    assert_eq!(ended.code, 0, "{ended:#?}");
    ended.assert_said("127.0.0.1 is asked too often (429)");
    assert_eq!(web.requests().len(), 3);
}

#[tokio::test]
async fn who_cannot_prove_its_name_is_told_nothing() {
    let pki = Pki::new().unwrap();
    let web = Web::start_tls(&pki).await.unwrap();
    let home = configured(Home::new("mqtt://127.0.0.1:1"), &web, "");
    let other = Pki::new().unwrap();
    let mut command =
        trusting(home.command(&["location", "once", "--source", "google", "--timeout", "1"]), &other);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let ended = end(tokio::process::Command::from(command).spawn().unwrap()).await;
    ended.assert(1, "");
    ended.assert_said("localhost cannot be reached: TLS with localhost failed: ");
    assert!(web.requests().is_empty());
}

/// It learns where to, and no more.
#[tokio::test]
async fn the_proxy_of_the_environment_is_asked_for_a_way() {
    let proxy = Web::start().await.unwrap();
    proxy.answers([Answer::with(403, "", "")]);
    let home = Home::new("mqtt://127.0.0.1:1").yaml(
        "services:\n  registration: {enabled: false}\n  location: {consider_ip: true, api_key_file: key}",
    );
    home.file("key", KEY, 0o600);
    let mut command = home.command(&["location", "once", "--source", "google", "--timeout", "1"]);
    command.env("https_proxy", proxy.url()).env_remove("no_proxy").env_remove("NO_PROXY");
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let ended = end(tokio::process::Command::from(command).spawn().unwrap()).await;
    ended.assert(1, "");
    ended.assert_said("www.googleapis.com cannot be reached: the proxy ");
    ended.assert_said(" refused: 403 Said");
    let requests = proxy.requests();
    assert_eq!(
        (requests[0].method.as_str(), requests[0].target.as_str()),
        ("CONNECT", "www.googleapis.com:443")
    );
    assert!(!format!("{requests:?}{ended:?}").contains("hunter2"), "{requests:?}");
}

#[tokio::test]
async fn a_check_asks_for_the_key() {
    let home = Home::new("mqtts://broker.example").yaml(
        "services:\n  registration: {enabled: false}\n  location: {enabled: true, use_google_geolocation: true}",
    );
    let output = home.command(&["config", "check"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("services.location.api_key_file: Google's service needs a key"), "{said}");
}
