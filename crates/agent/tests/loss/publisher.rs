//! `iot-agent publish`, fed line by line.

use std::{ops::Range, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use super::support::Home;

const LONG: Duration = Duration::from_secs(120);

/// Sends numbers on a stream.
pub(super) struct Publisher {
    child: Child,
    stdin: ChildStdin,
}

/// What it said in the end.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) on_disk: u64,
    pub(super) success: bool,
    pub(super) stderr: String,
}

impl Publisher {
    pub(super) fn start(home: &Home, stream: &str) -> Self {
        Self::with_qos(home, stream, "1")
    }

    pub(super) fn with_qos(home: &Home, stream: &str, qos: &str) -> Self {
        let mut command = Command::from(home.command(&["publish", stream, "--qos", qos]));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        Self { child, stdin }
    }

    /// Feeds it these numbers, a line each; `false` when it no longer takes any.
    pub(super) async fn feed(&mut self, numbers: Range<u64>) -> bool {
        let lines: String = numbers.map(|number| format!("{number}\n")).collect();
        timeout(LONG, self.stdin.write_all(lines.as_bytes())).await.unwrap().is_ok()
    }

    /// Ends its input and waits for its last word.
    pub(super) async fn end(self) -> Told {
        let Self { mut child, stdin } = self;
        drop(stdin);
        let (mut stdout, mut stderr) = (String::new(), String::new());
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let told = async {
            tokio::try_join!(out.read_to_string(&mut stdout), err.read_to_string(&mut stderr)).unwrap();
            child.wait().await.unwrap().success()
        };
        let success = timeout(LONG, told).await.unwrap();
        let on_disk = stdout.split_once(" lines on disk").and_then(|(count, _)| count.parse().ok());
        let on_disk = on_disk.unwrap_or_else(|| panic!("publish says {stdout:?} and {stderr:?}"));
        Told { on_disk, success, stderr }
    }

    /// As [`Publisher::end`], where all has to be well.
    pub(super) async fn end_well(self, lines: u64) {
        let told = self.end().await;
        assert!(told.success && told.on_disk == lines, "{told:?} of {lines}");
    }
}
