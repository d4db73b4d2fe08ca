use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use super::*;
use crate::harness::Harness;

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("took too long")
}

fn request(qos: Qos, live: bool) -> Request {
    let stream = "room".parse().unwrap();
    Request { stream, class: Class::Metrics, qos, live, block: false, wait: false }
}

fn publisher(world: &Harness) -> Arc<Publisher> {
    Arc::new(Publisher::new(Arc::clone(&world.shared), world.mqtt.clone()))
}

/// A conversation that is being served, and the client's end of it.
fn begin(
    publisher: &Arc<Publisher>,
    request: Request,
) -> (UnixStream, tokio::task::JoinHandle<io::Result<()>>) {
    let (client, daemon) = UnixStream::pair().unwrap();
    let publisher = Arc::clone(publisher);
    (client, tokio::spawn(async move { publisher.serve(request, Talk::new(daemon)).await }))
}

/// Sends these bytes and the end, and returns every reply.
async fn say(client: &mut UnixStream, bytes: &[u8]) -> Vec<Value> {
    within(client.write_all(bytes)).await.unwrap();
    within(client.shutdown()).await.unwrap();
    let mut replies = String::new();
    within(client.read_to_string(&mut replies)).await.unwrap();
    replies.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Plays the broker while the replies come in.
async fn say_to_broker(world: &Harness, client: &mut UnixStream, bytes: &[u8]) -> (Vec<Value>, Vec<Value>) {
    let mut published = Vec::new();
    let replies = say(client, bytes);
    tokio::pin!(replies);
    loop {
        let taken = world.mqtt.take_published();
        published.extend(taken.iter().map(|message| serde_json::from_slice(&message.payload).unwrap()));
        tokio::select! {
            replies = &mut replies => return (replies, published),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn live_lines_go_out_with_a_number_of_this_run() {
    let world = Harness::new();
    world.enrol("d1");
    world.mqtt.set_connected(true);
    let publisher = publisher(&world);
    for (qos, first, acknowledged) in [(Qos::AtLeastOnce, 1, 2), (Qos::AtMostOnce, 3, 0)] {
        let (mut client, serving) = begin(&publisher, request(qos, true));
        let said = b"{\"b\": 1, \"a\": 2.50}\n\xff\nplain\nunfinished";
        let (replies, published) = say_to_broker(&world, &mut client, said).await;
        let (refused, last) = (&replies[0], replies.last().unwrap());
        assert_eq!(refused, &json!({"refused": {"line": 2, "reason": "not UTF-8"}}));
        assert_eq!(last["ok"]["lines"], 3);
        for (count, expected) in [("sent", 2), ("acknowledged", acknowledged), ("refused", 1), ("on_disk", 0)]
        {
            assert_eq!(last["ok"][count], expected, "{count}: {last}");
        }
        let numbered: Vec<_> =
            published.iter().map(|data| (data["seq"].as_u64().unwrap(), &data["data"])).collect();
        assert_eq!(numbered, [(first, &json!({"a": 2.5, "b": 1})), (first + 1, &json!("plain"))]);
        assert_eq!((&published[0]["device_id"], &published[0]["stream"]), (&json!("d1"), &json!("room")));
        within(serving).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_published_is_refused_with_the_reason() {
    let world = Harness::new();
    let publisher = publisher(&world);
    let refusal = |request: Request, publisher: Arc<Publisher>| async move {
        let (mut client, _serving) = begin(&publisher, request);
        let mut reply = String::new();
        // No line has to be sent to learn it.
        within(client.read_to_string(&mut reply)).await.unwrap();
        reply
    };
    let unknown = refusal(request(Qos::AtLeastOnce, true), Arc::clone(&publisher)).await;
    assert!(unknown.contains("not enrolled yet"), "{unknown}");
    world.enrol("d1");
    let forgetful = refusal(request(Qos::AtMostOnce, false), Arc::clone(&publisher)).await;
    assert!(forgetful.contains("with qos 0 nothing is kept"), "{forgetful}");

    let idle: Vec<_> =
        (0..MAX_PUBLISHERS).map(|_| begin(&publisher, request(Qos::AtLeastOnce, true))).collect();
    tokio::task::yield_now().await;
    let crowded = refusal(request(Qos::AtLeastOnce, true), Arc::clone(&publisher)).await;
    assert!(crowded.contains("16 others publish already"), "{crowded}");
    for (client, serving) in idle {
        drop(client);
        within(serving).await.unwrap().unwrap_err();
    }
    let (mut client, _serving) = begin(&publisher, request(Qos::AtLeastOnce, true));
    assert_eq!(say(&mut client, b"").await.len(), 1, "there is a place again");
}

#[tokio::test(start_paused = true)]
async fn a_live_line_without_connection_ends_it() {
    let world = Harness::new();
    world.enrol("d1");
    let (mut client, _serving) = begin(&publisher(&world), request(Qos::AtLeastOnce, true));
    let replies = say(&mut client, b"1\n2\n").await;
    assert_eq!((&replies[0]["progress"]["lines"], &replies[0]["progress"]["sent"]), (&json!(2), &json!(0)));
    assert_eq!(replies[1..], [json!({"error": "not connected"})]);
}

#[test]
fn streams_sent_live_are_bounded() {
    let world = Harness::new();
    let publisher = publisher(&world);
    for number in 0..MAX_LIVE_STREAMS {
        assert_eq!(publisher.next_live(&format!("s{number}").parse().unwrap()), Some(1));
    }
    assert_eq!(publisher.next_live(&"one-more".parse().unwrap()), None);
    assert_eq!(publisher.next_live(&"s0".parse().unwrap()), Some(2));
}

/// A client, and a world that writes and sends only when it is told to.
fn begin_kept(world: &Harness, request: Request) -> (UnixStream, tokio::task::JoinHandle<io::Result<()>>) {
    world.enrol("d1");
    begin(&publisher(world), request)
}

async fn next_reply(client: &mut UnixStream) -> Value {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        line.push(within(client.read_u8()).await.unwrap());
    }
    serde_json::from_slice(&line).unwrap()
}

#[tokio::test(start_paused = true)]
async fn lines_are_confirmed_once_they_are_on_disk() {
    let world = Harness::new();
    let (mut client, serving) = begin_kept(&world, request(Qos::AtLeastOnce, false));
    within(client.write_all(b"1\n2\nunfinished")).await.unwrap();
    assert!(timeout(Duration::from_secs(3600), client.read_u8()).await.is_err(), "nothing is written yet");
    world.commit();
    let told = next_reply(&mut client).await;
    assert_eq!((&told["progress"]["lines"], &told["progress"]["on_disk"]), (&json!(2), &json!(2)), "{told}");
    within(client.shutdown()).await.unwrap();
    let last = next_reply(&mut client).await;
    assert_eq!((&last["ok"]["lines"], &last["ok"]["on_disk"]), (&json!(2), &json!(2)), "{last}");
    within(serving).await.unwrap().unwrap();
}

/// A slow disk slows the publisher down. Nothing is dropped, and memory stays bounded.
#[tokio::test(start_paused = true)]
async fn no_more_is_taken_than_can_be_written() {
    const LINES: u64 = 4000;
    let world = Harness::new();
    let (client, serving) = begin_kept(&world, request(Qos::AtLeastOnce, false));
    let (mut replies, mut input) = client.into_split();
    let feeding = tokio::spawn(async move {
        for number in 1..=LINES {
            let line = format!("\"{number} {}\"\n", "x".repeat(1000));
            input.write_all(line.as_bytes()).await.unwrap();
        }
    });
    let reading = tokio::spawn(async move {
        let mut text = String::new();
        replies.read_to_string(&mut text).await.unwrap();
        text
    });
    let mut sent = 0;
    while !reading.is_finished() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let waiting = world.mqtt.with_outbox(|outbox| outbox.total()).unwrap();
        assert!(waiting.bytes <= 300 << 10 && waiting.dropped == 0, "{waiting:?}");
        world.commit();
        for message in world.mqtt.take_published() {
            sent += 1;
            let data: Value = serde_json::from_slice(&message.payload).unwrap();
            assert_eq!(data["seq"], sent);
            assert!(data["data"].as_str().unwrap().starts_with(&format!("{sent} x")));
        }
    }
    let replies = within(reading).await.unwrap();
    let last: Value = serde_json::from_str(replies.lines().last().unwrap()).unwrap();
    assert_eq!((sent, &last["ok"]["on_disk"]), (LINES, &json!(LINES)), "{last}");
    within(feeding).await.unwrap();
    within(serving).await.unwrap().unwrap();
}

/// One that waits for a broker that does not come, and is killed.
#[tokio::test(start_paused = true)]
async fn a_client_that_dies_waiting_is_noticed() {
    let world = Harness::new();
    let waiting = Request { wait: true, ..request(Qos::AtLeastOnce, false) };
    let (mut client, serving) = begin_kept(&world, waiting);
    within(client.write_all(b"1\n")).await.unwrap();
    within(client.shutdown()).await.unwrap();
    // Until it has been read and written.
    let mut told = json!(null);
    for _ in 0..100 {
        world.commit();
        told = next_reply(&mut client).await;
        if told["progress"]["on_disk"] == 1 {
            break;
        }
    }
    assert_eq!(told["progress"]["on_disk"], 1, "{told}");
    drop(client);
    let ended = timeout(Duration::from_secs(30), serving).await.expect("is still served").unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    world.mqtt.set_connected(true);
    assert_eq!(world.mqtt.take_published().len(), 1, "what it had sent still arrives");
}
