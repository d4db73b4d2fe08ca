use protocol::{
    proof::Psk,
    registration::{Nonce, Request, open_request},
    topic::Layout,
};

use super::*;
use crate::{harness::Harness, mqtt::Mqtt};

const SECRET: &[u8] = b"sixteen bytes and more";
const REPLY: &str = "iot/registration/c1/reply";

fn psk() -> Psk {
    Psk::from_file_bytes(SECRET).unwrap()
}

fn config() -> Config {
    Config { device_secret: Some(Secret::new(SECRET.to_vec())), ..Config::default() }
}

/// The one request that has been published, and the means to answer it.
async fn request(world: &Harness) -> (Request, Nonce) {
    let mut messages = world.after(Duration::from_millis(1)).await;
    assert_eq!(messages.len(), 1, "{messages:?}");
    let message = messages.remove(0);
    assert_eq!(message.topic, "iot/registration/c1");
    let request = open_request(&psk(), &message.payload).unwrap();
    let nonce = request.proof.as_ref().unwrap().nonce.clone();
    (request, nonce)
}

fn answer(world: &Harness, psk: &Psk, nonce: &Nonce, reply: Reply) {
    let client_id = "c1".parse().unwrap();
    assert!(world.mqtt.deliver(REPLY, &reply.signed(psk, &client_id, nonce.clone())));
}

fn id(id: &str) -> Reply {
    Reply { device_id: Some(id.parse().unwrap()), ..Reply::default() }
}

fn error(error: &str) -> Reply {
    Reply { error: Some(error.to_owned()), ..Reply::default() }
}

async fn enrolled(world: &Harness) -> String {
    tokio::time::timeout(Duration::from_secs(1), world.shared.identity.device_id()).await.unwrap().to_string()
}

