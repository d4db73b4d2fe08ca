//! X2, X3, X4: what grows, multiplies and hides.

use std::{fs, time::Duration};

use iot_agent::executor::{End, Executor, Job, Limits, Within};
use tokio::time::Instant;

use crate::fixture::{Place, executor, follow, held_by, proof, run, tier, whole};

fn limited(mut job: Job, memory: Option<u64>, pids: Option<u32>) -> Job {
    job.limits = Limits { memory, pids };
    job
}

/// Forks as fast as it can, and so does each of its children. It ends by itself a while after its deadline, should
/// nobody else end it.
const BOMB: &str = "
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
end = time.time() + 8
while time.time() < end:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: time.sleep(0.001)
";

async fn bomb(executor: &Executor, job: Job, most: u64) {
    let mut job = limited(job, None, Some(50));
    job.argv = vec!["python3".into(), "-c".into(), BOMB.into()];
    job.timeout = Duration::from_millis(700);
    job.grace = Duration::from_millis(100);
    let began = Instant::now();
    let mut running = executor.start(&job).unwrap();
    let counted = async {
        let mut seen = 0;
        loop {
            seen = seen.max(crate::fixture::alive(&job).len() as u64);
            tokio::time::sleep(Duration::from_millis(20)).await;
            if began.elapsed() > Duration::from_millis(600) {
                return seen;
            }
        }
    };
    let (seen, done) = tokio::join!(counted, follow(&mut running));
    assert_eq!(done.report.end, End::TimedOut);
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    assert!(seen > 10 && seen <= most, "{seen} processes at once");
    assert_eq!(crate::fixture::alive(&job), [] as [String; 0], "{}", executor.containment());
    proof("X3", "<=50", &format!("processes={seen} left=0 held_by={}", held_by(executor)));
}

#[tokio::test]
async fn prove_x3_a_fork_bomb_is_held_and_ended() {
    let place = Place::new();
    let best = executor(None, Within::Best);
    if best.containment().contains("pids") {
        bomb(&best, place.job(""), 50).await;
    }
    // Its user's processes count, of which there may be some.
    let mut job = place.job("");
    job.run_as = Some("61234:61234".into());
    bomb(&executor(Some("61234:61234"), Within::Nothing), job, 50).await;
}

/// Where neither holds it, it still ends.
#[tokio::test]
async fn prove_x3_what_forks_without_limit_is_stopped_and_killed() {
    let place = Place::new();
    for within in [Within::Unified, Within::Nothing] {
        let executor = executor(None, within);
        let mut job = place.job(
            "i=0; while [ $i -lt 40 ]; do (trap '' TERM; while :; do (setsid sleep 0.01 &); done) & i=$((i+1)); done; wait",
        );
        job.timeout = Duration::from_millis(500);
        job.grace = Duration::from_millis(100);
        let began = Instant::now();
        assert_eq!(run(&executor, &job).await.report.end, End::TimedOut);
        assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
        let took = began.elapsed().as_millis();
        proof("X3", "0-left", &format!("left=0 ms={took} held_by={}", held_by(&executor)));
    }
}

#[tokio::test]
async fn memory_is_held() {
    let place = Place::new();
    let hog = "python3 -c 'x=[bytearray(1<<20) for i in range(200)]; print(\"had it\")'";
    let best = executor(None, Within::Best);
    if best.containment().contains("memory") {
        let report = run(&best, &limited(place.job(hog), Some(64 << 20), None)).await.report;
        assert_eq!((report.end, report.stdout.head.len()), (End::Exited(137), 0));
    }
    // Each of its processes only.
    let rlimits = executor(Some("nobody"), Within::Nothing);
    assert_eq!(rlimits.containment(), "rlimits under run_as nobody");
    let mut job = limited(place.job(hog), Some(64 << 20), None);
    job.run_as = Some("nobody".into());
    let report = run(&rlimits, &job).await.report;
    assert_eq!(report.end, End::Exited(1));
    assert!(whole(&report.stderr).contains("MemoryError"), "{report:?}");
    // And with room for it, there is room.
    let report = run(&best, &limited(place.job(hog), Some(400 << 20), Some(50))).await.report;
    assert_eq!((&report.end, whole(&report.stdout).as_str()), (&End::Exited(0), "had it\n"));
}

