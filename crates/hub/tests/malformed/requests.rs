//! Registration requests.

use std::time::Duration;

use iot_agent::clock::{self, Clock};
use protocol::{
    Timestamp,
    proof::{Psk, sign_request},
    registration::METHOD,
};
use serde_json::{Value, json};
use testkit::{Process, Watcher, process::libfaketime, publish};
use tokio::process::Command;

use crate::support::{HUB, PATIENCE, Place, ask, id, nonce, psk, signed};

const UNSIGNED: &str = "the request has no proof";
const PROOF: &str = "the proof of the request is malformed";
const METHODS: &str = "the proof's method is unknown; known is psk-hmac-sha256";
const MAC: &str = "the mac is wrong: the device has another secret, or the request was altered";
const PLAIN: &str = "the device_secret is not the hub's";

fn now() -> Timestamp {
    Timestamp::from_system_time(Clock::new(clock::built(), None).now())
}

/// A request that is right but for what `alter` does to it before it is signed, and to its proof.
fn request(psk: &Psk, client: &str, n: u32, alter: impl FnOnce(&mut Value, &mut Value)) -> Value {
    let mut body = json!({"client_id": client, "agent_version": "0.1.0"});
    let (nonce, time) = (nonce(n), now().to_string());
    let mut proof = json!({"method": METHOD, "nonce": nonce.as_str(), "timestamp": time});
    alter(&mut body, &mut proof);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (asker, nonce, time) = (text(&body["client_id"]), text(&proof["nonce"]), text(&proof["timestamp"]));
    if proof.get("mac").is_none() {
        proof["mac"] = sign_request(psk, &asker, &nonce, &time, &body).into();
    }
    body["proof"] = proof;
    body
}

/// Sent by one who proved nothing: the request, and why it is refused.
fn unproven(client: &str) -> Vec<(Value, &'static str)> {
    let proof = |alter: fn(&mut Value)| request(&psk(), client, 1, |_, proof| alter(proof));
    let without = |key: &'static str| {
        let mut request = request(&psk(), client, 1, |_, _| {});
        request["proof"].as_object_mut().unwrap().remove(key);
        request
    };
    let whole = |proof: Value| json!({"client_id": client, "agent_version": "0.1.0", "proof": proof});
    let mut added = request(&psk(), client, 1, |_, _| {});
    added["device_id"] = "another".into();
    let another = Psk::from_file_bytes(b"the secret of another fleet").unwrap();
    vec![
        (json!({"client_id": client}), UNSIGNED),
        (whole(Value::Null), UNSIGNED),
        (json!({"client_id": client, "device_secret": 7}), UNSIGNED),
        (json!({"client_id": client, "device_secret": "a guess"}), PLAIN),
        (json!({"client_id": client, "device_secret": ""}), PLAIN),
        (whole(json!(7)), PROOF),
        (whole(json!("mac")), PROOF),
        (whole(json!([])), PROOF),
        (whole(json!({})), PROOF),
        (without("method"), PROOF),
        (without("nonce"), PROOF),
        (without("timestamp"), PROOF),
        (without("mac"), PROOF),
        (proof(|proof| proof["nonce"] = json!("0".repeat(31))), PROOF),
        (proof(|proof| proof["nonce"] = json!("g".repeat(32))), PROOF),
        (proof(|proof| proof["nonce"] = json!(7)), PROOF),
        (proof(|proof| proof["timestamp"] = json!("yesterday")), PROOF),
        (proof(|proof| proof["timestamp"] = json!(1_795_305_600)), PROOF),
        (proof(|proof| proof["mac"] = json!(7)), PROOF),
        (proof(|proof| proof["method"] = json!(null)), PROOF),
        (proof(|proof| proof["method"] = json!("none")), METHODS),
        (proof(|proof| proof["method"] = json!("")), METHODS),
        (proof(|proof| proof["mac"] = json!("")), MAC),
        (proof(|proof| proof["mac"] = json!("0".repeat(64))), MAC),
        (proof(|proof| proof["mac"] = json!("no digits")), MAC),
        (added, MAC),
        (request(&another, client, 1, |_, _| {}), MAC),
    ]
}

/// Signed as it should be: what is done to it, and how it is refused.
type Alter = fn(&mut Value, &mut Value);
const SIGNED: &[(Alter, &str, &str)] = &[
    (
        |_, proof| proof["timestamp"] = json!("2020-01-01T00:00:00.000Z"),
        "clock",
        "more than five minutes off",
    ),
    (
        |_, proof| proof["timestamp"] = json!("2037-01-01T00:00:00.000Z"),
        "clock",
        "more than five minutes off",
    ),
    (|body, _| body["client_id"] = json!("another"), "client_id_mismatch", "on another client's topic"),
    (
        |body, _| drop(body.as_object_mut().unwrap().remove("agent_version")),
        "invalid_request",
        "missing or wrong",
    ),
    (|body, _| body["agent_version"] = json!(7), "invalid_request", "missing or wrong"),
    (|body, _| body["agent_version"] = json!(null), "invalid_request", "missing or wrong"),
    (|body, _| body["device_id"] = json!(7), "invalid_request", "missing or wrong"),
    (|body, _| body["device_id"] = json!("a/b"), "invalid_request", "missing or wrong"),
    (|body, _| body["device_id"] = json!("registration"), "invalid_request", "missing or wrong"),
    (|body, _| body["device_name"] = json!([]), "invalid_request", "missing or wrong"),
    (|body, _| body["org_id"] = json!(true), "invalid_request", "missing or wrong"),
    (|body, _| body["metadata"] = json!("none"), "invalid_request", "missing or wrong"),
    (|body, _| body["device_id"] = json!("taken"), "device_id_taken", "belongs to another client"),
];

