//! The figures of jobs.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use iot_agent::executor::{End, Event, Executor, Job, Limits, Report, Running, Within};
use tokio::task::JoinSet;

use crate::table::{Table, median};

/// How often a single job is timed.
const TIMES: usize = 300;
/// Jobs of the burst, and how many at once.
const BURST: usize = 10_000;
const AT_ONCE: usize = 4;

pub(crate) async fn measure(table: &mut Table) {
    let program = std::env::var_os("IOT_AGENT").unwrap_or_else(|| env!("CARGO_BIN_EXE_iot-agent").into());
    let folder = tempfile::Builder::new().prefix("bench").tempdir_in("/dev/shm").unwrap();
    for within in [Within::Best, Within::Unified, Within::Nothing] {
        let executor = Executor::with(program.clone().into(), None, within);
        let held = executor.containment().split(';').next().unwrap().to_owned();
        let (mut plain, mut ours) = (Vec::new(), Vec::new());
        // In turns: whatever else the machine does meets both.
        for number in 0..TIMES {
            let began = Instant::now();
            by_itself();
            plain.push(began.elapsed().as_secs_f64() * 1e3);
            let began = Instant::now();
            run(&executor, &job(folder.path(), number, "true")).await;
            ours.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let (plain, ours) = (median(plain), median(ours));
        table.figure("sh -c true by itself, p50 ms", plain, "–");
        table.limit(&format!("true more than by itself, p50 ms ({held})"), 5.0, ours - plain, "–");
    }
    let executor = Executor::with(program.into(), None, Within::Best);
    burst(table, &executor, folder.path()).await;
    gigabyte(table, &executor, folder.path()).await;
}

/// What nobody could do without.
fn by_itself() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "true"]).stdin(Stdio::null());
    assert!(command.output().unwrap().status.success());
}

async fn burst(table: &mut Table, executor: &Executor, folder: &Path) {
    let began = Instant::now();
    let mut running = JoinSet::new();
    for number in 0..BURST {
        if running.len() == AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        let (executor, job) = (executor.clone(), job(folder, number, "true"));
        running.spawn(async move { drop(run(&executor, &job).await) });
    }
    running.join_all().await;
    table.at_least(
        "10,000 × true, 4 at once, per s",
        300.0,
        BURST as f64 / began.elapsed().as_secs_f64(),
        "–",
    );
}

async fn gigabyte(table: &mut Table, executor: &Executor, folder: &Path) {
    let own = std::process::id();
    let before = testkit::procfs::usage(own).unwrap().rss;
    let began = Instant::now();
    let mut running = executor.start(&job(folder, 0, "head -c 1000000000 /dev/zero")).unwrap();
    let keeper = running.keeper().unwrap();
    let watch = async {
        let (mut ours, mut theirs) = (before, 0);
        loop {
            let Ok(usage) = testkit::procfs::usage(keeper) else { return (ours, theirs) };
            theirs = usage.peak_rss.max(theirs);
            ours = testkit::procfs::usage(own).unwrap().rss.max(ours);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let finish = async {
        let report = end(&mut running).await;
        let took = began.elapsed().as_secs_f64();
        drop(running);
        (report, took)
    };
    let ((ours, theirs), (report, took)) = tokio::join!(watch, finish);
    assert_eq!(report.stdout.dropped, 1_000_000_000 - 65536);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    table.at_least("1 GB of output drained, MB/s", 500.0, 1000.0 / took, "–");
    table.limit("… agent RSS grown, MiB", 2.0, mib(ours - before), "–");
    table.limit("… keeper peak RSS, MiB", 8.0, mib(theirs), "–");
}

async fn run(executor: &Executor, job: &Job) -> Report {
    let mut running = executor.start(job).unwrap();
    let report = end(&mut running).await;
    assert_eq!(report.end, End::Exited(0));
    report
}

async fn end(running: &mut Running) -> Report {
    loop {
        if let Event::Ended(report) = running.next().await {
            return report;
        }
    }
}

fn job(folder: &Path, number: usize, command: &str) -> Job {
    Job {
        argv: ["/bin/sh", "-c", command].map(str::to_owned).into(),
        env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into())]),
        cwd: "/".into(),
        run_as: None,
        timeout: Duration::from_secs(60),
        grace: Duration::from_secs(2),
        output_limit: 65536,
        chunk_every: None,
        limits: Limits { memory: Some(1 << 30), pids: Some(64) },
        spool: folder.join(format!("spool-{number}")),
    }
}
