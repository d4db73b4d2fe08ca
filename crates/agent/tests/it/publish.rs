//! `iot-agent publish` and `iot-agent outbox`: what a script on the device may rely on, against a real mosquitto.

use std::{collections::BTreeSet, fs};

use serde_json::Value;
use testkit::{Mosquitto, Process, Proxy, Watcher, client::Message, proxy::Stats};
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::support::{
    Home, SOON,
    command::{begin, end, run},
    wait_status,
};

fn numbers(range: std::ops::RangeInclusive<u64>) -> String {
    range.map(|number| format!("{number}\n")).collect()
}

/// An enrolled agent that reaches its broker through a proxy.
struct Story {
    _broker: Mosquitto,
    proxy: Proxy,
    watcher: Watcher,
    home: Home,
}

impl Story {
    async fn begin(more: &str) -> Self {
        let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
        let proxy = Proxy::start(broker.addr()).await.unwrap();
        let watcher = Watcher::start(&broker, "iot/d1/data/#").await.unwrap();
        let home = Home::new(&format!("mqtt://127.0.0.1:{}", proxy.port())).device("d1").yaml(more);
        Self { _broker: broker, proxy, watcher, home }
    }

    async fn online(&self) -> Process {
        self.proxy.accept().await;
        self.home.online().await
    }

    async fn offline(&self) -> Process {
        self.proxy.refuse().await;
        let agent = self.home.start();
        wait_status(&self.home, |status| status["connection"]["error"].is_string()).await;
        agent
    }

    async fn wait_sent(&self) {
        wait_status(&self.home, |status| status["outbox"]["messages"] == 0).await;
    }

    /// Waits for so many different messages.
    async fn received(&self, wanted: usize) -> Vec<Message> {
        let seen = std::cell::RefCell::new(BTreeSet::new());
        let enough = |message: &Message| {
            seen.borrow_mut().insert((message.topic.clone(), message.payload.clone()));
            seen.borrow().len() >= wanted
        };
        self.watcher.messages().find(enough, SOON).await.unwrap();
        self.watcher.all()
    }
}

fn data(message: &Message) -> Value {
    message.json().unwrap()["data"].clone()
}

fn seq(message: &Message) -> u64 {
    message.json().unwrap()["seq"].as_u64().unwrap()
}

#[tokio::test]
async fn each_line_arrives_as_it_was_written_and_is_acknowledged() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let exact = r#"{"z": 1.50, "a": [1e300, 123456789012345678901234567890], "a": "\u00e4"}"#;
    let said = format!("{exact}\nplain text\n\n7");
    run(&story.home, &["publish", "room", "--wait"], &said)
        .await
        .assert(0, "4 lines on disk, 4 acknowledged\n");
    let received = story.received(4).await;
    for (message, (number, expected)) in
        received.iter().zip((1..).zip([exact, "\"plain text\"", "\"\"", "7"]))
    {
        assert_eq!(message.topic, "iot/d1/data/room");
        let (text, value) = (message.text(), message.json().unwrap());
        assert!(
            text.ends_with(&format!(",\"seq\":{number},\"stream\":\"room\",\"data\":{expected}}}")),
            "{text}"
        );
        assert_eq!(value["device_id"], "d1");
        assert!(value["timestamp"].as_str().unwrap().ends_with('Z'), "{text}");
        assert!(!message.retain);
    }
    // Other streams count for themselves; so does what is sent live.
    for arguments in
        [&["publish", "door", "--qos", "2", "--class", "event"][..], &["publish", "live", "--live"]]
    {
        let on_disk = u8::from(!arguments.contains(&"--live"));
        run(&story.home, arguments, "1\n").await.assert(0, &format!("{on_disk} lines on disk\n"));
    }
    run(&story.home, &["publish", "live", "--qos", "0"], "2\n").await.assert(0, "0 lines on disk\n");
    let received = story.received(7).await;
    let of = |stream: &str| {
        let of = received.iter().filter(|message| message.topic.ends_with(stream));
        of.map(|message| (message.qos, seq(message))).collect::<Vec<_>>()
    };
    assert_eq!((of("door"), of("live")), (vec![(2, 1)], vec![(1, 1), (0, 2)]));
    run(&story.home, &["publish", "room"], "").await.assert(0, "0 lines on disk\n");
}

