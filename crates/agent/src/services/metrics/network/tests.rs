use super::*;
use crate::services::metrics::{
    fixture::{Tree, look},
    glob::Glob,
};

const SECOND: Option<Duration> = Some(Duration::from_secs(1));
const HEAD: &str = "Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
";

fn dev(tree: &Tree, lines: &[(&str, u64)]) {
    let line = |(name, bytes): &(&str, u64)| {
        format!("{name:>6}: {bytes} 2 3 4 0 0 0 0 {} 6 7 8 0 0 0 0\n", bytes * 2)
    };
    tree.file("proc/net/dev", format!("{HEAD}{}", lines.iter().map(line).collect::<String>()));
}

fn interface(tree: &Tree, name: &str, kind: &str, links: (u32, u32), others: &[&str]) {
    let path = format!("sys/class/net/{name}");
    tree.file(&format!("{path}/type"), format!("{kind}\n"));
    tree.file(&format!("{path}/ifindex"), format!("{}\n", links.0));
    tree.file(&format!("{path}/iflink"), format!("{}\n", links.1));
    others.iter().for_each(|other| tree.folder(&format!("{path}/{other}")));
}

fn machine() -> Tree {
    let tree = Tree::new();
    interface(&tree, "lo", "772", (1, 1), &[]);
    interface(&tree, "eth0", "1", (2, 2), &["device"]);
    interface(&tree, "wwan0", "519", (3, 3), &[]);
    interface(&tree, "ppp0", "512", (4, 4), &[]);
    interface(&tree, "docker0", "1", (5, 5), &[]);
    interface(&tree, "veth1", "1", (6, 7), &["master"]);
    interface(&tree, "eth0.100", "1", (8, 2), &[]);
    interface(&tree, "tun0", "65534", (9, 9), &[]);
    tree
}

fn names(seen: &std::collections::BTreeMap<String, f64>) -> Vec<&str> {
    seen.keys().filter_map(|name| name.strip_prefix("net.")?.strip_suffix(".rx_bytes")).collect()
}

const ALL: [(&str, u64); 8] = [
    ("lo", 1),
    ("eth0", 10),
    ("wwan0", 100),
    ("ppp0", 1000),
    ("docker0", 10_000),
    ("veth1", 100_000),
    ("eth0.100", 1_000_000),
    ("tun0", 10_000_000),
];

#[test]
fn what_leaves_the_machine_counts_once() {
    let tree = machine();
    dev(&tree, &ALL);
    let mut network = Network::new(&tree.root(), Choice::default());
    let seen = look(|values| assert_eq!(network.collect(None, values), Some(1110)));
    assert_eq!(names(&seen), ["eth0", "ppp0", "wwan0"]);
    let choice =
        Choice { include: vec![Glob::new("lo"), Glob::new("eth*")], exclude: vec![Glob::new("eth0.*")] };
    let seen = look(|values| assert_eq!(Network::new(&tree.root(), choice).collect(None, values), Some(11)));
    assert_eq!(names(&seen), ["eth0", "lo"]);
}

#[test]
fn a_container_counts_its_link_to_the_host() {
    let tree = Tree::new();
    interface(&tree, "lo", "772", (1, 1), &[]);
    interface(&tree, "eth0", "1", (2, 17), &[]);
    dev(&tree, &[("lo", 5), ("eth0", 7)]);
    let mut network = Network::new(&tree.root(), Choice::default());
    look(|values| assert_eq!(network.collect(None, values), Some(7)));
    dev(&tree, &[("lo", 5)]);
    look(|values| assert_eq!(network.collect(None, values), None, "no interface is not no bytes"));
}

#[test]
fn totals_and_rates() {
    let tree = machine();
    let mut network = Network::new(&tree.root(), Choice::default());
    let mut seen = |bytes, elapsed| {
        dev(&tree, &[("eth0", bytes)]);
        look(|values| assert_eq!(network.collect(elapsed, values), Some(bytes)))
    };
    let first = seen(1000, None);
    for (name, value) in [
        ("rx_bytes", 1000.0),
        ("rx_packets", 2.0),
        ("rx_errors", 3.0),
        ("rx_drops", 4.0),
        ("tx_bytes", 2000.0),
        ("tx_packets", 6.0),
        ("tx_errors", 7.0),
        ("tx_drops", 8.0),
    ] {
        assert_eq!(first[&format!("net.eth0.{name}")], value, "{name}");
    }
    assert_eq!(first.len(), 8, "no rate yet");
    let second = seen(1500, Some(Duration::from_secs(2)));
    assert_eq!((second["net.eth0.rx_rate"], second["net.eth0.tx_rate"]), (250.0, 500.0));
    assert_eq!(second["net.eth0.rx_packet_rate"], 0.0);
    assert_eq!(seen(7, SECOND).get("net.eth0.rx_rate"), None, "the driver began again");
    assert_eq!(seen(8, SECOND)["net.eth0.rx_rate"], 1.0);
    assert_eq!(seen(9_000_000, None).get("net.eth0.rx_rate"), None, "suspended");
}

#[test]
fn an_interface_may_come_and_go_between_looks() {
    let tree = machine();
    let mut network = Network::new(&tree.root(), Choice::default());
    for (lines, rate) in [
        (&[("eth0", 10), ("ppp0", 5)][..], None),
        (&[("eth0", 10)], None),
        (&[("eth0", 10), ("ppp0", 5000)], None),
        (&[("ppp0", 5003), ("eth0", 10)], Some(3.0)),
    ] {
        dev(&tree, lines);
        assert_eq!(look(|values| network.collect(SECOND, values)).get("net.ppp0.rx_rate").copied(), rate);
    }
}

#[test]
fn old_and_odd_lines() {
    let numbers = "1234567890 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0";
    let (name, counts) = parse(b"  eth0:1234567890 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0").unwrap();
    assert_eq!((name, counts), (&b"eth0"[..], [1234567890, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(parse(format!(" eth0:1: {numbers}").as_bytes()).unwrap().0, b"eth0:1");
    for odd in [
        "",
        ":",
        "eth0",
        "eth0:",
        "eth0: 1 2 3",
        "eth0: 1 2 3 4 0 0 0 0 5 6 7 x",
        &format!(": {numbers}"),
        HEAD,
    ] {
        assert_eq!(parse(odd.as_bytes()), None, "{odd}");
    }
}
