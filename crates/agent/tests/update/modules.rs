//! Packages that an update module installs: one that writes down what it is asked for, and does what it is told.

mod cut;
mod module;
mod pipes;
#[cfg(target_os = "linux")]
mod power;
mod refused;
mod restarts;

use std::fs;

use crate::support::command::run;
use module::{AFTER, BEFORE, Module};

#[tokio::test]
async fn it_is_asked_in_the_order_of_mender_and_told_what_mender_tells() {
    let module = Module::begin("").await;
    module.does("Download", "ls; ls streams; cat version header/payload_type header/meta-data > ../told");
    module.does("ArtifactInstall", "find . -type f | sort > ../tree; cat header/artifact_name > ../name");
    let _agent = module.story.online().await;
    let package = module.package("1.0.0", &[]);
    module.story.ask("u1", "1.0.0", &package).await;
    let end = module.end("u1").await;
    assert_eq!(end["state"], "success", "{end}");
    assert_eq!(
        module.states("u1"),
        ["received", "downloading", "verifying", "installing", "confirming", "success"]
    );
    module.asked_before(&["ArtifactCommit", "Cleanup"]);
    assert_eq!(module.installed().as_deref(), Some("1.0.0"));
    let at =
        |name: &str| fs::read_to_string(module.story.home.path().join("state/update").join(name)).unwrap();
    assert_eq!(at("told"), "3single-file{\"to\":\"installed\"}");
    assert_eq!(at("name"), "app-1.0.0");
    let tree = at("tree");
    for file in
        ["./current_artifact_name", "./current_device_type", "./header/header-info", "./header/type-info"]
    {
        assert!(tree.lines().any(|line| line == file), "{file}: {tree}");
    }
    assert!(tree.contains("./files/version"), "{tree}");
    assert!(!module.tree().exists());

    // The same again is nothing new; one before it is refused, and only the module knows a way back.
    module.forget();
    assert_eq!(module.story.update("u2", "1.0.0", &package).await["state"], "success");
    let older = module.update("u3", "0.9.0").await;
    assert!(older["error"].as_str().unwrap().contains("is older than 1.0.0"), "{older}");
    assert_eq!(module.asked(), [""; 0]);
    let back = run(&module.story.home, &["update", "rollback", "app"], "").await;
    assert_ne!(back.code, 0);
    assert!(format!("{back:?}").contains("only that can take back"), "{back:?}");
    assert_eq!(module.update("u4", "1.1.0").await["state"], "success");
    assert_eq!(module.installed().as_deref(), Some("1.1.0"));
}

/// What fails where, what it is asked for after the files were taken, and how it ends: the table of Mender.
#[tokio::test]
async fn each_step_that_fails_goes_where_mender_goes() {
    let module = Module::begin("").await;
    let _agent = module.story.online().await;
    assert_eq!(module.update("first", "1.0.0").await["state"], "success");
    let install = ["ArtifactInstall"];
    let restart = ["ArtifactInstall", "NeedsArtifactReboot", "ArtifactReboot"];
    let verified = [&restart[..], &["ArtifactVerifyReboot"]].concat();
    let committed = [&verified[..], &["ArtifactCommit"]].concat();
    let cases: [(&str, &[&str], &[&str], &str); 11] = [
        ("fine", &[], &[&committed[..], &["Cleanup"]].concat(), "success"),
        ("installs not", &["ArtifactInstall"], &[&install[..], BACK, AFTER].concat(), "rolled_back"),
        (
            "restarts not",
            &["ArtifactReboot"],
            &[&restart[..], &BACK[..1], &BACK[2..], AFTER].concat(),
            "rolled_back",
        ),
        (
            "comes up badly",
            &["ArtifactVerifyReboot"],
            &[&verified[..], &BACK[..1], &BACK[2..], AFTER].concat(),
            "rolled_back",
        ),
        (
            "commits not",
            &["ArtifactCommit"],
            &[&committed[..], &BACK[..1], &BACK[2..], AFTER].concat(),
            "rolled_back",
        ),
        (
            "has no way back",
            &["ArtifactVerifyReboot", "ArtifactRollback"],
            &[&verified[..], &["ArtifactRollback"], AFTER].concat(),
            "failed",
        ),
        (
            "does not matter",
            &["ArtifactVerifyReboot", "ArtifactRollbackReboot"],
            &[&verified[..], &BACK[..1], &BACK[2..], AFTER].concat(),
            "rolled_back",
        ),
        (
            "restarts back once more",
            &["ArtifactVerifyReboot", "ArtifactVerifyRollbackReboot"],
            &[&verified[..], &BACK[..1], &BACK[2..], &BACK[2..], AFTER].concat(),
            "rolled_back",
        ),
        (
            "fails to fail",
            &["ArtifactInstall", "ArtifactFailure"],
            &[&install[..], BACK, AFTER].concat(),
            "failed",
        ),
        ("does not clean", &["Cleanup"], &[&committed[..], &["Cleanup"]].concat(), "success"),
        ("fine again", &[], &[&committed[..], &["Cleanup"]].concat(), "success"),
    ];
    module.says("NeedsArtifactReboot", "Yes");
    module.says("SupportsRollback", "Yes");
    let mut before = "1.0.0".to_owned();
    for (at, (what, failing, wanted, state)) in cases.into_iter().enumerate() {
        module.forget();
        failing.iter().for_each(|verb| module.does(verb, "echo no room; exit 3"));
        let (id, version) = (format!("u{at}"), format!("1.{}.0", at + 1));
        let end = module.update(&id, &version).await;
        assert_eq!(end["state"], state, "{what}: {end}");
        assert_eq!(module.asked()[BEFORE..], *wanted, "{what}");
        match state {
            "success" => before = version,
            state => {
                if state == "failed" {
                    before = module.installed().unwrap();
                }
                let said = format!("{} of the module ended with exit code 3: no room", failing[0]);
                assert!(end["error"].as_str().unwrap().starts_with(&said), "{what}: {end}");
            }
        }
        assert_eq!(module.installed().as_deref(), Some(before.as_str()), "{what}");
        assert!(!module.tree().exists(), "{what}");
    }
}

