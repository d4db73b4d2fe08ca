//! Golden files: what the types encode, byte for byte, and that no damaged file can harm a reader.
//!
//! `golden/*.json` end in a newline that is not part of the payload. Their macs were computed by
//! `golden/macs.py`, which shares no code with the crate.

// Long because each golden file has its test here, and the sweep over damaged ones goes through every reader.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails, in its helpers too")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use iot_agent_protocol::audit;
use iot_agent_protocol::command::{self, Output, Report, Status};
use iot_agent_protocol::data::{self, Data};
use iot_agent_protocol::heartbeat::{Alive, Heartbeat, Outbox};
use iot_agent_protocol::location::{Location, Place, Source};
use iot_agent_protocol::metrics::{Metric, Metrics, Process};
use iot_agent_protocol::proof::Psk;
use iot_agent_protocol::registration::{
    self, Nonce, PlainRequest, Reply, Request, RequestError, open_plain_reply, open_reply, open_request,
};
use iot_agent_protocol::ssh;
use iot_agent_protocol::status::{Presence, Reason, SCHEMA, ServiceState, State};
use iot_agent_protocol::update;
use iot_agent_protocol::{ClientId, DeviceId, Timestamp};
use serde::de::DeserializeOwned;
use serde_json::json;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let mut bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(bytes.pop(), Some(b'\n'), "{name} ends in one newline");
    bytes
}

#[track_caller]
fn assert_encodes(name: &str, encoded: &[u8]) {
    assert_eq!(String::from_utf8_lossy(encoded), String::from_utf8_lossy(&golden(name)), "{name}");
}

fn psk() -> Psk {
    Psk::from_file_bytes(b"a fleet secret of ample length\n").unwrap()
}

fn client() -> ClientId {
    "3f2a9c0d5e6b478182930a1b2c3d4e5f".parse().unwrap()
}

fn device() -> DeviceId {
    "01936f3e-0c1a-7d5b-9a3e-5c8f1e2d3b4a".parse().unwrap()
}

