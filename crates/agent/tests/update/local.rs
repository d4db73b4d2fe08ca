//! Updates by hand: from a file of the device, and back.

use serde_json::Value;

use crate::{
    story::{Story, sha256},
    support::command,
};

#[tokio::test]
async fn a_package_of_a_stick_is_installed_and_taken_back_without_a_broker() {
    let mut story = Story::begin(", health: {need_connection: false}").await;
    let [one, two] = ["1.0.0", "1.1.0"].map(|version| story.package(version, &[], &[]));
    story.broker.kill().await.unwrap();
    let _agent = story.home.start();
    crate::support::wait_status(&story.home, |status| status["services"]["update"]["state"] == "running")
        .await;
    for (file, version) in [(&one, "1.0.0"), (&two, "1.1.0")] {
        let installed = command::run(&story.home, &["update", "install", file.to_str().unwrap()], "").await;
        assert_eq!(installed.code, 0, "{installed:#?}");
        assert!(installed.out.contains(&format!("{version}  local-")), "{installed:#?}");
        assert!(installed.out.trim_end().ends_with("success"), "{installed:#?}");
        assert_eq!(story.version().as_deref(), Some(version));
    }
    let back = command::run(&story.home, &["update", "rollback"], "").await;
    assert_eq!(back.code, 0, "{back:#?}");
    assert_eq!(story.version().as_deref(), Some("1.0.0"));
    let again = command::run(&story.home, &["update", "rollback"], "").await;
    assert_eq!(again.code, 1, "{again:#?}");
    assert!(again.out.contains("failed: no earlier version of app is kept"), "{again:#?}");

    let history = command::run(&story.home, &["update", "history", "--json"], "").await;
    let lines: Vec<Value> = history.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<&str> = lines.iter().map(|line| line["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["success", "success", "rolled_back", "failed"], "{history:#?}");
    assert_eq!((&lines[1]["from"], &lines[1]["version"]), (&"1.0.0".into(), &"1.1.0".into()));
    let shown = command::run(&story.home, &["update", "history", "--limit", "1"], "").await;
    assert_eq!(shown.out.lines().count(), 1, "{shown:#?}");
}

#[tokio::test]
async fn what_is_no_package_says_its_version_or_is_asked_for_it() {
    let story = Story::begin(", update_command: 'cp \"$IOT_UPDATE_PATH\" {home}/installed'").await;
    let file = story.builder.write("firmware.bin", "firmware", 0o644);
    let path = file.to_str().unwrap();
    let _agent = story.online().await;
    let unsaid = command::run(&story.home, &["update", "install", path], "").await;
    assert_eq!(unsaid.code, 1);
    unsaid.assert_said("it has no signature: name its --signature, or its --version");
    let unsigned = command::run(&story.home, &["update", "install", path, "--version", "2.0.0"], "").await;
    assert_eq!(unsigned.code, 1);
    assert!(unsigned.out.contains("failed: "), "{unsigned:#?}");

    let comment = format!("name=fw version=2.0.0 hardware= sha256={}", sha256(b"firmware"));
    story.builder.sign(&file, &comment);
    std::fs::copy(story.builder.path("signature"), format!("{path}.minisig")).unwrap();
    let signed = command::run(&story.home, &["update", "install", path], "").await;
    assert_eq!(signed.code, 0, "{signed:#?}");
    assert_eq!(std::fs::read(story.home.path().join("installed")).unwrap(), b"firmware");
}