/// Back, where it was not asked before whether to restart; and where it was, the second is not asked.
const BACK: &[&str] =
    &["ArtifactRollback", "NeedsArtifactReboot", "ArtifactRollbackReboot", "ArtifactVerifyRollbackReboot"];

#[tokio::test]
async fn one_that_never_comes_back_is_given_up() {
    let module = Module::begin("").await;
    module.says("NeedsArtifactReboot", "Yes");
    module.says("SupportsRollback", "Yes");
    for verb in ["ArtifactCommit", "ArtifactVerifyRollbackReboot"] {
        module.always_does(verb, "exit 4");
    }
    let _agent = module.story.online().await;
    let end = module.update("u1", "1.0.0").await;
    assert_eq!(end["state"], "failed", "{end}");
    let why = end["error"].as_str().unwrap();
    assert!(why.contains("and ArtifactVerifyRollbackReboot of the module ended with exit code 4"), "{why}");
    assert_eq!(module.asked().iter().filter(|verb| *verb == "ArtifactRollbackReboot").count(), 3);
    assert_eq!(module.asked()[module.asked().len() - 2..], *AFTER);
}

#[tokio::test]
async fn without_a_way_back_it_has_failed() {
    let module = Module::begin("").await;
    let _agent = module.story.online().await;
    for (at, (verb, more)) in [
        ("ArtifactInstall", &["ArtifactInstall"][..]),
        ("ArtifactCommit", &["ArtifactInstall", "NeedsArtifactReboot", "ArtifactCommit"]),
    ]
    .into_iter()
    .enumerate()
    {
        module.forget();
        module.does(verb, "exit 3");
        let end = module.update(&format!("u{at}"), "1.0.0").await;
        assert_eq!(end["state"], "failed", "{end}");
        assert!(end["error"].as_str().unwrap().ends_with("does not say Yes to SupportsRollback"), "{end}");
        assert_eq!(module.asked()[BEFORE..], *[more, AFTER].concat());
    }
}

#[tokio::test]
async fn answers_that_are_none_and_a_sick_version() {
    let module = Module::begin(", health: {command: 'test ! -e {home}/sick', timeout: 1s}").await;
    let _agent = module.story.online().await;
    module.says("SupportsRollback", "maybe");
    let end = module.update("u1", "1.0.0").await;
    assert_eq!(end["error"], "SupportsRollback of the module has the answer \"maybe\", which is none");
    assert_eq!(module.asked(), ["ProvidePayloadFileSizes", "Download", "SupportsRollback", "Cleanup"]);
    module.says("SupportsRollback", "Yes");
    module.says("NeedsArtifactReboot", "Later");
    let end = module.update("u2", "1.0.0").await;
    assert_eq!(end["state"], "rolled_back", "{end}");
    assert_eq!(module.installed(), None);
    module.says("NeedsArtifactReboot", "No");
    assert_eq!(module.update("u3", "1.0.0").await["state"], "success");
    module.forget();
    module.story.home.file("sick", "", 0o644);
    let end = module.update("u4", "2.0.0").await;
    assert_eq!(end["state"], "rolled_back", "{end}");
    assert!(end["error"].as_str().unwrap().starts_with("not healthy within 1 s"), "{end}");
    module.asked_before(&["ArtifactRollback", "ArtifactFailure", "Cleanup"]);
    assert_eq!(module.installed().as_deref(), Some("1.0.0"));
}
