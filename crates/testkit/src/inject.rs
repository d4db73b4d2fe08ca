//! What happens to a running program at one of its system calls, by strace.

use std::{fs, time::Duration};

use anyhow::ensure;
use tokio::time::{Instant, sleep};

use crate::process::Process;

const SOON: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

/// Follows a process with all its threads and whatever they start from now on. `inject` is what strace's option of that name
/// takes: `fsync:signal=SIGKILL:when=3` kills the process of which a thread gets to its third `fsync`.
///
/// Returns when the process is followed, or is gone: it may have come to the call already.
///
/// # Errors
/// When strace does not follow it.
///
/// # Panics
/// When strace is not installed.
pub async fn attach(pid: u32, inject: &str) -> anyhow::Result<Process> {
    let inject = format!("inject={inject}");
    let pid = pid.to_string();
    let options = ["-f", "-qq", "-o", "/dev/null", "-e", "trace=all", "-e", &inject, "-p", &pid];
    let strace = Process::spawn("strace", options);
    let strace = strace.expect("strace is not installed; run: apt-get install strace");
    let deadline = Instant::now() + SOON;
    while !followed(&pid) {
        ensure!(Instant::now() < deadline, "strace does not attach: {:?}", strace.stderr.all());
        sleep(LOOK).await;
    }
    Ok(strace)
}

fn followed(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let gone = !status.contains("\nTracerPid:") || status.contains("\nState:\tZ");
    gone || !status.contains("\nTracerPid:\t0\n")
}
