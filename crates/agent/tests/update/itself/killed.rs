//! U1 of the agent's own updates: the old version, the installer, the launcher or the new version is killed at a call,
//! whichever makes that call so often first, and its successors as well for a while.

use std::time::Duration;

use testkit::{Process, Rng, inject::attach};
use tokio::time::{Instant, sleep};

use super::{release, script, sound};
use crate::{
    lives::CALLS,
    steps::Sample,
    story::{Story, until},
    support::{proof, stop, strace::detach},
};

/// Longer than an update of the agent takes.
const PATIENCE: Duration = Duration::from_secs(4);
/// Starts after which it has to be settled: the one that goes on, and another that an injection may still reach.
const RESTARTS: usize = 2;

/// What is asked for.
struct Asked {
    id: String,
    version: String,
    works: bool,
    inject: String,
}

/// Whether the process that was started here died of it.
async fn turn(story: &Story, agent: &mut Process, asked: &Asked) -> bool {
    let Asked { id, version, works, inject } = asked;
    let before = release(story);
    let package = if *works {
        sound(story, version, &["--allow-downgrade"])
    } else {
        script(story, version, "exit 1", &[])
    };
    let either = || {
        let now = release(story);
        assert!(now == before || now.as_ref() == Some(version), "{id}: {now:?} after {before:?}");
    };
    let strace = attach(agent.pid(), inject).await.unwrap();
    story.ask(id, version, &package).await;
    let deadline = Instant::now() + PATIENCE;
    while agent.is_running().unwrap() && story.ends(id).is_empty() && Instant::now() < deadline {
        either();
        sleep(Duration::from_millis(20)).await;
    }
    let died = !detach(strace, agent, &story.home).await;
    either();
    let mut restarts = 0;
    while story.ends(id).is_empty() || story.home.status().is_none() {
        if !agent.is_running().unwrap() {
            restarts += 1;
            assert!(restarts <= RESTARTS, "{id}: {:?}", story.said(id));
            *agent = story.home.start();
        }
        assert!(deadline.elapsed() < Duration::from_secs(60), "{id}: {:?}", story.said(id));
        sleep(Duration::from_millis(20)).await;
    }
    let end = &story.ends(id)[0];
    if end["state"] == "success" {
        assert!(works, "{id}: {end}");
        assert_eq!(release(story).as_ref(), Some(version), "{id}: {end}");
    } else {
        assert_eq!(release(story), before, "{id}: {end}");
    }
    died
}

#[tokio::test]
async fn prove_u1_itself_whoever_is_killed_there_is_one_version_and_one_end() {
    let seed = testkit::seed();
    let mut rng = Rng::new(seed);
    let mut sample = Sample::one_of(24, &mut rng);
    let story = Story::begin(", health: {timeout: 6s}").await;
    let mut agent = story.online().await;
    assert_eq!(story.update("first", "2.0.0", &sound(&story, "2.0.0", &[])).await["state"], "success");
    let (mut ids, mut deaths, mut good) = (Vec::new(), 0, 0);
    for call in CALLS {
        for n in [1, 2, 4, 9, 20] {
            if !sample.takes() {
                continue;
            }
            let number = ids.len();
            let works = number % 3 != 2;
            let version = match release(&story).as_deref() {
                _ if !works => format!("4.0.{number}"),
                Some("2.0.0") => "3.0.0".to_owned(),
                _ => "2.0.0".to_owned(),
            };
            let (id, inject) = (format!("{call}-{n}"), format!("{call}:signal=SIGKILL:when={n}"));
            deaths += usize::from(
                turn(&story, &mut agent, &Asked { id: id.clone(), version, works, inject }).await,
            );
            ids.push(id);
        }
    }
    // Nothing more comes of those before.
    let end = story.update("last", "5.0.0", &sound(&story, "5.0.0", &[])).await;
    assert_eq!(end["state"], "success", "{end}");
    for id in &ids {
        let ends = story.ends(id);
        assert_eq!(ends.len(), 1, "{id}: {ends:#?}");
        good += usize::from(ends[0]["state"] == "success");
    }
    until("it can be ended", || story.home.status().is_some()).await;
    stop(&mut agent, "after the last").await;
    let points = ids.len();
    proof(
        "U1-itself",
        &format!(
            "wanted=100%-old-or-new,one-end,<=2-restarts points={points} deaths={deaths} good={good} mixed=0 seed={seed}"
        ),
    );
}
