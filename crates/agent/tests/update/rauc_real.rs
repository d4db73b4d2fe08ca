//! Bundles for the real RAUC, on a machine with two slots that are files, and a boot loader that counts tries down. A restart
//! of the machine is another start of RAUC and the agent, from the slot that the boot loader takes, with another boot id.

mod killed;
mod machine;

use std::fs;

use machine::Machine;

use crate::{
    story::until,
    support::{SOON, command::run},
};

/// An update through all of it; and marked good only when it has proved itself.
#[tokio::test]
async fn a_bundle_proves_itself_on_its_slot_or_the_one_before_runs_again() {
    let mut machine = Machine::begin("3s", "").await;
    let mut agent = machine.run().await;
    machine.ask("u1", "1.0.0").await;
    machine.goes_down("u1").await;
    assert_eq!(machine.left("B"), 3, "RAUC has made it bootable");
    machine.make_ill();
    agent = machine.reboot(&mut agent).await;
    machine.story.wait("u1", |state| state == "confirming").await;
    assert_eq!((machine.booted(), machine.left("B")), ("B", 2), "nobody has marked it good");
    machine.make_well();
    let end = machine.story.end("u1").await;
    assert_eq!(end["state"], "success", "{end}");
    assert_eq!((machine.version(), machine.left("B")), ("1.0.0".to_owned(), 3), "marked good");
    assert!(machine.story.said("u1").iter().any(|said| said["state"] == "installing"));

    // One that is not well.
    machine.ask("u2", "2.0.0").await;
    machine.goes_down("u2").await;
    machine.make_ill();
    agent = machine.reboot(&mut agent).await;
    assert_eq!(machine.version(), "2.0.0");
    machine.goes_down("u2").await;
    machine.make_well();
    agent = machine.reboot(&mut agent).await;
    let end = machine.story.end("u2").await;
    assert_eq!((&end["state"], machine.version()), (&"rolled_back".into(), "1.0.0".to_owned()), "{end}");
    assert_eq!(machine.left("A"), 0, "the new one is bad");

    // One that does not boot: the boot loader goes back.
    machine.ask("u3", "3.0.0").await;
    machine.goes_down("u3").await;
    machine.set_left("A", 0);
    agent = machine.reboot(&mut agent).await;
    let end = machine.story.end("u3").await;
    assert_eq!((&end["state"], machine.version()), (&"rolled_back".into(), "1.0.0".to_owned()), "{end}");

    // What RAUC does not take.
    let bad = machine.bundle("4.0.0", "another board");
    let end = machine.story.update("u4", "4.0.0", &bad).await;
    assert_eq!(end["state"], "failed", "{end}");
    assert!(end["error"].as_str().unwrap().contains("Compatible mismatch"), "{end}");
    agent.kill().await.unwrap();
}

#[tokio::test]
async fn a_slot_is_gone_back_to_by_hand_if_it_is_good() {
    let mut machine = Machine::begin("3s", "").await;
    let mut agent = machine.run().await;
    // By a file, as docs/update-rauc.md has it.
    let id = machine.install("1.0.0").await;
    machine.goes_down(&id).await;
    let mut agent = machine.reboot(&mut agent).await;
    assert_eq!(machine.story.end(&id).await["state"], "success");
    let status = machine.status();
    assert!(status.contains("slot rootfs.1: boot-status good, bootname B, bundle.version 1.0.0"), "{status}");
    assert!(status.contains("state booted"), "{status}");
    machine.set_left("A", 0);
    let back = machine.roll_back().await;
    assert!(back.1.contains("the slot before (rootfs.0) is not good"), "{back:?}");
    machine.set_left("A", 1);
    let id = machine.begin_to_roll_back().await;
    machine.goes_down(&id).await;
    let mut agent = machine.reboot(&mut agent).await;
    let end = machine.story.end(&id).await;
    assert_eq!((&end["state"], machine.version()), (&"rolled_back".into(), "0.0.0".to_owned()), "{end}");
    assert_eq!(machine.left("B"), 3, "it was not to blame");
    let back = machine.roll_back().await;
    assert!(back.1.contains("there is no such software"), "{back:?}");

    // A boot loader that does not take it: the one that runs stays.
    agent = machine.update(&mut agent, "u2", "2.0.0").await;
    let id = machine.begin_to_roll_back().await;
    machine.goes_down(&id).await;
    machine.set_left("A", 0);
    let _agent = machine.reboot(&mut agent).await;
    let end = machine.story.end(&id).await;
    assert_eq!((&end["state"], machine.version()), (&"failed".into(), "2.0.0".to_owned()), "{end}");
    assert_eq!((machine.state("primary").as_str(), machine.left("B")), ("B", 3), "it is booted next");
}

