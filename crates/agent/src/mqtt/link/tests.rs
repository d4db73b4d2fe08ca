use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::{
    clock::{self, Clock},
    config::{Delivery, Scheme, Version},
    mqtt::{
        Backoff, Counters, Credentials, Mqtt, Outcome, Pending, Stop,
        transport::{Dial, Endpoint, TlsFiles},
    },
    outbox::{Class, Outbox, Record},
};

/// The broker keeps the session of an absent agent.
const KEPT: Duration = Duration::from_secs(60);

fn settings(session_expiry: Duration) -> Settings {
    let endpoint = Endpoint {
        scheme: Scheme::Mqtt,
        host: "localhost".to_owned(),
        port: 1883,
        path: String::new(),
        tls: TlsFiles::default(),
        proxy: None,
    };
    let (min, max, reset_after) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    Settings {
        dial: Dial::new(endpoint, Clock::new(clock::built(), None)),
        version: Version::V311,
        client_id: "c1".to_owned(),
        credentials: Credentials::default(),
        keep_alive: Duration::from_secs(30),
        session_expiry,
        max_packet_size: 1024,
        reconnect: Backoff { min, max, reset_after },
        queue: 1024,
    }
}

/// The next packet, which has to be a short one: its first byte and its body.
async fn packet(from_agent: &mut DuplexStream) -> (u8, Vec<u8>) {
    let first = from_agent.read_u8().await.unwrap();
    let mut body = vec![0; usize::from(from_agent.read_u8().await.unwrap())];
    from_agent.read_exact(&mut body).await.unwrap();
    (first, body)
}

/// The broker takes its time with the SUBACK, and it comes when the agent is leaving already.
#[tokio::test(start_paused = true)]
async fn a_late_suback_does_not_spoil_the_goodbye() {
    let shared = Shared::with(1024, None);
    let _inbox = shared.state().router.claim("test", "a/b", Qos::AtLeastOnce, 1);
    let (agent, mut broker) = duplex(1024);
    let (mut session, settings) = (Session::default(), settings(KEPT));
    let link = Link::new(Box::new(agent), Wire::V311, 1, &shared, &mut session);
    let script = async {
        assert_eq!(packet(&mut broker).await.0, 0x10, "CONNECT");
        broker.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let (first, subscribe) = packet(&mut broker).await;
        assert_eq!(first, 0x82, "SUBSCRIBE");
        let goodbye = Message {
            topic: "t".to_owned(),
            payload: Vec::new(),
            qos: Qos::AtLeastOnce,
            retain: false,
            delivery: Delivery::Live,
        };
        shared.state().stop = Some(Stop { goodbye: Some(goodbye), by: Instant::now() });
        shared.wake.notify_one();
        let (first, publish) = packet(&mut broker).await;
        assert_eq!(first, 0x32, "the goodbye");
        broker.write_all(&[0x90, 3, subscribe[0], subscribe[1], 1]).await.unwrap();
        broker.write_all(&[0x40, 2, publish[3], publish[4]]).await.unwrap();
        assert_eq!(packet(&mut broker).await.0, 0xe0, "DISCONNECT");
    };
    let both = async { tokio::join!(link.run(&settings, &()), script).0 };
    let ended = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    assert!(matches!(ended, Ok(End::Stopped)), "{:?}", ended.err());
}

/// What nobody could take, and the broker cannot send again, must not take its place among what may be on its way.
#[tokio::test(start_paused = true)]
async fn without_a_session_what_is_lost_is_acknowledged() {
    let shared = Shared::with(1024, None);
    let mut inbox = shared.state().router.claim("test", "a/b", Qos::AtLeastOnce, 1);
    let (agent, mut broker) = duplex(1024);
    let (mut session, settings) = (Session::default(), settings(Duration::ZERO));
    let link = Link::new(Box::new(agent), Wire::V311, 1, &shared, &mut session);
    let script = async {
        assert_eq!(packet(&mut broker).await.0, 0x10, "CONNECT");
        broker.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let (_, subscribe) = packet(&mut broker).await;
        broker.write_all(&[0x90, 3, subscribe[0], subscribe[1], 1]).await.unwrap();
        let publish = |id| [0x32, 7, 0, 3, b'a', b'/', b'b', 0, id];
        broker.write_all(&[publish(1), publish(2)].concat()).await.unwrap();
        assert_eq!(packet(&mut broker).await, (0x40, vec![0, 2]), "the inbox has room for one");
        assert_eq!(shared.state().counters.overflowed, 1);
        drop(inbox.recv().await.unwrap());
        assert_eq!(packet(&mut broker).await, (0x40, vec![0, 1]), "its taker has failed");
    };
    tokio::select! {
        ended = link.run(&settings, &()) => panic!("{:?}", ended.err()),
        waited = tokio::time::timeout(Duration::from_secs(10), script) => waited.unwrap(),
    }
}

