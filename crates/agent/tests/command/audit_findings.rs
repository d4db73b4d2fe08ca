//! What somebody found who had only the documents and the programs.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::json;

use crate::{story::Story, support::command::run};

/// The state folder is closed to everybody else, and so to the account that commands run as.
#[tokio::test]
async fn another_account_has_a_working_folder_of_its_own_too() {
    let story = Story::begin(", run_as: nobody").await;
    let _agent = story.online().await;
    fs::set_permissions(story.file("state"), fs::Permissions::from_mode(0o700)).unwrap();
    story.order("own", "id -un; touch here && ls").await;
    let end = story.end("own").await;
    assert_eq!((&end["status"], &end["stdout"]), (&json!("success"), &json!("nobody\nhere\n")), "{end:#}");
    story.order_with("closed", "true", json!({ "cwd": story.file("state") })).await;
    let end = story.end("closed").await;
    assert!(end["message"].as_str().unwrap().ends_with("Permission denied"), "{end:#}");
}

#[tokio::test]
async fn an_order_refused_for_its_id_is_not_listed_as_accepted() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    story.order("a/b", "true").await;
    assert_eq!(story.end("a/b").await["status"], "rejected");
    // What was told of the one before is written by now.
    for id in ["next", "last"] {
        story.order(id, "true").await;
        assert_eq!(story.end(id).await["status"], "success");
    }
    let list = run(&story.home, &["command", "list"], "").await;
    assert!(list.out.contains("next") && !list.out.contains("a/b"), "{list:?}");
}
