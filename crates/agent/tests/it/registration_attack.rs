//! Enrolment under attack: forged, foreign, malformed, stale and replayed replies to a real agent, over a real broker.

use std::time::Duration;

use serde_json::Value;
use testkit::{Mosquitto, Rng, client::publish_lines, publish, seed};

use crate::support::backend::{
    Backend, enrolled, home, id, ignored, kept_id, nonce, patient, reply_topic, shown, signed,
};
use crate::support::{SOON, wait_status};

/// Forged, foreign, malformed and stale replies, some fifty of each kind, then the right one, then hundreds of
/// authentic ones that come too late: exactly the right id, for ever.
#[tokio::test]
async fn only_the_right_reply_counts_under_mqtt_5() {
    only_the_right_reply_counts("version: 5").await;
}

#[tokio::test]
async fn only_the_right_reply_counts_under_mqtt_3() {
    only_the_right_reply_counts("version: 3.1.1").await;
}

async fn only_the_right_reply_counts(version: &str) {
    const BAD: usize = 1_200;
    let mut rng = Rng::new(seed());
    let broker = Mosquitto::builder().line("max_queued_messages 10000").start().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = patient(home(&broker), "{device_secret_file: psk, response_timeout: 5m}").mqtt(version);
    let mut agent = home.start();
    let request = backend.request().await;

    let lines: Vec<String> = (0..BAD).map(|_| crate::forgeries::line(&mut rng, &request)).collect();
    let topic = reply_topic(&request.client_id);
    publish_lines(&broker, &topic, &lines, 1).await.unwrap();
    let binary = crate::forgeries::binary(&request);
    for payload in &binary {
        publish(&broker, &topic, payload, 1, false).await.unwrap();
    }
    let sent = (lines.len() + binary.len()) as u64;
    let status = wait_status(&home, |status| ignored(status) >= sent).await;
    assert_eq!(ignored(&status), sent);
    assert_eq!(status["identity"]["device_id"], Value::Null);
    assert!(!home.path().join("state/device.json").exists());

    let right = String::from_utf8(signed(&request, id("right"))).unwrap();
    let other = String::from_utf8(signed(&request, id("another"))).unwrap();
    let mut lines = vec![right.clone()];
    lines.extend((0..200).map(|_| rng.pick(&[&right, &other]).to_string()));
    publish_lines(&broker, &topic, &lines, 1).await.unwrap();
    enrolled(&home, &backend, "right").await;
    // The one that was not acknowledged when the connection was made anew for the will may come twice.
    wait_status(&home, |status| ignored(status) >= sent + 200).await;
    assert_eq!(kept_id(&home), "right");

    agent.terminate().unwrap();
    assert!(agent.wait_exit(SOON).await.unwrap().success());
    let agent = home.start();
    backend.watcher.messages().skip_to_end();
    backend.watcher.next_on("iot/right/heartbeat", SOON).await.unwrap();
    assert_eq!(backend.requests(), 1, "with an id nothing is asked");
    assert_eq!(shown(&backend), ["right".to_owned()].into());
    drop(agent);
}

/// Each answer comes when a newer request is out already; then in every order.
#[tokio::test]
async fn an_answer_to_an_earlier_request_is_too_late() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = patient(home(&broker), "{device_secret_file: psk, response_timeout: 300ms}");
    let _agent = home.start();
    let mut old = backend.request().await;
    let mut seen = vec![nonce(&old)];
    for n in 0..8 {
        let new = backend.request().await;
        assert!(!seen.contains(&nonce(&new)), "a nonce was used twice");
        seen.push(nonce(&new));
        backend.answer(&old, id(&format!("late-{n}"))).await;
        old = new;
    }
    wait_status(&home, |status| ignored(status) == 8).await;
    loop {
        let new = backend.request().await;
        // On a busy machine the next request may be out by now: then this round is one more late answer.
        let topic = reply_topic(&new.client_id);
        let lines: Vec<String> = [(&old, "before"), (&new, "right"), (&old, "after")]
            .map(|(request, name)| String::from_utf8(signed(request, id(name))).unwrap())
            .into();
        publish_lines(&broker, &topic, &lines, 1).await.unwrap();
        old = new;
        let told = |message: &testkit::client::Message| message.topic == "iot/right/status";
        if backend.watcher.messages().find(told, Duration::from_secs(1)).await.is_ok() {
            break;
        }
    }
    enrolled(&home, &backend, "right").await;
    assert_eq!(shown(&backend), ["right".to_owned()].into());
}

/// Retained replies of an earlier life prove nothing.
#[tokio::test]
async fn a_retained_reply_is_a_replay() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = patient(home(&broker), "{device_secret_file: psk, response_timeout: 300ms}");
    let mut agent = home.start();
    let first = backend.request().await;
    agent.kill().await.unwrap();
    let topic = reply_topic(&first.client_id);
    publish(&broker, &topic, signed(&first, id("replayed")), 1, true).await.unwrap();
    let _agent = home.start();
    wait_status(&home, |status| ignored(status) >= 1).await;
    backend.watcher.messages().skip_to_end();
    let request = backend.request().await;
    assert_eq!(request.client_id, first.client_id);
    backend.answer(&request, id("right")).await;
    // A busy machine: the answer may have been late.
    while backend.watcher.next_on("iot/right/status", Duration::from_secs(1)).await.is_err() {
        backend.watcher.messages().skip_to_end();
        backend.answer(&backend.request().await, id("right")).await;
    }
    enrolled(&home, &backend, "right").await;
}

/// Who shows warnings alone still learns which service warns.
#[tokio::test]
async fn a_quiet_log_names_the_service() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home =
        patient(home(&broker), "{device_secret_file: psk, response_timeout: 5m}").yaml("log: {level: warn}");
    let agent = home.start();
    let request = backend.request().await;
    backend.send(&request.client_id, "{}").await;
    let line = agent.wait_line("registration reply ignored", SOON).await.unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["level"], &line["service"]), (&"warn".into(), &"registration".into()), "{line}");
}
