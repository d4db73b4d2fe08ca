//! L1: SIGTERM in every state ends it well within five seconds. (While DNS hangs: `hostile/dns.rs`; while a
//! broker stalls at any other stage: `hostile/stalls.rs`.)

use std::{fs, time::Duration};

use testkit::{
    certs::Pki,
    client::Watcher,
    mosquitto::Mosquitto,
    namespace::BlackHole,
    process::{Process, Signal},
    procfs,
    proxy::{Faults, Link, Proxy},
    stalls::{Stage, Staller},
};
use tokio::{io::AsyncWriteExt, time::Instant};

use super::support::{Home, SOON, command, ended, proof, stop, wait_status};

/// MQTT packet types.
const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const SUBSCRIBE: u8 = 8;
const DISCONNECT: u8 = 14;

fn home(port: u16) -> Home {
    Home::new(&format!("mqtt://localhost:{port}"))
}

async fn state(home: &Home, state: &str) {
    wait_status(home, |status| status["connection"]["state"] == state).await;
}

/// From the first moment on from which SIGTERM does not just kill it.
async fn just_started() -> Duration {
    let home = home(1);
    let mut agent = home.start();
    let caught = || {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << (Signal::TERM.as_raw() - 1)) != 0
    };
    let deadline = Instant::now() + SOON;
    while !caught() {
        assert!(Instant::now() < deadline, "SIGTERM is never caught");
        tokio::task::yield_now().await;
    }
    stop(&mut agent, "just started").await
}

async fn dialling() -> Duration {
    let hole = BlackHole::start(0).await.unwrap();
    let home = Home::new(&format!("mqtt://{}", hole.addr()));
    let mut agent = home.start();
    state(&home, "connecting").await;
    stop(&mut agent, "dialling").await
}

