//! L2: what systemd is told, and how a process ends that no longer moves. (Services that hang: the supervisor's
//! own tests.)

use std::{
    os::unix::{net::UnixDatagram, process::ExitStatusExt as _},
    path::Path,
    process::Command,
    time::Duration,
};

use testkit::{
    certs::Pki,
    client::Watcher,
    mosquitto::{Mosquitto, Tls},
    process::{Process, Signal},
};
use tokio::time::{Instant, sleep, timeout};

use super::support::{Home, SOON, proof, stop, tier, wait_status};

/// What systemd would hear.
struct Systemd {
    socket: tokio::net::UnixDatagram,
}

impl Systemd {
    fn start(home: &Home) -> Self {
        let socket = UnixDatagram::bind(home.path().join("notify")).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket: tokio::net::UnixDatagram::from_std(socket).unwrap() }
    }

    fn run(home: &Home, watchdog: Duration, env: &[(&str, &Path)]) -> Process {
        let mut command = home.command(&["run"]);
        command.envs(env.iter().copied());
        command.env("NOTIFY_SOCKET", home.path().join("notify"));
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        Process::run(command.into()).unwrap()
    }

    async fn hears(&self) -> String {
        let mut buffer = [0; 1024];
        let length = timeout(SOON, self.socket.recv(&mut buffer)).await.unwrap().unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next word that is no sign of life, and how many of those came before.
    async fn hears_news(&self) -> (String, u32) {
        let mut alive = 0;
        loop {
            match self.hears().await {
                word if word == "WATCHDOG=1" => alive += 1,
                news => return (news, alive),
            }
        }
    }
}

#[tokio::test]
async fn systemd_is_told_of_every_turn() {
    // Nobody listens there: being ready does not depend on a broker.
    let home = Home::new("mqtt://127.0.0.1:1").device("d1");
    let systemd = Systemd::start(&home);
    let mut agent = Systemd::run(&home, Duration::from_millis(400), &[]);
    assert_eq!(systemd.hears_news().await.0, "READY=1");
    for _ in 0..3 {
        assert_eq!(systemd.hears().await, "WATCHDOG=1");
    }
    for content in [None, Some("mqtt: {broker: 7}")] {
        match content {
            Some(content) => drop(home.file("config.yaml", content, 0o600)),
            None => drop(home.write()),
        }
        agent.signal(Signal::HUP).unwrap();
        let (reloading, _) = systemd.hears_news().await;
        let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0, "{reloading}");
        assert_eq!(systemd.hears_news().await.0, "READY=1", "also when the new configuration is bad");
    }
    home.write();
    stop(&mut agent, "under systemd").await;
    assert_eq!(systemd.hears_news().await.0, "STOPPING=1");
}

/// The system's authorities in a pipe nobody writes to block the only thread there is.
#[tokio::test]
async fn prove_l2_a_blocked_agent_is_ended() {
    let pki = Pki::new().unwrap();
    let tls = Tls {
        server: pki.server().unwrap(),
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    let broker = Mosquitto::builder().tls(tls).start().await.unwrap();
    let home = Home::new(&format!("mqtts://127.0.0.1:{}", broker.tls_port())).device("d1");
    let authorities = home.path().join("authorities.pem");
    assert!(Command::new("mkfifo").arg(&authorities).status().unwrap().success());
    let systemd = Systemd::start(&home);
    // As systemd's unit has it, or the watchdog's own time.
    let (watchdog, limit) = if tier() > 1 { (60, 30) } else { (2, 5) };
    let mut agent = Systemd::run(&home, Duration::from_secs(watchdog), &[("SSL_CERT_FILE", &authorities)]);
    assert_eq!(systemd.hears_news().await.0, "READY=1");
    let blocked = Instant::now();
    let ended = agent.wait_exit(Duration::from_secs(limit)).await.unwrap();
    assert_eq!(ended.signal(), Some(Signal::ABORT.as_raw()), "{ended}");
    agent.find_line("does not move any more", SOON).await.unwrap();
    let ended = blocked.elapsed().as_millis();
    proof("L2", &format!("wanted=ended_after_s<={limit} watchdog_s={watchdog} ended_after_ms={ended}"));
}

/// The whole machine stood still, or was put to sleep: one heartbeat afterwards, not one for each that was missed.
#[tokio::test]
async fn a_pause_is_followed_by_no_burst() {
    const PAUSE: Duration = Duration::from_secs(6);
    let broker = Mosquitto::plain().await.unwrap();
    let watcher = Watcher::start(&broker, "iot/d1/#").await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port())).device("d1");
    let mut agent = home.start();
    let beat = watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap().json().unwrap();
    // Two are on here, and whatever else there is, is told to be off.
    for (name, state) in beat["services"].as_object().unwrap() {
        let on = matches!(name.as_str(), "heartbeat" | "registration");
        assert_eq!(state, if on { "running" } else { "off" }, "{name}: {beat:#}");
    }
    assert!(beat["services"]["heartbeat"].is_string() && beat["services"]["metrics"].is_string(), "{beat:#}");
    agent.signal(Signal::STOP).unwrap();
    // The pause is what is tested.
    sleep(PAUSE).await;
    let before = watcher.messages().count(|message| message.topic == "iot/d1/heartbeat");
    agent.signal(Signal::CONT).unwrap();
    let resumed = Instant::now();
    watcher.messages().skip_to_end();
    for _ in 0..3 {
        watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    }
    let took = resumed.elapsed();
    // One at once at most, then one a second.
    assert!(took >= Duration::from_millis(1_000), "{took:?}");
    let beats: Vec<u64> = watcher
        .all()
        .iter()
        .filter(|message| message.topic == "iot/d1/heartbeat")
        .map(|message| message.json().unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert!(beats.windows(2).all(|pair| pair[1] == pair[0] + 1), "no gap, none twice: {beats:?}");
    assert!(before >= 1);
    wait_status(&home, |status| status["connection"]["connects"] == 1).await;
    stop(&mut agent, "resumed").await;
}
