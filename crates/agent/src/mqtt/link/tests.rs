use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::{
    clock::{self, Clock},
    config::{Delivery, Scheme, Version},
    mqtt::{
        Backoff, Credentials, Stop,
        transport::{Dial, Endpoint, TlsFiles},
    },
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
    let shared = Shared::new(1024);
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
    let shared = Shared::new(1024);
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
