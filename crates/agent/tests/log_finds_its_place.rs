//! `log.format: auto`: text on a terminal, fields to the journal under systemd, JSON elsewhere.
//!
//! Not a usual test binary: what a process logs to depends on its standard error, so each case is a process.

#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime};

use iot_agent::log::{Format, Level};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--log", format] => {
            let format = serde_json::from_value(format.into()).unwrap();
            iot_agent::log::init(format, Level::Info, || SystemTime::UNIX_EPOCH).unwrap();
            assert!(iot_agent::log::init(Format::Json, Level::Info, || SystemTime::UNIX_EPOCH).is_err());
            tracing::info!(service = "heartbeat", "running");
        }
        ["--with-a-journal", dir] => with_a_journal(Path::new(dir)),
        ["--list", ..] => {}
        _ => {
            json_elsewhere();
            text_on_a_terminal();
            fields_to_the_journal();
            eprintln!("log_finds_its_place: ok");
        }
    }
    ExitCode::SUCCESS
}

fn this() -> Command {
    let mut this = Command::new(std::env::current_exe().unwrap());
    this.env_remove("JOURNAL_STREAM").env_remove("NO_COLOR").env("TERM", "xterm");
    this
}

const JSON: &str =
    r#""level":"info","target":"log_finds_its_place","message":"running","service":"heartbeat"}"#;

fn json_elsewhere() {
    for (format, expected) in [
        ("auto", JSON),
        ("json", JSON),
        ("text", "1970-01-01T00:00:00.000Z INFO  running service=heartbeat\n"),
    ] {
        let logged = this().args(["--log", format]).env("JOURNAL_STREAM", "1:2").output().unwrap();
        let logged = String::from_utf8(logged.stderr).unwrap();
        assert!(logged.trim_end().ends_with(expected.trim_end()), "{format}: {logged}");
    }
}

fn text_on_a_terminal() {
    let inner = format!("{} --log auto", std::env::current_exe().unwrap().display());
    for (variable, value, expected) in [
        ("TERM", "xterm", "\x1b[32mINFO \x1b[0m running \x1b[2mservice=\x1b[0mheartbeat"),
        ("TERM", "dumb", "1970-01-01T00:00:00.000Z INFO  running service=heartbeat"),
        ("NO_COLOR", "1", "1970-01-01T00:00:00.000Z INFO  running service=heartbeat"),
    ] {
        let mut terminal = Command::new("script");
        terminal
            .args(["-qec", &inner, "/dev/null"])
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .env(variable, value);
        let logged = terminal.stdin(Stdio::null()).output().unwrap();
        let logged = String::from_utf8(logged.stdout).unwrap();
        assert!(logged.contains(expected), "{variable}={value}: {logged:?}");
    }
}

fn fields_to_the_journal() {
    let root = rustix::process::geteuid().is_root();
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.arg(if root { "-m" } else { "-rm" });
        unshare
    };
    let possible = unshare().arg("true").status().is_ok_and(|status| status.success());
    assert!(possible, "fields_to_the_journal needs `unshare`: run as root, with util-linux");
    let dir = tempfile::tempdir().unwrap();
    let told = unshare()
        .arg(std::env::current_exe().unwrap())
        .arg("--with-a-journal")
        .arg(dir.path())
        .status()
        .unwrap();
    assert!(told.success());
}

/// In a mount namespace of its own: a `/run` where only the journal is, and then not even that.
fn with_a_journal(dir: &Path) {
    assert!(Command::new("mount").args(["-t", "tmpfs", "none", "/run"]).status().unwrap().success());
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let stderr = dir.join("stderr");
    let logged = |format: &str| {
        let file = File::create(&stderr).unwrap();
        let found = file.metadata().unwrap();
        let stream = format!("{}:{}", found.dev(), found.ino());
        let status =
            this().args(["--log", format]).env("JOURNAL_STREAM", stream).stderr(file).status().unwrap();
        assert!(status.success());
        fs::read_to_string(&stderr).unwrap()
    };
    let mut entry = [0; 4096];
    for format in ["auto", "journald"] {
        assert_eq!(logged(format), "");
        assert_eq!(journal.recv(&mut entry).unwrap(), 0, "the question whether anybody listens");
        let length = journal.recv(&mut entry).unwrap();
        let entry = String::from_utf8_lossy(&entry[..length]);
        assert!(entry.contains("running service=heartbeat") && entry.contains("SERVICE\n"), "{entry}");
    }
    drop(journal);
    for format in ["auto", "journald"] {
        let logged = logged(format);
        assert!(logged.trim_end().ends_with(JSON), "{logged}");
        assert_eq!(logged.contains("there is no journal"), format == "journald");
    }
}
