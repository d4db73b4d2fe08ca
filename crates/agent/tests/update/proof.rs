//! I3 and U5 of updates: replays and forgeries, of which none may have an effect; versions that do not prove themselves.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use testkit::{seed, seed::Rng};
use tokio::time::Instant;

use crate::{
    story::{Builder, Story, until},
    support::{proof, tier, wait_status},
};

/// Of these, one in ten has a file that is fetched and judged.
fn wanted() -> usize {
    if tier() == 1 { 200 } else { 10_000 }
}

struct Forger {
    /// Requests whose files are forged or old.
    files: Vec<Value>,
    /// What was asked, and has ended.
    known: Vec<Value>,
}

impl Forger {
    async fn new(story: &Story, known: Vec<Value>) -> Self {
        let stranger = Builder::new();
        let target = story.target();
        let target = ["--target", target.to_str().unwrap()];
        let foreign = stranger.package("9.0.0", &[], &target);
        let older = story.package("0.9.0", &[], &[]);
        let board = story.package("9.0.1", &[], &["--hardware-id", "another"]);
        let sound = story.package("9.0.2", &[], &[]);
        let mut flipped = fs::read(&sound).unwrap();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        let flipped = story.builder.write("flipped.pkg", flipped, 0o644);
        let mut files = Vec::new();
        for (version, file) in [
            ("9.0.0", &foreign),
            ("0.9.0", &older),
            ("9.0.1", &board),
            ("9.0.2", &flipped),
            ("9.0.3", &sound),
        ] {
            files.push(story.request("", version, file).await);
        }
        Self { files, known }
    }

    /// The next one, and whether its end is still to come.
    fn next(&self, at: usize, rng: &mut Rng) -> (Value, bool) {
        if at.is_multiple_of(10) {
            let mut request = self.files[rng.below(self.files.len() as u64) as usize].clone();
            request["update_id"] = format!("forged-{at}").into();
            return (request, true);
        }
        let mut request = self.known[rng.below(self.known.len() as u64) as usize].clone();
        match rng.below(4) {
            // As it was.
            0 => (request, false),
            // Another body under a known id.
            1 => {
                request["version"] = "9.9.9".into();
                (request, false)
            }
            2 => {
                request["update_id"] = format!("late-{at}").into();
                request["expires_at"] = "2026-01-01T00:00:00Z".into();
                (request, true)
            }
            _ => {
                request["update_id"] = format!("bad-{at}").into();
                request["sha256"] = "00".into();
                (request, true)
            }
        }
    }
}

#[tokio::test]
async fn prove_i3_replays_and_forgeries_of_updates() {
    let seed = seed();
    let mut rng = Rng::new(seed);
    let story = Story::begin(", max_retry_attempts: 0").await;
    let ran = story.home.path().join("ran");
    let script = format!("#!/bin/sh\necho $IOT_UPDATE_VERSION >> {}\n", ran.display());
    let mut agent = story.online().await;
    let mut known = Vec::new();
    for version in ["1.0.0", "1.1.0"] {
        let package = story.package(version, &[("after", &script)], &["--post-install", "after"]);
        let request = story.request(version, version, &package).await;
        story.send(request.to_string()).await;
        assert_eq!(story.end(version).await["state"], "success");
        known.push(request);
    }
    let forger = Forger::new(&story, known).await;
    let (mut answered, wanted) = (0, wanted());
    for at in 0..wanted {
        let (request, open) = forger.next(at, &mut rng);
        story.send(request.to_string()).await;
        if open {
            let id = request["update_id"].as_str().unwrap();
            let end = story.end(id).await;
            assert_eq!(end["state"], "failed", "{end}");
            answered += 1;
        }
        if at % (wanted / 4) == wanted / 8 {
            agent.kill().await.unwrap();
            agent = story.online().await;
        }
    }
    let effects = fs::read_to_string(&ran).unwrap();
    assert_eq!(effects, "1.0.0\n1.1.0\n", "each once");
    assert_eq!(story.version().as_deref(), Some("1.1.0"));
    for version in ["1.0.0", "1.1.0"] {
        assert_eq!(story.ends(version).len(), 1);
    }
    proof("I3-updates", &format!("wanted=0 executed=0 requests={wanted} answered={answered} seed={seed}"));
    assert_eq!(json!(story.said("").len()), json!(0));
}

