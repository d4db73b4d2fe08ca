//! `iot-agent register`, the real command: what it prints, how it ends, what it leaves alone.

use std::{fs, time::Duration};

use serde_json::Value;
use testkit::{Mosquitto, Process};

use crate::support::backend::{Backend, error, id, wrong_clock};
use crate::support::{Home, SECRET, SOON, wait_status};

fn home(broker: &Mosquitto) -> Home {
    Home::new(&format!("mqtt://127.0.0.1:{}", broker.port()))
}

fn register(home: &Home, more: &[&str]) -> Process {
    Process::run(home.command(&[&["register"], more].concat()).into()).unwrap()
}

async fn code(command: &mut Process) -> i32 {
    command.wait_exit(SOON).await.unwrap().code().unwrap()
}

fn kept(home: &Home) -> Value {
    serde_json::from_slice(&fs::read(home.path().join("state/device.json")).unwrap()).unwrap()
}

/// The id on standard output, and nothing else there; the second time without asking.
#[tokio::test]
async fn it_prints_the_id_and_keeps_it() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker);
    let mut command = register(&home, &[]);
    backend.answer(&backend.request().await, id("d1")).await;
    assert_eq!(code(&mut command).await, 0, "{:#?}", command.stderr.all());
    command.stdout.find(|line| line == "d1", SOON).await.unwrap();
    assert_eq!(command.stdout.all(), ["d1"]);
    assert_eq!(kept(&home)["device_id"], "d1");

    let mut again = register(&home, &[]);
    again.stdout.find(|line| line == "d1", SOON).await.unwrap();
    assert_eq!(code(&mut again).await, 0);
    assert_eq!(backend.requests(), 1);

    // The daemon goes on with it.
    let _agent = home.start();
    backend.watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    assert_eq!(backend.requests(), 1);
}

/// `--force` asks with the id it has, and takes the backend's. The device is not shown as online meanwhile.
#[tokio::test]
async fn force_asks_again_and_takes_the_backend_s_word() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker).device("old");
    for (had, gets) in [("old", "old"), ("old", "new")] {
        let mut command = register(&home, &["--force"]);
        let request = backend.request().await;
        assert_eq!(request.device_id.as_ref().unwrap().as_str(), had);
        backend.answer(&request, id(gets)).await;
        assert_eq!(code(&mut command).await, 0);
        command.stdout.find(|line| line == gets, SOON).await.unwrap();
        assert_eq!(kept(&home)["device_id"], gets);
    }
    let said = backend.watcher.all();
    assert!(said.iter().all(|message| message.topic.starts_with("iot/registration/")), "{said:#?}");
}

/// Orders that wait for the device are left for the daemon, however many there are.
#[tokio::test]
async fn orders_that_wait_stay_with_the_broker() {
    const ORDERS: usize = 60;
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let services = "services: {registration: {device_secret_file: psk}, command: {enabled: true}}";
    let home = home(&broker).device("d1").yaml(services);
    let mut agent = home.online().await;
    agent.terminate().unwrap();
    agent.wait_exit(SOON).await.unwrap();
    let orders: Vec<_> =
        (0..ORDERS).map(|n| format!("{{\"execution_id\": \"{n}\", \"command\": \"true\"}}")).collect();
    testkit::client::publish_lines(&broker, "iot/d1/command", &orders, 1).await.unwrap();

    let mut command = register(&home, &["--force"]);
    backend.answer(&backend.request().await, id("d1")).await;
    assert_eq!(code(&mut command).await, 0, "{:#?}", command.stderr.all());
    let _agent = home.start();
    let said = backend.watcher.messages();
    for _ in 0..ORDERS {
        said.find(|message| message.json().is_ok_and(|said| said["status"] == "success"), SOON)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_refusal_is_77_with_the_reason() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker);
    let mut command = register(&home, &[]);
    backend.answer(&backend.request().await, error("unauthorized", "no device of ours")).await;
    assert_eq!(code(&mut command).await, 77);
    command.find_line("refused by the backend: unauthorized: no device of ours", SOON).await.unwrap();
    assert_eq!(command.stdout.all(), Vec::<String>::new());
    assert!(!home.path().join("state/device.json").exists());

    // Its own time, and that is wrong as well.
    let mut command = register(&home, &[]);
    for _ in 0..2 {
        backend
            .answer(&backend.request().await, wrong_clock("2031-01-01T00:00:00.000Z".parse().unwrap()))
            .await;
    }
    assert_eq!(code(&mut command).await, 77);
    command.find_line("the backend's clock and ours do not agree", SOON).await.unwrap();

    let forced = home.device("mine");
    let mut command = register(&forced, &["--force"]);
    backend.answer(&backend.request().await, error("device_id_taken", "it is\u{1b}[2J\nanother's")).await;
    assert_eq!(code(&mut command).await, 77);
    // What a backend says must not drive the terminal.
    let said = "iot-agent: refused by the backend: device_id_taken: it is\u{fffd}[2J\u{fffd}another's";
    command.find_line(said, SOON).await.unwrap();
    assert_eq!(kept(&forced)["device_id"], "mine");
}

