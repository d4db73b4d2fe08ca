//! Modules for which the machine has to be restarted: another process, which finds another boot id.

use std::fs;

use testkit::Process;

use super::module::{AFTER, Module};
use crate::{commands::after_reboots, story::until, support::stop};

#[tokio::test]
async fn it_proves_itself_after_the_restart() {
    let module = Module::begin("").await;
    module.says("NeedsArtifactReboot", "Automatic");
    let mut agent = module.story.online().await;
    module.ask("u1", "1.0.0").await;
    until("the machine is to be restarted", || module.reboots() == 1).await;
    stop(&mut agent, "rebooting").await;
    // Only the agent was: the machine is to be restarted still.
    let mut agent = module.story.online().await;
    until("the machine is to be restarted", || module.reboots() == 2).await;
    agent.kill().await.unwrap();
    let _agent = after_reboots(&module.story, 1).await;
    let end = module.end("u1").await;
    assert_eq!(end["state"], "success", "{end}");
    module.asked_before(&["ArtifactVerifyReboot", "ArtifactCommit", "Cleanup"]);
    assert_eq!(module.installed().as_deref(), Some("1.0.0"));
    assert!(module.states("u1").iter().any(|state| state == "rebooting"));
}

/// With one version installed; the next takes a restart of the machine, and can be taken back.
async fn installed_one() -> (Module, Process) {
    let module = Module::begin("").await;
    let agent = module.story.online().await;
    assert_eq!(module.update("first", "1.0.0").await["state"], "success");
    module.forget();
    module.says("NeedsArtifactReboot", "Automatic");
    module.says("SupportsRollback", "Yes");
    (module, agent)
}

#[tokio::test]
async fn it_goes_back_over_another_restart() {
    let (module, mut agent) = installed_one().await;
    module.does("ArtifactVerifyReboot", "echo the old partition; exit 1");
    module.ask("u1", "2.0.0").await;
    until("the machine is to be restarted", || module.reboots() == 1).await;
    agent.kill().await.unwrap();
    let mut agent = after_reboots(&module.story, 1).await;
    until("the machine is to be restarted once more", || module.reboots() == 2).await;
    assert_eq!(module.installed().as_deref(), Some("1.0.0"));
    assert_eq!(module.story.ends("u1").len(), 0);
    agent.kill().await.unwrap();
    let _agent = after_reboots(&module.story, 2).await;
    let end = module.end("u1").await;
    assert_eq!(end["state"], "rolled_back", "{end}");
    assert_eq!(end["error"], "ArtifactVerifyReboot of the module ended with exit code 1: the old partition");
    let back = ["ArtifactVerifyReboot", "ArtifactRollback", "ArtifactVerifyRollbackReboot"];
    module.asked_before(&[&back[..], AFTER].concat());
    assert_eq!(module.reboots(), 2);
}

#[tokio::test]
async fn a_machine_that_is_not_restarted_goes_back() {
    let module = Module::begin(", health: {timeout: 1s}").await;
    module.says("NeedsArtifactReboot", "Automatic");
    let _agent = module.story.online().await;
    let end = module.update("u1", "1.0.0").await;
    assert_eq!(end["state"], "failed", "{end}");
    assert!(end["error"].as_str().unwrap().starts_with("the machine was not restarted within 1 s"), "{end}");
    module.asked_before(AFTER);
    let inventory = module.story.home.path().join("state/update/installed.json");
    assert!(!fs::read_to_string(inventory).unwrap_or_default().contains("1.0.0"));
}

/// The watchdog of a machine restarts it while a new version is looked at.
#[tokio::test]
async fn a_machine_that_goes_down_while_it_is_looked_at_goes_back() {
    let module = Module::begin("").await;
    module.says("NeedsArtifactReboot", "Automatic");
    module.says("SupportsRollback", "Yes");
    module.does("ArtifactVerifyReboot", "sleep 600");
    let mut agent = module.story.online().await;
    module.ask("u1", "1.0.0").await;
    until("the machine is to be restarted", || module.reboots() == 1).await;
    agent.kill().await.unwrap();
    let mut agent = after_reboots(&module.story, 1).await;
    until("it is looked at", || module.asked().last().is_some_and(|verb| verb == "ArtifactVerifyReboot"))
        .await;
    agent.kill().await.unwrap();
    let mut agent = after_reboots(&module.story, 2).await;
    until("the machine is to be restarted", || module.reboots() == 2).await;
    agent.kill().await.unwrap();
    let _agent = after_reboots(&module.story, 3).await;
    assert_eq!(module.end("u1").await["state"], "rolled_back");
    assert_eq!(module.installed(), None);
}

/// The way back over restarts of the machine, which goes down in the midst of each of its steps.
#[tokio::test]
async fn a_way_back_that_is_cut_off_by_restarts_is_gone_to_its_end() {
    let (module, mut agent) = installed_one().await;
    module.does("ArtifactVerifyReboot", "exit 1");
    module.ask("u1", "2.0.0").await;
    until("the machine is to be restarted", || module.reboots() == 1).await;
    let back = ["ArtifactRollback", "ArtifactVerifyRollbackReboot", "ArtifactFailure", "Cleanup"];
    back.iter().for_each(|verb| module.does(verb, "sleep 600"));
    let mut boots = 1;
    for verb in back {
        agent.kill().await.unwrap();
        agent = after_reboots(&module.story, boots).await;
        boots += 1;
        if verb == "ArtifactVerifyRollbackReboot" {
            // What was cut off is done now, and for that the machine is to be restarted.
            until("the machine is to be restarted again", || module.reboots() == 2).await;
            agent.kill().await.unwrap();
            agent = after_reboots(&module.story, boots).await;
            boots += 1;
        }
        until(verb, || module.asked().last().is_some_and(|last| last == verb)).await;
        assert!(verb == "Cleanup" || module.story.ends("u1").is_empty(), "{verb}");
    }
    agent.kill().await.unwrap();
    let _agent = after_reboots(&module.story, boots).await;
    let end = module.end("u1").await;
    assert_eq!(end["state"], "rolled_back", "{end}");
    module.asked_before(&[&["ArtifactVerifyReboot"][..], &back.map(|verb| [verb; 2]).concat()].concat());
    assert_eq!((module.installed().as_deref(), module.reboots()), (Some("1.0.0"), 2));
    assert_eq!(module.story.ends("u1").len(), 1);
}
