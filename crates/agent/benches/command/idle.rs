//! What the service costs while nothing is asked of it: two agents side by side, one without it.

use std::{thread, time::Duration};

use testkit::procfs::{self, Usage};

use crate::{
    device::{Device, broker, memory},
    table::Table,
};

/// Until everything that a start needs has ended.
const SETTLE: Duration = Duration::from_secs(15);
const WATCHED: Duration = Duration::from_secs(60);
/// A service that waits costs its code and little else.
const PSS_MB: f64 = 0.3;
const CPU_MS: f64 = 2.0;

pub(crate) fn measure(table: &mut Table) {
    let broker = broker();
    let with = Device::start("with", &memory(), &broker, "  command: {enabled: true}\n");
    let without = Device::start("without", &memory(), &broker, "");
    let both = [with.pid(), without.pid()];
    thread::sleep(SETTLE);
    let before = both.map(|pid| procfs::usage(pid).unwrap());
    thread::sleep(WATCHED);
    let [with, without] = [0, 1].map(|one| Spent::of(&before[one], &procfs::usage(both[one]).unwrap()));
    let peer = |figure: f64| format!("without {figure:.2}");
    table.limit("idle, PSS more than without, MB", PSS_MB, with.pss - without.pss, peer(without.pss));
    table.limit(
        "idle, CPU more than without, ms a minute",
        CPU_MS,
        with.cpu - without.cpu,
        peer(without.cpu),
    );
    table.figure("idle, wake-ups a minute", with.wakeups, peer(without.wakeups));
    table.figure("idle, open files", with.fds, peer(without.fds));
}

struct Spent {
    pss: f64,
    cpu: f64,
    wakeups: f64,
    fds: f64,
}

impl Spent {
    fn of(before: &Usage, after: &Usage) -> Self {
        Self {
            pss: after.pss as f64 / 1e6,
            cpu: (after.cpu - before.cpu).as_secs_f64() * 1e3,
            wakeups: (after.wakeups - before.wakeups) as f64,
            fds: after.fds as f64,
        }
    }
}
