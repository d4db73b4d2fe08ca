//! Bare text in the layout of IOT-Cloud.

use crate::{
    story::Story,
    support::{SOON, wait_status},
};

#[tokio::test]
async fn text_is_answered_by_output() {
    let story = Story::iot_cloud("").await;
    let _agent = story.online().await;
    let next = async |text: &str| {
        story.send(text).await;
        story.watcher.next_on("iot-commands/response/d1", SOON).await.unwrap().text()
    };
    assert_eq!(next("echo hello; echo world >&2\n").await, "hello\nworld\n");
    assert_eq!(next("exit 3").await, "failed: exit code 3\n");
    assert_eq!(next("echo so far; exit 3").await, "so far\n");
    // The same text again is another order.
    assert_eq!(next("echo hello; echo world >&2\n").await, "hello\nworld\n");
    // And JSON is answered by JSON.
    story.order("e1", "echo json").await;
    assert_eq!(story.end("e1").await["stdout"], "json\n");
}

/// A retained text would run with each connection.
#[tokio::test]
async fn a_retained_text_is_not_run() {
    let story = Story::iot_cloud("").await;
    let marker = story.file("ran");
    let text = format!("echo x >> {}", marker.display());
    testkit::client::publish(&story.broker, "iot-commands/d1", &text, 1, true).await.unwrap();
    let _agent = story.online().await;
    wait_status(&story.home, |status| status["services"]["command"]["counters"]["unreadable"] == 1).await;
    assert!(!marker.exists());
}
