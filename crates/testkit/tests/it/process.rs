use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::Result;
use iot_agent_testkit::{Mosquitto, Process, Rng, procfs, seed};

use crate::SOON;

const TRAPS_TERM: &str = "trap 'echo ending >&2; exit 7' TERM; echo out; echo first >&2; echo second >&2; while :; do read x || sleep 0.01; done";

#[tokio::test]
async fn lines_signals_and_exit_are_seen() -> Result<()> {
    let mut shell = Process::spawn("sh", ["-c", TRAPS_TERM])?;
    assert_eq!(shell.wait_line("second", SOON).await?, "second");
    assert_eq!(shell.find_line("first", SOON).await?, "first");
    assert!(shell.wait_line("first", Duration::from_millis(20)).await.is_err(), "it was passed over");
    shell.stdout.next(|line| line == "out", SOON).await?;
    assert!(shell.is_running()?);
    assert!(shell.wait_exit(Duration::from_millis(20)).await.is_err());

    shell.terminate()?;
    shell.wait_line("ending", SOON).await?;
    assert_eq!(shell.wait_exit(SOON).await?.code(), Some(7));
    assert!(!shell.is_running()?);
    assert!(shell.terminate().is_err(), "it has ended");
    let late = shell.wait_line("never", SOON).await.expect_err("its output has ended");
    assert!(format!("{late:#}").contains("ended"), "{late:#}");
    Ok(())
}

#[tokio::test]
async fn kill_and_drop_end_it() -> Result<()> {
    let mut one = Process::spawn("sleep", ["60"])?;
    one.kill().await?;
    assert_eq!(one.wait_exit(SOON).await?.signal(), Some(9));

    let dropped = Process::spawn("sleep", ["60"])?;
    let pid = dropped.pid();
    // Just after the start the kernel shows no arguments yet.
    arguments_become(pid, &["sleep", "60"]).await?;
    drop(dropped);
    arguments_become(pid, &[]).await
}

/// A process that has ended has none.
async fn arguments_become(pid: u32, expected: &[&str]) -> Result<()> {
    let reached = async {
        while procfs::arguments(pid).unwrap_or_default() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.map_err(Into::into)
}

#[tokio::test]
async fn proc_tells_what_a_process_uses() -> Result<()> {
    let broker = Mosquitto::builder().websockets().start().await?;
    let pid = broker.pid().expect("it runs");
    let usage = procfs::usage(pid)?;
    assert!(usage.rss > 1 << 20 && usage.rss <= usage.peak_rss && usage.pss <= usage.rss, "{usage:?}");
    assert!(usage.threads >= 1 && usage.fds >= 5 && usage.cpu > Duration::ZERO, "{usage:?}");
    let mut ports: Vec<u16> = procfs::listening_tcp(pid)?.iter().map(|address| address.port()).collect();
    let mut expected = [broker.port(), broker.ws_port()];
    ports.sort_unstable();
    expected.sort_unstable();
    assert_eq!(ports, expected);
    Ok(())
}

#[tokio::test]
async fn environment_children_and_processor_time() -> Result<()> {
    let mut command = tokio::process::Command::new("sh");
    command.env("TESTKIT_MARK", "here").args(["-c", "sleep 60 & echo up >&2; while :; do :; done"]);
    let shell = Process::run(command)?;
    shell.wait_line("up", SOON).await?;
    assert!(procfs::environment(shell.pid())?.contains(&"TESTKIT_MARK=here".to_owned()));
    let children = procfs::children(shell.pid())?;
    assert_eq!(children.len(), 1);
    let before = procfs::usage(shell.pid())?;
    let busy = async {
        while procfs::usage(shell.pid())?.cpu_ticks < before.cpu_ticks + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SOON, busy).await??;
    assert!(procfs::usage(shell.pid())?.cpu > before.cpu);
    drop(shell);
    // The shell cannot take its child along when it is killed.
    let orphan = rustix::process::Pid::from_raw(children[0].cast_signed()).expect("not 0");
    rustix::process::kill_process(orphan, rustix::process::Signal::KILL)?;
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let seed = seed();
    let draw = |seed| {
        let mut rng = Rng::new(seed);
        let mut bytes = [0; 13];
        rng.fill(&mut bytes);
        (bytes, rng.below(10), rng.between(Duration::from_secs(1), Duration::from_secs(2)))
    };
    assert_eq!(draw(seed), draw(seed));
    assert_ne!(draw(seed).0, draw(seed ^ 1).0);
    // The first number for seed 0, from the published reference implementation.
    assert_eq!(Rng::new(0).next_u64(), 0xE220_A839_7B1D_CDAF);
}
