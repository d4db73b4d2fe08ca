//! An enrolled agent in a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// A folder with a configuration, a state and a program.
pub(crate) struct Home {
    dir: TempDir,
    program: PathBuf,
}

impl Home {
    /// A device enrolled already, as `device`, for the broker at `url`, that sends heartbeats and nothing else.
    #[allow(dead_code, reason = "each benchmark uses its part")]
    pub(crate) fn new(program: &Path, device: &str, url: &str, ca: Option<&Path>) -> Self {
        Self::serving(program, device, (url, ca), "heartbeat: {interval: 10s}, metrics: {enabled: false}")
    }

    /// The same with other `services`. The program is copied: memory is counted by how many processes share it, and two agents
    /// at once would halve it.
    pub(crate) fn serving(
        program: &Path,
        device: &str,
        (url, ca): (&str, Option<&Path>),
        services: &str,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().display();
        let ca = ca.map(|ca| format!("  ca_certificate: {}\n", ca.display())).unwrap_or_default();
        let text = format!(
            "mqtt:\n  broker: {url}\n{ca}paths: {{state: {at}/state, run: {at}/run}}\n\
             services: {{{services}}}\n"
        );
        fs::write(dir.path().join("config.yaml"), text).unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        let device = format!("{{\"device_id\": \"{device}\"}}");
        fs::write(dir.path().join("state/device.json"), device).unwrap();
        let copy = dir.path().join("iot-agent");
        fs::copy(program, &copy).unwrap();
        Self { dir, program: copy }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `iot-agent run`.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("run").arg("--config").arg(self.path().join("config.yaml"));
        command
    }
}
