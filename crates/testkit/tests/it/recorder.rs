//! The recording broker, asked by a client that counts bytes for itself, and by mosquitto's.

mod moods;
mod raw;

use anyhow::Result;
use iot_agent_testkit::certs::Pki;
use iot_agent_testkit::client::publish_lines;
use iot_agent_testkit::recorder::{Account, Entry, Event};
use iot_agent_testkit::{Endpoint, Recorder, Rng, Watcher, publish, seed};
use raw::{Raw, payload};
use tokio::time::Instant;

use crate::SOON;

/// Whatever was acknowledged before a kill is in the journal after it, and a sender that repeats the rest loses nothing.
#[tokio::test]
async fn what_it_acknowledged_survives_its_kills() -> Result<()> {
    const MESSAGES: u64 = 2_000;
    const KILLS: u64 = 20;
    let mut rng = Rng::new(seed());
    for level in [4, 5] {
        let mut recorder = Recorder::start().await?;
        let mut waiting: Vec<u64> = (1..=MESSAGES).collect();
        let mut acknowledged = Vec::new();
        for kill in 0..=KILLS {
            let (mut raw, _) = Raw::connect(&recorder, level, "raw").await?;
            let last = kill == KILLS;
            let wanted = if last { waiting.len() } else { rng.below(MESSAGES / KILLS) as usize };
            let sent = waiting.len().min(wanted + 64);
            for seq in &waiting[..sent] {
                raw.publish(0x32, *seq as u16, "t", &payload(*seq)).await?;
            }
            for _ in 0..wanted {
                let id = u64::from(raw.acknowledgement(0x40).await?.0);
                waiting.retain(|seq| *seq != id);
                acknowledged.push(id);
            }
            if !last {
                recorder.kill().await?;
                recorder.start_again().await?;
            }
        }
        let account = Account::of(&recorder.published()?);
        assert_eq!((account.distinct as u64, account.gaps("t")), (MESSAGES, vec![]));
        assert_eq!(
            account.lost("t", acknowledged.into_iter().map(Into::into)),
            Vec::<serde_json::Value>::new()
        );
        assert!(account.duplicates as u64 <= KILLS * 64, "{}", account.duplicates);
        assert_eq!((account.inversions, account.differing.len()), (0, 0));
    }
    Ok(())
}

/// Fast enough not to be what a proof measures.
#[tokio::test]
async fn it_keeps_up() -> Result<()> {
    const MESSAGES: usize = 20_000;
    let recorder = Recorder::start().await?;
    let lines: Vec<String> = (1..=MESSAGES as u64).map(payload).collect();
    let began = Instant::now();
    let (mut raw, _) = Raw::connect(&recorder, 5, "fast").await?;
    raw.exchange(&lines).await?;
    let rate = MESSAGES as f64 / began.elapsed().as_secs_f64();
    println!("{rate:.0} messages/s of QoS 1");
    assert_eq!(Account::of(&recorder.published()?).distinct, MESSAGES);
    assert!(rate > 2_000.0, "{rate}: in no build, on no machine is it so slow");
    Ok(())
}

/// mosquitto's clients are strict, in both versions.
#[tokio::test]
async fn mosquittos_clients_speak_with_it() -> Result<()> {
    let pki = Pki::new()?;
    let recorder = Recorder::with_tls(&pki.server()?).await?;
    let plain = Endpoint::from(recorder.addr());
    let secure = Endpoint::tcp("localhost", recorder.tls_port()).tls(pki.ca_file(), None);
    for (endpoint, topic) in [
        (plain.clone(), "5"),
        (plain.v311(), "3.1.1"),
        (secure.clone(), "5/tls"),
        (secure.v311(), "3.1.1/tls"),
    ] {
        for qos in 0..=2 {
            publish(&endpoint, topic, payload(u64::from(qos) + 1), qos, qos == 2).await?;
        }
        let lines: Vec<String> = (4..=100).map(payload).collect();
        publish_lines(&endpoint, topic, &lines, 2).await?;
    }
    let published = recorder.published()?;
    let account = Account::of(&published);
    assert_eq!((account.distinct, account.duplicates, account.inversions), (400, 0, 0));
    assert_eq!(published.iter().filter(|message| message.retain).count(), 4);
    let complaints = recorder.entries()?.into_iter().filter(|e| matches!(e.event, Event::Violation { .. }));
    assert_eq!(complaints.count(), 0);
    Ok(())
}

