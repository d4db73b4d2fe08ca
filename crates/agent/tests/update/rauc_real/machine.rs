//! A machine with RAUC: two slots, a boot loader that counts tries, keys for bundles, a bus, and a device that is updated.

use std::{fs, path::PathBuf, time::Duration};

use testkit::{Process, bus::Bus};
use tokio::process::Command;

use crate::{
    commands::after_reboots_with,
    story::{Story, until},
    support::{SOON, command, wait_status},
};

/// As RAUC has it for U-Boot: a slot is good while it has tries left, and has all of them again when it is marked good or made
/// the first one.
const BACKEND: &str = r#"#!/bin/sh
cd "${0%/*}" || exit 1
echo "$*" >> calls
case $1 in
get-primary) cat primary ;;
set-primary) echo "$2" > primary; echo 3 > "left.$2" ;;
get-state) if [ "$(cat "left.$2")" -gt 0 ]; then echo good; else echo bad; fi ;;
set-state) if [ "$3" = good ]; then echo 3 > "left.$2"; else echo 0 > "left.$2"; fi ;;
esac
"#;

const SYSTEM: &str = "[system]
compatible=board
bootloader=custom
mountprefix=HOME/mnt
statusfile=HOME/boot/status
[handlers]
bootloader-custom-backend=HOME/boot/backend
[keyring]
path=CERT
[slot.rootfs.0]
device=HOME/slot.A
type=raw
bootname=A
[slot.rootfs.1]
device=HOME/slot.B
type=raw
bootname=B
";

/// Larger than what RAUC and the kernel take for nothing.
const SLOT: usize = 256 << 10;

pub(super) struct Machine {
    pub(super) story: Story,
    bus: Bus,
    rauc: Option<Process>,
    booted: &'static str,
    boots: usize,
    /// How often it was seen to go down.
    downs: usize,
    /// What lies in slot B has no RAUC.
    without_rauc: bool,
}

impl Machine {
    /// On which a version has so long to prove itself, with further settings of the service; it runs from slot A.
    pub(super) async fn begin(timeout: &str, more: &str) -> Self {
        let more = format!(
            ", reboot_command: 'echo down >> {{home}}/downs', \
             health: {{timeout: {timeout}, command: 'test ! -e {{home}}/ill'}}{more}"
        );
        let story = Story::begin(&more).await;
        let home = story.home.path().to_owned();
        for folder in ["boot", "mnt"] {
            fs::create_dir_all(home.join(folder)).unwrap();
        }
        for slot in ["A", "B"] {
            fs::write(home.join(format!("slot.{slot}")), image("0.0.0")).unwrap();
            fs::write(home.join(format!("boot/left.{slot}")), "3").unwrap();
        }
        fs::write(home.join("boot/primary"), "A\n").unwrap();
        story.home.file("boot/backend", BACKEND, 0o755);
        let key = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let more = ["-keyout", "rauc.key", "-out", "rauc.crt", "-days", "3650", "-subj", "/CN=builder"];
        story.builder.run("openssl", &[&key[..], &more].concat());
        let system = SYSTEM.replace("HOME", home.to_str().unwrap());
        let system = system.replace("CERT", story.builder.path("rauc.crt").to_str().unwrap());
        story.home.file("system.conf", &system, 0o644);
        let bus = Bus::start().await.unwrap();
        Self { story, bus, rauc: None, booted: "", boots: 0, downs: 0, without_rauc: false }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.story.home.path().join(name)
    }

    /// What the boot loader knows.
    pub(super) fn state(&self, name: &str) -> String {
        fs::read_to_string(self.path("boot").join(name)).unwrap().trim().to_owned()
    }

    /// The tries that a slot has left.
    pub(super) fn left(&self, slot: &str) -> u32 {
        // The backend may be about to write it.
        self.state(&format!("left.{slot}")).parse().unwrap_or(u32::MAX)
    }

    pub(super) fn set_left(&self, slot: &str, left: u32) {
        fs::write(self.path(&format!("boot/left.{slot}")), left.to_string()).unwrap();
    }

    pub(super) fn booted(&self) -> &str {
        self.booted
    }

    /// The version that runs; all of its slot has been looked at.
    pub(super) fn version(&self) -> String {
        let found = fs::read(self.path(&format!("slot.{}", self.booted))).unwrap();
        let end = found.iter().position(|byte| *byte == b' ').expect("a slot says its version");
        let version = String::from_utf8(found[..end].to_vec()).unwrap();
        assert!(found == image(&version), "the slot {} is a mixture", self.booted);
        version
    }

    pub(super) fn make_ill(&self) {
        fs::write(self.path("ill"), "").unwrap();
    }

    pub(super) fn make_well(&self) {
        fs::remove_file(self.path("ill")).unwrap();
    }

    /// Whether or not it was ill.
    pub(super) fn be_well(&self) {
        fs::remove_file(self.path("ill")).ok();
    }

    pub(super) fn lose_rauc(&mut self) {
        self.without_rauc = true;
    }

