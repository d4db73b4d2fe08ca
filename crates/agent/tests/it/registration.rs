//! Enrolment of a real agent by a backend that the test plays, over a real broker: with wrong clocks, without a secret,
//! a disk or an answer.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use iot_agent::clock;
use protocol::{Timestamp, registration::Reply};
use serde_json::{Value, json};
use testkit::{Mosquitto, Process, process::libfaketime};

use crate::support::backend::{
    Backend, detail, enrolled, error, home, id, nonce, patient, shown, timestamp, wrong_clock,
};
use crate::support::{Home, SOON, wait_status};

/// Refusals are shown with their words, asked again, and end when the backend is willing.
#[tokio::test]
async fn a_refusal_is_shown_and_does_not_last() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = patient(home(&broker), "{device_secret_file: psk, response_timeout: 5m}");
    let _agent = home.start();
    for (code, message) in [
        ("unauthorized", "no device of ours"),
        ("device_id_taken", "ask the owner"),
        ("clock", "a clock error without a clock"),
    ] {
        let request = backend.request().await;
        backend.answer(&request, error(code, message)).await;
        let why = format!("refused by the backend: {code}: {message}");
        let status = wait_status(&home, |status| detail(status) == why).await;
        assert_eq!(status["services"]["registration"]["state"], "degraded");
        assert_eq!(status["services"]["heartbeat"]["state"], "running");
    }
    let human = home.command(&["status"]).output().unwrap();
    let human = String::from_utf8(human.stdout).unwrap();
    assert!(human.contains("refused by the backend: clock"), "{human}");
    assert!(human.contains("not enrolled yet"), "{human}");
    // A hub restarted between request and reply gets the request once more: no refusal, only a new nonce.
    backend.answer(&backend.request().await, error("replay", "seen before the restart")).await;
    wait_status(&home, |status| detail(status) == "no answer from the backend").await;
    // An error beside an id is an error.
    let both = Reply { device_id: Some("no".parse().unwrap()), ..error("unauthorized", "still not") };
    backend.answer(&backend.request().await, both).await;
    backend.answer(&backend.request().await, id("d1")).await;
    enrolled(&home, &backend, "d1").await;
    assert_eq!(shown(&backend), ["d1".to_owned()].into());
}

/// No backend, then no broker, then both: it asks for ever, each time with a new nonce, and gets its id.
#[tokio::test]
async fn silence_is_outlasted() {
    let mut broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = patient(home(&broker), "{device_secret_file: psk, response_timeout: 100ms}");
    let agent = home.start();
    let mut nonces = BTreeSet::new();
    for _ in 0..8 {
        assert!(nonces.insert(nonce(&backend.request().await).as_str().to_owned()));
    }
    let status = wait_status(&home, |status| detail(status) == "no answer from the backend").await;
    assert_eq!(status["services"]["registration"]["state"], "degraded");
    let before = backend.watcher.subscriptions();
    broker.kill().await.unwrap();
    wait_status(&home, |status| status["connection"]["state"] != "connected").await;
    broker.start_without_session().await.unwrap();
    backend.watcher.wait_resubscribed(before, SOON).await.unwrap();
    backend.watcher.messages().skip_to_end();
    loop {
        let request = backend.request().await;
        assert!(nonces.insert(nonce(&request).as_str().to_owned()));
        backend.answer(&request, id("d1")).await;
        if backend.watcher.next_on("iot/d1/status", Duration::from_millis(500)).await.is_ok() {
            break;
        }
        // Too late for a hundred milliseconds: once more.
        backend.watcher.messages().skip_to_end();
    }
    enrolled(&home, &backend, "d1").await;
    drop(agent);
}

/// What the broker does not let us say is told as such, not as a silent backend.
#[tokio::test]
async fn a_broker_that_refuses_the_request_is_named() {
    let acl = "topic read iot/registration/+/reply\n";
    let broker = Mosquitto::builder().acl(acl).start().await.unwrap();
    let home = patient(home(&broker), "{device_secret_file: psk, response_timeout: 5m}");
    let _agent = home.start();
    let status = wait_status(&home, |status| !detail(status).is_empty()).await;
    assert!(detail(&status).starts_with("the broker refused the request: not authorised"), "{status}");
}