/// What is wrong with a new version, and what its program does. Healthy is one that runs for a while.
const FAULTS: [(&str, &str); 5] = [
    ("crashes", "#!/bin/sh\nkill -SEGV $$\n"),
    ("ends", "#!/bin/sh\nexit 0\n"),
    ("fails", "#!/bin/sh\nexit 3\n"),
    ("hangs", "#!/bin/sh\ntrap '' TERM\nsleep 1000\n"),
    ("mute", "#!/bin/sh\nsleep 1000\n"),
];

/// It has to run for half a second; one that hangs does not say whether it does.
const HEALTH: &str = "#!/bin/sh\ncd $(dirname $0)\ngrep -q trap app && exec ./app\n\
     timeout 0.5 ./app\ntest $? = 124 || exit 1\n\
     while [ -e {home}/hold ]; do touch {home}/held; sleep 0.02; done\n";

/// U5. The last kind reaches everything but the broker, behind whose port nobody speaks.
#[tokio::test]
async fn prove_u5_a_new_version_that_does_not_prove_itself_goes_back() {
    let rounds = if tier() == 1 { 1 } else { 4 };
    let mut story = Story::begin(", health: {timeout: 2s}").await;
    let health = HEALTH.replace("{home}", story.home.path().to_str().unwrap());
    let package = |story: &Story, version: &str, app: &str| {
        story.package(version, &[("app", app), ("health", &health)], &["--health", "health"])
    };
    let _agent = story.online().await;
    let good = package(&story, "1.0.0", "#!/bin/sh\nsleep 1000\n");
    assert_eq!(story.update("good", "1.0.0", &good).await["state"], "success");
    let (mut back, mut slowest) = (0, Duration::ZERO);
    for (at, (fault, app)) in FAULTS.iter().cycle().take(rounds * FAULTS.len()).enumerate() {
        let (id, version) = (format!("{fault}-{at}"), format!("2.0.{at}"));
        let (hold, held) = (story.home.path().join("hold"), story.home.path().join("held"));
        let mute = *fault == "mute";
        let bad = package(&story, &version, app);
        if mute {
            fs::remove_file(&held).ok();
            fs::write(&hold, "").unwrap();
        }
        story.ask(&id, &version, &bad).await;
        // Not by messages: whoever listens has to find the broker again, too.
        let last = |story: &Story| -> Option<Value> {
            story.home.status()?["updates"]
                .as_array()?
                .iter()
                .find(|said| said["update_id"] == id.as_str())
                .cloned()
        };
        until("it is confirming", || last(&story).is_some_and(|said| said["state"] == "confirming")).await;
        let began = Instant::now();
        let mut listener = None;
        if mute {
            until("it is about to prove itself", || held.exists()).await;
            let port = story.broker.port();
            story.broker.kill().await.unwrap();
            listener = Some(tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap());
            fs::remove_file(&hold).unwrap();
        }
        until("it goes back", || last(&story).is_some_and(|said| said["state"] == "rolled_back")).await;
        slowest = slowest.max(began.elapsed());
        assert_eq!(story.version().as_deref(), Some("1.0.0"), "{id}");
        back += 1;
        if mute {
            drop(listener);
            story.broker.start().await.unwrap();
            wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
        }
    }
    let took = slowest.as_secs_f64();
    proof("U5", &format!("wanted={back}/{back}-within-12-s back={back} slowest={took:.1}"));
    assert!(slowest < Duration::from_secs(12), "the health timeout and 10 s: {slowest:?}");
}
