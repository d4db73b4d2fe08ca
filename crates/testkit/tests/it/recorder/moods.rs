//! Each way to misbehave does what it says.

use std::time::Duration;

use anyhow::Result;
use iot_agent_testkit::Recorder;
use iot_agent_testkit::recorder::{Account, Event, Mood, Rejection, Stage};
use tokio::time::Instant;

use super::raw::{Raw, payload};
use crate::SOON;

async fn with(mood: Mood) -> Result<Recorder> {
    let mut recorder = Recorder::start().await?;
    recorder.mood(mood).await?;
    Ok(recorder)
}

/// Everything a client can say, at once: every answer comes but the one that is withheld.
#[tokio::test]
async fn it_stalls_at_each_stage() -> Result<()> {
    let answers = [
        (Stage::Connack, 0x20),
        (Stage::Suback, 0x90),
        (Stage::Puback, 0x40),
        (Stage::Pubrec, 0x50),
        (Stage::Pubcomp, 0x70),
        (Stage::Pingresp, 0xD0),
    ];
    for level in [4, 5] {
        for stage in Stage::ALL {
            let recorder = with(Mood { stall: Some(stage), ..Mood::default() }).await?;
            let mut raw = Raw::dial(&recorder, level).await?;
            let wanted = answers.iter().filter(|(other, _)| *other != stage && stage != Stage::Accept);
            let wanted: Vec<u8> = wanted.map(|(_, first)| *first).collect();
            assert_eq!(raw.say_everything().await?, wanted, "{stage:?}");
            let expected = if stage == Stage::Accept { 0 } else { 2 };
            assert_eq!(
                recorder.published()?.len(),
                expected,
                "{stage:?}: what is not answered is journalled"
            );
        }
    }
    Ok(())
}

#[tokio::test]
async fn it_is_late_and_out_of_order() -> Result<()> {
    const MESSAGES: u64 = 50;
    let (delay, scatter) = (Duration::from_millis(100), Duration::from_millis(50));
    let mut orders = Vec::new();
    for (scatter, seed) in [(Duration::ZERO, 1), (scatter, 1), (scatter, 1), (scatter, 2)] {
        let recorder = with(Mood { delay, scatter, seed, ..Mood::default() }).await?;
        let (mut raw, _) = Raw::connect(&recorder, 5, "raw").await?;
        let began = Instant::now();
        for seq in 1..=MESSAGES {
            raw.publish(0x32, seq as u16, "t", &payload(seq)).await?;
        }
        raw.ping().await?;
        let mut order = Vec::new();
        for _ in 0..MESSAGES {
            order.push(u64::from(raw.acknowledgement(0x40).await?.0));
        }
        assert!(began.elapsed() >= delay);
        orders.push(order);
    }
    let sorted: Vec<u64> = (1..=MESSAGES).collect();
    assert_eq!(orders[0], sorted);
    for order in &mut orders[1..] {
        assert_ne!(*order, sorted);
        order.sort_unstable();
        assert_eq!(*order, sorted);
    }
    Ok(())
}