/// Subscribed before it asks, as the broker saw it; then born before its first heartbeat, which is not lost.
#[tokio::test]
async fn everything_comes_in_its_order() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker)
        .yaml("services:\n  registration: {device_secret_file: psk}\n  heartbeat: {interval: 10m}");
    let _agent = home.start();
    let request = backend.request().await;
    let client_id = &request.client_id;
    let log = broker.log();
    let at = |what: &str| log.find(&format!("{what} {client_id}")).unwrap_or_else(|| panic!("{what}: {log}"));
    assert!(at("Sending SUBACK to") < at("Received PUBLISH from"), "{log}");
    backend.answer(&request, id("d1")).await;
    let about = |message: &testkit::client::Message| message.topic.starts_with("iot/d1/");
    let birth = backend.watcher.next(about, SOON).await.unwrap();
    assert_eq!(
        (birth.topic.as_str(), birth.json().unwrap()["state"].as_str()),
        ("iot/d1/status", Some("online"))
    );
    let beat = backend.watcher.next(about, SOON).await.unwrap();
    assert_eq!((beat.topic.as_str(), beat.json().unwrap()["seq"].as_u64()), ("iot/d1/heartbeat", Some(1)));
}

/// A clock at 1970, past 2038, ten years ahead: the backend says what time it is, and the device enrols.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_wrong_clock_does_not_keep_a_device_out() {
    let server_time: Timestamp = "2031-02-03T04:05:06.789Z".parse().unwrap();
    for (n, clock) in ["@1970-01-02 00:00:00", "@2038-06-01 00:00:00", "+10y"].into_iter().enumerate() {
        let broker = Mosquitto::plain().await.unwrap();
        let backend = Backend::start(&broker).await;
        let home = patient(home(&broker), "{device_secret_file: psk, response_timeout: 5m}");
        let _agent = start_at(&home, clock);
        let request = backend.request().await;
        let (told, built) = (timestamp(&request), Timestamp::from_system_time(clock::built()));
        match clock {
            "@1970-01-02 00:00:00" => assert_eq!(told, built, "the floor"),
            "+10y" => assert!(told.as_millis() > built.as_millis() + 9 * 365 * 86_400_000, "{told:?}"),
            _ => assert!(told > "2038-05-31T00:00:00.000Z".parse().unwrap(), "{told:?}"),
        }
        backend.answer(&request, wrong_clock(server_time)).await;
        let again = backend.request().await;
        assert_eq!(timestamp(&again), server_time);
        assert_ne!(nonce(&again), nonce(&request));
        // A repeated clock error to the first request is nothing new.
        backend.answer(&request, wrong_clock(server_time)).await;
        let device_id = format!("d{n}");
        backend.answer(&again, id(&device_id)).await;
        enrolled(&home, &backend, &device_id).await;
        assert_eq!(backend.requests(), 2);
        backend.watcher.next_on(&format!("iot/{device_id}/heartbeat"), SOON).await.unwrap();
    }
}

/// A backend that does not believe its own time either is told to the user, and asked again with patience.
#[tokio::test]
async fn a_backend_without_a_sound_clock_is_told() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = patient(home(&broker), "{device_secret_file: psk, response_timeout: 5m}");
    let _agent = home.start();
    let server_time: Timestamp = "1999-12-31T23:59:59.999Z".parse().unwrap();
    for _ in 0..3 {
        let own = backend.request().await;
        assert!(timestamp(&own) >= Timestamp::from_system_time(clock::built()));
        backend.answer(&own, wrong_clock(server_time)).await;
        let corrected = backend.request().await;
        assert_eq!(timestamp(&corrected), server_time);
        backend.answer(&corrected, wrong_clock(server_time)).await;
        let status = wait_status(&home, |status| detail(status).contains("clock")).await;
        assert_eq!(detail(&status), "the backend's clock and ours do not agree");
        assert_eq!(status["services"]["heartbeat"]["state"], "running");
    }
    backend.answer(&backend.request().await, id("d1")).await;
    enrolled(&home, &backend, "d1").await;
}

