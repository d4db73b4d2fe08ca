//! The agent goes away, or the keeper does.

use std::{fs, time::Duration};

use iot_agent::executor::{End, Event, Executor, Within};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, timeout};

use crate::fixture::{PATIENCE, Place, alive, executor, follow, groups, whole};

async fn started(running: &mut iot_agent::executor::Running) -> u32 {
    match timeout(PATIENCE, running.next()).await.unwrap() {
        Event::Started { pid } => pid,
        event => panic!("{event:?}"),
    }
}

/// Waits until a file that the job writes is there.
async fn written(path: &std::path::Path) {
    let wait = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait).await.unwrap();
}

#[tokio::test]
async fn a_job_whose_agent_is_gone_is_ended_and_its_output_is_found() {
    for within in [Within::Best, Within::Unified, Within::Nothing] {
        let (executor, place) = (executor(None, within), Place::new());
        let ready = place.path().join("ready");
        let mut job = place.job(&format!(
            "trap '' TERM; echo out; echo err >&2; setsid sleep 100 & touch {}; sleep 100; sleep 100",
            ready.display()
        ));
        job.timeout = Duration::from_secs(100);
        job.grace = Duration::from_secs(50);
        let mut running = executor.start(&job).unwrap();
        let keeper = running.keeper().unwrap();
        started(&mut running).await;
        written(&ready).await;
        drop(running);
        let began = Instant::now();
        let report = timeout(PATIENCE, Executor::collect(&job.spool)).await.unwrap().unwrap();
        assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
        assert_eq!(report.end, End::Interrupted);
        assert_eq!((whole(&report.stdout).as_str(), whole(&report.stderr).as_str()), ("out\n", "err\n"));
        assert_eq!(alive(&job), [] as [String; 0]);
        assert_eq!(groups(keeper), [] as [std::path::PathBuf; 0]);
        assert!(!job.spool.exists());
        assert_eq!(Executor::collect(&job.spool).await, None, "once");
    }
}

#[tokio::test]
async fn an_outcome_that_was_not_written_down_is_found_too() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let job = place.job("head -c 5000 /dev/zero; exit 3");
    let mut running = executor.start(&job).unwrap();
    let report = follow(&mut running).await.report;
    assert_eq!((&report.end, report.stdout.dropped), (&End::Exited(3), 904));
    running.leave();
    let found = timeout(PATIENCE, Executor::collect(&job.spool)).await.unwrap().unwrap();
    assert_eq!(found, report);
}

#[tokio::test]
async fn the_successor_waits_for_a_keeper_that_still_works() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job = place.job("trap 'sleep 0.3; echo cleaned up; exit 0' TERM; echo ready; sleep 100 & wait");
    job.timeout = Duration::from_secs(100);
    let mut running = executor.start(&job).unwrap();
    started(&mut running).await;
    // Not before it can hear SIGTERM.
    let keeper = running.keeper().unwrap();
    drop(running);
    let file = fs::File::open(&job.spool).unwrap();
    let free = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    assert_eq!(free, Err(rustix::io::Errno::WOULDBLOCK), "keeper {keeper} holds it");
    let report = timeout(PATIENCE, Executor::collect(&job.spool)).await.unwrap().unwrap();
    assert_eq!(report.end, End::Interrupted);
}

/// As systemd does it: when the main process is gone, the rest is killed at once.
#[tokio::test]
async fn heads_outlive_both_agent_and_keeper() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let job = place.job("echo out; echo err >&2; head -c 9000 /dev/zero; sleep 0.2; kill -9 $PPID; exit 0");
    let mut running = executor.start(&job).unwrap();
    let keeper = running.keeper().unwrap();
    started(&mut running).await;
    // Its end is not waited for by this agent, but by the next one.
    while !testkit::procfs::usage(keeper).map_or(true, |usage| usage.rss == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(running);
    let report = timeout(PATIENCE, Executor::collect(&job.spool)).await.unwrap().unwrap();
    assert_eq!((&report.end, whole(&report.stderr).as_str()), (&End::Lost, "err\n"));
    assert!(report.stdout.head.starts_with(b"out\n\0") && report.stdout.head.len() == 2048);
}

#[tokio::test]
async fn a_job_that_was_never_started_leaves_nothing() {
    let place = Place::new();
    let spool = place.path().join("spool");
    assert_eq!(Executor::collect(&spool).await, None);
    for content in ["", "garbage that is long enough to be a length"] {
        fs::write(&spool, content).unwrap();
        assert_eq!(Executor::collect(&spool).await, None, "{content:?}");
        assert!(!spool.exists());
    }
}