#[tokio::test(start_paused = true)]
async fn only_the_authentic_answer_to_the_latest_request_counts() {
    let world = Harness::new();
    let service = world.start::<Registration>(config());
    assert!(world.after(Duration::from_secs(60)).await.is_empty(), "asks only when connected");
    world.mqtt.set_connected(true);
    let (_, old) = request(&world).await;
    tokio::time::sleep(Duration::from_secs(33)).await;
    let (_, new) = request(&world).await;
    answer(&world, &psk(), &old, id("late"));
    answer(&world, &Psk::from_file_bytes(b"another secret of the fleet").unwrap(), &new, id("forged"));
    assert!(world.mqtt.deliver(REPLY, br#"{"device_id": "unsigned"}"#));
    assert!(world.mqtt.deliver(REPLY, b"\xff{"));
    answer(&world, &psk(), &new, id("right"));
    assert_eq!(enrolled(&world).await, "right");
    answer(&world, &psk(), &new, id("second"));
    assert!(world.after(Duration::from_secs(600)).await.is_empty(), "asks no more");
    assert_eq!(enrolled(&world).await, "right");
    world.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn the_backends_clock_is_used_once() {
    let world = Harness::new();
    world.mqtt.set_connected(true);
    let service = world.start::<Registration>(config());
    let server_time: Timestamp = "2031-01-02T03:04:05.000Z".parse().unwrap();
    let clock = Reply { server_time: Some(server_time), ..error("clock") };
    let (_, nonce) = request(&world).await;
    answer(&world, &psk(), &nonce, clock.clone());
    let (corrected, nonce) = request(&world).await;
    assert_eq!(corrected.proof.unwrap().timestamp, server_time);
    answer(&world, &psk(), &nonce, clock);
    assert!(world.after(Duration::from_millis(500)).await.is_empty(), "now it backs off");
    let line = world.shared.board.all()["registration"].clone();
    assert_eq!(line.detail.as_deref(), Some(CLOCK));
    world.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_shown_and_asked_again_later() {
    let world = Harness::new();
    world.mqtt.set_connected(true);
    let service = world.start::<Registration>(config());
    let (_, nonce) = request(&world).await;
    answer(
        &world,
        &psk(),
        &nonce,
        Reply { message: Some("ask the owner".into()), ..error("unknown_device") },
    );
    tokio::time::sleep(Duration::from_secs(3)).await;
    let line = world.shared.board.all()["registration"].clone();
    assert_eq!(line.detail.as_deref(), Some("refused by the backend: unknown_device: ask the owner"));
    let (_, nonce) = request(&world).await;
    answer(&world, &psk(), &nonce, id("d1"));
    assert_eq!(enrolled(&world).await, "d1");
    assert_eq!(world.shared.board.all()["registration"].detail, None);
    world.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn plain_sends_two_strings_once_per_timeout_and_takes_the_first_id() {
    let world = Harness::with_layout(Layout::IotCloud);
    world.mqtt.set_connected(true);
    let service = world.start::<Registration>(Config { proof: Proof::Plain, ..config() });
    let asked = world.after(Duration::from_secs(95)).await;
    assert_eq!(asked.len(), 4, "at 0, 30, 60 and 90 s");
    for message in asked {
        assert_eq!(message.topic, "iot-registration");
        let request: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!(
            request,
            serde_json::json!({"client_id": "c1", "device_secret": "sixteen bytes and more"})
        );
    }
    for reply in [r#"{"error": "no"}"#, r#"{"device_id": "d1"}"#, r#"{"device_id": "d2"}"#] {
        assert!(world.mqtt.deliver("iot-registration/response/c1", reply.as_bytes()));
    }
    assert_eq!(
        tokio::time::timeout(Duration::from_secs(400), world.shared.identity.device_id())
            .await
            .unwrap()
            .as_str(),
        "d1"
    );
    world.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_secret_it_says_what_is_missing() {
    let world = Harness::new();
    world.mqtt.set_connected(true);
    let service = world.start::<Registration>(Config::default());
    assert!(world.after(Duration::from_millis(10)).await.is_empty());
    let detail = world.shared.board.all()["registration"].detail.clone().unwrap();
    assert!(detail.contains("services.registration.device_secret_file"), "{detail}");
    world.stop(service).await;
}

/// A backend slower than our patience still gets through, as long as no newer request is out.
#[tokio::test(start_paused = true)]
async fn a_late_answer_to_the_latest_request_counts() {
    let world = Harness::new();
    world.mqtt.set_connected(true);
    let service = world.start::<Registration>(config());
    let (_, nonce) = request(&world).await;
    // The shortest pause is a second.
    tokio::time::sleep(Duration::from_millis(30_500)).await;
    let line = world.shared.board.all()["registration"].clone();
    assert_eq!(line.detail.as_deref(), Some(SILENCE));
    answer(&world, &psk(), &nonce, id("slow"));
    assert_eq!(enrolled(&world).await, "slow");
    assert!(world.after(Duration::from_secs(600)).await.is_empty(), "asks no more");
    world.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_lost_with_its_connection_is_made_again_with_the_next() {
    let world = Harness::new();
    world.mqtt.set_connected(true);
    let service = world.start::<Registration>(config());
    tokio::time::sleep(Duration::from_millis(1)).await;
    let lost = world.mqtt.lose_published();
    assert_eq!(lost.len(), 1);
    assert!(world.after(Duration::from_millis(1)).await.is_empty(), "there is no connection");
    world.mqtt.set_connected(true);
    let (_, nonce) = request(&world).await;
    answer(&world, &psk(), &nonce, id("d1"));
    assert_eq!(enrolled(&world).await, "d1");
    world.stop(service).await;
}

#[tokio::test(start_paused = true)]
async fn anybody_can_say_no_to_a_plain_request() {
    let world = Harness::with_layout(Layout::IotCloud);
    world.mqtt.set_connected(true);
    let service = world.start::<Registration>(Config { proof: Proof::Plain, ..config() });
    for reply in [r#"{"error": "no"}"#, r#"{"error": "clock", "server_time": "2031-01-02T03:04:05Z"}"#] {
        assert!(world.mqtt.deliver("iot-registration/response/c1", reply.as_bytes()));
    }
    assert_eq!(world.after(Duration::from_secs(29)).await.len(), 1, "once per timeout all the same");
    assert_eq!(world.after(Duration::from_secs(2)).await.len(), 1);
    let line = world.shared.board.all()["registration"].clone();
    assert_eq!(line.detail.as_deref(), Some("refused by the backend: clock"));
    world.stop(service).await;
}

/// An outbox smaller than the request: no loop that asks as fast as it can.
#[tokio::test(start_paused = true)]
async fn a_request_that_finds_no_room_is_made_again_only_after_a_pause() {
    let mut world = Harness::new();
    world.mqtt = Mqtt::disconnected(10);
    world.mqtt.set_connected(true);
    let service = world.start::<Registration>(config());
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.mqtt.counters().dropped, 1);
    let detail = world.shared.board.all()["registration"].detail.clone();
    assert!(detail.as_ref().is_some_and(|why| why.contains("outbox.max_size")), "{detail:?}");
    world.stop(service).await;
}
