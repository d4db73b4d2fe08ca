//! A real file system that does not answer `statvfs`: heartbeats, all else that is looked at and the end of the agent
//! do not wait for it.

use std::{fs, path::Path, process::Command, time::Duration};

use protocol::{heartbeat::Heartbeat, metrics::Metrics};
use testkit::{Mosquitto, Process, Watcher};

use crate::support::{Home, SOON};

/// Mounts a file system of its own (FUSE) and becomes the program it is given; a child goes on serving the file
/// system, and answers `statfs` only while the file `answer` is there. `asked` tells that it was asked.
const SERVER: &str = r#"
import ctypes, os, select, struct, sys
point, notes, program = sys.argv[1], sys.argv[2], sys.argv[3:]
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"dead", point.encode(), b"fuse", 0, options):
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
if os.fork():
    os.close(fd)
    os.execv(program[0], program)
libc.prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
INIT, GETATTR, STATFS, FORGET, INTERRUPT, BATCH_FORGET = 26, 3, 17, 2, 36, 42
def reply(unique, body=b"", error=0):
    try: os.write(fd, struct.pack("IiQ", 16 + len(body), error, unique) + body)
    except OSError: pass  # Whoever asked has gone.
waiting = []
while True:
    if select.select([fd], [], [], 0.02)[0]:
        request = os.read(fd, 1 << 20)
        _, opcode, unique = struct.unpack_from("IIQ", request)
        if opcode == INIT:
            reply(unique, struct.pack("IIIIHHI", 7, 31, 0, 0, 1, 1, 4096) + bytes(40))
        elif opcode == GETATTR:
            attributes = struct.pack("6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
            reply(unique, struct.pack("QII", 3600, 0, 0) + attributes)
        elif opcode == STATFS:
            waiting.append(unique)
            open(notes + "/asked", "a").write("x")
        elif opcode not in (FORGET, INTERRUPT, BATCH_FORGET):
            reply(unique, error=-38)  # ENOSYS
    if waiting and os.path.exists(notes + "/answer"):
        for unique in waiting:
            reply(unique, struct.pack("5Q10I", 1000, 750, 750, 0, 0, 4096, 255, 4096, *[0] * 7))
        waiting = []
"#;

/// The agent in a mount namespace of its own, in which `dead` is mounted.
fn start(home: &Home, dead: &Path) -> Process {
    let agent = home.command(&["run"]);
    let mut command = Command::new("unshare");
    command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-rm" });
    command.args(["python3", "-c", SERVER]).arg(dead).arg(home.path());
    command.arg(agent.get_program()).args(agent.get_args());
    Process::run(command.into()).unwrap()
}

#[tokio::test]
async fn a_file_system_that_does_not_answer_holds_up_nothing() {
    let broker = Mosquitto::builder().line("max_queued_messages 0").start().await.unwrap();
    let samples = Watcher::start(&broker, "iot/d1/metrics").await.unwrap();
    let beats = Watcher::start(&broker, "iot/d1/heartbeat").await.unwrap();
    let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.addr().port())).device("d1").yaml(
        "services:\n  registration: {enabled: false}\n  heartbeat: {interval: 200ms}\n  metrics: {interval: 200ms}",
    );
    let dead = home.path().join("a dead one");
    fs::create_dir(&dead).unwrap();
    let mut agent = start(&home, &dead);
    let next = async |topic: &str, watcher: &Watcher| watcher.next_on(topic, SOON).await.unwrap().payload;
    let sample =
        async || -> Metrics { serde_json::from_slice(&next("iot/d1/metrics", &samples).await).unwrap() };
    let beat =
        async || -> Heartbeat { serde_json::from_slice(&next("iot/d1/heartbeat", &beats).await).unwrap() };
    let used = format!("fs.{}.used", fs::canonicalize(&dead).unwrap().display());

    // It was asked, and all the rest is there all the same, again and again.
    find(&sample, |_| home.path().join("asked").exists()).await;
    let (mut last, mut longest) = (beat().await.timestamp, Duration::ZERO);
    for _ in 0..10 {
        let sample = sample().await;
        let metrics = sample.metrics.unwrap();
        assert!(sample.disk.is_some() && sample.memory.is_some() && sample.cpu_usage.is_some());
        assert!(metrics.contains_key("fs./.used") && metrics.contains_key("host.uptime"), "{metrics:#?}");
        assert!(!metrics.contains_key(&used), "it does not answer");
        let beat = beat().await.timestamp;
        let gap = beat.to_system_time().duration_since(last.to_system_time()).unwrap();
        (last, longest) = (beat, longest.max(gap));
    }
    // Five times what is due, for a machine that does something else.
    assert!(longest < Duration::from_secs(1), "heartbeats were {longest:?} apart");
    let asked = fs::read(home.path().join("asked")).unwrap().len();
    assert_eq!(asked, 1, "it is not asked again before it has answered");

    fs::write(home.path().join("answer"), "").unwrap();
    let value = |sample: Metrics| sample.metrics.unwrap().get(&used).map(|metric| metric.value);
    find(&sample, |sample| value(sample).is_some_and(|value| value == 25.0)).await;
    // And once more, so that the agent ends while it waits.
    fs::remove_file(home.path().join("answer")).unwrap();
    find(&sample, |sample| value(sample).is_none()).await;
    crate::support::stop(&mut agent, "with a file system that hangs").await;
}

/// Waits for a sample that is as `wanted`.
async fn find(next: &impl AsyncFn() -> Metrics, wanted: impl Fn(Metrics) -> bool) {
    let found = async { while !wanted(next().await) {} };
    tokio::time::timeout(SOON, found).await.expect("such a sample comes");
}