#[tokio::test]
async fn the_slot_that_runs_is_marked_good_at_each_start_where_that_is_wanted() {
    let mut machine = Machine::begin("3s", ", mark_booted_slot: true").await;
    let mut agent = machine.run().await;
    for _ in 0..4 {
        agent = machine.reboot(&mut agent).await;
        until("it is marked good", || machine.left("A") == 3).await;
    }
    assert_eq!(machine.booted(), "A");
    // Not the one that has still to prove itself.
    machine.ask("u1", "1.0.0").await;
    machine.goes_down("u1").await;
    machine.make_ill();
    agent = machine.reboot(&mut agent).await;
    machine.goes_down("u1").await;
    let calls = fs::read_to_string(machine.path("boot/calls")).unwrap();
    assert!(!calls.contains("set-state B good"), "{calls}");
    machine.make_well();
    agent = machine.reboot(&mut agent).await;
    assert_eq!(machine.story.end("u1").await["state"], "rolled_back");
    until("the one that runs again is marked good", || machine.left("A") == 3).await;
    // Nor one that has failed to, where somebody has written to the slot before.
    machine.ask("u2", "2.0.0").await;
    machine.goes_down("u2").await;
    machine.make_ill();
    machine.set_left("A", 0);
    let agent = machine.reboot(&mut agent).await;
    let end = machine.story.end("u2").await;
    assert_eq!((&end["state"], machine.version()), (&"failed".into(), "2.0.0".to_owned()), "{end}");
    assert!(end["error"].as_str().unwrap().contains("the slot rootfs.0 is bad by now"), "{end}");
    agent.find_line("the bundle there has not proved itself", SOON).await.unwrap();
    assert_eq!(machine.left("B"), 2);
}

/// A slot on which RAUC does not answer is not stayed on for ever.
#[tokio::test]
async fn without_rauc_the_boot_loader_goes_back() {
    let mut machine = Machine::begin("1s", "").await;
    let mut agent = machine.run().await;
    machine.ask("u1", "1.0.0").await;
    machine.goes_down("u1").await;
    machine.lose_rauc();
    for left in [2, 1, 0] {
        agent = machine.reboot(&mut agent).await;
        assert_eq!((machine.booted(), machine.left("B")), ("B", left));
        machine.goes_down("u1").await;
    }
    let _agent = machine.reboot(&mut agent).await;
    assert_eq!(machine.booted(), "A");
    let end = machine.story.end("u1").await;
    assert_eq!(end["state"], "rolled_back", "{end}");
}

impl Machine {
    /// Has a bundle installed from a file; the id of that.
    async fn install(&self, version: &str) -> String {
        let file = self.bundle(version, "board");
        let arguments = ["update", "install", "--no-wait", file.to_str().unwrap()];
        let begun = run(&self.story.home, &arguments, "").await;
        assert_eq!(begun.code, 0, "{begun:#?}");
        begun.out.trim().to_owned()
    }

    /// What the rollback said that could not be begun or did not succeed.
    async fn roll_back(&self) -> (i32, String) {
        let back = run(&self.story.home, &["update", "rollback"], "").await;
        (back.code, format!("{back:?}"))
    }
}
