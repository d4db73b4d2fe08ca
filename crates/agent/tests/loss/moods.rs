//! A broker in every mood: late, out of order, stalled, full, forgetful, unwilling.

use std::time::Duration;

use testkit::{
    Process, Recorder, Rng,
    recorder::{Event, Mood, Rejection, Stage},
    seed,
};
use tokio::time::sleep;

use super::{
    arrivals::Arrivals,
    device,
    publisher::Publisher,
    support::{Home, SOON, proof, stop, tier},
};

const LONG: Duration = Duration::from_secs(60);
/// Lines fed before and during each mood.
const SHARE: u64 = 100;
const STREAM: &str = "line";

/// Of these none makes a message overtake another.
fn moods(version: &str) -> Vec<Mood> {
    let well = Mood::default;
    let ms = Duration::from_millis;
    let refusals: &[u8] = if version == "5" { &[0x80, 0x88, 0x89, 0x97] } else { &[2, 3, 5] };
    let mut moods = vec![
        Mood { scatter: ms(30), ..well() },
        Mood { delay: ms(50), scatter: ms(50), ..well() },
        Mood { lose_session: true, ..well() },
        Mood { lose_session: true, scatter: ms(20), ..well() },
        Mood { receive_maximum: Some(1), ..well() },
        Mood { receive_maximum: Some(7), scatter: ms(10), ..well() },
        Mood { maximum_packet_size: Some(2000), maximum_qos: Some(1), ..well() },
    ];
    moods.extend(Stage::ALL.map(|stage| Mood { stall: Some(stage), ..well() }));
    moods.extend(refusals.iter().map(|code| Mood { refuse: Some(*code), ..well() }));
    moods
}

#[tokio::test]
async fn prove_nothing_is_lost_in_any_mood_of_the_broker() {
    let seed = seed();
    // A round is as many as there are, give or take. The small proof takes every other one, in each version others.
    let (rounds, step) = if tier() > 1 { (4, 1) } else { (1, 2) };
    let some = |version: &str, first| {
        let moods = moods(version);
        let count = rounds * moods.len() / step;
        moods.into_iter().cycle().skip(first).step_by(step).take(count).collect()
    };
    let (new, old) = (some("5", 0), some("3.1.1", 1));
    tokio::join!(each_mood("5", new, seed), each_mood("3.1.1", old, seed + 1));
}

async fn each_mood(version: &str, moods: Vec<Mood>, seed: u64) {
    let mut rng = Rng::new(seed);
    let (home, mut recorder, mut agent) = begin(version).await;
    let mut publisher = Publisher::start(&home, STREAM);
    let (mut arrivals, mut fed) = (Arrivals::default(), 0);
    for mood in &moods {
        assert!(publisher.feed(fed + 1..fed + SHARE + 1).await);
        recorder.mood(Mood { seed: rng.next_u64(), ..mood.clone() }).await.unwrap();
        // What is told in a CONNACK is told to a new connection.
        end_connections(&mut recorder, &mut rng).await;
        assert!(publisher.feed(fed + SHARE + 1..fed + 2 * SHARE + 1).await);
        fed += 2 * SHARE;
        sleep(rng.between(Duration::ZERO, Duration::from_millis(300))).await;
        recorder.mood(Mood::default()).await.unwrap();
        end_connections(&mut recorder, &mut rng).await;
        let recovered = arrivals.reach(&recorder, fed, LONG).await;
        assert!(recovered, "{version}: {} of {fed} {LONG:?} after {mood:?}", arrivals.count(&recorder));
    }
    publisher.end_well(fed).await;
    stop(&mut agent, "after all has been sent").await;
    arrivals.count(&recorder);
    let figures = arrivals.figures(&[STREAM], fed);
    let violations: Vec<_> = recorder.entries().unwrap().into_iter().filter(is_violation).collect();
    let (moods, count) = (moods.len(), violations.len());
    proof("moods", &format!("mqtt={version} {figures} moods={moods} violations={count} seed={seed}"));
    figures.assert_sound();
    arrivals.assert_each_line_once();
    assert!(violations.is_empty(), "{violations:#?}");
}

/// A broker that has no room for a message now may have it later: it is offered again until it is taken.
#[tokio::test]
async fn what_is_refused_for_now_arrives_later() {
    let (home, mut recorder, mut agent) = begin("5").await;
    let mut publisher = Publisher::start(&home, STREAM);
    let rule = |contains: &str, code| Rejection { contains: contains.into(), code, ..Rejection::default() };
    let reject = vec![rule("0}", 0x97), rule("5}", 0x83)];
    recorder.mood(Mood { reject, ..Mood::default() }).await.unwrap();
    assert!(publisher.feed(1..101).await);
    let mut arrivals = Arrivals::default();
    assert!(arrivals.reach(&recorder, 80, LONG).await, "{} of 80 that are taken", arrivals.count(&recorder));
    recorder.mood(Mood::default()).await.unwrap();
    assert!(arrivals.reach(&recorder, 100, LONG).await, "{} of 100", arrivals.count(&recorder));
    publisher.end_well(100).await;
    stop(&mut agent, "after all has been sent").await;
    arrivals.assert_each_line_once();
}

async fn begin(version: &str) -> (Home, Recorder, Process) {
    let recorder = Recorder::start().await.unwrap();
    let home = device(&format!("mqtt://127.0.0.1:{}", recorder.port()), version);
    let agent = home.start();
    agent.find_line("connected", SOON).await.unwrap();
    (home, recorder, agent)
}

async fn end_connections(recorder: &mut Recorder, rng: &mut Rng) {
    match rng.below(3) {
        0 => recorder.drop_all().await.unwrap(),
        // Restarting, moved, too busy, over quota, maintenance.
        _ => recorder.disconnect_all(*rng.pick(&[0x8B, 0x9D, 0x89, 0x97, 0xA0])).await.unwrap(),
    }
}

fn is_violation(entry: &testkit::recorder::Entry) -> bool {
    matches!(entry.event, Event::Violation { .. })
}
