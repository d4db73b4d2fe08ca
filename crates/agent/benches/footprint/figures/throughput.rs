//! How fast the driver is: many messages of QoS 1 at once, and one after the other.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use iot_agent::mqtt::{self, Connection, Delivery, Message, Mqtt, Outcome, Qos, Settings};
use testkit::Mosquitto;
use tokio::time::timeout;

use super::{
    direct,
    idle::cpu_of_children,
    table::{Table, median},
};

const MESSAGES: usize = 10_000;
const PAYLOAD: usize = 200;
const ROUNDS: usize = 5;
const TURNS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Of one round.
struct Speed {
    per_second: f64,
    cpu_us: f64,
}

pub(crate) async fn measure(table: &mut Table) {
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
    let (mqtt, driver) = mqtt::new(settings(broker.port()), ());
    let driver = tokio::spawn(driver.run());
    let mut connection = mqtt.connection();
    let up = connection.wait_for(|connection| matches!(connection, Connection::Connected { .. }));
    timeout(PATIENCE, up).await.expect("connects").unwrap();

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(flood(&mqtt).await);
        theirs.push(mosquitto_pub(broker.port()));
    }
    let of = |speeds: &[Speed], one: fn(&Speed) -> f64| median(speeds.iter().map(one).collect());
    let (us, them) = (of(&ours, |speed| speed.per_second), of(&theirs, |speed| speed.per_second));
    let beside = format!("mosquitto_pub -l {them:.0}, ratio {:.2}", us / them);
    table.figure("QoS 1 messages of 200 B a second", us, beside);
    let (us, them) = (of(&ours, |speed| speed.cpu_us), of(&theirs, |speed| speed.cpu_us));
    let beside = format!("mosquitto_pub -l {them:.1}, ratio {:.2}", us / them);
    table.figure("CPU a message, µs", us, beside);
    turns(&mqtt, table).await;

    mqtt.stop(None, Duration::from_secs(1));
    timeout(PATIENCE, driver).await.expect("stops").unwrap();
}

async fn flood(mqtt: &Mqtt) -> Speed {
    let (began, cpu) = (Instant::now(), own_cpu());
    let sent: Vec<_> = (0..MESSAGES).map(|_| mqtt.publish(message())).collect();
    for outcome in sent {
        assert_eq!(timeout(PATIENCE, outcome).await.expect("acknowledged"), Outcome::Sent);
    }
    speed(began.elapsed(), own_cpu() - cpu)
}

/// Publish, await the PUBACK, publish the next.
async fn turns(mqtt: &Mqtt, table: &mut Table) {
    let mut times = Vec::new();
    for _ in 0..TURNS {
        let began = Instant::now();
        let outcome = timeout(PATIENCE, mqtt.publish(message())).await.expect("acknowledged");
        assert_eq!(outcome, Outcome::Sent);
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    table.figure("publish to PUBACK, median, µs", times[TURNS / 2], "");
    table.figure("publish to PUBACK, 99 %, µs", times[TURNS * 99 / 100], "");
}

/// The same from its standard input; to the grain of a tick, and with its start and end.
fn mosquitto_pub(port: u16) -> Speed {
    let lines = format!("{}\n", "x".repeat(PAYLOAD)).repeat(MESSAGES);
    let (began, cpu) = (Instant::now(), cpu_of_children(std::process::id()));
    let mut child = Command::new("mosquitto_pub")
        .args(["-V", "mqttv5", "-q", "1", "-h", "127.0.0.1", "-t", "up/x", "-l", "-p", &port.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    speed(began.elapsed(), cpu_of_children(std::process::id()) - cpu)
}

fn speed(took: Duration, cpu: Duration) -> Speed {
    Speed {
        per_second: MESSAGES as f64 / took.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / MESSAGES as f64,
    }
}

/// Of this process, on whose one thread the driver runs.
fn own_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

fn message() -> Message {
    Message {
        topic: "up/x".into(),
        payload: vec![b'x'; PAYLOAD],
        qos: Qos::AtLeastOnce,
        retain: false,
        delivery: Delivery::Memory,
    }
}

fn settings(port: u16) -> Settings {
    let settings = direct::settings(port, "throughput");
    Settings { session_expiry: Duration::ZERO, queue: 2 * MESSAGES * PAYLOAD, ..settings }
}
