//! E6: the disk with the state is full, or can only be read, while a script publishes. The state folder is a small
//! tmpfs in a mount namespace, which the agent and the test share.

#![cfg(target_os = "linux")]

use std::{
    collections::BTreeSet,
    ops::Range,
    process::{Output, Stdio},
    time::Duration,
};

use testkit::{Mosquitto, Proxy, Watcher, client::Message};
use tokio::{io::AsyncWriteExt as _, process::Command, time::Instant};

use crate::support::{
    Home, SOON,
    disk::{Disk, Fault},
    proof, tier, wait_status,
};

/// How soon all has to be well again.
const RECOVERY: Duration = Duration::from_secs(10);
/// Lines of one `iot-agent publish`.
const LINES: u64 = 50;

/// The next numbers, published; the exit code and what was printed.
async fn publish(home: &Home, next: &mut u64, more: &[&str]) -> (i32, String) {
    let numbers: Range<u64> = *next..*next + LINES;
    *next = numbers.end;
    let lines: String = numbers.map(|number| format!("\"{number} {}\"\n", "x".repeat(200))).collect();
    let mut command = Command::from(home.command(&[&["publish", "room"], more].concat()));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(lines.as_bytes()).await.unwrap();
    drop(stdin);
    let Output { status, stdout, stderr } =
        tokio::time::timeout(SOON, child.wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout) + &text(stderr))
}

fn number(message: &Message) -> u64 {
    let data = message.json().unwrap()["data"].as_str().unwrap().to_owned();
    data.split(' ').next().unwrap().parse().unwrap()
}

/// Waits for all numbers below `end`; tells how many came more than once.
async fn arrived(watcher: &Watcher, end: u64) -> usize {
    let seen = std::cell::RefCell::new(BTreeSet::new());
    let complete = |message: &Message| {
        if message.topic == "iot/d1/data/room" {
            seen.borrow_mut().insert(number(message));
        }
        seen.borrow().len() as u64 == end
    };
    let found = watcher.messages().find(complete, SOON).await;
    found.unwrap_or_else(|_| panic!("{} of {end} arrived", seen.borrow().len()));
    watcher.messages().count(|message| message.topic == "iot/d1/data/room") - seen.into_inner().len()
}

/// The next heartbeat from now on whose `outbox.degraded` is there, or is not.
async fn heartbeat(watcher: &Watcher, degraded: bool) {
    let wanted = |message: &Message| {
        message.topic == "iot/d1/heartbeat"
            && message.json().unwrap()["outbox"]["degraded"].is_string() == degraded
    };
    watcher.messages().skip_to_end();
    watcher.next(wanted, SOON).await.unwrap();
}

struct Story {
    proxy: Proxy,
    watcher: Watcher,
    home: Home,
    disk: Disk,
    next: u64,
}

impl Story {
    async fn online(&self) {
        self.proxy.accept().await;
        wait_status(&self.home, |status| status["connection"]["state"] == "connected").await;
    }

    async fn offline(&self) {
        self.proxy.refuse().await;
        self.proxy.reset_all();
        wait_status(&self.home, |status| status["connection"]["error"].is_string()).await;
    }

    async fn stored(&mut self) {
        let (code, said) = publish(&self.home, &mut self.next, &[]).await;
        assert_eq!((code, said), (0, format!("{LINES} lines on disk\n")));
    }

    async fn not_stored(&mut self, fault: Fault) {
        let (code, said) = publish(&self.home, &mut self.next, &[]).await;
        assert!(code == 1 && said.contains("only in memory, not on disk: "), "{fault:?}: {code}: {said}");
    }

    /// What has been sent makes room on a full disk, until something else takes that too.
    async fn not_stored_once_more(&mut self, fault: Fault) {
        for _ in 0..5 {
            if let Fault::Full = fault {
                self.disk.break_by(fault).await;
            }
            let (code, said) = publish(&self.home, &mut self.next, &[]).await;
            if code == 1 {
                return assert!(said.contains("only in memory, not on disk: "), "{fault:?}: {said}");
            }
            arrived(&self.watcher, self.next).await;
        }
        panic!("{fault:?}: lines are said to be on disk");
    }

    /// The disk fails while the agent is offline, and comes back while it is online; tells how long it takes to be
    /// well again.
    async fn suffer(&mut self, fault: Fault) -> Duration {
        self.offline().await;
        self.stored().await;
        self.disk.break_by(fault).await;
        self.not_stored(fault).await;
        wait_status(&self.home, |status| status["outbox"]["degraded"].is_string()).await;
        self.online().await;
        arrived(&self.watcher, self.next).await;
        self.not_stored_once_more(fault).await;
        heartbeat(&self.watcher, true).await;
        arrived(&self.watcher, self.next).await;

        self.disk.mend(fault).await;
        let mended = Instant::now();
        wait_status(&self.home, |status| status["outbox"]["degraded"].is_null()).await;
        let recovered = mended.elapsed();
        assert!(recovered <= RECOVERY, "{fault:?}: {recovered:?}");
        heartbeat(&self.watcher, false).await;
        self.stored().await;
        arrived(&self.watcher, self.next).await;
        recovered
    }
}

#[tokio::test]
async fn prove_e6_a_full_or_read_only_disk_is_outlived() {
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
    let proxy = Proxy::start(broker.addr()).await.unwrap();
    let watcher = Watcher::start_many(&broker, &["iot/d1/data/#", "iot/d1/heartbeat"]).await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", proxy.port())).yaml("outbox: {max_size: 1MiB}");
    let disk = Disk::mount(&home, "2m").await;
    let mut agent = disk.start(&home);
    let mut story = Story { proxy, watcher, home, disk, next: 0 };
    story.online().await;
    let rounds = if tier() > 1 { 5 } else { 1 };
    let mut worst = Duration::ZERO;
    for _ in 0..rounds {
        for fault in [Fault::Full, Fault::ReadOnly] {
            worst = worst.max(story.suffer(fault).await);
            assert!(agent.is_running().unwrap(), "{fault:?}");
        }
    }
    // What is on disk is there for the next one, whatever happened before.
    story.offline().await;
    story.stored().await;
    agent.kill().await.unwrap();
    assert!(!agent.stderr.all().iter().any(|line| line.contains("panicked")));
    let mut agent = story.disk.start(&story.home);
    story.online().await;
    let twice = arrived(&story.watcher, story.next).await;
    assert!(agent.is_running().unwrap());
    let (lines, worst) = (story.next, worst.as_millis());
    proof(
        "E6",
        &format!(
            "wanted=recovered_ms<={},0-lost faults={} lines={lines} lost=0 twice={twice} recovered_ms={worst}",
            RECOVERY.as_millis(),
            rounds * 2
        ),
    );
}
