//! The layout of IOT-Cloud.

use serde_json::json;

use crate::{
    story::{Story, answers},
    support::SOON,
};

#[tokio::test]
async fn the_server_is_told_as_iot_cloud_does_it() {
    let mut story = Story::begin("").await;
    story.home = story.home.mqtt("layout: iot-cloud");
    story.topic = "iot-ssh/d1";
    let _agent = story.online().await;
    let port = story.open("a", json!({ "server_id": "s1" })).await;
    answers(port, "hello").await;
    let notice = json!({ "device_id": "d1", "lport": story.echo, "rport": port });
    let told = |topic: &'static str| {
        let notice = notice.clone();
        move |message: &testkit::client::Message| {
            message.topic == topic && message.json().is_ok_and(|said| said == notice)
        }
    };
    story.watcher.messages().find(told("iot-ssh/s1"), SOON).await.unwrap();
    story.close("a").await;
    story.watcher.messages().find(told("iot-ssh/s1/disconnect"), SOON).await.unwrap();
    story.end("a").await;
    let status = |message: &testkit::client::Message| message.topic == "iot-ssh/response/d1";
    assert_eq!(story.watcher.all().iter().filter(|message| status(message)).count(), 2);
    // Nobody is told of one that never was open.
    story.ask("b", json!({ "server_id": "s2", "lport": 1 })).await;
    story.end("b").await;
    assert!(story.watcher.all().iter().all(|message| !message.topic.starts_with("iot-ssh/s2")));
}
