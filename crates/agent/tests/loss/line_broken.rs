//! D3: the line to the broker breaks in every way a line can, while messages flow.

use std::time::Duration;

use testkit::{
    Mosquitto, Proxy, Recorder, Rng, Watcher,
    certs::Pki,
    proxy::{Cut, Faults, Link},
    recorder::Mood,
    seed,
};
use tokio::time::{Instant, sleep};

use super::{
    CAP,
    arrivals::{Arrivals, Witness},
    device,
    publisher::Publisher,
    support::{Home, SOON, proof, stop, tier},
};

/// How long after the line is whole again everything may take to arrive.
const WANTED: Duration = CAP.saturating_add(Duration::from_secs(5));
const LONG: Duration = Duration::from_secs(60);
/// Lines fed before and during each fault.
const SHARE: u64 = 50;

/// What can happen to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Latency,
    Throttle,
    Slices,
    Rst,
    Fin,
    BlackHole,
    CutAfter,
    /// For TLS, which sees it.
    FlippedByte,
}

const PLAIN: [Fault; 7] = [
    Fault::Latency,
    Fault::Throttle,
    Fault::Slices,
    Fault::Rst,
    Fault::Fin,
    Fault::BlackHole,
    Fault::CutAfter,
];
const TLS: [Fault; 8] = [
    Fault::Latency,
    Fault::Throttle,
    Fault::Slices,
    Fault::Rst,
    Fault::Fin,
    Fault::BlackHole,
    Fault::CutAfter,
    Fault::FlippedByte,
];

impl Fault {
    fn strike(self, proxy: &Proxy, rng: &mut Rng) {
        let both = |link| proxy.set(Faults::both(link));
        let offset = rng.below(3000);
        match self {
            Self::Latency => {
                let latency = rng.between(Duration::from_millis(10), Duration::from_millis(150));
                both(Link { latency, ..Link::default() });
            }
            Self::Throttle => {
                both(Link { bytes_per_second: Some(1000 + rng.below(20_000)), ..Link::default() });
            }
            Self::Slices => both(Link { slice: Some(1), ..Link::default() }),
            Self::Rst => proxy.cut_all(Cut::Rst),
            Self::Fin => proxy.cut_all(Cut::Fin),
            Self::BlackHole => {
                let hole = Link { blackhole: true, ..Link::default() };
                let faults = [
                    Faults::both(hole),
                    Faults { up: hole, ..Faults::default() },
                    Faults { down: hole, ..Faults::default() },
                ];
                proxy.set(*rng.pick(&faults));
            }
            Self::CutAfter => {
                let cut = *rng.pick(&[Cut::Rst, Cut::Fin]);
                let link = Link { cut_after: Some((offset, cut)), ..Link::default() };
                let faults =
                    [Faults { up: link, ..Faults::default() }, Faults { down: link, ..Faults::default() }];
                proxy.set(*rng.pick(&faults));
            }
            Self::FlippedByte => {
                let link = Link { flip_at: Some(offset), ..Link::default() };
                let faults =
                    [Faults { up: link, ..Faults::default() }, Faults { down: link, ..Faults::default() }];
                proxy.set(*rng.pick(&faults));
                // Offsets count from the beginning of a connection.
                proxy.cut_all(Cut::Rst);
            }
        }
    }
}

/// Half of each over plain TCP, half over TLS; of these half in each version.
#[tokio::test]
async fn prove_d3_nothing_is_lost_on_a_broken_line() {
    let faults = if tier() > 1 { 250 } else { 8 };
    let (seed, pki) = (seed(), Pki::new().unwrap());
    let one = |version, tls: bool, seed| before_a_recorder(version, tls.then_some(&pki), faults, seed);
    tokio::join!(
        one("5", false, seed),
        one("3.1.1", false, seed + 1),
        one("5", true, seed + 2),
        one("3.1.1", true, seed + 3)
    );
}

