//! What is told while a job runs, and what it can be told.

use std::time::{Duration, Instant};

use iot_agent::executor::{End, Event, Piece, Within};
use tokio::time::timeout;

use crate::fixture::{PATIENCE, Place, alive, executor, follow, run, whole};

#[tokio::test]
async fn chunks_tell_all_output_in_order_and_none_is_empty() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job = place.job("for i in 1 2 3 4 5; do echo $i; echo e$i >&2; sleep 0.06; done; printf end");
    job.chunk_every = Some(Duration::from_millis(50));
    let done = run(&executor, &job).await;
    let (mut stdout, mut stderr, mut count) = (Vec::new(), Vec::new(), 0);
    let mut events = done.events.into_iter();
    assert!(matches!(events.next(), Some(Event::Started { .. })), "first of all");
    for event in events {
        let Event::Chunk { stdout: out, stderr: err } = event else { panic!("{event:?}") };
        assert!(!out.is_empty() || !err.is_empty());
        assert_eq!((out.dropped, err.dropped), (0, 0));
        stdout.extend(out.bytes);
        stderr.extend(err.bytes);
        count += 1;
    }
    assert!(count >= 3, "{count} chunks");
    assert_eq!(String::from_utf8(stdout).unwrap(), "1\n2\n3\n4\n5\nend");
    assert_eq!(String::from_utf8(stderr).unwrap(), "e1\ne2\ne3\ne4\ne5\n");
    assert_eq!(whole(&done.report.stdout), "1\n2\n3\n4\n5\nend");
}

#[tokio::test]
async fn a_chunk_is_small_and_counts_the_rest() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job = place.job("head -c 100000 /dev/zero; sleep 0.3; head -c 3000000 /dev/zero >&2");
    job.chunk_every = Some(Duration::from_millis(100));
    let done = run(&executor, &job).await;
    let (mut stdout, mut stderr) = (0, 0);
    let count = |piece: &Piece| {
        assert!(piece.bytes.len() <= 16 << 10, "{}", piece.bytes.len());
        assert!(piece.dropped == 0 || piece.bytes.len() == 16 << 10, "room was left");
        piece.bytes.len() as u64 + piece.dropped
    };
    for event in &done.events[1..] {
        let Event::Chunk { stdout: out, stderr: err } = event else { panic!("{event:?}") };
        stdout += count(out);
        stderr += count(err);
    }
    assert_eq!((stdout, stderr), (100_000, 3_000_000));
}

#[tokio::test]
async fn a_cancelled_job_ends_at_once_and_keeps_what_it_said() {
    for within in [Within::Best, Within::Unified, Within::Nothing] {
        let (executor, place) = (executor(None, within), Place::new());
        let mut job =
            place.job("trap 'echo bye; exit 9' TERM; echo ready; (setsid sleep 100 &); sleep 100 & wait");
        job.chunk_every = Some(Duration::from_millis(1));
        let mut running = executor.start(&job).unwrap();
        // Ready to be told.
        while !matches!(timeout(PATIENCE, running.next()).await.unwrap(), Event::Chunk { .. }) {}
        let began = Instant::now();
        running.cancel();
        running.cancel();
        let report = follow(&mut running).await.report;
        assert_eq!((&report.end, whole(&report.stdout).as_str()), (&End::Cancelled, "ready\nbye\n"));
        // What it had just begun to start may have been too young to hear, and has had its grace.
        assert!(began.elapsed() < job.grace + Duration::from_secs(3), "{:?}", began.elapsed());
        assert_eq!(alive(&job), [] as [String; 0]);
    }
}

#[tokio::test]
async fn the_deaf_are_killed_after_their_grace() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job = place.job("trap '' TERM; echo ready; while :; do sleep 0.1; done");
    job.chunk_every = Some(Duration::from_millis(1));
    job.grace = Duration::from_millis(700);
    let mut running = executor.start(&job).unwrap();
    while !matches!(timeout(PATIENCE, running.next()).await.unwrap(), Event::Chunk { .. }) {}
    let began = Instant::now();
    running.cancel();
    let report = follow(&mut running).await.report;
    assert_eq!(report.end, End::Cancelled);
    let took = began.elapsed();
    assert!(took >= job.grace && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_job_cancelled_before_it_runs_ends_too() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let job = place.job("sleep 100");
    let mut running = executor.start(&job).unwrap();
    running.cancel();
    assert_eq!(follow(&mut running).await.report.end, End::Cancelled);
    // One that has ended stays as it ended.
    let job = place.job("exit 3");
    let mut running = executor.start(&job).unwrap();
    assert_eq!(follow(&mut running).await.report.end, End::Exited(3));
    running.cancel();
    assert!(timeout(Duration::from_millis(100), running.next()).await.is_err(), "nothing after the end");
}

#[tokio::test]
async fn an_agent_that_is_about_to_end_waits_half_a_second() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job = place.job("trap '' TERM; echo ready; while :; do sleep 0.1; done");
    job.chunk_every = Some(Duration::from_millis(1));
    job.grace = Duration::from_secs(50);
    let mut running = executor.start(&job).unwrap();
    while !matches!(timeout(PATIENCE, running.next()).await.unwrap(), Event::Chunk { .. }) {}
    let began = Instant::now();
    running.interrupt();
    let report = follow(&mut running).await.report;
    assert_eq!((&report.end, whole(&report.stdout).as_str()), (&End::Interrupted, "ready\n"));
    let took = began.elapsed();
    assert!(took > Duration::from_millis(450) && took < Duration::from_secs(5), "{took:?}");
}

/// `next` is used in `select!`.
#[tokio::test]
async fn a_wait_that_is_dropped_loses_nothing() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job = place.job("for i in $(seq 50); do echo $i; sleep 0.005; done; kill -9 $PPID; sleep 100");
    job.chunk_every = Some(Duration::from_millis(3));
    let mut running = executor.start(&job).unwrap();
    let (mut text, mut dropped, began) = (Vec::new(), 0, Instant::now());
    let report = loop {
        assert!(began.elapsed() < PATIENCE);
        match timeout(Duration::from_micros(700), running.next()).await {
            Err(_) => dropped += 1,
            Ok(Event::Started { .. }) => {}
            Ok(Event::Chunk { stdout, .. }) => text.extend(stdout.bytes),
            Ok(Event::Ended(report)) => break report,
        }
    };
    assert!(dropped > 50, "{dropped}");
    assert_eq!(report.end, End::Lost);
    let all: String = (1..=50).map(|i| format!("{i}\n")).collect();
    assert_eq!(whole(&report.stdout), all);
    assert!(all.as_bytes().starts_with(&text) && text.len() > 30, "{}", String::from_utf8_lossy(&text));
    assert_eq!(alive(&job), [] as [String; 0]);
}

#[tokio::test]
async fn a_job_of_a_megabyte_gets_through() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job = place.job("echo $#");
    job.argv.extend(std::iter::repeat_n("x".repeat(100_000), 10));
    assert_eq!(crate::fixture::said(&executor, &job).await, "9\n");
}