#[tokio::test]
async fn without_a_keeper_nothing_is_started() {
    let place = Place::new();
    let job = place.job("true");
    let executor = Executor::with("/no/such/program".into(), None, Within::Nothing);
    assert_eq!(executor.start(&job).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    assert!(!job.spool.exists());
    let mut nowhere = place.job("true");
    nowhere.spool = place.path().join("no/such/folder/spool");
    let executor = self::executor(None, Within::Nothing);
    assert_eq!(executor.start(&nowhere).unwrap_err().kind(), std::io::ErrorKind::NotFound);
}

#[tokio::test]
async fn two_jobs_never_share_a_spool() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let job = place.job("sleep 100");
    let first = executor.start(&job).unwrap();
    assert_eq!(executor.start(&job).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(first);
    let report = timeout(PATIENCE, Executor::collect(&job.spool)).await.unwrap().unwrap();
    assert_eq!(report.end, End::Interrupted);
}

/// Whatever the job does to its keeper, the deadline holds.
#[tokio::test]
async fn a_keeper_that_is_killed_takes_the_job_with_it() {
    for within in [Within::Best, Within::Unified, Within::Nothing] {
        let (executor, place) = (executor(None, within), Place::new());
        let ready = place.path().join("ready");
        let job = place.job(&format!(
            "echo out; trap '' TERM HUP; (setsid sh -c 'touch {}; sleep 100; sleep 100' &); sleep 100; sleep 100",
            ready.display()
        ));
        let mut running = executor.start(&job).unwrap();
        started(&mut running).await;
        written(&ready).await;
        let keeper = running.keeper().unwrap();
        kill_process(Pid::from_raw(keeper.cast_signed()).unwrap(), Signal::KILL).unwrap();
        let report = follow(&mut running).await.report;
        assert_eq!((&report.end, whole(&report.stdout).as_str()), (&End::Lost, "out\n"));
        assert_eq!(alive(&job), [] as [String; 0], "{}", executor.containment());
        assert_eq!(groups(keeper), [] as [std::path::PathBuf; 0]);
        assert_eq!(running.keeper(), None, "and it is reaped");
    }
}

#[tokio::test]
async fn keepers_are_reaped_and_no_descriptor_is_left() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut keepers = Vec::new();
    for number in 0..20 {
        let job = place.job("true");
        let mut running = executor.start(&job).unwrap();
        keepers.push(running.keeper().unwrap());
        if number % 3 > 0 {
            follow(&mut running).await;
        }
    }
    let gone = async {
        for keeper in keepers {
            while fs::exists(format!("/proc/{keeper}")).unwrap() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
    let open: Vec<_> =
        fs::read_dir("/proc/self/fd").unwrap().flatten().flat_map(|fd| fs::read_link(fd.path())).collect();
    assert!(open.iter().all(|path| !path.starts_with(place.path())), "{open:?}");
}

/// What a keeper left that died together with its agent: the next one cleans up.
#[tokio::test]
async fn groups_of_dead_keepers_are_removed_with_what_is_in_them() {
    for within in [Within::Hierarchies, Within::Unified] {
        let (executor, place) = (executor(None, within), Place::new());
        let mut running = executor.start(&place.job("sleep 100")).unwrap();
        started(&mut running).await;
        // None, where there are no cgroups.
        for group in groups(running.keeper().unwrap()) {
            // Of a keeper that nobody is: this process started at another time.
            let stale = group.with_file_name(format!("iot-agent-{}-1", std::process::id()));
            let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
            let made = || {
                fs::create_dir(&stale)?;
                fs::write(stale.join("cgroup.procs"), child.id().to_string())
            };
            // The executors of other tests clean up as well, and may do so before there is anything in it.
            while let Err(error) = made() {
                let gone = [Some(libc::ENOENT), Some(libc::ENODEV)].contains(&error.raw_os_error());
                assert!(gone, "{}: {error}", stale.display());
            }
            self::executor(None, within);
            assert!(!child.wait().unwrap().success());
            assert!(!stale.exists(), "{}", stale.display());
        }
        running.cancel();
        assert_eq!(follow(&mut running).await.report.end, End::Cancelled, "what lives is left alone");
    }
}
