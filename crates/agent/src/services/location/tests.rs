use protocol::location::{Location, Source};
use serde_json::json;

use super::*;
use crate::{config::Interval, harness::Harness, mqtt::Message};

fn config(settings: serde_json::Value) -> Config {
    serde_json::from_value(settings).unwrap()
}

fn decoded(message: &Message) -> Location {
    serde_json::from_slice(&message.payload).unwrap()
}

fn detail(world: &Harness) -> String {
    world.shared.board.all()["location"].detail.clone().unwrap_or_default()
}

const FIXED: (&str, f64, f64) = ("fixed", 47.376_912, 8.5417);

fn fixed() -> serde_json::Value {
    json!({"latitude": FIXED.1, "longitude": FIXED.2})
}

#[tokio::test(start_paused = true)]
async fn a_fixed_place_is_told_at_its_interval_once_enrolled() {
    let world = Harness::new();
    let service = world.start::<Locations>(config(json!({"fixed": fixed(), "interval": "10s"})));
    assert!(world.after(Duration::from_secs(60)).await.is_empty(), "not enrolled");
    world.enrol("d1");
    let sent: Vec<Location> = world.after(Duration::from_secs(25)).await.iter().map(decoded).collect();
    assert_eq!(sent.iter().map(|sent| sent.seq).collect::<Vec<_>>(), [1, 2, 3], "at once, then every 10 s");
    assert_eq!((sent[2].place.latitude, sent[2].place.longitude), (FIXED.1, FIXED.2));
    assert_eq!((sent[2].place.source, sent[2].place.fix_age_s), (Source::Fixed, 0));
    assert_eq!(detail(&world), "the place is from fixed");
    world.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn rounding_keeps_the_place_to_itself() {
    let world = Harness::new();
    world.enrol("d1");
    let service = world.start::<Locations>(config(json!({"fixed": fixed(), "round_to": 0.01})));
    let sent = world.after(Duration::from_secs(1)).await;
    let place = decoded(&sent[0]).place;
    assert_eq!((place.latitude, place.longitude), (47.38, 8.54));
    assert!(place.accuracy > 500.0 && place.accuracy < 800.0, "{place:?}");
    assert_eq!(sent[0].topic, "iot/d1/location");
    world.stop(service).await;
}

/// Whatever it is that asks for it: never silently, and nothing is sent.
#[tokio::test(start_paused = true)]
async fn a_key_that_is_missing_is_said_to_be() {
    let why = settings::NO_KEY;
    for (settings, expected, messages) in [
        (json!({"use_google_geolocation": true, "consider_ip": true}), format!("google: {why}"), 0),
        (json!({"sources": ["google"], "consider_ip": true}), format!("google: {why}"), 0),
        (
            json!({"use_google_geolocation": true, "consider_ip": true, "fixed": fixed()}),
            format!("the place is from fixed, since google: {why}"),
            1,
        ),
    ] {
        let world = Harness::new();
        world.enrol("d1");
        let service = world.start::<Locations>(config(settings));
        assert_eq!(world.after(Duration::from_secs(30)).await.len(), messages);
        assert_eq!(detail(&world), expected);
        assert_eq!(world.shared.board.all()["location"].state, protocol::status::ServiceState::Degraded);
        world.stop(service).await;
    }
}

/// It may cost money.
#[tokio::test(start_paused = true)]
async fn what_comes_after_a_fix_is_not_asked() {
    let world = Harness::new();
    world.enrol("d1");
    let settings = json!({"sources": ["fixed", "google"], "consider_ip": true, "fixed": fixed()});
    let service = world.start::<Locations>(config(settings));
    assert_eq!(world.after(Duration::from_secs(70)).await.len(), 2);
    assert_eq!(detail(&world), "the place is from fixed");
    world.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_to_know_the_place_by_is_told() {
    let world = Harness::new();
    world.enrol("d1");
    let service = world.start::<Locations>(Config { interval: Interval::seconds(5), ..Config::default() });
    assert!(world.after(Duration::from_secs(600)).await.is_empty());
    assert!(
        detail(&world).contains("gps_device_path, gpsd, use_google_geolocation or fixed"),
        "{}",
        detail(&world)
    );
    world.stop(service).await;
}

/// A service whose one source is played by the test.
fn played(world: &Harness, config: Config) -> (Teller, impl Future<Output = ()> + use<>) {
    let (tell, feed) = Teller::new();
    let ctx = Context {
        name: "location",
        shared: std::sync::Arc::clone(&world.shared),
        mqtt: world.mqtt.clone(),
        shutdown: Default::default(),
    };
    let service = Locations::new(config, ctx).unwrap();
    let run = async move {
        let (change, changed) = mpsc::channel(1);
        let mut watched = feed.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while watched.changed().await.is_ok() {
                change.try_send(()).ok();
            }
        });
        let feeds = vec![(Source::Gps, feed)];
        let sources =
            Sources { began: Instant::now(), feeds, changed, needed: Default::default(), _tasks: tasks };
        service.watch_these(sources).await.unwrap();
    };
    (tell, run)
}

fn at(latitude: f64) -> Fix {
    Fix::new(Instant::now(), Point { latitude, longitude: 8.0 }, 3.0)
}

#[tokio::test(start_paused = true)]
async fn a_lost_fix_is_told_with_its_age_and_then_no_more() {
    let world = Harness::new();
    world.enrol("d1");
    let settings = json!({"interval": "10s", "max_age": "25s"});
    let (tell, service) = played(&world, config(settings));
    let service = tokio::spawn(service);
    assert!(world.after(Duration::from_secs(15)).await.is_empty(), "none yet");
    assert_eq!(detail(&world), "gps: has told nothing yet");
    tell.fix(at(47.0));
    tell.none("the receiver has no fix");
    let ages = |sent: &[Message]| sent.iter().map(|sent| decoded(sent).place.fix_age_s).collect::<Vec<_>>();
    assert_eq!(ages(&world.after(Duration::from_secs(60)).await), [0, 10, 20]);
    assert_eq!(detail(&world), "gps: the receiver has no fix");
    // Back: at once, not at the next beat.
    tell.fix(at(47.0));
    assert_eq!(ages(&world.after(Duration::from_secs(1)).await), [0]);
    assert_eq!(detail(&world), "the place is from gps");
    service.abort();
}

#[tokio::test(start_paused = true)]
async fn who_moves_is_told_of_sooner() {
    let world = Harness::new();
    world.enrol("d1");
    let (tell, service) = played(&world, config(json!({"interval": "1h", "min_distance": 100})));
    let service = tokio::spawn(service);
    // 0.001 degrees are 111 m.
    let mut sent = Vec::new();
    for latitude in [47.0, 47.0008, 47.001, 47.0018, 47.002, 47.002] {
        tell.fix(at(latitude));
        sent.extend(world.after(Duration::from_secs(2)).await);
    }
    let places: Vec<f64> = sent.iter().map(|sent| decoded(sent).place.latitude).collect();
    assert_eq!(places, [47.0, 47.001, 47.002]);
    // However fast: once a second.
    for step in 0..20 {
        tell.fix(at(48.0 + f64::from(step)));
        sent.extend(world.after(Duration::from_millis(100)).await);
    }
    assert!(sent.len() <= 6, "{}", sent.len());
    service.abort();
}
