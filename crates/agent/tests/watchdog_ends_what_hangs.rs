//! The watchdog tells systemd while the agent moves, and ends the process when it does not (L2).
//!
//! Not a usual test binary: what is to be ended is a process. systemd's two seconds stand for its usual thirty.

#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::io::{self, Read};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime};

use iot_agent::log::{Format, Level};
use iot_agent::systemd::{Notifier, Watchdog};

/// What systemd is said to wait for.
const WATCHDOG: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--agent", way] => agent(way),
        ["--list", ..] => {}
        _ => {
            systemd_hears_of_one_that_moves();
            for (way, last_words) in [
                ("blocked", "does not move any more"),
                ("stuck", "\"stuck\":\"metrics\""),
                ("blocked-with-the-log", ""),
            ] {
                is_ended(way, last_words);
            }
            eprintln!("watchdog_ends_what_hangs: ok");
        }
    }
    ExitCode::SUCCESS
}

fn agent(way: &str) {
    iot_agent::log::init(Format::Json, Level::Info, || SystemTime::UNIX_EPOCH).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let stuck = (way == "stuck").then(|| "metrics".to_owned());
        let _watchdog = Watchdog::start(Notifier::from_env(), move || stuck.clone()).unwrap();
        match way {
            "moving" => {
                let end = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
                assert_eq!(end.await.unwrap().unwrap(), 0);
            }
            "stuck" => std::future::pending().await,
            "blocked" => block(),
            "blocked-with-the-log" => {
                let _held = io::stderr().lock();
                block();
            }
            other => panic!("no way: {other}"),
        }
    });
}

fn block() {
    loop {
        std::thread::park();
    }
}

fn start(way: &str, configure: impl FnOnce(&mut Command) -> &mut Command) -> Child {
    let mut agent = Command::new(std::env::current_exe().unwrap());
    agent
        .args(["--agent", way])
        .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
        .env_remove("WATCHDOG_PID")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    configure(&mut agent).spawn().unwrap()
}

fn systemd_hears_of_one_that_moves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(WATCHDOG * 5)).unwrap();
    let mut agent = start("moving", |command| command.env("NOTIFY_SOCKET", &path));
    let started = Instant::now();
    for _ in 0..3 {
        let mut heard = [0; 64];
        let length = systemd.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"WATCHDOG=1");
    }
    assert!(started.elapsed() >= WATCHDOG, "no more often than every half of the time");
    drop(agent.stdin.take());
    assert!(agent.wait().unwrap().success());
}

fn is_ended(way: &str, last_words: &str) {
    let started = Instant::now();
    let ended = start(way, |command| command).wait_with_output().unwrap();
    assert_eq!(ended.status.signal(), Some(libc::SIGABRT), "{way}");
    // The same share of the usual time is 30 s; more than that is this machine's load.
    assert!(started.elapsed() < WATCHDOG * 5, "{way}: {:?}", started.elapsed());
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(said.contains(last_words), "{way}: {said}");
}
