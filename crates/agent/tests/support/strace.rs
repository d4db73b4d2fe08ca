//! Letting go of an agent that was followed by strace; see `testkit::inject`.

use std::time::Duration;

use testkit::Process;
use tokio::time::{Instant, sleep};

use super::{Home, SOON};

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