/// Up, without subscriptions; what has been published waits already. `script` plays the broker after the CONNACK.
async fn played(shared: &Arc<Shared>, script: impl AsyncFnOnce(&mut DuplexStream)) {
    let (agent, mut broker) = duplex(1 << 20);
    let (mut session, mut settings) = (Session::default(), settings(KEPT));
    settings.reconnect.max = Duration::from_secs(8);
    let link = Link::new(Box::new(agent), Wire::V5, 1, shared, &mut session);
    let script = async {
        assert_eq!(packet(&mut broker).await.0, 0x10, "CONNECT");
        broker.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
        script(&mut broker).await;
    };
    tokio::select! {
        ended = link.run(&settings, &()) => panic!("{:?}", ended.err()),
        waited = tokio::time::timeout(Duration::from_secs(600), script) => waited.unwrap(),
    }
}

fn publish(shared: &Arc<Shared>, payload: &str, delivery: Delivery) -> Pending {
    let mqtt = Mqtt { shared: Arc::clone(shared), class: Class::Metrics, reach: None };
    let (topic, payload, qos, retain) = ("t".to_owned(), payload.into(), Qos::AtLeastOnce, false);
    mqtt.publish(Message { topic, payload, qos, retain, delivery })
}

/// The next PUBLISH: its payload, and the PUBACK with this reason.
async fn published(broker: &mut DuplexStream, reason: u8) -> (String, [u8; 6]) {
    let (first, body) = packet(broker).await;
    assert_eq!(first & 0xf6, 0x32, "PUBLISH of QoS 1");
    (String::from_utf8(body[6..].to_vec()).unwrap(), [0x40, 4, body[3], body[4], reason, 0])
}

async fn answer(broker: &mut DuplexStream, reason: u8) -> (String, Duration) {
    let began = Instant::now();
    let (payload, puback) = published(broker, reason).await;
    broker.write_all(&puback).await.unwrap();
    (payload, began.elapsed())
}

/// A quota is no reason to go: the message comes again in its turn, after a pause that lets live ones through.
#[tokio::test(start_paused = true)]
async fn a_broker_without_room_gets_the_message_again_later() {
    const SECOND: Duration = Duration::from_secs(1);
    let shared = Shared::with(1024, None);
    let first = publish(&shared, "first", Delivery::Memory);
    let second = publish(&shared, "second", Delivery::Memory);
    played(&shared, async |broker| {
        for expected in ["first", "second"] {
            assert_eq!(answer(broker, 0x97).await, (expected.to_owned(), Duration::ZERO));
        }
        tokio::time::sleep(SECOND / 2).await;
        let live = publish(&shared, "live", Delivery::Live);
        assert_eq!(answer(broker, 0).await, ("live".to_owned(), Duration::ZERO));
        assert_eq!(live.await, Outcome::Sent);
        let (payload, puback) = published(broker, 0x97).await;
        assert_eq!(payload, "first", "in order");
        assert_eq!(published(broker, 0).await.0, "second");
        broker.write_all(&puback).await.unwrap();
        assert_eq!(answer(broker, 0).await, ("first".to_owned(), 2 * SECOND));
        assert_eq!(first.await, Outcome::Sent);
    })
    .await;
    drop(second);
    assert_eq!(shared.state().counters.connects, 1);
}

/// Some brokers do not say that it is for good.
#[tokio::test(start_paused = true)]
async fn a_message_refused_again_and_again_is_set_aside() {
    let shared = Shared::with(1024, None);
    let (never, behind) =
        (publish(&shared, "never", Delivery::Memory), publish(&shared, "behind", Delivery::Memory));
    played(&shared, async |broker| {
        assert_eq!(answer(broker, 0x83).await.0, "never");
        assert_eq!(answer(broker, 0).await.0, "behind");
        // After 0, 1, 2, 4, 8, 16, 24 … 64 s: eight times is not enough within a minute.
        for _ in 1..12 {
            assert_eq!(answer(broker, 0x83).await.0, "never");
        }
        assert_eq!(never.await, Outcome::Refused("implementation specific error (0x83)".into()));
    })
    .await;
    assert_eq!(behind.await, Outcome::Sent);
    let mut counters = Counters::default();
    shared.state().queue.count(&mut counters);
    assert_eq!((counters.refused, counters.queued), (1, 0));
}

