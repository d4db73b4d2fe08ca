//! A system bus of the test's own, with NetworkManager and ModemManager as python-dbusmock plays them.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::{
    io::AsyncWriteExt as _,
    process::Command,
    time::{sleep, timeout},
};

use crate::Process;

const SOON: Duration = Duration::from_secs(15);

/// Everybody may own and say everything.
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#;

/// What each script has at hand.
const PRELUDE: &str = r#"
import dbus
bus = dbus.SystemBus()
MOCK = 'org.freedesktop.DBus.Mock'
NM = 'org.freedesktop.NetworkManager'
MM = 'org.freedesktop.ModemManager1'
def mock(name, path):
    return dbus.Interface(bus.get_object(name, path), MOCK)
"#;

/// A bus and who is on it. They end with this.
#[derive(Debug)]
pub struct Bus {
    daemon: Option<Process>,
    services: Vec<Process>,
    dir: TempDir,
}

impl Bus {
    /// A bus on which nobody is.
    ///
    /// # Errors
    /// When dbus-daemon does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let mut bus = Self { daemon: None, services: Vec::new(), dir: tempfile::tempdir()? };
        bus.listen().await?;
        Ok(bus)
    }

    /// Its daemon, after [`Bus::kill`] another one at the same place.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn listen(&mut self) -> anyhow::Result<()> {
        let (config, socket) = (self.dir.path().join("bus.conf"), self.socket());
        std::fs::remove_file(&socket).ok();
        std::fs::write(&config, CONFIG.replace("SOCKET", &socket.display().to_string()))?;
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg("--nopidfile").arg("--config-file").arg(&config);
        self.daemon = Some(Process::run(command).context("start dbus-daemon")?);
        let listening = async {
            while tokio::net::UnixStream::connect(&socket).await.is_err() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, listening).await.context("dbus-daemon does not listen")
    }

    /// Kills its daemon, and everybody who was on it ends.
    ///
    /// # Errors
    /// When that fails.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.services.clear();
        match self.daemon.take() {
            Some(mut daemon) => daemon.kill().await,
            None => Ok(()),
        }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// What `DBUS_SYSTEM_BUS_ADDRESS` is to be.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.socket().display())
    }

    /// NetworkManager, with nothing yet.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn network_manager(&mut self) -> anyhow::Result<()> {
        self.mock(&["--template", "networkmanager"], "org.freedesktop.NetworkManager").await
    }

    /// ModemManager, with nothing yet.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn modem_manager(&mut self) -> anyhow::Result<()> {
        let name = "org.freedesktop.ModemManager1";
        let path = "/org/freedesktop/ModemManager1";
        self.mock(&["--system", "--is-object-manager", name, path, name], name).await
    }

    /// Whatever python-dbusmock is to play with these arguments, once it has this name.
    ///
    /// # Errors
    /// When it does not come up.
    pub async fn mock(&mut self, arguments: &[&str], name: &str) -> anyhow::Result<()> {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-m", "dbusmock"]).args(arguments);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.address());
        self.services.push(Process::run(command).context("start python3-dbusmock")?);
        let script = format!(
            "import time\nfor _ in range(1000):\n    if bus.name_has_owner('{name}'): break\n    time.sleep(0.01)\n\
             else: raise SystemExit('{name} is not there')"
        );
        self.script(&script).await.map(drop)
    }

    /// Runs Python that has `bus`, and `mock(name, path)` for the mock's own methods; what it prints.
    ///
    /// # Errors
    /// When it fails, with what it says.
    pub async fn script(&self, script: &str) -> anyhow::Result<String> {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-").env("DBUS_SYSTEM_BUS_ADDRESS", self.address()).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start python3")?;
        let mut stdin = child.stdin.take().context("standard input is piped")?;
        stdin.write_all(format!("{PRELUDE}{script}\n").as_bytes()).await?;
        drop(stdin);
        let output = timeout(SOON, child.wait_with_output()).await.context("the script still runs")??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{said}\n{script}");
        Ok(String::from_utf8(output.stdout)?)
    }
}
