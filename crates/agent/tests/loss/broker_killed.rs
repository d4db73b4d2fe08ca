//! D1: the broker is killed while messages flow.

use std::time::Duration;

use testkit::{
    Mosquitto, Proxy, Recorder, Rng, Watcher, client::Message, proxy::Cut, publish, recorder::Mood, seed,
};
use tokio::time::sleep;

use super::{
    arrivals::Arrivals,
    device,
    publisher::Publisher,
    support::{SOON, proof, stop, tier},
};

/// Most messages in flight at once: each kill can have the broker see so many a second time.
const WINDOW: usize = 64;
const STREAMS: [&str; 2] = ["first", "second"];
/// What has arrived when this has, was acknowledged before it.
const MARK: &str = "iot/d1/data/mark";
const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn prove_d1_nothing_is_lost_when_the_broker_is_killed() {
    let (kills, lines) = if tier() > 1 { (200, 10_000) } else { (10, 500) };
    let seed = seed();
    tokio::join!(recorder_killed("5", kills, lines, seed), recorder_killed("3.1.1", kills, lines, seed + 1));
}

/// Two streams of so many lines each.
async fn recorder_killed(version: &str, kills: u64, lines: u64, seed: u64) {
    let mut rng = Rng::new(seed);
    let mut recorder = Recorder::start().await.unwrap();
    // So that at any moment some were not seen and some not acknowledged.
    let (lag, delay) = (Duration::from_millis(2), Duration::from_millis(2));
    recorder.mood(Mood { lag, delay, ..Mood::default() }).await.unwrap();
    let home = device(&format!("mqtt://127.0.0.1:{}", recorder.port()), version);
    let mut agent = home.start();
    agent.find_line("connected", SOON).await.unwrap();
    let mut publishers = STREAMS.map(|stream| Publisher::start(&home, stream));
    let (mut arrivals, share) = (Arrivals::default(), lines / kills);
    for kill in 0..kills {
        if rng.below(2) == 0 {
            // After a connection that broke the agent sends one by one for a while: now it fills its window again.
            let fed = kill * share * STREAMS.len() as u64;
            assert!(arrivals.reach(&recorder, fed, LONG).await, "{} of {fed}", arrivals.count(&recorder));
        }
        for publisher in &mut publishers {
            assert!(publisher.feed(1 + kill * share..1 + (kill + 1) * share).await);
        }
        // Somewhere in the stream of messages, or before there is a connection again.
        let further = arrivals.count(&recorder) + rng.below(2 * share);
        arrivals.reach(&recorder, further, rng.between(Duration::ZERO, Duration::from_millis(400))).await;
        recorder.kill().await.unwrap();
        // The outage.
        sleep(rng.between(Duration::ZERO, Duration::from_millis(100))).await;
        if kill % 2 == 0 {
            recorder.start_again().await.unwrap();
        } else {
            recorder.start_without_sessions().await.unwrap();
        }
    }
    for publisher in publishers {
        publisher.end_well(lines).await;
    }
    let all = lines * STREAMS.len() as u64;
    arrivals.reach(&recorder, all, LONG).await;
    stop(&mut agent, "after all has been sent").await;
    arrivals.count(&recorder);
    let figures = arrivals.figures(&STREAMS, lines);
    proof("D1", &format!("broker=recorder mqtt={version} {figures} kills={kills} seed={seed}"));
    figures.assert_sound();
    arrivals.assert_each_line_once();
    assert!(figures.account.duplicates <= kills as usize * WINDOW, "{figures}");
}

/// Within what mosquitto keeps when it is killed: nothing that it has acknowledged and not yet passed on. So the agent's
/// line is cut at any moment, and mosquitto is killed once the subscriber has what it had acknowledged until then. The
/// proxy keeps the agent out until the subscriber is back, since for nobody mosquitto keeps nothing.
#[tokio::test]
async fn prove_d1_nothing_is_lost_when_mosquitto_is_killed() {
    let (kills, lines) = if tier() > 1 { (50, 2_500) } else { (4, 400) };
    let seed = seed();
    tokio::join!(
        mosquitto_killed("5", kills, lines, seed),
        mosquitto_killed("3.1.1", kills, lines, seed + 1)
    );
}

async fn mosquitto_killed(version: &str, kills: u64, lines: u64, seed: u64) {
    let mut rng = Rng::new(seed);
    let broker =
        Mosquitto::builder().persistence().line("autosave_on_changes true").line("autosave_interval 1");
    let mut broker = broker.line("max_inflight_messages 0").start().await.unwrap();
    let watcher = Watcher::with_session(&broker, "iot/d1/data/#", "watcher").await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let home = device(&format!("mqtt://127.0.0.1:{}", proxy.port()), version);
    let mut agent = home.start();
    agent.find_line("connected", SOON).await.unwrap();
    let mut publisher = Publisher::start(&home, STREAMS[0]);
    let (mut arrivals, share) = (Arrivals::default(), lines / kills);
    for kill in 0..kills {
        assert!(publisher.feed(1 + kill * share..1 + (kill + 1) * share).await);
        let further = arrivals.count(&watcher) + rng.below(share);
        arrivals.reach(&watcher, further, rng.between(Duration::ZERO, Duration::from_millis(400))).await;
        let before = watcher.subscriptions();
        proxy.refuse().await;
        proxy.cut_all(Cut::Rst);
        let mark = format!("{{\"seq\":{0},\"data\":{0}}}", kill + 1);
        publish(&broker, MARK, &mark, 1, false).await.unwrap();
        let is_mark = |message: &Message| message.topic == MARK && message.payload == mark.as_bytes();
        watcher.next(is_mark, SOON).await.unwrap();
        broker.kill().await.unwrap();
        if kill % 2 == 0 {
            broker.start().await.unwrap();
        } else {
            broker.start_without_session().await.unwrap();
        }
        watcher.wait_resubscribed(before, SOON).await.unwrap();
        proxy.accept().await;
    }
    publisher.end_well(lines).await;
    arrivals.reach(&watcher, lines + kills, LONG).await;
    stop(&mut agent, "after all has been sent").await;
    let figures = arrivals.figures(&STREAMS[..1], lines);
    proof("D1", &format!("broker=mosquitto mqtt={version} {figures} kills={kills} seed={seed}"));
    figures.assert_sound();
    arrivals.assert_each_line_once();
    assert!(figures.account.duplicates <= kills as usize * WINDOW, "{figures}");
}
