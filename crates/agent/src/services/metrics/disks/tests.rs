use super::*;
use crate::services::metrics::{
    fixture::{Tree, look},
    glob::Glob,
};

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

fn machine() -> Tree {
    let tree = Tree::new();
    for disk in ["sda", "nvme0n1", "mmcblk0", "cciss!c0d0"] {
        tree.folder(&format!("sys/block/{disk}/device"));
    }
    for disk in ["loop0", "ram0", "zram0", "dm-0", "md127"] {
        tree.folder(&format!("sys/block/{disk}"));
    }
    tree
}

fn line(name: &str, counts: [u64; 4]) -> String {
    let [reads, read, writes, written] = counts;
    format!("   8  0 {name} {reads} 9 {read} 9 {writes} 9 {written} 9 0 9 9 0 0 0 0 9 9\n")
}

#[test]
fn whole_disks_only() {
    let tree = machine();
    let names = [
        "sda",
        "sda1",
        "nvme0n1",
        "nvme0n1p1",
        "mmcblk0",
        "mmcblk0p2",
        "loop0",
        "ram0",
        "zram0",
        "dm-0",
        "md127",
        "cciss/c0d0",
    ];
    tree.file("proc/diskstats", names.map(|name| line(name, [1, 2, 3, 4])).concat());
    let mut disks = Disks::new(&tree.root(), Choice::default());
    let seen = look(|values| disks.collect(None, values));
    let found: Vec<&str> =
        seen.keys().filter_map(|name| name.strip_prefix("disk.")?.strip_suffix(".read_bytes")).collect();
    assert_eq!(found, ["cciss/c0d0", "mmcblk0", "nvme0n1", "sda"]);
    let choice =
        Choice { include: vec![Glob::new("dm-*"), Glob::new("sd*")], exclude: vec![Glob::new("sda?")] };
    let seen = look(|values| Disks::new(&tree.root(), choice).collect(None, values));
    let found: Vec<&str> =
        seen.keys().filter_map(|name| name.strip_prefix("disk.")?.strip_suffix(".read_bytes")).collect();
    assert_eq!(found, ["dm-0", "sda"]);
}

#[test]
fn totals_and_rates() {
    let tree = machine();
    let mut disks = Disks::new(&tree.root(), Choice::default());
    let mut seen = |counts, elapsed| {
        tree.file("proc/diskstats", line("sda", counts));
        look(|values| disks.collect(elapsed, values))
    };
    let first = seen([10, 100, 20, 200], None);
    assert_eq!((first["disk.sda.read_bytes"], first["disk.sda.write_bytes"]), (51200.0, 102400.0));
    assert_eq!((first["disk.sda.read_ops"], first["disk.sda.write_ops"]), (10.0, 20.0));
    assert_eq!(first.len(), 4, "no rate yet");
    let second = seen([15, 102, 30, 204], Some(Duration::from_millis(500)));
    assert_eq!((second["disk.sda.read_rate"], second["disk.sda.write_rate"]), (2048.0, 4096.0));
    assert_eq!((second["disk.sda.read_ops_rate"], second["disk.sda.write_ops_rate"]), (10.0, 20.0));
    let reset = seen([1, 2, 31, 205], SECOND);
    assert_eq!((reset.get("disk.sda.read_rate"), reset.get("disk.sda.write_rate")), (None, Some(&512.0)));
    assert_eq!(seen([2, 4, 31, 205], SECOND)["disk.sda.read_rate"], 1024.0);
}

#[test]
fn a_disk_that_was_away_has_no_rate_of_that_time() {
    let tree = machine();
    let mut disks = Disks::new(&tree.root(), Choice::default());
    for (text, rate) in [
        (line("sda", [0, 0, 0, 0]), None),
        (line("sda", [0, 8, 0, 0]), Some(4096.0)),
        (line("mmcblk0", [0, 0, 0, 0]), None),
        (line("sda", [0, 80000, 0, 0]), None),
        (line("sda", [0, 80002, 0, 0]), Some(1024.0)),
    ] {
        tree.file("proc/diskstats", text);
        assert_eq!(look(|values| disks.collect(SECOND, values)).get("disk.sda.read_rate").copied(), rate);
    }
    tree.file("proc/diskstats", "");
    assert!(look(|values| disks.collect(SECOND, values)).is_empty());
}

#[test]
fn odd_lines_are_left_out() {
    // Kernels of 2.6 tell less of a partition, and some boards print what no tool expects.
    for odd in [
        "",
        "8 0 sda",
        "8 1 sda1 1 2 3 4",
        "8 0 sda 1 2 3 4 5 6",
        "8 0 sda 1 2 x 4 5 6 7",
        "8 0 sda 1 2 99999999999999999999 4 5 6 7",
        "8 0 sda 1 2 18446744073709551615 4 5 6 7 8",
    ] {
        assert_eq!(parse(odd.as_bytes()), None, "{odd}");
    }
    assert_eq!(parse(b"8 0 sda 1 2 3 4 5 6 7"), Some((&b"sda"[..], [1536, 3584, 1, 5])), "nothing behind");
}