    /// The boot loader takes a slot, and its RAUC comes up.
    async fn boot(&mut self) {
        let first = if self.state("primary") == "A" { ["A", "B"] } else { ["B", "A"] };
        let slot = first.into_iter().find(|slot| self.left(slot) > 0).expect("some slot can be booted");
        self.set_left(slot, self.left(slot) - 1);
        self.booted = slot;
        if self.without_rauc && slot == "B" {
            return;
        }
        // What it has mounted goes with it.
        let mut command = Command::new("unshare");
        command.args(["-m", "rauc", "-c"]).arg(self.path("system.conf"));
        command.args(["service", &format!("--override-boot-slot={slot}")]);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.bus.address());
        self.rauc = Some(Process::run(command).unwrap());
        let there = "import time\nfor _ in range(1000):\n    \
            if bus.name_has_owner('de.pengutronix.rauc'): break\n    time.sleep(0.01)\n\
            else: raise SystemExit('RAUC is not there')";
        self.bus.script(there).await.unwrap();
    }

    /// The agent, after the first boot.
    pub(super) async fn run(&mut self) -> Process {
        self.boot().await;
        self.again().await
    }

    /// The agent, on a machine that has run on.
    pub(super) async fn again(&self) -> Process {
        let env = [("DBUS_SYSTEM_BUS_ADDRESS", &*self.bus.address())];
        if self.boots > 0 {
            return after_reboots_with(&self.story, self.boot_number(), &env).await;
        }
        let mut command = self.story.home.command(&["run"]);
        command.envs(env);
        let agent = Process::run(command.into()).unwrap();
        wait_status(&self.story.home, |status| status["connection"]["state"] == "connected").await;
        agent
    }

    /// A boot id begins with a digit, and differs from the one before.
    fn boot_number(&self) -> usize {
        self.boots % 9 + 1
    }

    pub(super) fn is_going_down(&self) -> bool {
        let downs = fs::read_to_string(self.path("downs")).unwrap_or_default();
        downs.lines().count() > self.downs
    }

    /// Waits until the machine is to be restarted for this update.
    pub(super) async fn goes_down(&self, id: &str) {
        let said = || format!("{id}: {:?}", self.story.said(id));
        let deadline = tokio::time::Instant::now() + SOON;
        while !self.is_going_down() {
            assert!(tokio::time::Instant::now() < deadline, "the machine is not restarted; {}", said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Everything ends at once, and comes up again.
    pub(super) async fn reboot(&mut self, agent: &mut Process) -> Process {
        if agent.is_running().unwrap() {
            agent.kill().await.unwrap();
        }
        if let Some(mut rauc) = self.rauc.take() {
            rauc.kill().await.unwrap();
        }
        let downs = fs::read_to_string(self.path("downs")).unwrap_or_default();
        self.downs = downs.lines().count();
        self.boots += 1;
        self.boot().await;
        self.again().await
    }

    /// A signed package with a bundle for such a board.
    pub(super) fn bundle(&self, version: &str, board: &str) -> PathBuf {
        let builder = &self.story.builder;
        let (content, package) = (format!("content-{version}"), format!("os-{version}"));
        builder.write(&format!("{content}/root.img"), image(version), 0o644);
        let manifest =
            format!("[update]\ncompatible={board}\nversion={version}\n[image.rootfs]\nfilename=root.img\n");
        builder.write(&format!("{content}/manifest.raucm"), manifest, 0o644);
        fs::create_dir_all(builder.path(&package)).unwrap();
        let bundle = format!("{package}/system.raucb");
        builder.run("rauc", &["bundle", "--cert=rauc.crt", "--key=rauc.key", &content, &bundle]);
        let out = format!("{package}.pkg");
        let create = ["package", "create", &package, "-o", &out, "--version", version];
        let agent = env!("CARGO_BIN_EXE_iot-agent");
        builder.run(agent, &[&create[..], &["--kind", "rauc", "--name", "os"]].concat());
        builder.run(agent, &["package", "sign", &out, "--key", "release.key"]);
        builder.path(&out)
    }

    pub(super) async fn ask(&self, id: &str, version: &str) {
        self.story.ask(id, version, &self.bundle(version, "board")).await;
    }

    /// One that goes well.
    pub(super) async fn update(&mut self, agent: &mut Process, id: &str, version: &str) -> Process {
        self.ask(id, version).await;
        self.goes_down(id).await;
        let agent = self.reboot(agent).await;
        let end = self.story.end(id).await;
        assert_eq!((&end["state"], self.version()), (&"success".into(), version.to_owned()), "{end}");
        agent
    }

    /// What is said of updates and slots on the device.
    pub(super) fn status(&self) -> String {
        let mut status = self.story.home.command(&["update", "status"]);
        let output = status.env("DBUS_SYSTEM_BUS_ADDRESS", self.bus.address()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Has the slot before come back by hand; the id of that.
    pub(super) async fn begin_to_roll_back(&self) -> String {
        let ids = || -> Vec<String> {
            let all = self.story.watcher.all().into_iter().filter_map(|message| message.json().ok());
            let ids = all.filter_map(|said| said["update_id"].as_str().map(str::to_owned));
            ids.filter(|id| id.starts_with("local-")).collect()
        };
        let known = ids();
        // It ends with the machine.
        let _command = command::begin(&self.story.home, &["update", "rollback"]);
        let new = || ids().into_iter().find(|id| !known.contains(id));
        until("it is begun", || new().is_some()).await;
        new().expect("it was there")
    }
}

/// What a slot with a version holds.
fn image(version: &str) -> Vec<u8> {
    format!("{version} ").bytes().cycle().take(SLOT).collect()
}