/// A secret that is missing, too short or exposed keeps the rest running; mended, the device enrols.
#[tokio::test]
async fn a_secret_may_come_later() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = patient(home(&broker), "{device_secret_file: later, response_timeout: 5m}");
    let agent = home.start();
    let status = wait_status(&home, |status| detail(status).contains("cannot read the secret file")).await;
    assert_eq!(status["services"]["registration"]["state"], "degraded");
    assert_eq!(status["services"]["heartbeat"]["state"], "running");
    home.file("later", "too short", 0o600);
    wait_status(&home, |status| detail(status).contains("9 bytes; at least 16")).await;
    home.file("later", " \n", 0o600);
    wait_status(&home, |status| detail(status).contains("is empty")).await;
    home.file("later", crate::support::SECRET, 0o644);
    // Not by `status`: with such a file the whole configuration is refused.
    agent.find_line("chmod 600", SOON).await.unwrap();
    assert_eq!(backend.requests(), 0);
    home.file("later", &format!("{}\r\n", crate::support::SECRET), 0o600);
    backend.answer(&backend.request().await, id("d1")).await;
    enrolled(&home, &backend, "d1").await;
}

/// A configuration without a secret, mended and reloaded.
#[tokio::test]
async fn a_reload_brings_the_secret() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = patient(home(&broker), "{}");
    let agent = home.start();
    wait_status(&home, |status| !detail(status).is_empty()).await;
    let mended = fs::read_to_string(home.path().join("config.yaml")).unwrap();
    home.file("config.yaml", &mended.replace("{}", "{device_secret_file: psk}"), 0o600);
    agent.signal(testkit::process::Signal::HUP).unwrap();
    backend.answer(&backend.request().await, id("d1")).await;
    enrolled(&home, &backend, "d1").await;
}

#[tokio::test]
async fn a_secret_that_is_missing_from_the_configuration_is_named_and_an_exposed_one_refused() {
    let broker = Mosquitto::plain().await.unwrap();
    let without = patient(home(&broker), "{}");
    let _agent = without.start();
    let status = wait_status(&without, |status| !detail(status).is_empty()).await;
    assert!(detail(&status).contains("services.registration.device_secret_file"), "{status}");

    let exposed = home(&broker);
    exposed.file("psk", crate::support::SECRET, 0o644);
    let mut agent = exposed.start();
    assert_eq!(agent.wait_exit(SOON).await.unwrap().code(), Some(78));
    agent.find_line("chmod 600", SOON).await.unwrap();

    let short = patient(home(&broker), "{device_secret: '123456789012345'}");
    let mut agent = short.start();
    assert_eq!(agent.wait_exit(SOON).await.unwrap().code(), Some(78));
    agent.find_line("services.registration.device_secret: the secret has 15 bytes", SOON).await.unwrap();
}

/// A damaged device.json is set aside, and the backend gives this client its id again.
#[tokio::test]
async fn a_damaged_device_file_costs_one_request() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker);
    let mut agent = home.start();
    let first = backend.request().await;
    backend.answer(&first, id("d1")).await;
    enrolled(&home, &backend, "d1").await;
    agent.kill().await.unwrap();
    let whole = fs::read(home.path().join("state/device.json")).unwrap();
    fs::write(home.path().join("state/device.json"), &whole[..whole.len() / 2]).unwrap();

    let _agent = home.start();
    let second = backend.request().await;
    assert_eq!(second.client_id, first.client_id);
    backend.answer(&second, id("d1")).await;
    enrolled(&home, &backend, "d1").await;
    assert!(home.path().join("state/device.json.damaged-1").exists());
}

