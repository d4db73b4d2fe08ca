//! What goes over the network: `/proc/net/dev`.

use std::time::Duration;

use super::{
    counters::{Counter, Table},
    files::Root,
    glob::Choice,
    name::Name,
    sample::Values,
    text::{lines, number, words},
    watched::Watched,
};

/// Bytes, packets, errors, drops received; the same sent.
type Counts = [u64; 8];

/// The interfaces' collector.
#[derive(Debug)]
pub(super) struct Network {
    root: Root,
    dev: Watched,
    choice: Choice,
    interfaces: Table<Interface>,
    name: Name,
}

#[derive(Debug)]
struct Interface {
    kind: Kind,
    counts: Counts,
    counters: [Counter; 8],
}

impl Network {
    pub(super) fn new(root: &Root, choice: Choice) -> Self {
        let dev = Watched::new(root, "proc/net/dev");
        Self { root: root.clone(), dev, choice, interfaces: Table::default(), name: Name::default() }
    }

    /// Puts `net.NAME.*`; returns the bytes received since boot over the interfaces that count.
    pub(super) fn collect(&mut self, elapsed: Option<Duration>, values: &mut Values) -> Option<u64> {
        self.interfaces.begin();
        let dev = self.dev.read()?;
        let mut real = false;
        for (name, counts) in lines(dev).filter_map(parse) {
            let root = &self.root;
            let interface = self.interfaces.row(name, || Interface::new(root, name));
            interface.counts = counts;
            real |= interface.kind == Kind::Real;
        }
        let mut received = None;
        for (name, interface) in self.interfaces.found() {
            // A container has only a link to its host.
            let usual = interface.kind == Kind::Real || (interface.kind == Kind::Link && !real);
            if self.choice.takes(name, usual) {
                received = Some(received.unwrap_or(0_u64).saturating_add(interface.counts[0]));
                self.name.begin("net", name);
                interface.put(&mut self.name, elapsed, values);
            }
        }
        received
    }
}

const TOTALS: [(&str, &str); 8] = [
    ("rx_bytes", "B"),
    ("rx_packets", "1"),
    ("rx_errors", "1"),
    ("rx_drops", "1"),
    ("tx_bytes", "B"),
    ("tx_packets", "1"),
    ("tx_errors", "1"),
    ("tx_drops", "1"),
];
/// Of which a rate is told. Errors and drops are rare, and their totals say it.
const RATES: [(usize, &str, &str); 4] = [
    (0, "rx_rate", "B/s"),
    (1, "rx_packet_rate", "1/s"),
    (4, "tx_rate", "B/s"),
    (5, "tx_packet_rate", "1/s"),
];

impl Interface {
    fn new(root: &Root, name: &[u8]) -> Self {
        Self {
            kind: Kind::of(root, &String::from_utf8_lossy(name)),
            counts: [0; 8],
            counters: Default::default(),
        }
    }

    fn put(&mut self, name: &mut Name, elapsed: Option<Duration>, values: &mut Values) {
        for ((end, unit), count) in TOTALS.iter().zip(self.counts) {
            values.put(name.of(end), unit, count as f64);
        }
        for (at, end, unit) in RATES {
            values.put_known(name.of(end), unit, self.counters[at].rate(self.counts[at], elapsed));
        }
    }
}

/// What an interface is. Found out when it appears; one that goes and comes back is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A device moves its packets, or it is a modem's link (PPP, raw IP), which has no other interface below.
    Real,
    /// One end of a pair whose other end is elsewhere: all that a container has.
    Link,
    /// Its packets are counted at another one too (bridge, tunnel, VLAN, bond), or leave the machine nowhere.
    Virtual,
}

const LOOPBACK: &str = "772";
const PPP: &str = "512";
const RAW_IP: &str = "519";

impl Kind {
    fn of(root: &Root, name: &str) -> Self {
        let path = |file: &str| root.path(&format!("sys/class/net/{name}/{file}"));
        let there = |file: &str| path(file).symlink_metadata().is_ok();
        let read = |file: &str| std::fs::read_to_string(path(file)).unwrap_or_default().trim().to_owned();
        let kind = read("type");
        if kind == LOOPBACK || name == "lo" {
            Self::Virtual
        } else if there("device") || kind == PPP || kind == RAW_IP {
            Self::Real
        } else if read("iflink") != read("ifindex") && !there("master") {
            Self::Link
        } else {
            Self::Virtual
        }
    }
}

/// `NAME: BYTES PACKETS ERRORS DROPS …`, 8 numbers received and 8 sent; old kernels leave no blank after the colon.
fn parse(line: &[u8]) -> Option<(&[u8], Counts)> {
    let colon = line.iter().rposition(|byte| *byte == b':')?;
    let name = line[..colon].trim_ascii();
    let mut numbers = words(&line[colon + 1..]).map(number);
    let mut all = [0; 12];
    for place in &mut all {
        *place = numbers.next()??;
    }
    let [rx_bytes, rx_packets, rx_errors, rx_drops, _, _, _, _, tx_bytes, tx_packets, tx_errors, tx_drops] =
        all;
    let counts = [rx_bytes, rx_packets, rx_errors, rx_drops, tx_bytes, tx_packets, tx_errors, tx_drops];
    (!name.is_empty()).then_some((name, counts))
}

#[cfg(test)]
mod tests;
