//! The figures and their limits.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    goods::{Goods, program},
    table::{Table, median},
};

const RUNS: usize = 9;
const MIB: f64 = (1 << 20) as f64;
/// Between two looks at memory, whose most the kernel remembers.
const LOOK: Duration = Duration::from_micros(300);

/// What a process took.
#[derive(Debug, Clone, Copy)]
struct Took {
    seconds: f64,
    /// The most that it had resident, in bytes; looked at last a moment before its end.
    memory: u64,
}

pub(crate) fn measure(table: &mut Table) {
    let goods = Goods::make();
    // No more than it says that it needs.
    let memory = goods.old + goods.new;
    install(&goods);
    let patch = ["-q", "-f", "-19", "--patch-from=old/app", "new/app", "-o", "patch"];
    goods.run(Path::new("zstd"), &patch);
    let (whole, delta) =
        (goods.unpack("whole.pkg", "2.0.0", memory), goods.unpack("delta.pkg", "2.0.0", memory));
    let mut took: [Vec<Took>; 3] = Default::default();
    for _ in 0..RUNS {
        took[0].push(ours(&goods, &whole));
        took[1].push(ours(&goods, &delta));
        took[2].push(theirs(&goods));
    }
    let seconds = |took: &[Took]| median(took.iter().map(|took| took.seconds).collect());
    let most = |took: &[Took]| took.iter().map(|took| took.memory).max().unwrap() as f64;
    let kind = if goods.real { "a real earlier build" } else { "an earlier build that was made up" };
    let sizes = (goods.size("delta.pkg") as f64, goods.size("whole.pkg") as f64);
    let said = format!(
        "{:.0} of {:.0} KiB, {kind} of {:.2} MiB",
        sizes.0 / 1024.0,
        sizes.1 / 1024.0,
        goods.old as f64 / MIB
    );
    table.limit("bytes of the package, beside the whole one", 0.5, sizes.0 / sizes.1, said);
    let [whole, delta, theirs] = took.map(|took| (seconds(&took) * 1000.0, most(&took)));
    let ratio = theirs.0 / delta.0;
    table.at_least(
        "unpacking a patch, beside zstd --patch-from with sync",
        0.5,
        ratio,
        format!("{:.0} ms, zstd {:.0} ms", delta.0, theirs.0),
    );
    table.figure("unpacking the whole, ms", whole.0, "");
    table.limit(
        "memory of it above delta_memory, MiB",
        8.0,
        (delta.1 - memory as f64) / MIB,
        format!(
            "{:.1} MiB at {:.1}, zstd {:.1}, whole {:.1}",
            delta.1 / MIB,
            memory as f64 / MIB,
            theirs.1 / MIB,
            whole.1 / MIB
        ),
    );
}

/// The earlier version is in use.
fn install(goods: &Goods) {
    let unpack = goods.unpack("first.pkg", "1.0.0", 0);
    let done = Command::new(program()).args(["installer", &unpack.to_string()]).output().unwrap();
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    let staged = &said["unpacked"]["path"];
    assert!(staged.is_string(), "{said}");
    let switch = serde_json::json!({ "op": "switch", "target": goods.path("app"), "version": "1.0.0", "staged": staged });
    goods.run(&program(), &["installer", &switch.to_string()]);
}

/// The installer, from nothing to what is on the disk.
fn ours(goods: &Goods, order: &Value) -> Took {
    let took = watch(Command::new(program()).args(["installer", &order.to_string()]));
    let versions = goods.path("app/versions");
    let staged = fs::read_dir(&versions).unwrap().map(|item| item.unwrap().path());
    let staged = staged.into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with('.'));
    let staged = staged.expect("it has unpacked something");
    assert!(fs::read(staged.join("app")).unwrap() == fs::read(goods.path("new/app")).unwrap());
    fs::remove_dir_all(staged).unwrap();
    took
}

/// The same by hand, with hashes of neither.
fn theirs(goods: &Goods) -> Took {
    let mut command = Command::new("zstd");
    command.args(["-q", "-f", "-d", "--patch-from=old/app", "patch", "-o", "made"]);
    let mut took = watch(command.current_dir(goods.folder.path()));
    let began = Instant::now();
    fs::File::open(goods.path("made")).unwrap().sync_all().unwrap();
    took.seconds += began.elapsed().as_secs_f64();
    took
}

fn watch(command: &mut Command) -> Took {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut memory = 0;
    let ended = loop {
        if let Ok(text) = fs::read_to_string(&status) {
            memory = memory.max(peak(&text));
        }
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        thread::sleep(LOOK);
    };
    let seconds = began.elapsed().as_secs_f64();
    assert!(ended.success(), "{command:?}: {ended}");
    Took { seconds, memory }
}

fn peak(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number =
        line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
