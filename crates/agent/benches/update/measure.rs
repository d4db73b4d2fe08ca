//! The figures and their limits.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use testkit::{Mosquitto, Watcher};

use crate::{
    device::{Device, Memory, memory, program},
    goods::{Goods, Kind},
    server::Server,
    table::{Table, median},
};

const RUNS: usize = 3;
/// Of the server whose bytes are counted.
const SEND_BUFFER: usize = 64 << 10;
const MIB: f64 = (1 << 20) as f64;
/// Between two looks at memory.
const LOOK: Duration = Duration::from_millis(50);
/// After which an agent that has just started has all that it needs.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) async fn measure(table: &mut Table) {
    let broker = Mosquitto::plain().await.unwrap();
    for (kind, name) in [(Kind::Noise, "incompressible"), (Kind::Text, "compressible")] {
        let home = tempfile::Builder::new().prefix("bench").tempdir().unwrap();
        let goods = Goods::make(home.path(), kind, &program());
        println!("{name}: 1 GiB in a package of {:.0} MiB", goods.size as f64 / MIB);
        let server = Server::start(&goods.package, None);
        compare(table, name, home.path(), (&goods, &server), &broker).await;
        if kind == Kind::Noise {
            let server = Server::start(&goods.package, Some(SEND_BUFFER));
            resume(table, home.path(), (&goods, &server), &broker).await;
        }
    }
}

/// Ours and the pipeline in turn: whatever else the machine does meets both.
async fn compare(table: &mut Table, name: &str, home: &Path, goods: (&Goods, &Server), broker: &Mosquitto) {
    let (mut ours, mut theirs, mut pss, mut rss) = (Vec::new(), Vec::new(), 0, 0);
    for run in 0..RUNS {
        theirs.push(pipeline(home, goods.1.url()));
        let (took, before, most) = update(home, goods, broker).await;
        println!(
            "{name} {run}: ours {took:.1} s, pipeline {:.1} s, before {before:?}, most {most:?}",
            theirs[run]
        );
        ours.push(took);
        pss = pss.max(most.pss.saturating_sub(before.pss));
        rss = rss.max(most.rss.saturating_sub(before.rss));
    }
    let (ours, theirs) = (median(ours), median(theirs));
    table.at_least(
        &format!("1 GiB, {name}, beside the pipeline"),
        0.5,
        theirs / ours,
        format!("{ours:.1} s, pipeline {theirs:.1} s"),
    );
    table.limit(&format!("memory more, agent and installer, {name}, MiB of PSS"), 8.0, pss as f64 / MIB, "");
    table.figure(&format!("memory more, agent alone, {name}, MiB of RSS"), rss as f64 / MIB, "");
}

/// What somebody would do by hand; in seconds.
fn pipeline(home: &Path, url: &str) -> f64 {
    let line = format!("set -e; curl -s {url} | zstd -d | tee out | sha256sum >sum; sync out");
    let began = Instant::now();
    let status = Command::new("sh").args(["-c", &line]).current_dir(home).status().unwrap();
    let took = began.elapsed().as_secs_f64();
    assert!(status.success() && fs::metadata(home.join("out")).unwrap().len() >= 1 << 30);
    fs::remove_file(home.join("out")).unwrap();
    settled();
    took
}

/// From the request to the success; in seconds. And memory before it, and at most meanwhile.
async fn update(
    home: &Path,
    (goods, server): (&Goods, &Server),
    broker: &Mosquitto,
) -> (f64, Memory, Memory) {
    let watcher = Watcher::start(broker, "iot/d1/update/status").await.unwrap();
    let device = Device::start(home, broker);
    tokio::time::sleep(SETTLE).await;
    let before = memory(device.pid());
    let watch = Watch::start(device.pid());
    let began = Instant::now();
    device.ask("u1", goods, server.url()).await;
    device.end("u1", &watcher).await;
    let took = began.elapsed().as_secs_f64();
    println!("{}", Device::course("u1", &watcher).join(", "));
    let most = watch.end();
    drop(device);
    clear(home);
    (took, before, most)
}

/// Killed when 90 % are on their way, and started again.
async fn resume(table: &mut Table, home: &Path, (goods, server): (&Goods, &Server), broker: &Mosquitto) {
    let watcher = Watcher::start(broker, "iot/d1/update/status").await.unwrap();
    let before = server.sent();
    let device = Device::start(home, broker);
    device.ask("u1", goods, server.url()).await;
    device.wait("90 % were sent", || server.sent() - before >= goods.size / 10 * 9);
    device.kill();
    let device = Device::start(home, broker);
    device.end("u1", &watcher).await;
    let again = (server.sent() - before).saturating_sub(goods.size);
    drop(device);
    clear(home);
    table.limit("sent again after a kill at 90 %, MiB", 1.0, again as f64 / MIB, "at full speed");
}

fn clear(home: &Path) {
    for folder in ["state", "run", "app"] {
        fs::remove_dir_all(home.join(folder)).ok();
    }
    settled();
}

/// Nobody pays for what somebody else has written.
fn settled() {
    assert!(Command::new("sync").status().unwrap().success());
}

/// Looks at memory until its end.
struct Watch {
    over: Arc<AtomicBool>,
    thread: thread::JoinHandle<Memory>,
}

impl Watch {
    fn start(pid: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut most = Memory::default();
            while !until.load(Ordering::Relaxed) {
                let now = memory(pid);
                most = Memory { pss: most.pss.max(now.pss), rss: most.rss.max(now.rss) };
                thread::sleep(LOOK);
            }
            most
        });
        Self { over, thread }
    }

    fn end(self) -> Memory {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