async fn before_a_recorder(version: &str, pki: Option<&Pki>, faults: usize, seed: u64) {
    let (mut recorder, proxy, home);
    match pki {
        None => {
            recorder = Recorder::start().await.unwrap();
            proxy = Proxy::start(recorder.addr()).await.unwrap();
            home = device(&format!("mqtt://127.0.0.1:{}", proxy.port()), version);
        }
        Some(pki) => {
            recorder = Recorder::with_tls(&pki.server().unwrap()).await.unwrap();
            proxy = Proxy::start(([127, 0, 0, 1], recorder.tls_port()).into()).await.unwrap();
            home = device(&format!("mqtts://localhost:{}", proxy.port()), version)
                .mqtt(&format!("ca_certificate: {}", pki.ca_file().display()));
        }
    }
    // So that some are always on their way.
    recorder.mood(Mood { delay: Duration::from_millis(3), ..Mood::default() }).await.unwrap();
    let line = Line { home, proxy, faults: if pki.is_some() { &TLS } else { &PLAIN } };
    let over = if pki.is_some() { "tls" } else { "tcp" };
    line.broken(&recorder, &format!("broker=recorder mqtt={version} over={over}"), faults, seed).await;
}

#[tokio::test]
async fn prove_d3_nothing_is_lost_on_a_broken_line_to_mosquitto() {
    let faults = if tier() > 1 { 50 } else { 8 };
    let seed = seed();
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
    let watcher = Watcher::start(&broker, "iot/d1/data/#").await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let home = device(&format!("mqtt://127.0.0.1:{}", proxy.port()), "5");
    let line = Line { home, proxy, faults: &PLAIN };
    line.broken(&watcher, "broker=mosquitto mqtt=5 over=tcp", faults, seed).await;
}

struct Line {
    home: Home,
    proxy: Proxy,
    faults: &'static [Fault],
}

impl Line {
    /// Strikes so often, each kind in turn; each time everything has to arrive soon after the line is whole again.
    async fn broken(&self, witness: &impl Witness, what: &str, faults: usize, seed: u64) {
        let mut rng = Rng::new(seed);
        let mut agent = self.home.start();
        agent.find_line("connected", SOON).await.unwrap();
        let mut publisher = Publisher::start(&self.home, "line");
        let (mut arrivals, mut fed, mut recoveries) = (Arrivals::default(), 0, Vec::new());
        for round in 0..faults {
            assert!(publisher.feed(fed + 1..fed + SHARE + 1).await);
            sleep(rng.between(Duration::ZERO, Duration::from_millis(20))).await;
            let fault = self.faults[round % self.faults.len()];
            fault.strike(&self.proxy, &mut rng);
            assert!(publisher.feed(fed + SHARE + 1..fed + 2 * SHARE + 1).await);
            fed += 2 * SHARE;
            sleep(self.duration(fault, &mut rng)).await;
            self.proxy.heal();
            let whole = Instant::now();
            let recovered = arrivals.reach(witness, fed, LONG).await;
            assert!(recovered, "{what}: {} of {fed} {LONG:?} after {fault:?}", arrivals.count(witness));
            recoveries.push(whole.elapsed());
        }
        publisher.end_well(fed).await;
        stop(&mut agent, "after all has been sent").await;
        arrivals.count(witness);
        let figures = arrivals.figures(&["line"], fed);
        recoveries.sort_unstable();
        let connections = self.proxy.stats().connections;
        let p99 = recoveries[(faults * 99).div_ceil(100) - 1];
        proof(
            "D3",
            &format!(
                "{what} {figures} faults={faults} connections={connections} reconnect_p99_ms={} wanted_ms={} \
                 seed={seed}",
                p99.as_millis(),
                WANTED.as_millis()
            ),
        );
        figures.assert_sound();
        arrivals.assert_each_line_once();
        assert!(connections as usize > faults / 4, "{connections} connections: the faults broke no line");
        assert!(p99 <= WANTED, "{what}: {recoveries:?}");
    }

    /// Now and then a black hole is left long enough to be found out.
    fn duration(&self, fault: Fault, rng: &mut Rng) -> Duration {
        let most = if fault == Fault::BlackHole && rng.below(4) == 0 { 3000 } else { 300 };
        rng.between(Duration::ZERO, Duration::from_millis(most))
    }
}
