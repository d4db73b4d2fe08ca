//! Bundles for RAUC, as python-dbusmock plays it, with its two slots; a restart of the machine is another start of the agent
//! with another boot id.

use std::{fs, path::PathBuf};

use serde_json::Value;
use testkit::{Process, bus::Bus};

use crate::{
    commands::after_reboots_with,
    story::{Story, until},
    support::{stop, wait_status},
};

struct Rauc {
    bus: Bus,
    folder: PathBuf,
    /// How often the machine was restarted.
    boots: usize,
}

impl Rauc {
    async fn start(story: &Story) -> Self {
        let folder = story.home.path().join("rauc");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("template.py"), include_str!("rauc.py")).unwrap();
        let mut this = Self { bus: Bus::start().await.unwrap(), folder, boots: 0 };
        this.up().await;
        this
    }

    /// As after a boot.
    async fn up(&mut self) {
        let (template, folder) = (self.folder.join("template.py"), self.folder.display());
        let parameters = format!("{{\"folder\": \"{folder}\"}}");
        let arguments = ["--template", template.to_str().unwrap(), "--parameters", &parameters];
        self.bus.mock(&arguments, "de.pengutronix.rauc").await.unwrap();
    }

    fn set(&self, name: &str, value: &str) {
        fs::write(self.folder.join(name), value).unwrap();
    }

    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    async fn run(&self, story: &Story) -> Process {
        let mut command = story.home.command(&["run"]);
        command.env("DBUS_SYSTEM_BUS_ADDRESS", self.bus.address());
        let agent = Process::run(command.into()).unwrap();
        wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
        agent
    }

    /// The machine goes down and comes up on this slot.
    async fn reboot(&mut self, story: &Story, agent: &mut Process, slot: &str) -> Process {
        stop(agent, "the machine goes down").await;
        self.bus.kill().await.unwrap();
        self.set("booted", slot);
        self.bus.listen().await.unwrap();
        self.up().await;
        self.boots += 1;
        after_reboots_with(story, self.boots, &[("DBUS_SYSTEM_BUS_ADDRESS", &self.bus.address())]).await
    }
}

const MORE: &str = ", reboot_command: 'echo reboot >> {home}/rauc/calls', health: {timeout: 8s, command: 'test ! -e {home}/ill'}";

fn bundle(story: &Story, version: &str) -> PathBuf {
    let folder = format!("bundle-{version}");
    story.builder.write(&format!("{folder}/system.raucb"), format!("bundle {version}"), 0o644);
    let out = format!("{folder}.pkg");
    let create = ["package", "create", &folder, "-o", &out, "--version", version];
    let agent = env!("CARGO_BIN_EXE_iot-agent");
    story.builder.run(agent, &[&create[..], &["--kind", "rauc", "--name", "system"]].concat());
    story.builder.run(agent, &["package", "sign", &out, "--key", "release.key"]);
    story.builder.path(&out)
}

async fn asked(story: &Story, rauc: &Rauc, id: &str, version: &str) {
    let before = rauc.calls().len();
    story.ask(id, version, &bundle(story, version)).await;
    until("it is installed and the machine to be restarted", || {
        rauc.calls()[before..].last().is_some_and(|call| call == "reboot")
    })
    .await;
}

