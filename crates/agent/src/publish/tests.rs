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