/// What its owner wrote into device.json goes up with the request and stays in the file.
#[tokio::test]
async fn the_owner_s_words_reach_the_backend_and_stay() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker);
    fs::create_dir_all(home.path().join("state")).unwrap();
    let words = json!({"device_name": "pump 7", "org_id": "water", "metadata": {"floor": -1}, "mine": [1]});
    home.file("state/device.json", &words.to_string(), 0o600);
    let _agent = home.start();
    let request = backend.request().await;
    assert_eq!((request.device_name.as_deref(), request.org_id.as_deref()), (Some("pump 7"), Some("water")));
    assert_eq!(request.metadata.as_ref().unwrap()["floor"], -1);
    backend.answer(&request, id("d1")).await;
    enrolled(&home, &backend, "d1").await;
    let kept: Value =
        serde_json::from_slice(&fs::read(home.path().join("state/device.json")).unwrap()).unwrap();
    for key in ["device_name", "org_id", "metadata", "mine"] {
        assert_eq!(kept[key], words[key]);
    }
}

/// The id is used although it cannot be kept, that is told, and it is kept as soon as that is possible.
#[tokio::test]
async fn an_id_that_cannot_be_kept_is_kept_later() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker).yaml("identity: {device_file: away/device.json}");
    let _agent = home.start();
    backend.answer(&backend.request().await, id("d1")).await;
    backend.watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    let status = wait_status(&home, |status| detail(status).contains("cannot write")).await;
    assert_eq!(status["services"]["registration"]["state"], "degraded");
    fs::create_dir(home.path().join("away")).unwrap();
    wait_status(&home, |status| status["services"]["registration"]["state"] == "running").await;
    let kept: Value =
        serde_json::from_slice(&fs::read(home.path().join("away/device.json")).unwrap()).unwrap();
    assert_eq!(kept["device_id"], "d1");
}

/// A disk copied to another machine: the original goes on as it was, the copy becomes a device of its own.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_cloned_disk_becomes_another_device() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let (original, copy) = (home(&broker), home(&broker));
    let agent = start_on(&original, "11111111111111111111111111111111");
    let first = backend.request().await;
    backend.answer(&first, id("original")).await;
    enrolled(&original, &backend, "original").await;
    drop(agent);
    for name in ["identity.json", "device.json"] {
        fs::create_dir_all(copy.path().join("state")).unwrap();
        fs::copy(original.path().join("state").join(name), copy.path().join("state").join(name)).unwrap();
    }

    let _original = start_on(&original, "11111111111111111111111111111111");
    let _copy = start_on(&copy, "22222222222222222222222222222222");
    let second = backend.request().await;
    assert_ne!(second.client_id, first.client_id);
    assert_eq!(second.device_id, None);
    backend.answer(&second, id("copy")).await;
    enrolled(&copy, &backend, "copy").await;
    enrolled(&original, &backend, "original").await;
    assert_eq!(backend.requests(), 2);
    let aside = fs::read(copy.path().join("state/device.json.damaged-1")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&aside).unwrap()["device_id"], "original");
}

/// The daemon on a machine with this id.
#[cfg(target_os = "linux")]
fn start_on(home: &Home, machine: &str) -> Process {
    assert!(rustix::process::geteuid().is_root(), "mount namespaces need root: run these tests as root");
    const MOUNT: &str = r#"mount --bind "$0" /etc/machine-id && exec "$@""#;
    // Not in /tmp: an id that a reboot would lose counts for nothing.
    let file =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("machine-{machine}-{}", std::process::id()));
    fs::write(&file, format!("{machine}\n")).unwrap();
    let agent = home.command(&["run"]);
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", MOUNT]).arg(file);
    command.arg(agent.get_program()).args(agent.get_args());
    Process::run(command.into()).unwrap()
}

/// The daemon with its clock (but not its timers) at this time, in the notation of libfaketime.
#[cfg(target_os = "linux")]
fn start_at(home: &Home, clock: &str) -> Process {
    let mut command = home.command(&["run"]);
    command.env("LD_PRELOAD", libfaketime()).env("FAKETIME", clock).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Process::run(command.into()).unwrap()
}
