use serde_json::json;
use testkit::web::{self, Web};

use super::*;
use crate::{
    clock,
    services::location::{
        networks::AccessPoint,
        source::{Seen, Teller},
    },
};

#[test]
fn a_key_is_a_parameter_whatever_is_in_it() {
    let key = |text: &str| Some(Secret::new(text.into()));
    assert_eq!(target("/v1/locate", key("AIza-_x9").as_ref()), "/v1/locate?key=AIza-_x9");
    assert_eq!(target("/v1?a=b", key("a&b\r\nc é").as_ref()), "/v1?a=b&key=a%26b%0D%0Ac%20%C3%A9");
    assert_eq!(target("/v1", None), "/v1", "no key, no parameter");
}

/// An asker at a server of the test, and what it tells.
struct World {
    web: Web,
    asker: Asker,
    tell: Teller,
    feed: watch::Receiver<Seen>,
}

impl World {
    async fn new(settings: serde_json::Value) -> Self {
        let web = Web::start().await.unwrap();
        let mut config: Config = serde_json::from_value(settings).unwrap();
        config.geolocation_url = Some(Endpoint(web.url().parse().unwrap()));
        let clock = Clock::new(clock::built(), None);
        let client = Client::new(web.url().parse().unwrap(), clock.clone()).unwrap();
        let tally = Tally::new(None, clock, config.geolocation_daily_limit.0);
        let (tell, feed) = Teller::new();
        let asker = Asker::new(config.clone(), config.geolocation_url.unwrap(), client, tally);
        Self { web, asker, tell, feed }
    }

    fn answers(&self, latitude: f64) {
        let body = json!({"location": {"lat": latitude, "lng": 8}, "accuracy": 30}).to_string();
        self.web.answers([web::Answer::json(200, &body)]);
    }

    /// The latitude that is told once these are heard, or the trouble; and how many requests there were in all.
    async fn hear(&mut self, points: std::ops::Range<u8>) -> (Result<f64, String>, usize) {
        let point = |last| AccessPoint {
            address: [0, 1, 2, 3, 4, last],
            ssid: b"net".to_vec(),
            signal: Some(-60),
            frequency: None,
            age: Duration::from_secs(20),
        };
        let heard = Heard { access_points: points.map(point).collect(), ..Heard::default() };
        self.asker.judge(&heard, &self.tell).await;
        let seen = self.feed.borrow().clone();
        let told = match (seen.trouble, seen.fix) {
            (None, Some(fix)) => Ok(fix.point.latitude),
            (trouble, _) => Err(trouble.map(|trouble| trouble.why).unwrap_or_default()),
        };
        (told, self.web.requests().len())
    }
}

#[tokio::test]
async fn surroundings_are_asked_for_once_each() {
    let mut world = World::new(json!({})).await;
    world.answers(1.0);
    world.answers(2.0);
    assert_eq!(world.hear(0..6).await, (Ok(1.0), 1));
    let age = world.feed.borrow().fix.as_ref().unwrap().at.elapsed().as_secs();
    assert!((20..30).contains(&age), "as old as the scan: {age}");
    assert_eq!(world.hear(1..7).await, (Ok(1.0), 1), "still the same place");
    assert_eq!(world.hear(10..16).await, (Ok(2.0), 2), "another");
    assert_eq!(world.hear(0..6).await, (Ok(1.0), 2), "and back");
    let none = "neither two access points nor a cell are heard".to_owned();
    assert_eq!(world.hear(0..1).await, (Err(none), 2));
}

#[tokio::test]
async fn what_is_not_known_is_not_asked_for_again() {
    let mut world = World::new(json!({"consider_ip": true})).await;
    let body = json!({"error": {"errors": [{"reason": "notFound"}], "code": 404}}).to_string();
    world.web.answers([web::Answer::json(404, &body)]);
    let unknown = "127.0.0.1 knows none of the networks around".to_owned();
    assert_eq!(world.hear(0..6).await, (Err(unknown.clone()), 1));
    assert_eq!(world.hear(0..6).await, (Err(unknown), 1));
    world.answers(3.0);
    assert_eq!(world.hear(0..0).await, (Ok(3.0), 2), "by the address");
    world.answers(4.0);
    assert_eq!(world.hear(20..26).await, (Ok(4.0), 3));
    assert_eq!(world.hear(0..0).await, (Ok(4.0), 3), "a scan that fails moves nobody to town");
}

#[tokio::test]
async fn who_is_told_of_seldom_is_asked_for_seldom() {
    let mut world = World::new(json!({"interval": "10m"})).await;
    world.answers(1.0);
    assert_eq!(world.hear(0..6).await, (Ok(1.0), 1));
    let (told, requests) = world.hear(10..16).await;
    assert!(told.unwrap_err().contains("when a location is due"));
    assert_eq!(requests, 1);
    let mut world = World::new(json!({"interval": "10m", "min_distance": 100})).await;
    world.answers(1.0);
    world.answers(2.0);
    assert_eq!(world.hear(0..6).await, (Ok(1.0), 1));
    assert_eq!(world.hear(10..16).await, (Ok(2.0), 2));
}