/// The birth of a connection goes before whatever an earlier one has left.
#[tokio::test(start_paused = true)]
async fn what_is_sent_again_waits_for_the_birth() {
    struct Born;
    impl Presence for Born {
        fn birth(&self) -> Option<Message> {
            let (topic, payload) = ("t".to_owned(), b"birth".to_vec());
            let (qos, retain, delivery) = (Qos::AtLeastOnce, false, Delivery::Live);
            Some(Message { topic, payload, qos, retain, delivery })
        }
        fn will(&self) -> Option<Message> {
            None
        }
    }
    let shared = Shared::with(1024, None);
    let (mut session, settings) = (Session::default(), settings(KEPT));
    let _kept = publish(&shared, "kept", Delivery::Memory);
    for expected in [["birth", "kept"], ["birth", "kept"]] {
        let (agent, mut broker) = duplex(1024);
        let link = Link::new(Box::new(agent), Wire::V5, 1, &shared, &mut session);
        let script = async {
            assert_eq!(packet(&mut broker).await.0, 0x10, "CONNECT");
            broker.write_all(&[0x20, 3, 1, 0, 0]).await.unwrap();
            for expected in expected {
                assert_eq!(published(&mut broker, 0).await.0, expected);
            }
        };
        tokio::select! {
            ended = link.run(&settings, &Born) => panic!("{:?}", ended.err()),
            waited = tokio::time::timeout(Duration::from_secs(10), script) => waited.unwrap(),
        }
        session.interrupted();
    }
}

/// A backlog that no broker takes in time is for the next process; the goodbye is not.
#[tokio::test(start_paused = true)]
async fn a_backlog_holds_up_no_stop() {
    const DRAIN: Duration = Duration::from_millis(800);
    let dir = tempfile::tempdir().unwrap();
    let disk = crate::outbox::Folder::new(dir.path().to_owned());
    let mut outbox = Outbox::open(Arc::new(disk.clone()), 1 << 20, Clock::new(clock::built(), None));
    for n in 0..200 {
        let record = Record { topic: "t".into(), payload: vec![n], qos: Qos::AtLeastOnce, retain: false };
        outbox.push_plain(Class::Metrics, record, None);
    }
    let plan = outbox.plan().unwrap();
    let written = plan.execute(&disk);
    outbox.committed(plan, written);
    let shared = Shared::with(1024, Some(outbox));
    let (agent, mut broker) = duplex(1 << 20);
    let (mut session, settings) = (Session::default(), settings(KEPT));
    let link = Link::new(Box::new(agent), Wire::V5, 1, &shared, &mut session);
    let mqtt = Mqtt { shared: Arc::clone(&shared), class: Class::Metrics, reach: None };
    let script = async {
        assert_eq!(packet(&mut broker).await.0, 0x10, "CONNECT");
        broker.write_all(&[0x20, 3, 0, 0, 0]).await.unwrap();
        // One place is kept for live messages.
        for n in 0..63 {
            let (_, body) = packet(&mut broker).await;
            assert_eq!(body[6..], [n]);
        }
        let began = Instant::now();
        let (qos, delivery, payload) = (Qos::AtLeastOnce, Delivery::Live, b"goodbye".to_vec());
        mqtt.stop(Some(Message { topic: "t".into(), payload, qos, retain: true, delivery }), DRAIN);
        assert_eq!(packet(&mut broker).await.1[6..], *b"goodbye");
        assert_eq!(began.elapsed(), DRAIN);
        began
    };
    let both = async { tokio::join!(link.run(&settings, &()), script) };
    let (ended, began) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    assert!(matches!(ended, Ok(End::Stopped)), "{:?}", ended.err());
    assert_eq!(began.elapsed(), DRAIN + LEAVING);
    assert_eq!(mqtt.counters().queued, 200, "what is in flight is on disk as well");
}