async fn stalled(stage: Stage, tls: bool) -> Duration {
    let pki = Pki::new().unwrap();
    let identity = tls.then(|| pki.server().unwrap());
    let staller = Staller::start(stage, identity.as_ref()).await.unwrap();
    let scheme = if tls { "mqtts" } else { "mqtt" };
    let home = Home::new(&format!("{scheme}://localhost:{}", staller.port()))
        .device("d1")
        .mqtt(&format!("ca_certificate: {}", pki.ca_file().display()));
    let mut agent = home.start();
    let deadline = Instant::now() + SOON;
    while staller.arrivals() == 0 {
        assert!(Instant::now() < deadline, "{stage:?}: nobody comes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    match stage {
        Stage::NoPuback | Stage::Deaf => drop(agent.find_line("connected", SOON).await.unwrap()),
        _ => state(&home, "connecting").await,
    }
    let took = stop(&mut agent, &format!("stalled: {stage:?}")).await;
    match stage {
        // It was never online on this connection, but may have been on one before.
        Stage::NoSuback => {
            let packets = staller.next_visit(SOON).await.unwrap().packets;
            assert_eq!(packets, [CONNECT, SUBSCRIBE, PUBLISH, DISCONNECT]);
        }
        Stage::NoPuback => {
            let packets = staller.next_visit(SOON).await.unwrap().packets;
            assert_eq!(packets.last(), Some(&DISCONNECT), "{packets:?}");
            assert!(
                packets.iter().filter(|kind| **kind == PUBLISH).count() >= 2,
                "birth, goodbye: {packets:?}"
            );
        }
        _ => {}
    }
    took
}

async fn backing_off() -> Duration {
    let home = home(1);
    let mut agent = home.start_with(&["--set", "mqtt.reconnect.min=1m", "--set", "mqtt.reconnect.max=1m"]);
    state(&home, "waiting").await;
    stop(&mut agent, "waiting to try again").await
}

async fn unenrolled() -> Duration {
    let broker = Mosquitto::plain().await.unwrap();
    let home = home(broker.port());
    let mut agent = home.start();
    state(&home, "connected").await;
    stop(&mut agent, "unenrolled").await
}

/// Enrolled and beating; the goodbye arrives.
async fn beating(end: impl AsyncFnOnce(&Home, &mut Process) -> Duration) -> Duration {
    let broker = Mosquitto::plain().await.unwrap();
    let watcher = Watcher::start(&broker, "iot/d1/#").await.unwrap();
    let home = home(broker.port()).device("d1");
    let mut agent = home.start();
    watcher.next_on("iot/d1/heartbeat", SOON).await.unwrap();
    let took = end(&home, &mut agent).await;
    let goodbye = watcher.next(|message| message.text().contains("\"offline\""), SOON).await.unwrap();
    assert_eq!(goodbye.json().unwrap()["reason"], "shutdown");
    assert!(goodbye.topic == "iot/d1/status" && goodbye.retain, "{goodbye:?}");
    assert!(!home.path().join("run/iot-agent.sock").exists(), "it leaves no socket behind");
    took
}

async fn by_sigint(_: &Home, agent: &mut Process) -> Duration {
    let began = Instant::now();
    agent.signal(Signal::INT).unwrap();
    ended(agent, "SIGINT", began).await
}

async fn right_after_a_reload(_: &Home, agent: &mut Process) -> Duration {
    agent.signal(Signal::HUP).unwrap();
    stop(agent, "right after SIGHUP").await
}

/// Told again and again, it goes on ending.
async fn impatiently(_: &Home, agent: &mut Process) -> Duration {
    let began = Instant::now();
    for _ in 0..5 {
        // It may be gone by then.
        agent.signal(Signal::TERM).ok();
        agent.signal(Signal::HUP).ok();
    }
    ended(agent, "SIGTERM five times", began).await
}

async fn half_open() -> Duration {
    let broker = Mosquitto::plain().await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let home = home(proxy.port()).device("d1");
    let mut agent = home.start();
    state(&home, "connected").await;
    proxy.set(Faults::both(Link { blackhole: true, ..Link::default() }));
    stop(&mut agent, "half-open").await
}

/// A broker that stands still: nothing is acknowledged, the goodbye least of all.
async fn broker_stopped() -> Duration {
    let broker = Mosquitto::plain().await.unwrap();
    let home = home(broker.port()).device("d1");
    let mut agent = home.start();
    state(&home, "connected").await;
    let pid = rustix::process::Pid::from_raw(broker.pid().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::STOP).unwrap();
    let took = stop(&mut agent, "the broker stands still").await;
    rustix::process::kill_process(pid, Signal::CONT).unwrap();
    took
}

/// Somebody publishes without end: the outbox is written to its end all the same.
async fn publishing() -> Duration {
    let home = home(1).device("d1");
    let mut agent = home.start();
    wait_status(&home, |_| true).await;
    let mut publisher = command::begin(&home, &["publish", "endless"]);
    let mut input = publisher.stdin.take().unwrap();
    let lines = format!("{:0>60}\n", 1).repeat(10_000);
    let feed = tokio::spawn(async move { while input.write_all(lines.as_bytes()).await.is_ok() {} });
    wait_status(&home, |status| status["outbox"]["messages"].as_u64() > Some(20_000)).await;
    let took = stop(&mut agent, "publishing").await;
    let said = agent.stderr.all();
    assert!(!said.iter().any(|line| line.contains("could not be written")), "{took:?}: {said:#?}");
    let ended = command::end(publisher).await;
    assert_eq!(ended.code, 1, "{ended:?}");
    feed.await.unwrap();
    took
}

/// A state folder that cannot be written to any more.
async fn state_gone() -> Duration {
    let home = home(1).device("d1");
    let mut agent = home.start();
    wait_status(&home, |_| true).await;
    fs::remove_dir_all(home.path().join("state")).unwrap();
    let usage = procfs::usage(agent.pid()).unwrap();
    assert!(usage.threads <= 3, "{usage:?}");
    stop(&mut agent, "its state folder is gone").await
}

#[tokio::test]
async fn prove_l1_sigterm_ends_it_in_every_state() {
    let (a, b, c, d, e) = tokio::join!(
        just_started(),
        dialling(),
        stalled(Stage::Accepted, true),
        stalled(Stage::NoConnack, false),
        stalled(Stage::NoConnack, true),
    );
    let (f, g, h, i, j) = tokio::join!(
        stalled(Stage::NoSuback, false),
        stalled(Stage::NoPuback, false),
        stalled(Stage::Deaf, true),
        backing_off(),
        unenrolled(),
    );
    let (k, l, m, n) = tokio::join!(
        beating(async |_: &Home, agent: &mut Process| stop(agent, "beating").await),
        beating(by_sigint),
        beating(right_after_a_reload),
        beating(impatiently),
    );
    let (o, p, q, r) = tokio::join!(half_open(), broker_stopped(), state_gone(), publishing());
    let all = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r];
    let worst = all.iter().max().unwrap();
    proof("L1", &format!("wanted=worst_ms<=5000 states={} worst_ms={}", all.len(), worst.as_millis()));
}