#[tokio::test]
async fn a_bundle_is_good_when_it_has_proved_itself_on_the_new_slot() {
    let story = Story::begin(MORE).await;
    let mut rauc = Rauc::start(&story).await;
    let mut agent = rauc.run(&story).await;
    asked(&story, &rauc, "u1", "1.0.0").await;
    assert!(story.said("u1").iter().any(|said| said["progress"] == 40), "{:?}", story.said("u1"));
    let mut agent = rauc.reboot(&story, &mut agent, "B").await;
    let end = story.end("u1").await;
    assert_eq!(end["state"], "success", "{end}");
    assert_eq!(rauc.calls(), ["install bundle 1.0.0", "reboot", "mark good booted"]);
    assert!(story.states("u1").contains(&"rebooting".to_owned()));

    // Its slots are shown.
    let mut status = story.home.command(&["update", "status", "--json"]);
    let output = status.env("DBUS_SYSTEM_BUS_ADDRESS", rauc.bus.address()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let slots: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let slot = slots.iter().find(|slot| slot["slot"] == "rootfs.1").unwrap_or_else(|| panic!("{text}"));
    assert_eq!(
        (&slot["status"]["state"], &slot["status"]["boot-status"]),
        (&"booted".into(), &"good".into())
    );

    // One that is not well on its slot goes back to the one before.
    asked(&story, &rauc, "u2", "2.0.0").await;
    fs::write(story.home.path().join("ill"), "").unwrap();
    let mut agent = rauc.reboot(&story, &mut agent, "A").await;
    until("it goes back", || {
        rauc.calls().last().is_some_and(|call| call == "reboot") && rauc.calls().len() > 6
    })
    .await;
    assert_eq!(rauc.calls()[5..], ["mark bad booted", "mark active rootfs.1", "reboot"]);
    fs::remove_file(story.home.path().join("ill")).unwrap();
    let mut agent = rauc.reboot(&story, &mut agent, "B").await;
    let end = story.end("u2").await;
    assert_eq!(end["state"], "rolled_back", "{end}");
    assert!(end["error"].as_str().unwrap().contains("not healthy"), "{end}");

    // A boot loader that does not take it.
    asked(&story, &rauc, "u3", "3.0.0").await;
    let _agent = rauc.reboot(&story, &mut agent, "B").await;
    let end = story.end("u3").await;
    assert_eq!(end["state"], "rolled_back", "{end}");
    assert!(end["error"].as_str().unwrap().contains("boot loader"), "{end}");
    assert_eq!(rauc.calls().last().unwrap(), "mark active booted");
}

#[tokio::test]
async fn what_rauc_does_not_install_has_failed() {
    let story = Story::begin(MORE).await;
    let mut rauc = Rauc::start(&story).await;
    let mut agent = rauc.run(&story).await;
    for (mood, said) in [
        ("bad", "RAUC has not installed the bundle (1): Compatible mismatch"),
        ("refused", "already processing a different method"),
        ("gone", "RAUC cannot be asked"),
        ("", "RAUC cannot be asked"),
    ] {
        rauc.set("mood", mood);
        let id = format!("u-{mood}");
        let end = story.update(&id, "1.0.0", &bundle(&story, "1.0.0")).await;
        assert_eq!(end["state"], "failed", "{mood}: {end}");
        assert!(end["error"].as_str().unwrap().contains(said), "{mood}: {end}");
    }
    assert!(!rauc.calls().iter().any(|call| call == "reboot"), "{:?}", rauc.calls());
    // One that was on its way when the agent ended goes on, or is begun again.
    rauc.set("mood", "good");
    rauc.up().await;
    story.ask("u1", "1.0.0", &bundle(&story, "1.0.0")).await;
    let installs = |rauc: &Rauc| rauc.calls().iter().filter(|call| call.starts_with("install")).count();
    let before = installs(&rauc);
    until("it is begun", || installs(&rauc) > before).await;
    agent.kill().await.unwrap();
    let mut agent = rauc.run(&story).await;
    until("the machine is to be restarted", || rauc.calls().last().is_some_and(|call| call == "reboot"))
        .await;
    // A slot that cannot be marked does not stay.
    rauc.set("mood", "unmarked");
    let mut agent = rauc.reboot(&story, &mut agent, "B").await;
    until("it goes back", || rauc.calls().iter().filter(|call| *call == "reboot").count() == 2).await;
    let _agent = rauc.reboot(&story, &mut agent, "A").await;
    let end = story.end("u1").await;
    assert_eq!(end["state"], "rolled_back", "{end}");
    assert!(
        end["error"].as_str().unwrap().contains("does not mark the slot booted as good: no boot loader"),
        "{end}"
    );
}

#[tokio::test]
async fn what_another_has_installed_is_not_taken_for_its_own() {
    let story = Story::begin(MORE).await;
    let folder = story.home.path().join("rauc");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("operation"), "installing").unwrap();
    let rauc = Rauc::start(&story).await;
    rauc.set("mood", "bad");
    let _agent = rauc.run(&story).await;
    story.ask("u1", "1.0.0", &bundle(&story, "1.0.0")).await;
    until("it waits", || {
        story.said("u1").iter().any(|said| said["error"] == "RAUC is busy with something else")
    })
    .await;
    let ended = "\
rauc, name = mock('de.pengutronix.rauc', '/'), 'de.pengutronix.rauc.Installer'
rauc.EmitSignal(name, 'Completed', 'i', [dbus.Int32(0)])
rauc.UpdateProperties(name, {'Operation': 'idle'})";
    rauc.bus.script(ended).await.unwrap();
    let end = story.end("u1").await;
    assert_eq!(end["state"], "failed", "{end}");
    assert!(end["error"].as_str().unwrap().contains("Compatible mismatch"), "{end}");
    assert_eq!(rauc.calls(), ["install bundle 1.0.0"]);
}

#[tokio::test]
async fn a_machine_that_goes_down_meanwhile_has_it_installed_once_more_or_proves_what_it_runs() {
    let story = Story::begin(MORE).await;
    let mut rauc = Rauc::start(&story).await;
    let mut agent = rauc.run(&story).await;
    let begun = |rauc: &Rauc, times: usize| rauc.calls().len() == times;
    story.ask("u1", "1.0.0", &bundle(&story, "1.0.0")).await;
    until("it is begun", || begun(&rauc, 1)).await;
    // RAUC had not come to its end: the slot before is booted.
    let mut agent = rauc.reboot(&story, &mut agent, "A").await;
    until("it is begun again", || begun(&rauc, 2)).await;
    // It had, and nobody was there to hear it.
    let _agent = rauc.reboot(&story, &mut agent, "B").await;
    let end = story.end("u1").await;
    assert_eq!(end["state"], "success", "{end}");
    assert_eq!(rauc.calls(), ["install bundle 1.0.0", "install bundle 1.0.0", "mark good booted"]);
}
