//! D6 and X1: many commands, delivered more than once, while the agent is killed.

use serde_json::json;
use testkit::{Rng, inject::attach};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    story::Story,
    support::{SOON, proof, strace::detach, tier},
};
use std::{collections::BTreeMap, time::Duration};

/// Each of many commands comes one to five times while the agent is killed at random: none has two effects, each has
/// one end.
#[tokio::test]
async fn prove_d6_one_effect_and_one_end() {
    let (commands, kills) = if tier() > 1 { (1000, 40) } else { (50, 4) };
    let seed = testkit::seed();
    let mut rng = Rng::new(seed);
    let story = Story::begin(", queue: 10000").await;
    let effects = story.file("effects");
    let mut agent = story.online().await;
    let mut lines = Vec::new();
    for n in 0..commands {
        let command = format!("echo {n} >> {}; sleep 0.0{}", effects.display(), rng.below(5));
        let order = json!({ "execution_id": format!("e{n}"), "command": command }).to_string();
        for _ in 0..=rng.below(5) {
            let at = lines.len() - usize::try_from(rng.below(8)).unwrap().min(lines.len());
            lines.insert(at, order.clone());
        }
    }
    let sent = lines.len();
    let (mut left, each) = (lines.into_iter(), sent / (kills + 1) + 1);
    for _ in 0..kills {
        let some: Vec<String> = left.by_ref().take(each).collect();
        let publish = testkit::client::publish_lines(&story.broker, "iot/d1/command", &some, 1);
        let kill = async {
            sleep(Duration::from_millis(rng.below(400))).await;
            agent.kill().await.unwrap();
        };
        let (published, ()) = tokio::join!(publish, kill);
        published.unwrap();
        agent = story.online().await;
    }
    let some: Vec<String> = left.collect();
    testkit::client::publish_lines(&story.broker, "iot/d1/command", &some, 1).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(if tier() > 1 { 300 } else { 60 });
    let ended = || (0..commands).filter(|n| !story.ends(&format!("e{n}")).is_empty()).count();
    while ended() < commands {
        assert!(Instant::now() < deadline, "{} of {commands} have ended; seed {seed}", ended());
        sleep(Duration::from_millis(200)).await;
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for line in std::fs::read_to_string(&effects).unwrap().lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
    let twice = counts.values().filter(|count| **count > 1).count();
    let ends: Vec<usize> = (0..commands).map(|n| story.ends(&format!("e{n}")).len()).collect();
    let untrue = (0..commands)
        .filter(|n| {
            story.ends(&format!("e{n}"))[0]["status"] == "success" && !counts.contains_key(&n.to_string())
        })
        .count();
    proof(
        "d6",
        &format!(
            "wanted=twice:0,ends:1,untrue:0 commands={commands} sent={sent} kills={kills} twice={twice} \
             ends={} untrue={untrue} seed={seed}",
            ends.iter().max().unwrap()
        ),
    );
    assert_eq!((twice, ends.iter().max(), untrue), (0, Some(&1), 0), "seed {seed}");
    timeout(SOON, agent.kill()).await.unwrap().unwrap();
}

/// A burst: each is either run or rejected, and told so.
#[tokio::test]
async fn prove_x1_a_burst_is_run_or_rejected() {
    let commands = if tier() > 1 { 10_000 } else { 500 };
    let story = Story::begin(", queue: 100").await;
    let _agent = story.online().await;
    let effects = story.file("effects");
    let order = |n| json!({ "execution_id": format!("e{n}"), "command": format!("echo {n} >> {}", effects.display()) });
    let lines: Vec<String> = (0..commands).map(|n| order(n).to_string()).collect();
    testkit::client::publish_lines(&story.broker, "iot/d1/command", &lines, 1).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(if tier() > 1 { 240 } else { 60 });
    let ended = || {
        let all = story.watcher.all().into_iter().filter_map(|message| message.json().ok());
        let ends = all.filter(|said| matches!(said["status"].as_str(), Some("success" | "rejected")));
        ends.map(|end| (end["execution_id"].to_string(), end["status"] == "success"))
            .collect::<BTreeMap<_, _>>()
    };
    while ended().len() < commands {
        assert!(Instant::now() < deadline, "{} of {commands} have ended", ended().len());
        sleep(Duration::from_millis(200)).await;
    }
    let run = ended().values().filter(|run| **run).count();
    let effects = story.count("effects");
    proof(
        "x1",
        &format!("wanted=run+rejected:{commands} run={run} rejected={} effects={effects}", commands - run),
    );
    assert_eq!(run, effects);
    assert!(run >= 100);
}

/// Killed within each system call that accepting, running and ending a command makes, be it the agent or, since those
/// are followed, a keeper or the shell.
#[tokio::test]
async fn prove_d6_killed_at_every_call() {
    const CALLS: [&str; 20] = [
        "openat",
        "pwrite64",
        "fdatasync",
        "fsync",
        "close",
        "epoll_wait",
        "recvfrom",
        "sendto",
        "write",
        "read",
        "futex",
        "socketpair",
        "clone3",
        "vfork",
        "execve",
        "flock",
        "mkdir",
        "unlinkat",
        "unlink",
        "prctl",
    ];
    let nth = if tier() > 1 { 12 } else { 2 };
    let story = Story::quiet().await;
    let (mut agent, mut killed, mut points) = (story.online().await, 0, 0);
    for call in CALLS {
        for n in 1..=nth {
            let id = format!("{call}-{n}");
            let effect = story.file(&id);
            let strace = attach(agent.pid(), &format!("{call}:signal=SIGKILL:when={n}")).await.unwrap();
            story.order(&id, &format!("echo x >> {}", effect.display())).await;
            // Until it has ended, or the agent has.
            let deadline = Instant::now() + SOON;
            while agent.is_running().unwrap() && story.ends(&id).is_empty() {
                assert!(Instant::now() < deadline, "{id}: neither an end nor a death");
                sleep(Duration::from_millis(20)).await;
            }
            points += 1;
            if !detach(strace, &mut agent, &story.home).await {
                killed += 1;
                agent = story.online().await;
            }
            let end = story.end(&id).await;
            // A second order to know that nothing more comes.
            story.order(&format!("{id}-after"), "true").await;
            assert_eq!(story.end(&format!("{id}-after")).await["status"], "success", "{id}");
            let effects = story.count(&id);
            assert!(effects <= 1, "{id}: run {effects} times");
            assert_eq!(story.ends(&id).len(), 1, "{id}: {:#?}", story.ends(&id));
            assert!(end["status"] != "success" || effects == 1, "{id}: {end:#}");
        }
    }
    proof("d6-calls", &format!("wanted=twice:0,ends:1 points={points} killed={killed} twice=0 ends=1"));
    assert!(killed > 0, "nothing was ever killed");
}

/// I3: replays and forgeries of each kind. None runs anything.
#[tokio::test]
async fn prove_i3_replays_and_forgeries() {
    let each = if tier() > 1 { 10_000 } else { 200 };
    let story = Story::with(", queue: 100", "policy: policy.yaml\n").await;
    let effects = story.file("effects");
    let write = format!("echo x >> {}", effects.display());
    let policy = "command: {named: {write: {run: \"echo {what} >> FILE\", args: {what: \"[a-z]+\"}}}}\n";
    story.home.file("policy.yaml", &policy.replace("FILE", &effects.display().to_string()), 0o600);
    let _agent = story.online().await;
    let good = json!({ "execution_id": "good", "command": "write", "args": { "what": "x" } });
    story.send(good.to_string()).await;
    assert_eq!(story.end("good").await["status"], "success");
    let past = "2020-01-01T00:00:00Z";
    let evil = |n: usize| ["$(id)", "x; id", "x\nid", "../x", "X", "-n x", "`id`", "x&"][n % 8];
    type Kind<'a> = (&'a str, &'a str, Box<dyn Fn(usize) -> String + 'a>);
    let kinds: Vec<Kind<'_>> = vec![
        ("replayed", "iot/d1/command", Box::new(|_| good.to_string())),
        (
            "another body",
            "iot/d1/command",
            Box::new(|_| {
                json!({ "execution_id": "good", "command": "write", "args": { "what": "y" } }).to_string()
            }),
        ),
        (
            "not allowed",
            "iot/d1/command",
            Box::new(|n| json!({ "execution_id": format!("n{n}"), "command": write }).to_string()),
        ),
        (
            "bad argument",
            "iot/d1/command",
            Box::new(|n| {
                json!({ "execution_id": format!("a{n}"), "command": "write", "args": { "what": evil(n) } })
                    .to_string()
            }),
        ),
        (
            "expired",
            "iot/d1/command",
            Box::new(|n| {
                json!({ "execution_id": format!("e{n}"), "command": "write", "args": { "what": "x" }, "expires_at": past })
                .to_string()
            }),
        ),
        ("malformed", "iot/d1/command", Box::new(|n| good.to_string()[..n % 60].to_owned())),
        (
            "for another",
            "iot/d2/command",
            Box::new(|n| {
                json!({ "execution_id": format!("o{n}"), "command": "write", "args": { "what": "x" } })
                    .to_string()
            }),
        ),
        (
            "on the status",
            "iot/d1/command/status",
            Box::new(|n| {
                json!({ "execution_id": format!("s{n}"), "command": "write", "args": { "what": "x" } })
                    .to_string()
            }),
        ),
    ];
    for (kind, topic, payload) in &kinds {
        let lines: Vec<String> = (0..each).map(payload).collect();
        testkit::client::publish_lines(&story.broker, topic, &lines, 1).await.unwrap();
        // Behind all of them.
        let id = format!("after {kind}");
        story.order_with(&id, "write", json!({ "args": { "what": "x" }, "expires_at": past })).await;
        let deadline = Instant::now() + Duration::from_secs(120);
        while story.ends(&id).is_empty() {
            assert!(Instant::now() < deadline, "{kind}: not done in time");
            sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(story.count("effects"), 1, "{kind}: something has run");
    }
    proof(
        "i3",
        &format!(
            "wanted=executed:0 kinds={} each={each} executed={}",
            kinds.len(),
            story.count("effects") - 1
        ),
    );
}