fn nonce() -> Nonce {
    Nonce::from_random(*b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff")
}

fn time() -> Timestamp {
    "2026-01-31T12:00:00.123Z".parse().unwrap()
}

fn request() -> Request {
    let metadata = json!({"site": "Zürich", "rack": 7, "load": 0.1, "tags": ["a", null]});
    Request {
        client_id: client(),
        device_id: None,
        device_name: Some("pump 3".into()),
        org_id: Some("acme".into()),
        metadata: metadata.as_object().cloned(),
        agent_version: "0.1.0".into(),
        proof: None,
    }
}

fn presence(state: State, reason: Option<Reason>) -> Presence {
    Presence {
        device_id: device(),
        state,
        reason,
        timestamp: time(),
        boot_id: "b0070000-0000-4000-8000-000000000001".into(),
        run_id: "4a000000-0000-4000-8000-000000000002".into(),
        agent_version: "0.1.0".into(),
        os: "linux".into(),
        arch: "aarch64".into(),
        ssh_public_key: None,
        services: services(),
        schema: SCHEMA,
    }
}

fn services() -> BTreeMap<String, ServiceState> {
    [
        ("registration", ServiceState::Running),
        ("heartbeat", ServiceState::Degraded),
        ("metrics", ServiceState::Restarting),
        ("ssh", ServiceState::Off),
    ]
    .map(|(name, state)| (name.to_owned(), state))
    .into()
}

fn heartbeat() -> Heartbeat {
    Heartbeat {
        device_id: device(),
        timestamp: time(),
        status: Alive,
        seq: 42,
        run_id: "4a000000-0000-4000-8000-000000000002".into(),
        uptime_s: 420,
        services: services(),
        tunnels: 0,
        outbox: Outbox { messages: 3, bytes: 512, dropped: 0, degraded: None },
    }
}

#[test]
fn registration_requests() {
    assert_encodes("registration-request.json", &request().signed(&psk(), nonce(), time()));
    let opened = open_request(&psk(), &golden("registration-request.json")).unwrap();
    assert_eq!(Request { proof: None, ..opened.clone() }, request());
    assert_eq!(opened.proof.unwrap().nonce, nonce());

    let again =
        Request { device_id: Some(device()), device_name: None, org_id: None, metadata: None, ..request() };
    assert_encodes("registration-request-again.json", &again.signed(&psk(), nonce(), time()));

    let plain = PlainRequest { client_id: client(), device_secret: "a fleet secret of ample length".into() };
    assert_encodes("registration-request-plain.json", &serde_json::to_vec(&plain).unwrap());
    assert!(!format!("{plain:?}").contains("secret of"), "the secret shows");
}

#[test]
fn registration_replies() {
    let accepted = Reply { device_id: Some(device()), ..Reply::default() };
    let clock = Reply { error: Some("clock".into()), server_time: Some(time()), ..Reply::default() };
    let replay = Reply { error: Some("replay".into()), ..Reply::default() };
    let message = Some("this id belongs to another client".into());
    let taken = Reply { error: Some("device_id_taken".into()), message, ..Reply::default() };
    for (name, reply) in [("", &accepted), ("-clock", &clock), ("-replay", &replay), ("-taken", &taken)] {
        let name = format!("registration-reply{name}.json");
        assert_encodes(&name, &reply.clone().signed(&psk(), &client(), nonce()));
        let opened = open_reply(&psk(), &client(), &nonce(), &golden(&name)).unwrap();
        assert_eq!(opened, Reply { nonce: Some(nonce()), ..reply.clone() }, "{name}");
    }
    assert_encodes("registration-reply-plain.json", &accepted.unsigned());
    assert_eq!(open_plain_reply(&golden("registration-reply-plain.json")).unwrap(), accepted);
}

#[test]
fn data_of_a_program() {
    let stream = "door-2".parse().unwrap();
    let value = data::value(r#"{"open":true,"since":1.50}"#);
    let data = Data { device_id: &device(), timestamp: time(), seq: 7, stream: &stream, data: &value };
    assert_encodes("data.json", &serde_json::to_vec(&data).unwrap());
    assert_eq!(data::topic("iot", &device(), &stream), format!("iot/{}/data/door-2", device()));
}

/// The hash in it was computed by Python's hashlib.
#[test]
fn audit() {
    let record = audit::Record {
        device_id: device(),
        timestamp: time(),
        seq: 7,
        prev: audit::digest(b"the record before"),
        action: "command".into(),
        id: "c-42".into(),
        decision: audit::Decision::Asked,
        rule: Some("command.named.restart-service".into()),
        detail: "restart-service unit=ssh.service".into(),
    };
    let first = audit::Record {
        seq: 1,
        prev: audit::FIRST.into(),
        action: "ssh".into(),
        id: "r-1".into(),
        decision: audit::Decision::Refused,
        rule: None,
        detail: "the policy does not allow tunnels to this target".into(),
        ..record.clone()
    };
    for (name, record) in [("audit.json", record), ("audit-first.json", first)] {
        assert_encodes(name, &serde_json::to_vec(&record).unwrap());
        assert_eq!(serde_json::from_slice::<audit::Record>(&golden(name)).unwrap(), record);
    }
    assert_eq!(audit::topic("iot", &device()), format!("iot/{}/audit", device()));
}

#[test]
fn presence_and_heartbeat() {
    let online = Presence {
        ssh_public_key: Some("ssh-ed25519 AAAAC3Nz pump-3".into()),
        ..presence(State::Online, None)
    };
    let payloads = [
        ("status-online.json", online),
        ("status-shutdown.json", presence(State::Offline, Some(Reason::Shutdown))),
        ("status-will.json", presence(State::Offline, Some(Reason::ConnectionLost))),
    ];
    for (name, payload) in payloads {
        assert_encodes(name, &serde_json::to_vec(&payload).unwrap());
        assert_eq!(serde_json::from_slice::<Presence>(&golden(name)).unwrap(), payload);
    }
    assert_encodes("heartbeat.json", &serde_json::to_vec(&heartbeat()).unwrap());
    assert_eq!(serde_json::from_slice::<Heartbeat>(&golden("heartbeat.json")).unwrap(), heartbeat());
}

fn metrics() -> Metrics {
    let metric =
        |name: &str, value, unit: &'static str| (name.to_owned(), Metric { value, unit: unit.into() });
    let nginx = Process {
        count: 3,
        cpu_usage: Some(1.25),
        memory: Some(8_392_704),
        threads: Some(5),
        fds: Some(61),
        read_bytes: Some(4096),
        write_bytes: Some(0),
        read_ops: Some(812),
        write_ops: Some(77),
        started: Some(1_769_860_800.25),
    };
    Metrics {
        device_id: device(),
        timestamp: time(),
        seq: 42,
        cpu_usage: Some(12.5),
        memory: Some(48.0),
        disk: Some(71.25),
        network: Some(123_456_789),
        processes: [("nginx".to_owned(), nginx), ("ntpd".to_owned(), Process::default())].into(),
        metrics: Some(
            [
                metric("cpu.user", 8.125, "%"),
                metric("fs./.used", 71.25, "%"),
                metric("net.eth0.rx_bytes", 123_456_789.0, "B"),
                metric("net.eth0.rx_rate", 0.5, "B/s"),
                metric("temp.cpu-thermal", 61.5, "°C"),
            ]
            .into(),
        ),
    }
}

#[test]
fn samples_of_metrics() {
    // What is not known is not there.
    let quiet =
        Metrics { cpu_usage: None, disk: None, processes: BTreeMap::new(), metrics: None, ..metrics() };
    for (name, payload) in [("metrics.json", metrics()), ("metrics-quiet.json", quiet)] {
        let encoded = serde_json::to_vec(&payload).unwrap();
        assert_encodes(name, &encoded);
        assert_eq!(serde_json::from_slice::<Metrics>(&golden(name)).unwrap(), payload);
        assert!(!String::from_utf8(encoded).unwrap().contains("null"));
    }
}

/// What IOT-Cloud takes of a sample: these keys, and nothing else is looked at.
#[derive(Debug, PartialEq, serde::Deserialize)]
struct Cloud {
    device_id: String,
    timestamp: String,
    cpu_usage: f64,
    memory: f64,
    disk: f64,
    network: f64,
    processes: BTreeMap<String, CloudProcess>,
}

#[derive(Debug, PartialEq, serde::Deserialize)]
struct CloudProcess {
    cpu_usage: f64,
    memory: f64,
}

#[test]
fn the_reader_of_iot_cloud_takes_a_sample() {
    let running =
        Metrics { processes: BTreeMap::from_iter(metrics().processes.into_iter().take(1)), ..metrics() };
    let encoded = serde_json::to_vec(&running).unwrap();
    assert_encodes("metrics-iot-cloud.json", &encoded);
    let read: Cloud = serde_json::from_slice(&encoded).unwrap();
    let nginx = CloudProcess { cpu_usage: 1.25, memory: 8_392_704.0 };
    assert_eq!(
        read,
        Cloud {
            device_id: device().to_string(),
            timestamp: "2026-01-31T12:00:00.123Z".to_owned(),
            cpu_usage: 12.5,
            memory: 48.0,
            disk: 71.25,
            network: 123_456_789.0,
            processes: [("nginx".to_owned(), nginx)].into(),
        }
    );
}

#[test]
fn unknown_fields_are_ignored_but_covered_by_the_mac() {
    let with = |name: &str| {
        let text = String::from_utf8(golden(name)).unwrap();
        text.replacen('{', r#"{"invented_later":{"x":1},"#, 1).into_bytes()
    };
    fn ignored<T: DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8], expected: &T) {
        assert_eq!(&serde_json::from_slice::<T>(bytes).unwrap(), expected);
    }
    ignored(&with("heartbeat.json"), &heartbeat());
    ignored(&with("status-shutdown.json"), &presence(State::Offline, Some(Reason::Shutdown)));
    let refused = open_request(&psk(), &with("registration-request.json"));
    assert!(matches!(refused, Err(RequestError::BadMac)), "{refused:?}");
}

/// Every truncation and every flipped bit of every golden file, through every reader: none panics, and no reader
/// of signed payloads accepts anything but the original.
#[test]
fn damaged_payloads_are_refused_not_fatal() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".json") {
            continue;
        }
        files += 1;
        let original = golden(&name);
        for length in 0..original.len() {
            read_in_every_way(&original[..length], &name);
        }
        for bit in 0..original.len() * 8 {
            let mut damaged = original.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            read_in_every_way(&damaged, &name);
        }
    }
    assert_eq!(files, 35, "a golden file without its test, or the reverse");
}

