//! What this program itself takes: `/proc/self`, and its runtime.

use std::fs;

use super::{
    files::Root,
    sample::Values,
    text::{lines, number, words},
    watched::Watched,
};

/// The collector of the agent's own.
#[derive(Debug)]
pub(super) struct Own {
    root: Root,
    status: Watched,
}

impl Own {
    pub(super) fn new(root: &Root) -> Self {
        Self { root: root.clone(), status: Watched::new(root, "proc/self/status") }
    }

    /// Puts `agent.*`.
    pub(super) fn collect(&mut self, values: &mut Values) {
        if let Some(status) = self.status.read() {
            let field =
                |name: &[u8]| number(words(lines(status).find_map(|line| line.strip_prefix(name))?).next()?);
            values.put_known(
                "agent.memory",
                "B",
                field(b"VmRSS:").map(|kibibytes| kibibytes as f64 * 1024.0),
            );
            values.put_known("agent.threads", "1", field(b"Threads:").map(|threads| threads as f64));
        }
        values.put_known("agent.fds", "1", fds(&self.root).map(|count| count as f64));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            values.put("agent.tasks", "1", runtime.metrics().num_alive_tasks() as f64);
        }
    }
}

/// Linux 6.2 and later tell it as the folder's size; before, they are counted, without the one for the folder.
fn fds(root: &Root) -> Option<u64> {
    let folder = root.path("proc/self/fd");
    match fs::metadata(&folder).ok()?.len() {
        0 => (fs::read_dir(folder).ok()?.count() as u64).checked_sub(1),
        count => Some(count),
    }
}