/// Those with a sender: how many there are.
pub(crate) async fn answered() -> usize {
    let place = Place::new();
    let hub = place.hub().await;
    let replies = Watcher::start(hub.broker, "iot/registration/#").await.unwrap();
    let reply = async |client: &str| {
        let reply = replies.next_on(&format!("iot/registration/{client}/reply"), PATIENCE).await.unwrap();
        reply.json().unwrap()
    };
    let count = unproven("").len();
    for row in 0..count {
        // A name each: the same stranger is not told twice in a while.
        let client = format!("stranger-{row}");
        let (request, reason) = &unproven(&client)[row];
        publish(hub.broker, &format!("iot/registration/{client}"), request.to_string(), 1, false)
            .await
            .unwrap();
        let said = reply(&client).await;
        assert_eq!(
            (&said["error"], &said["mac"]),
            (&"unauthorized".into(), &Value::Null),
            "{request}: {said}"
        );
        let logged = hub.process.wait_line(&format!("\"{client}\""), PATIENCE).await.unwrap();
        assert!(logged.contains(reason), "{request}: {logged}");
    }

    let taken = request(&psk(), "owner", 7, |body, _| body["device_id"] = json!("taken"));
    assert_eq!(id(&ask(hub.broker, "owner", taken.to_string().as_bytes(), 7).await), "taken");
    for (row, (alter, error, message)) in SIGNED.iter().enumerate() {
        let (client, n) = (format!("c{row}"), 100 + u32::try_from(row).unwrap());
        let request = request(&psk(), &client, n, alter);
        publish(hub.broker, &format!("iot/registration/{client}"), request.to_string(), 1, false)
            .await
            .unwrap();
        let said = reply(&client).await;
        assert_eq!(said["error"], *error, "{request}: {said}");
        assert!(said["message"].as_str().unwrap().contains(message), "{request}: {said}");
        assert_eq!(
            (said["nonce"].as_str(), said["mac"].is_string()),
            (Some(nonce(n).as_str()), true),
            "{said}"
        );
        assert_eq!(said["server_time"].is_string(), *error == "clock", "{said}");
    }
    let payload = signed("c1", 500);
    let first = ask(hub.broker, "c1", &payload, 500).await;
    let again = ask(hub.broker, "c1", &payload, 500).await;
    assert_eq!(again.error.as_deref(), Some("replay"));
    assert_eq!(id(&ask(hub.broker, "c1", &signed("c1", 501), 501).await), id(&first));
    hub.stop().await;
    count + SIGNED.len() + 1
}

/// Those without: how many there are. The hub complains once in ten seconds, so its clock runs fast.
pub(crate) async fn unreadable() -> usize {
    let nobody = |client: Value| request(&psk(), "", 1, |body, _| body["client_id"] = client).to_string();
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "cannot be read: the request is not JSON"),
        (b"hello".to_vec(), "cannot be read: the request is not JSON"),
        (b"{\"client_id\":\"c1\"".to_vec(), "cannot be read: the request is not JSON"),
        (b"{\"client_id\":\"c\xff\"}".to_vec(), "cannot be read: the request is not JSON"),
        (b"[".repeat(5_000), "cannot be read: the request is not JSON"),
        (b"[]".to_vec(), "cannot be read: the request is not a JSON object"),
        (b"null".to_vec(), "cannot be read: the request is not a JSON object"),
        (b"\"c1\"".to_vec(), "cannot be read: the request is not a JSON object"),
        (b"{}".to_vec(), "cannot be read: the request has no proof"),
        (b"{\"client_id\":7,\"device_secret\":\"x\"}".to_vec(), "cannot be read: the request has no proof"),
        (
            b"{\"client_id\":\"a/b\",\"device_secret\":\"x\"}".to_vec(),
            "cannot be read: the request has no proof",
        ),
        (nobody(json!("a/b")).into(), "a signed registration request has no usable client_id"),
        (nobody(json!("")).into(), "a signed registration request has no usable client_id"),
        (nobody(json!(7)).into(), "a signed registration request has no usable client_id"),
        (nobody(json!("x".repeat(129))).into(), "a signed registration request has no usable client_id"),
        (b"x".repeat(65 * 1024), "a registration request is too large"),
    ];
    let place = Place::new();
    let mut command = Command::new(HUB);
    command.args(place.arguments("serve", &["--listen", "127.0.0.1:0"]));
    command
        .env("LD_PRELOAD", libfaketime())
        .env("FAKETIME", "+0 x200")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut hub = Process::run(command).unwrap();
    let line = hub.find_line("the embedded broker listens", PATIENCE).await.unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    let broker: std::net::SocketAddr = line["fields"]["address"].as_str().unwrap().parse().unwrap();
    hub.find_line("\"connected\"", PATIENCE).await.unwrap();
    let replies = Watcher::start(broker, "iot/registration/+/reply").await.unwrap();
    for (payload, reason) in &rows {
        let mut tries = 0;
        loop {
            publish(broker, "iot/registration/c1", payload, 1, false).await.unwrap();
            // Not just any complaint: that of an earlier try may come late.
            match hub.wait_line(reason, Duration::from_millis(100)).await {
                Ok(_) => break,
                Err(error) if tries == 50 => panic!("{:?}: {error:#}", payload.escape_ascii().to_string()),
                Err(_) => tries += 1,
            }
        }
    }
    assert_eq!(replies.all().len(), 0, "nobody is answered who cannot be named");
    hub.terminate().unwrap();
    assert!(hub.wait_exit(PATIENCE).await.unwrap().success());
    rows.len()
}