fn read_in_every_way(bytes: &[u8], name: &str) {
    drop(command::Request::decode(bytes));
    drop(ssh::Request::decode(bytes));
    drop(update::Request::decode(bytes));
    drop(update::Offer::decode(bytes));
    drop(serde_json::from_slice::<update::Status>(bytes));
    drop(serde_json::from_slice::<ssh::Status>(bytes));
    drop(serde_json::from_slice::<Status>(bytes));
    let text = || String::from_utf8_lossy(bytes);
    assert!(open_request(&psk(), bytes).is_err(), "{name}: a damaged request was accepted: {}", text());
    assert!(open_reply(&psk(), &client(), &nonce(), bytes).is_err(), "{name}: accepted: {}", text());
    // What nothing signs may well decode; it must then encode again.
    if let Ok(reply) = open_plain_reply(bytes) {
        assert!(reply.device_id.is_some() || reply.error.is_some(), "{name}: {}", text());
    }
    if let Ok(presence) = serde_json::from_slice::<Presence>(bytes) {
        assert!(serde_json::to_vec(&presence).is_ok());
    }
    if let Ok(heartbeat) = serde_json::from_slice::<Heartbeat>(bytes) {
        assert!(serde_json::to_vec(&heartbeat).is_ok());
    }
    if let Ok(metrics) = serde_json::from_slice::<Metrics>(bytes) {
        assert!(serde_json::to_vec(&metrics).is_ok());
    }
    if let Ok(location) = serde_json::from_slice::<Location>(bytes) {
        assert!(serde_json::to_vec(&location).is_ok());
    }
    let plain: Result<PlainRequest, _> = serde_json::from_slice(bytes);
    let (sender, _) = registration::claimed_sender(bytes);
    assert!(plain.is_err() || sender.is_some(), "{name}: a plain request says who sent it");
}

