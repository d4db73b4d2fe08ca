//! The figures and their limits.

use std::time::Duration;

use testkit::Sshd;

use crate::device::{Device, Kind, server};
use crate::table::{Table, median};
use crate::traffic::{self, BULK};

const RUNS: usize = 5;
const MIB: f64 = (1 << 20) as f64;
/// Silence in which wake-ups are counted.
const IDLE: Duration = Duration::from_secs(30);

/// One figure of each of both, and how to take it: from a device, its ports and the processor time it used.
type Take = fn(&Device) -> f64;

pub(crate) async fn measure(table: &mut Table) {
    let sshd = server().await;
    let targets = [traffic::sink(), traffic::source(), traffic::echo()];
    let (ours, theirs) =
        (Device::start(Kind::Ours, &sshd, &targets), Device::start(Kind::Openssh, &sshd, &targets));
    let amount = BULK as f64 / MIB;
    bulk(table, "to the device", (&ours, &theirs), |device| traffic::push(device.ports[0]), amount);
    bulk(table, "from the device", (&ours, &theirs), |device| traffic::pull(device.ports[1]), amount);
    let rates: [(&str, Take); 3] = [
        ("requests/s over 1 connection", |device| traffic::ask(device.ports[2], 1, 2_000)),
        ("requests/s over 50 connections", |device| traffic::ask(device.ports[2], 50, 100)),
        ("new connections/s", |device| traffic::connect(device.ports[2], 100)),
    ];
    for (what, take) in rates {
        let (mut our, mut their) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            our.push(take(&ours));
            their.push(take(&theirs));
        }
        let (our, their) = (median(our), median(their));
        table.at_least(
            &format!("{what}, beside ssh -R"),
            0.9,
            our / their,
            format!("{our:.0}, ssh {their:.0}"),
        );
    }
    drop((ours, theirs));
    memory(table, &sshd, targets[2]).await;
}

fn bulk(table: &mut Table, way: &str, (ours, theirs): (&Device, &Device), take: Take, amount: f64) {
    let mut figures = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for _ in 0..RUNS {
        for (device, (speeds, costs)) in [ours, theirs].into_iter().zip(&mut figures) {
            let before = device.cpu();
            speeds.push(amount / take(device));
            costs.push((device.cpu() - before) * 1024.0 / amount);
        }
    }
    let [(our, our_cpu), (their, their_cpu)] = figures;
    let (our, their) = (median(our), median(their));
    let (our_cpu, their_cpu) = (median(our_cpu), median(their_cpu));
    let what = format!("bulk {way}, beside ssh -R");
    table.at_least(&what, 0.9, our / their, format!("{our:.0} MiB/s, ssh {their:.0}"));
    let what = format!("CPU of bulk {way}, beside ssh -R");
    table.limit(&what, 1.2, our_cpu / their_cpu, format!("{our_cpu:.2} s/GiB, ssh {their_cpu:.2}"));
}

async fn memory(table: &mut Table, sshd: &Sshd, target: u16) {
    let none = Device::start(Kind::Ours, sshd, &[]);
    let one = Device::start(Kind::Ours, sshd, &[target]);
    traffic::connect(one.ports[0], 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (idle, wakes) = (one.memory("Anonymous"), one.wakes());
    table.limit("memory of an idle tunnel, KiB", 150.0, idle - none.memory("Anonymous"), "");
    tokio::time::sleep(IDLE).await;
    table.figure("wake-ups of an idle tunnel in 30 s", one.wakes() - wakes, "two keep-alives");
    let ten = Device::start(Kind::Ours, sshd, &[target; 10]);
    let _held: Vec<_> = ten.ports.iter().map(|port| traffic::hold(*port, 20)).collect();
    table.limit(
        "PSS of ten tunnels with 20 channels each, MB",
        12.0,
        ten.memory("Pss") * 1024.0 / 1e6,
        "this bench",
    );
}