/// What waits can be looked at, survives the agent's death, and arrives in order.
#[tokio::test]
async fn offline_lines_wait_on_disk() {
    let story = Story::begin("").await;
    let mut agent = story.offline().await;
    run(&story.home, &["publish", "room"], numbers(1..=2000)).await.assert(0, "2000 lines on disk\n");
    let late =
        run(&story.home, &["publish", "room", "--wait", "--timeout", "300ms"], numbers(2001..=2001)).await;
    late.assert(1, "1 lines on disk, 0 acknowledged\n");
    late.assert_said("not all is acknowledged in time");
    let live = run(&story.home, &["publish", "room", "--live"], "1\n").await;
    live.assert(1, "0 lines on disk\n");
    live.assert_said("not connected");
    run(&story.home, &["publish", "alarm", "--class", "event"], "\"\u{1b}[2J\"\n")
        .await
        .assert(0, "1 lines on disk\n");
    agent.kill().await.unwrap();

    let _agent = story.offline().await;
    let stats = run(&story.home, &["outbox", "stats", "--json"], "").await;
    let stats: Value = serde_json::from_str(&stats.out).unwrap();
    let waiting =
        [&stats, &stats["classes"]["metrics"], &stats["classes"]["event"]].map(|of| &of["messages"]);
    assert_eq!(waiting, [2002, 2001, 1], "{stats:#}");
    assert_eq!((&stats["dropped"], &stats["max_size"]), (&0.into(), &(64 << 20).into()));
    let listed = run(&story.home, &["outbox", "ls", "--json"], "").await;
    let listed: Vec<Value> = listed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(listed.len(), 2002);
    assert_eq!((&listed[0]["topic"], &listed[0]["class"]), (&"iot/d1/data/alarm".into(), &"event".into()));
    let numbered: Vec<_> = listed[1..].iter().map(|item| item["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbered, (1..=2001).collect::<Vec<_>>());
    let shown = run(&story.home, &["outbox", "ls", "--limit", "2"], "").await;
    assert_eq!((shown.code, shown.out.lines().count()), (0, 2), "{shown:#?}");
    assert!(shown.out.contains("iot/d1/data/room") && !shown.out.contains('\u{1b}'), "{shown:#?}");

    let unsure = run(&story.home, &["outbox", "purge", "--class", "event"], "y\n").await;
    unsure.assert(1, "");
    unsure.assert_said("--yes");
    let purged = run(&story.home, &["outbox", "purge", "--class", "event", "--yes"], "").await;
    assert!(purged.code == 0 && purged.out.starts_with("1 messages purged"), "{purged:#?}");
    story.proxy.accept().await;
    let received = story.received(2001).await;
    story.wait_sent().await;
    assert_eq!(received.len(), 2001);
    assert!(
        received.iter().zip(1..).all(|(message, number)| data(message) == number && seq(message) == number)
    );
}

/// Killed while lines flow in: what was counted arrives from the next life.
#[tokio::test]
async fn the_count_is_true_when_the_agent_is_killed() {
    let story = Story::begin("").await;
    let mut agent = story.offline().await;
    let mut publisher = begin(&story.home, &["publish", "room"]);
    let mut stdin = publisher.stdin.take().unwrap();
    let feeding = tokio::spawn(async move {
        // Until nobody reads any more.
        for from in (1..).step_by(100) {
            if stdin.write_all(numbers(from..=from + 99).as_bytes()).await.is_err() {
                return;
            }
        }
    });
    wait_status(&story.home, |status| status["outbox"]["messages"].as_u64() >= Some(3000)).await;
    agent.kill().await.unwrap();
    let ended = end(publisher).await;
    timeout(SOON, feeding).await.unwrap().unwrap();
    let counted: u64 = ended.out.strip_suffix(" lines on disk\n").unwrap().parse().unwrap();
    assert!(ended.code == 1 && counted >= 1000, "{ended:#?}");
    ended.assert_said("the agent went away");

    let _agent = story.online().await;
    story.received(usize::try_from(counted).unwrap()).await;
    story.wait_sent().await;
    let received: Vec<u64> =
        story.watcher.all().iter().map(|message| data(message).as_u64().unwrap()).collect();
    let expected: Vec<u64> = (1..=received.len() as u64).collect();
    assert_eq!(received, expected, "in order, without gaps");
    assert!(received.len() as u64 >= counted, "{} of {counted}", received.len());
}

#[tokio::test]
async fn what_cannot_work_says_why() {
    let story = Story::begin("").await;
    let nobody = run(&story.home, &["publish", "room"], numbers(1..=3)).await;
    nobody.assert(1, "0 lines on disk\n");
    nobody.assert_said("is it running");
    for arguments in [
        &["publish", "Not/a/stream"][..],
        &["publish", "room", "--qos", "0", "--wait"],
        &["publish", "room", "--class", "high"],
        &["publish"],
    ] {
        run(&story.home, arguments, "").await.assert(2, "");
    }
    let stranger = Home::new("mqtt://127.0.0.1:1");
    let _agent = stranger.start();
    wait_status(&stranger, |_| true).await;
    let unknown = run(&stranger, &["publish", "room"], "1\n").await;
    unknown.assert(1, "0 lines on disk\n");
    unknown.assert_said("not enrolled yet");
}

/// The rest goes on.
#[tokio::test]
async fn lines_that_cannot_be_sent_are_named() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let longest = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    let said = [b"1\n\xff\n", longest.as_bytes(), b"x\n", longest.as_bytes(), b"\n2\n"].concat();
    let ended = run(&story.home, &["publish", "room", "--wait"], said).await;
    ended.assert(1, "3 lines on disk, 3 acknowledged\n");
    for complaint in ["line 2: not UTF-8", "line 3: longer than 1 MiB", "2 lines refused"] {
        ended.assert_said(complaint);
    }
    let received = story.received(3).await;
    assert_eq!(received.iter().map(seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(data(&received[2]), 2);
}

#[tokio::test]
async fn two_publishers_share_a_stream() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let publishers = [
        begin(&story.home, &["publish", "room", "--wait"]),
        begin(&story.home, &["publish", "room", "--wait"]),
    ];
    let [one, two] = publishers.map(|mut publisher| {
        let mut stdin = publisher.stdin.take().unwrap();
        async move {
            stdin.write_all(numbers(1..=3000).as_bytes()).await.unwrap();
            drop(stdin);
            end(publisher).await
        }
    });
    let (one, two) = tokio::join!(one, two);
    one.assert(0, "3000 lines on disk, 3000 acknowledged\n");
    two.assert(0, "3000 lines on disk, 3000 acknowledged\n");
    let received = story.received(6000).await;
    assert_eq!(received.iter().map(seq).collect::<Vec<_>>(), (1..=6000).collect::<Vec<_>>());
    let mut numbers: Vec<u64> = received.iter().map(|message| data(message).as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=3000).flat_map(|number| [number, number]).collect::<Vec<_>>());
}

/// Without `--block` the oldest goes, and that is told; with it all arrives in the end.
#[tokio::test]
async fn a_full_outbox_drops_or_blocks() {
    let story = Story::begin("outbox: {max_size: 512KiB}").await;
    let _agent = story.offline().await;
    let lines: String = (1..=1000).map(|number| format!("\"{number} {}\"\n", "x".repeat(1000))).collect();
    let ended = run(&story.home, &["publish", "room"], &lines).await;
    ended.assert(0, "1000 lines on disk\n");
    ended.assert_said("to make room");
    let outbox = wait_status(&story.home, |_| true).await["outbox"].clone();
    let (waiting, dropped) = (outbox["messages"].as_u64().unwrap(), outbox["dropped"].as_u64().unwrap());
    assert!(waiting > 100 && dropped > 400 && waiting + dropped == 1000, "{outbox:#}");
    ended.assert_said(&format!("{dropped} lines dropped"));

    let mut patient = begin(&story.home, &["publish", "patient", "--block"]);
    let mut stdin = patient.stdin.take().unwrap();
    let fed = async {
        stdin.write_all(lines.as_bytes()).await.unwrap();
        drop(stdin);
    };
    let broker = async {
        story.proxy.accept().await;
        story.proxy.wait(|stats: &Stats| stats.connections > 0, SOON).await.unwrap();
    };
    let ((), (), ended) = tokio::join!(fed, broker, end(patient));
    ended.assert(0, "1000 lines on disk\n");
    story.wait_sent().await;
    let received = story.received(usize::try_from(waiting).unwrap() + 1000).await;
    assert_eq!(received.iter().filter(|message| message.topic.ends_with("patient")).count(), 1000);
    let outbox = wait_status(&story.home, |_| true).await["outbox"].clone();
    assert_eq!(outbox["dropped"], dropped, "{outbox:#}");
}

/// The outbox's folder is a file: lines are taken and sent, but nobody is told that they are on disk.
#[tokio::test]
async fn without_a_disk_nothing_is_said_to_be_on_it() {
    let story = Story::begin("").await;
    story.home.file("state/outbox", "", 0o600);
    let _agent = story.online().await;
    let ended = run(&story.home, &["publish", "room", "--wait"], numbers(1..=3)).await;
    ended.assert(1, "0 lines on disk, 3 acknowledged\n");
    ended.assert_said("3 lines only in memory, not on disk: ");
    run(&story.home, &["publish", "live", "--live", "--wait"], "1\n")
        .await
        .assert(0, "0 lines on disk, 1 acknowledged\n");
    story.received(4).await;
    fs::remove_file(story.home.path().join("state/outbox")).unwrap();
    wait_status(&story.home, |status| status["outbox"]["degraded"].is_null()).await;
    run(&story.home, &["publish", "room"], "4\n").await.assert(0, "1 lines on disk\n");
    assert_eq!(story.received(5).await.iter().filter(|message| message.topic.ends_with("room")).count(), 4);
}

/// What the broker never takes is set aside, listed and forgotten; it blocks nothing.
#[tokio::test]
async fn what_the_broker_refuses_is_listed() {
    let broker = Mosquitto::builder()
        .user("agent", "secret")
        .acl("user agent\ntopic readwrite iot/d1/status\ntopic iot/d1/heartbeat\ntopic iot/d1/data/room\n");
    let broker = broker.start().await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.port()))
        .device("d1")
        .mqtt("username: agent")
        .mqtt("password: secret");
    let _agent = home.online().await;
    let forbidden = run(&home, &["publish", "forbidden", "--wait"], "1\n\"\u{1b}[2J\"\n").await;
    forbidden.assert(1, "2 lines on disk, 0 acknowledged\n");
    forbidden.assert_said("refused by the broker");
    run(&home, &["publish", "room", "--wait"], "1\n").await.assert(0, "1 lines on disk, 1 acknowledged\n");
    let listed = run(&home, &["outbox", "ls", "--refused"], "").await;
    assert!(listed.out.lines().all(|line| line.contains("iot/d1/data/forbidden")), "{listed:#?}");
    assert!(listed.out.lines().count() == 2 && !listed.out.contains('\u{1b}'), "{listed:#?}");
    let json = run(&home, &["outbox", "ls", "--refused", "--json", "--limit", "1"], "").await;
    let first: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!((&first["topic"], &first["class"]), (&"iot/d1/data/forbidden".into(), &"metrics".into()));
    let purged = run(&home, &["outbox", "purge", "--refused", "--yes"], "").await;
    purged.assert(0, "0 messages purged, 2 of those set aside removed\n");
    run(&home, &["outbox", "ls", "--refused"], "").await.assert(0, "");
}

/// A signal ends it with the count of what it has sent so far.
#[tokio::test]
async fn told_to_stop_it_says_how_far_it_is() {
    let story = Story::begin("").await;
    let _agent = story.online().await;
    let mut publisher = begin(&story.home, &["publish", "room"]);
    let mut stdin = publisher.stdin.take().unwrap();
    stdin.write_all(b"1\n2\n3\nunfinished").await.unwrap();
    story.received(3).await;
    let pid = rustix::process::Pid::from_raw(publisher.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, testkit::process::Signal::TERM).unwrap();
    let ended = end(publisher).await;
    ended.assert(1, "3 lines on disk\n");
    ended.assert_said("interrupted");
    drop(stdin);
}