/// What lies unread is not in the journal: a kill then leaves no trace of it.
#[tokio::test]
async fn it_lets_things_lie() -> Result<()> {
    let mut recorder = Recorder::start().await?;
    let (mut raw, _) = Raw::connect(&recorder, 5, "raw").await?;
    let lag = Duration::from_millis(200);
    recorder.mood(Mood { lag, ..Mood::default() }).await?;
    let began = Instant::now();
    raw.publish(0x32, 1, "t", &payload(1)).await?;
    assert_eq!(raw.acknowledgement(0x40).await?, (1, 0));
    assert!(began.elapsed() >= lag);
    recorder.mood(Mood { lag: SOON, ..Mood::default() }).await?;
    raw.publish(0x32, 2, "t", &payload(2)).await?;
    recorder.kill().await?;
    raw.ended().await?;
    assert_eq!(recorder.published()?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn it_loses_sessions() -> Result<()> {
    for level in [4, 5] {
        let mut recorder = Recorder::start().await?;
        assert!(!Raw::connect(&recorder, level, "raw").await?.1);
        assert!(Raw::connect(&recorder, level, "raw").await?.1);
        recorder.mood(Mood { lose_session: true, ..Mood::default() }).await?;
        assert!(!Raw::connect(&recorder, level, "raw").await?.1);
        recorder.mood(Mood::default()).await?;
        assert!(Raw::connect(&recorder, level, "raw").await?.1);
        recorder.kill().await?;
        recorder.start_again().await?;
        assert!(Raw::connect(&recorder, level, "raw").await?.1);
        recorder.kill().await?;
        recorder.start_without_sessions().await?;
        assert!(!Raw::connect(&recorder, level, "raw").await?.1);
    }
    Ok(())
}

#[tokio::test]
async fn it_refuses_and_disconnects_and_drops() -> Result<()> {
    for (level, code) in [(4, 3), (5, 0x88)] {
        let mut recorder = with(Mood { refuse: Some(code), ..Mood::default() }).await?;
        let mut raw = Raw::dial(&recorder, level).await?;
        assert_eq!(raw.greet("raw").await?[..2], [0, code]);
        raw.ended().await?;
        recorder.mood(Mood::default()).await?;
        let (mut raw, _) = Raw::connect(&recorder, level, "raw").await?;
        recorder.disconnect_all(0x8B).await?;
        if level == 5 {
            assert_eq!(raw.read().await?, (0xE0, vec![0x8B]));
        }
        raw.ended().await?;
        let (mut raw, _) = Raw::connect(&recorder, level, "raw").await?;
        recorder.drop_all().await?;
        raw.ended().await?;
        let (mut first, _) = Raw::connect(&recorder, level, "raw").await?;
        let (mut second, _) = Raw::connect(&recorder, level, "raw").await?;
        if level == 5 {
            assert_eq!(first.read().await?, (0xE0, vec![0x8E]));
        }
        first.ended().await?;
        second.ping().await?;
    }
    Ok(())
}

/// A refused message is journalled as such and counts for nothing. MQTT 3.1.1 can only hang up.
#[tokio::test]
async fn it_refuses_messages_by_topic_and_payload() -> Result<()> {
    let rule = |filter: &str, contains: &str, code| Rejection {
        filter: filter.into(),
        contains: contains.into(),
        code,
    };
    let reject = vec![rule("secret/#", "", 0x87), rule("", "\"data\":2}", 0x97)];
    let recorder = with(Mood { reject, ..Mood::default() }).await?;
    let (mut raw, _) = Raw::connect(&recorder, 5, "raw").await?;
    for (qos, first) in [(1, 0x40), (2, 0x50)] {
        for (topic, seq, code) in [("t", 1, 0), ("secret/t", 1, 0x87), ("t", 2, 0x97)] {
            raw.publish(0x30 | qos << 1, 9, topic, &payload(seq)).await?;
            assert_eq!(raw.acknowledgement(first).await?, (9, code));
        }
    }
    let published = recorder.published()?;
    assert_eq!(published.len(), 6);
    assert_eq!(Account::of(&published).distinct, 1);
    let (mut old, _) = Raw::connect(&recorder, 4, "old").await?;
    old.publish(0x32, 9, "secret/t", &payload(1)).await?;
    old.ended().await
}

#[tokio::test]
async fn it_hangs_up_on_large_messages() -> Result<()> {
    for level in [4, 5] {
        let recorder = with(Mood { close_over: Some(100), ..Mood::default() }).await?;
        let (mut raw, _) = Raw::connect(&recorder, level, "raw").await?;
        raw.publish(0x32, 1, "t", &payload(1)).await?;
        assert_eq!(raw.acknowledgement(0x40).await?, (1, 0));
        raw.publish(0x32, 2, "t", &"x".repeat(100)).await?;
        if level == 5 {
            assert_eq!(raw.read().await?, (0xE0, vec![0x95]));
        }
        raw.ended().await?;
        assert_eq!(recorder.published()?.len(), 1);
    }
    Ok(())
}

/// It says so where a client does not keep within what it was told.
#[tokio::test]
async fn it_watches_over_what_it_announces() -> Result<()> {
    let mood = Mood {
        receive_maximum: Some(2),
        maximum_packet_size: Some(100),
        maximum_qos: Some(1),
        stall: Some(Stage::Puback),
        ..Mood::default()
    };
    let recorder = with(mood).await?;
    let mut raw = Raw::dial(&recorder, 5).await?;
    let connack = raw.greet("raw").await?;
    assert_eq!(connack, [0, 0, 10, 0x21, 0, 2, 0x27, 0, 0, 0, 100, 0x24, 1]);
    for id in 1..=3 {
        raw.publish(0x32, id, "t", &payload(1)).await?;
    }
    raw.publish(0x34, 4, "t", &payload(2)).await?;
    assert_eq!(raw.acknowledgement(0x50).await?, (4, 0));
    raw.publish(0x32, 5, "t", &"x".repeat(100)).await?;
    assert_eq!(raw.read().await?, (0xE0, vec![0x95]));
    let violation = |entry: &iot_agent_testkit::recorder::Entry| match &entry.event {
        Event::Violation { what, .. } => Some(what.clone()),
        _ => None,
    };
    recorder.wait(|entry| matches!(entry.event, Event::Closed { .. }), SOON).await?;
    let violations: Vec<String> = recorder.entries()?.iter().filter_map(violation).collect();
    let expected =
        ["3 messages in flight", "4 messages in flight", "a message of QoS 2", "a packet of 108 bytes"];
    assert_eq!(violations, expected);
    Ok(())
}

/// Nonsense is named, and ends only the connection it came on.
#[tokio::test]
async fn it_names_nonsense() -> Result<()> {
    let recorder = Recorder::start().await?;
    for nonsense in [&[0x32, 0][..], &[0x32, 5, 0, 1, b't', 0, 0], &[0x82, 3, 0, 1, 0], &[0xF0, 0]] {
        let (mut raw, _) = Raw::connect(&recorder, 4, "raw").await?;
        raw.write(nonsense).await?;
        raw.ended().await?;
    }
    let violation = |entry: &_| matches!(entry, Event::Violation { .. });
    let count = recorder.entries()?.iter().filter(|entry| violation(&entry.event)).count();
    assert_eq!(count, 4);
    Ok(())
}