/// Messages for a subscriber wait for it, also through the broker's death; QoS 1 and 2 come until acknowledged.
#[tokio::test]
async fn a_subscriber_gets_what_the_test_sends() -> Result<()> {
    for endpoint in [|endpoint: Endpoint| endpoint, Endpoint::v311] {
        let mut recorder = Recorder::start().await?;
        let endpoint = endpoint(recorder.addr().into());
        let watcher = Watcher::with_session(&endpoint, "orders/+", "listener").await?;
        for qos in 0..=2 {
            recorder.send("listener", "orders/now", &format!("{qos}"), qos).await?;
            let message = watcher.next_on("orders/now", SOON).await?;
            assert_eq!((message.text(), message.qos), (qos.to_string(), qos));
        }
        assert!(recorder.send("listener", "other", "", 1).await.is_err());
        assert!(recorder.send("stranger", "orders/now", "", 1).await.is_err());
        let before = watcher.subscriptions();
        recorder.drop_all().await?;
        recorder.send("listener", "orders/away", "later", 1).await?;
        recorder.kill().await?;
        recorder.start_again().await?;
        assert_eq!(watcher.next_on("orders/away", SOON).await?.text(), "later");
        watcher.wait_resubscribed(before, SOON).await?;
        let acknowledged = |entry: &Entry| matches!(entry.event, Event::Acknowledged { id: 4, .. });
        recorder.wait(acknowledged, SOON).await?;
        let texts: Vec<_> = watcher.all().iter().map(|message| message.text()).collect();
        assert_eq!(texts, ["0", "1", "2", "later"]);
    }
    Ok(())
}

/// A message is repeated, with DUP, where the client did not say it had it, and not where it did.
#[tokio::test]
async fn it_repeats_what_was_not_acknowledged() -> Result<()> {
    for level in [4, 5] {
        let mut recorder = Recorder::start().await?;
        let (mut raw, _) = Raw::connect(&recorder, level, "raw").await?;
        raw.subscribe("down", 2).await?;
        recorder.send("raw", "down", "one", 1).await?;
        recorder.send("raw", "down", "two", 2).await?;
        assert_eq!((raw.read().await?.0, raw.read().await?.0), (0x32, 0x34));
        raw.write(&[0x50, 2, 0, 2]).await?;
        assert_eq!(raw.acknowledgement(0x62).await?.0, 2);
        recorder.kill().await?;
        recorder.start_again().await?;
        let (mut raw, present) = Raw::connect(&recorder, level, "raw").await?;
        assert!(present);
        assert_eq!(raw.read().await?.0, 0x3a, "the message with DUP");
        assert_eq!(raw.acknowledgement(0x62).await?.0, 2);
        raw.write(&[0x40, 2, 0, 1, 0x70, 2, 0, 2]).await?;
        recorder.wait(|entry| matches!(entry.event, Event::Acknowledged { id: 2, .. }), SOON).await?;
        recorder.drop_all().await?;
        let (mut raw, _) = Raw::connect(&recorder, level, "raw").await?;
        raw.ping().await?;
    }
    Ok(())
}

/// QoS 2 over a kill between PUBREC and PUBREL: one message, said twice.
#[tokio::test]
async fn exactly_once_is_counted_once() -> Result<()> {
    for level in [4, 5] {
        let mut recorder = Recorder::start().await?;
        let (mut raw, _) = Raw::connect(&recorder, level, "raw").await?;
        raw.publish(0x34, 7, "t", &payload(1)).await?;
        assert_eq!(raw.acknowledgement(0x50).await?.0, 7);
        recorder.kill().await?;
        recorder.start_again().await?;
        let (mut raw, _) = Raw::connect(&recorder, level, "raw").await?;
        raw.publish(0x3C, 7, "t", &payload(1)).await?;
        assert_eq!(raw.acknowledgement(0x50).await?.0, 7);
        raw.write(&[0x62, 2, 0, 7]).await?;
        assert_eq!(raw.acknowledgement(0x70).await?.0, 7);
        raw.publish(0x34, 7, "t", &payload(2)).await?;
        assert_eq!(raw.acknowledgement(0x50).await?.0, 7);
        let account = Account::of(&recorder.published()?);
        assert_eq!((account.distinct, account.duplicates), (2, 0));
        let said: Vec<_> = recorder.published()?.iter().map(|m| (m.dup, m.repeated)).collect();
        assert_eq!(said, [(false, false), (true, true), (false, false)]);
    }
    Ok(())
}

/// The figures of the proofs, on messages whose figures are known.
#[tokio::test]
async fn an_account_counts_what_is_wrong() -> Result<()> {
    let recorder = Recorder::start().await?;
    let (mut raw, _) = Raw::connect(&recorder, 5, "raw").await?;
    let lines = [
        payload(1),
        payload(4),
        payload(2),
        payload(4),
        r#"{"seq": 4, "data": "other"}"#.into(),
        "no".into(),
    ];
    raw.exchange(&lines).await?;
    let account = Account::of(&recorder.published()?);
    assert_eq!((account.distinct, account.duplicates, account.inversions), (3, 2, 1));
    assert_eq!(account.differing, ["t: 4", "t: no seq"]);
    assert_eq!(account.gaps("t"), [3]);
    assert_eq!(account.lost("t", (1..=5).map(Into::into)), [3, 5]);
    assert_eq!(account.repeated_data("t"), 0);
    Ok(())
}
