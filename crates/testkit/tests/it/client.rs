use anyhow::Result;
use iot_agent_testkit::client::publish_lines;
use iot_agent_testkit::{Endpoint, Mosquitto, Watcher, publish};
use serde_json::json;

use crate::SOON;

#[tokio::test]
async fn payload_qos_and_retain_arrive_as_published() -> Result<()> {
    let broker = Mosquitto::plain().await?;
    publish(&broker, "before", "old", 1, true).await?;
    let watcher = Watcher::start(&broker, "#").await?;
    let old = watcher.next_on("before", SOON).await?;
    assert!(old.retain);

    publish(&broker, "a b/c", b"\0\xff\n\"x", 2, false).await?;
    let odd = watcher.next_on("a b/c", SOON).await?;
    assert_eq!((odd.payload.as_slice(), odd.qos, odd.retain), (&b"\0\xff\n\"x"[..], 2, false));

    publish(&broker, "before", "", 0, true).await?;
    let cleared = watcher.next_on("before", SOON).await?;
    assert_eq!((cleared.payload.len(), cleared.qos, cleared.retain), (0, 0, true));

    publish(Endpoint::from(&broker).v311(), "json", r#"{"a":1}"#, 1, false).await?;
    assert_eq!(watcher.next_on("json", SOON).await?.json()?, json!({"a": 1}));
    assert_eq!(watcher.all().len(), 4);
    Ok(())
}

#[tokio::test]
async fn the_order_of_a_burst_is_kept() -> Result<()> {
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await?;
    let watcher = Watcher::start_many(&broker, &["burst", "other"]).await?;
    let lines: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    publish_lines(&broker, "burst", &lines, 1).await?;
    watcher.next(|message| message.text() == "999", SOON).await?;
    let texts: Vec<String> = watcher.all().iter().map(|message| message.text()).collect();
    assert_eq!(texts, lines);
    Ok(())
}

#[tokio::test]
async fn a_session_misses_nothing_over_a_restart() -> Result<()> {
    let mut broker = Mosquitto::builder().persistence().start().await?;
    let watcher = Watcher::with_session(&broker, "t", "watcher").await?;
    let before = watcher.subscriptions();
    assert_eq!(before, 1);
    broker.stop().await?;
    broker.start().await?;
    publish(&broker, "t", "while it was away or not", 1, false).await?;
    watcher.next_on("t", SOON).await?;
    watcher.wait_resubscribed(before, SOON).await
}

#[tokio::test]
async fn no_broker_is_an_error_not_a_hang() -> Result<()> {
    let mut broker = Mosquitto::plain().await?;
    let endpoint = Endpoint::from(&broker);
    broker.kill().await?;
    assert!(publish(&endpoint, "t", "1", 1, false).await.is_err());
    Ok(())
}