#[tokio::test]
async fn prove_x2_endless_output_grows_nobody() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let own = std::process::id();
    for command in ["yes", "cat /dev/zero", "cat /dev/zero >&2", "yes & yes >&2"] {
        let mut job = place.job(command);
        job.output_limit = 65536;
        job.timeout = Duration::from_millis(700);
        let mut running = executor.start(&job).unwrap();
        let keeper = running.keeper().unwrap();
        let began = Instant::now();
        let watch = async {
            let mut peak = 0;
            while began.elapsed() < Duration::from_millis(600) {
                peak = testkit::procfs::usage(keeper).map_or(peak, |usage| usage.rss.max(peak));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            peak
        };
        let before = testkit::procfs::usage(own).unwrap().rss;
        let (peak, done) = tokio::join!(watch, follow(&mut running));
        let grown = testkit::procfs::usage(own).unwrap().rss.saturating_sub(before);
        let (out, err) = (&done.report.stdout, &done.report.stderr);
        for kept in [out, err] {
            assert!(kept.head.len() + kept.tail.len() <= 65536);
        }
        assert!(out.dropped + err.dropped > 10_000_000, "{command}: {} {}", out.dropped, err.dropped);
        let ended_by_itself = command.contains('&') && command.ends_with('s');
        assert!(done.report.end == End::TimedOut || ended_by_itself, "{command}: {:?}", done.report.end);
        // Other tests run in this process meanwhile; the bench measures it alone.
        assert!(grown < 24 << 20, "{command}: this process has grown by {grown}");
        // A debug build of the whole agent, of which the keeper uses next to nothing.
        assert!(peak < 24 << 20, "the keeper of {command} has {peak} bytes");
        let drained = (out.dropped + err.dropped) >> 20;
        let figures = format!("agent_kib={} keeper_kib={} drained_mib={drained}", grown >> 10, peak >> 10);
        proof("X2", "agent<=2048", &figures);
    }
}

/// X4 for each containment, after an end by itself and after a deadline.
#[tokio::test]
async fn prove_x4_nothing_is_left_of_what_hides() {
    let hiding = [
        "nohup sleep 100 >/dev/null 2>&1 &",
        "setsid -f sleep 100",
        "(setsid sh -c '(setsid sleep 100 &) &' &)",
        "python3 -c \"
import os, signal, time
for s in (1, 2, 3, 15): signal.signal(s, signal.SIG_IGN)
for i in range(5):
    if os.fork(): os._exit(0)
    os.setsid()
time.sleep(100)
\"",
        // Traces itself: stopped at each signal but SIGKILL.
        "strace -qq -o /dev/null -f setsid -f sleep 100 &",
        "setsid -f sh -c 'kill -STOP $$'",
    ];
    let place = Place::new();
    let mut count = 0;
    let rounds = if tier() > 1 { 10 } else { 1 };
    let containments = [Within::Hierarchies, Within::Unified, Within::Nothing];
    for within in containments.into_iter().cycle().take(rounds * containments.len()) {
        let executor = executor(None, within);
        for command in hiding {
            for (then, end) in [("sleep 0.05; exit 3", End::Exited(3)), ("sleep 100", End::TimedOut)] {
                let mut job = place.job(&format!("{command}\n{then}"));
                job.timeout = if end == End::TimedOut { Duration::from_millis(200) } else { job.timeout };
                job.grace = Duration::from_millis(50);
                // Which looks for what is left.
                let report = run(&executor, &job).await.report;
                assert_eq!(report.end, end, "{command}: {report:?}");
                count += 1;
            }
        }
    }
    proof("X4", "0-left", &format!("commands={count} left=0"));
}

/// Somebody outside holds the pipe open: that does not keep us.
#[tokio::test]
async fn a_pipe_in_foreign_hands_is_waited_for_a_second_at_most() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let hold = place.path().join("hold");
    let job =
        place.job(&format!("echo said; touch {}; while [ -e {0} ]; do sleep 0.01; done", hold.display()));
    let mut running = executor.start(&job).unwrap();
    let pid = match running.next().await {
        iot_agent::executor::Event::Started { pid } => pid,
        event => panic!("{event:?}"),
    };
    tokio::time::timeout(crate::fixture::PATIENCE, async {
        while !hold.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .unwrap();
    let held = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/fd/1")).unwrap();
    fs::remove_file(&hold).unwrap();
    let began = Instant::now();
    let report = follow(&mut running).await.report;
    assert_eq!((&report.end, whole(&report.stdout).as_str()), (&End::Exited(0), "said\n"));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
    drop(held);
}
