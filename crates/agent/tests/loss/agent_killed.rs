//! D2: the agent is killed while it is handed messages.

use std::{ops::Range, time::Duration};

use testkit::{Process, Recorder, Rng, process::Signal, recorder::Mood, seed};
use tokio::time::sleep;

use super::{
    arrivals::Arrivals,
    device,
    publisher::{Publisher, Told},
    support::{Home, SOON, proof, stop, tier, wait_status},
};

const LONG: Duration = Duration::from_secs(120);
const STREAM: &str = "stream";

/// What `publish` says is on disk arrives, whenever the agent is killed. The publisher goes on with the lines that were
/// not confirmed; some of these may be on disk all the same, and come twice under two numbers.
#[tokio::test]
async fn prove_d2_nothing_is_lost_when_the_agent_is_killed() {
    let (rounds, lines) = if tier() > 1 { (200, 20_000) } else { (10, 1_000) };
    killed("1", rounds, lines).await;
}

/// The same with QoS 2: the broker may still hold identifiers of the agent that was killed.
#[tokio::test]
async fn prove_d2_nor_with_qos_2() {
    let (rounds, lines) = if tier() > 1 { (100, 10_000) } else { (10, 1_000) };
    killed("2", rounds, lines).await;
}

async fn killed(qos: &'static str, rounds: u64, lines: u64) {
    let seed = seed();
    let mut story = Story::begin(seed, qos).await;
    let (mut confirmed, mut partly) = (0, 0);
    for round in 1..=rounds {
        // So many that there is something to hand over at each kill.
        let upto = confirmed.max(lines * round / rounds) + 200;
        let told = story.hand_over(confirmed + 1..upto + 1, round % 2 == 0).await;
        partly += u64::from(told.on_disk > 0);
        confirmed += told.on_disk;
    }
    let lines = lines.max(confirmed);
    let mut publisher = Publisher::with_qos(&story.home, STREAM, qos);
    assert!(publisher.feed(confirmed + 1..lines + 1).await);
    publisher.end_well(lines - confirmed).await;

    let Story { mut agent, recorder, mut arrivals, kills, .. } = story;
    arrivals.complete(&recorder, lines, LONG).await;
    stop(&mut agent, "after all has been sent").await;
    arrivals.count(&recorder);
    let figures = arrivals.figures(&[STREAM], lines);
    let twice = figures.account.repeated_data(&format!("iot/d1/data/{STREAM}"));
    proof("D2", &format!("qos={qos} {figures} handed_over_twice={twice} kills={kills} seed={seed}"));
    figures.assert_sound();
    assert!(partly * 5 >= rounds, "in only {partly} of {rounds} rounds lines were on disk at the kill");
    assert!(figures.account.duplicates as u64 <= kills * 64, "{figures}");
}

struct Story {
    qos: &'static str,
    home: Home,
    agent: Process,
    recorder: Recorder,
    arrivals: Arrivals,
    rng: Rng,
    kills: u64,
    /// The largest number ever handed over, at the most.
    handed: u64,
}

impl Story {
    async fn begin(seed: u64, qos: &'static str) -> Self {
        let mut recorder = Recorder::start().await.unwrap();
        // So that some are always on their way.
        recorder.mood(Mood { delay: Duration::from_millis(3), ..Mood::default() }).await.unwrap();
        let home = device(&format!("mqtt://127.0.0.1:{}", recorder.port()), "5");
        let agent = home.start();
        wait_status(&home, |_| true).await;
        Self {
            qos,
            home,
            agent,
            recorder,
            arrivals: Arrivals::default(),
            rng: Rng::new(seed),
            kills: 0,
            handed: 0,
        }
    }

    /// Hands lines over, a few at a time, and kills the agent meanwhile: at any moment, or, late, at any moment after one
    /// has arrived that had not been handed over before. Then there is another agent.
    async fn hand_over(&mut self, lines: Range<u64>, late: bool) -> Told {
        let mut publisher = Publisher::with_qos(&self.home, STREAM, self.qos);
        let feed = async {
            for from in lines.clone().step_by(10) {
                if !publisher.feed(from..(from + 10).min(lines.end)).await {
                    return;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        let kill = async {
            if late && lines.contains(&(self.handed + 1)) {
                let came = self.arrivals.include(&self.recorder, self.handed + 1, SOON).await;
                assert!(came, "{} does not arrive", self.handed + 1);
            }
            sleep(self.rng.between(Duration::ZERO, Duration::from_millis(60))).await;
            self.agent.signal(Signal::KILL).unwrap();
        };
        tokio::join!(feed, kill);
        self.handed = self.handed.max(lines.end - 1);
        self.restart().await;
        let told = publisher.end().await;
        // The last line may be on disk, and the last word not be said.
        assert!(!told.success || told.on_disk == lines.end - lines.start, "{told:?} of {lines:?}");
        assert!(told.success || !told.stderr.is_empty(), "it says why not all is on disk");
        told
    }

    /// After a kill. The next one may be killed while it is starting.
    async fn restart(&mut self) {
        loop {
            assert!(!self.agent.wait_exit(SOON).await.unwrap().success());
            self.kills += 1;
            self.agent = self.home.start();
            if self.rng.below(4) > 0 {
                wait_status(&self.home, |_| true).await;
                return;
            }
            sleep(self.rng.between(Duration::ZERO, Duration::from_millis(60))).await;
            self.agent.signal(Signal::KILL).unwrap();
        }
    }
}