#[test]
fn commands() {
    let report = |state| Report::of(state, time());
    let status = |seq, report| Status { device_id: device(), execution_id: "7f3c".into(), seq, report };
    let encoded = |status| serde_json::to_vec(&status).unwrap();
    assert_encodes("command-accepted.json", &encoded(status(1, report(command::State::Accepted))));
    let output = Output { stdout: Some("50 %\n".into()), ..Output::default() };
    let chunk = Report { chunk: Some(0), output, ..report(command::State::InProgress) };
    assert_encodes("command-chunk.json", &encoded(status(2, chunk)));
    let output = Output {
        stdout: Some("Zürich \u{fffd}\n".into()),
        stderr: Some(String::new()),
        stdout_dropped: Some(123_456_789_012),
        stderr_dropped: None,
        lossy: true,
    };
    let failed =
        Report { exit_code: Some(3), duration_ms: Some(812), output, ..report(command::State::Failed) };
    assert_encodes("command-failed.json", &encoded(status(3, failed.clone())));
    let read: Status = serde_json::from_slice(&golden("command-failed.json")).unwrap();
    assert_eq!(read, status(3, failed));
    let rejected = report(command::State::Rejected).because("busy");
    assert_encodes("command-rejected.json", &encoded(status(4, rejected)));
}

