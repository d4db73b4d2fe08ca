//! Ends a process within a system call of choice.

use std::{fs, time::Duration};

use testkit::Process;
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::{Home, SOON};

/// Follows a process and all its threads and children.
pub async fn attach(pid: u32, inject: &str) -> Process {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=all", "-e", inject, "-p", &pid.to_string()]);
    let strace = Process::run(command).unwrap();
    let traced = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let dead = !status.contains("\nTracerPid:") || status.contains("\nState:\tZ");
        // It may be dead already: it does more than commands.
        dead || !status.contains("\nTracerPid:\t0\n")
    };
    let deadline = Instant::now() + SOON;
    while !traced() {
        assert!(Instant::now() < deadline, "strace does not attach: {:?}", strace.stderr.all());
        sleep(Duration::from_millis(5)).await;
    }
    strace
}

/// Lets go of the agent; whether it lives. What was injected last may take a moment to end it.
pub async fn detach(mut strace: Process, agent: &mut Process, home: &Home) -> bool {
    strace.kill().await.unwrap();
    let deadline = Instant::now() + SOON;
    while agent.is_running().unwrap() {
        // It has answered what was asked after that.
        if home.status().is_some() {
            return agent.is_running().unwrap();
        }
        assert!(Instant::now() < deadline, "the agent neither answers nor ends");
        sleep(Duration::from_millis(5)).await;
    }
    false
}