/// No broker, then no backend: it waits, says so, and ends well when both have come.
#[tokio::test]
async fn lack_of_network_is_waited_out() {
    let mut broker = Mosquitto::plain().await.unwrap();
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let home =
        Home::new(&url).yaml("services:\n  registration: {device_secret_file: psk, response_timeout: 200ms}");
    broker.stop().await.unwrap();
    let mut command = register(&home, &[]);
    command.find_line("not connected", SOON).await.unwrap();
    broker.start().await.unwrap();
    command.find_line("no answer from the backend", SOON).await.unwrap();
    assert!(command.is_running().unwrap());
    let backend = Backend::start(&broker).await;
    let end = tokio::time::Instant::now() + SOON;
    while command.is_running().unwrap() && tokio::time::Instant::now() < end {
        // On a busy machine an answer may be late.
        backend.answer(&backend.request().await, id("d1")).await;
        if command.wait_exit(Duration::from_millis(500)).await.is_ok() {
            break;
        }
        backend.watcher.messages().skip_to_end();
    }
    assert_eq!(code(&mut command).await, 0);
    assert_eq!(kept(&home)["device_id"], "d1");
}

#[tokio::test]
async fn a_running_agent_is_named_with_what_to_do() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker);
    let agent = home.start();
    let request = backend.request().await;
    let mut command = register(&home, &[]);
    assert_eq!(code(&mut command).await, 1);
    let line = command.find_line("stop it first", SOON).await.unwrap();
    for part in ["the agent is running", "iot-agent status", &agent.pid().to_string()] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // The daemon has not noticed.
    backend.answer(&request, id("d1")).await;
    let status = wait_status(&home, |status| !status["identity"]["device_id"].is_null()).await;
    assert_eq!(status["identity"]["device_id"], "d1");
}

#[tokio::test]
async fn what_cannot_work_is_78_with_its_place() {
    let broker = Mosquitto::plain().await.unwrap();
    let with = |registration: &str| home(&broker).yaml(&format!("services:\n  registration: {registration}"));
    for (registration, secret, says) in [
        ("{}", SECRET, "device_secret_file"),
        ("{device_secret_file: absent}", SECRET, "cannot read the secret file"),
        ("{device_secret_file: psk}", "too short", "9 bytes; at least 16"),
        ("{device_secret_file: psk}", "\n", "is empty"),
        ("{device_secret: short}", SECRET, "5 bytes; at least 16"),
        ("{device_secret_file: psk, qos: 0}", SECRET, "must be 1 or 2"),
        ("{device_secret_file: psk, topic: 'a/{device_id}'}", SECRET, "cannot contain {device_id}"),
        ("{device_secret_file: psk, resp: 1s}", SECRET, "resp"),
    ] {
        let home = with(registration);
        home.file("psk", secret, 0o600);
        let mut command = register(&home, &[]);
        assert_eq!(code(&mut command).await, 78, "{registration}: {:#?}", command.stderr.all());
        command.find_line(says, SOON).await.unwrap();
        command.find_line("config.yaml:", SOON).await.unwrap();
    }
    let home = with("{device_secret_file: psk}");
    home.file("psk", SECRET, 0o640);
    let mut command = register(&home, &[]);
    assert_eq!(code(&mut command).await, 78);
    command.find_line("chmod 600", SOON).await.unwrap();
}

/// An id that is gone with the process is no enrolment.
#[tokio::test]
async fn an_id_that_cannot_be_kept_is_a_failure() {
    let broker = Mosquitto::plain().await.unwrap();
    let backend = Backend::start(&broker).await;
    let home = home(&broker).yaml("identity: {device_file: away/device.json}");
    let mut command = register(&home, &[]);
    backend.answer(&backend.request().await, id("d1")).await;
    assert_eq!(code(&mut command).await, 1);
    let line = command.find_line("cannot be kept", SOON).await.unwrap();
    assert!(line.contains("d1") && line.contains("away/device.json"), "{line}");
    assert_eq!(command.stdout.all(), Vec::<String>::new());
}