#[test]
fn command_requests() {
    let request = command::Request::decode(&golden("command-request.json")).unwrap();
    let command::Request::Run { execution_id, expires_at, order } = request else { panic!("{request:?}") };
    assert_eq!((execution_id.as_str(), expires_at), ("7f3c", Some(time())));
    assert_eq!((order.command.as_str(), order.timeout_s, order.stream), ("restart", Some(0.5), true));
    assert_eq!((order.cwd.as_deref(), order.expect_reboot), (Some("/tmp"), false));
    assert_eq!(order.args, Some(BTreeMap::from([("unit".to_owned(), "foo@1".to_owned())])));
    assert_eq!(order.env, BTreeMap::from([("LANG".to_owned(), "de_CH.UTF-8".to_owned())]));
    let cancel = command::Request::decode(br#"{"execution_id": "7f3c", "cancel": true, "command": 7}"#);
    assert!(
        matches!(cancel, Ok(command::Request::Cancel { execution_id }) if execution_id.as_str() == "7f3c")
    );
}

#[test]
fn tunnels() {
    let status = |report| ssh::Status { device_id: device(), request_id: "7f3c".into(), report };
    let encoded = |status| serde_json::to_vec(&status).unwrap();
    let report =
        |state| ssh::Report { lport: Some(22), rport: Some(40022), ..ssh::Report::of(state, time()) };
    assert_encodes("ssh-open.json", &encoded(status(report(ssh::State::Open))));
    let closed = ssh::Report {
        bytes_in: 123_456_789_012,
        bytes_out: 7,
        duration_ms: Some(600_123),
        ..report(ssh::State::Closed).because("idle")
    };
    assert_encodes("ssh-closed.json", &encoded(status(closed.clone())));
    let read: ssh::Status = serde_json::from_slice(&golden("ssh-closed.json")).unwrap();
    assert_eq!(read, status(closed));
    let refused = ssh::Report::of(ssh::State::Refused, time()).because("lport: missing");
    assert_encodes("ssh-refused.json", &encoded(status(refused)));
    let failed = ssh::Report { rport: Some(0), ..report(ssh::State::Failed) }.because("cannot reach it");
    assert_encodes("ssh-failed.json", &encoded(status(failed)));
    let notice = ssh::Notice { device_id: device(), lport: 22, rport: 40022 };
    assert_encodes("ssh-server.json", &serde_json::to_vec(&notice).unwrap());
}

#[test]
fn tunnel_requests() {
    let request = ssh::Request::decode(&golden("ssh-request.json")).unwrap();
    let ssh::Request::Open { request_id, expires_at, wanted } = request else { panic!("{request:?}") };
    assert_eq!(request_id.as_ref().map(ssh::RequestId::as_str), Some("7f3c"));
    assert_eq!(expires_at, Some(time()));
    assert_eq!((wanted.lport, wanted.rport, wanted.ttl_s), (22, 0, Some(90.5)));
    assert_eq!((wanted.lhost.as_deref(), wanted.server_id.as_deref()), (Some("::1"), Some("s1")));
    assert_eq!((wanted.backend_host.as_deref(), wanted.backend_port), (Some("ssh.example"), Some(2222)));
    let close = ssh::Request::decode(br#"{"request_id": "7f3c", "close": true, "lport": "x"}"#);
    assert!(matches!(close, Ok(ssh::Request::Close { request_id }) if request_id.as_str() == "7f3c"));
}

#[test]
fn locations() {
    let place = Place {
        latitude: 47.377,
        longitude: 8.0,
        accuracy: 10.0,
        altitude: None,
        speed: None,
        heading: None,
        source: Source::Fixed,
        fix_age_s: 0,
        satellites: None,
        hdop: None,
    };
    let location = |seq, place| Location { device_id: device(), timestamp: time(), seq, place };
    let full = Place {
        latitude: 47.376_912_3,
        longitude: -8.5417,
        accuracy: 4.2,
        altitude: Some(408.5),
        speed: Some(1.5),
        heading: Some(271.3),
        source: Source::Gps,
        fix_age_s: 1,
        satellites: Some(9),
        hdop: Some(0.9),
    };
    for (name, location) in
        [("location-fixed.json", location(1, place)), ("location.json", location(42, full))]
    {
        assert_encodes(name, &serde_json::to_vec(&location).unwrap());
        assert_eq!(serde_json::from_slice::<Location>(&golden(name)).unwrap(), location);
    }
}

#[test]
fn updates() {
    let request = update::Request::decode(&golden("update-request.json")).unwrap();
    assert_eq!(request.update_id.as_str(), "9b1d");
    assert_eq!(request.expires_at, Some(time()));
    let wanted = update::Wanted {
        version: "1.4.0-rc.1".into(),
        update_url: "https://updates.example/app-1.4.0.pkg".into(),
        sha256: update::Sha256([0xab; 32]),
        size: 1_234_567,
        signature: None,
    };
    assert_eq!(request.wanted, wanted);
    let offer = update::Offer::decode(&golden("update-offer.json")).unwrap();
    assert_eq!(offer, update::Offer { hardware_ids: vec!["board-2".into()], wanted: wanted.clone() });
    let status = |report| update::Status { device_id: device(), update_id: "9b1d".into(), report };
    let report = |state| update::Report::of(state, time()).on(&wanted);
    let downloading = update::Report { progress: Some(42), attempt: 1, ..report(update::State::Downloading) };
    let failed = update::Report { attempt: 4, ..report(update::State::Failed) };
    for (name, report) in [
        ("update-downloading.json", downloading),
        ("update-failed.json", failed.because("updates.example says 404")),
    ] {
        assert_encodes(name, &serde_json::to_vec(&status(report.clone())).unwrap());
        assert_eq!(serde_json::from_slice::<update::Status>(&golden(name)).unwrap(), status(report));
    }
}
