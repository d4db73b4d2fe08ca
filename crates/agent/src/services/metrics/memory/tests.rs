use super::*;
use crate::services::metrics::fixture::{Tree, look};

const MIB: f64 = 1024.0 * 1024.0;

#[test]
fn used_is_what_is_not_available() {
    let tree = Tree::new();
    tree.file(
        "proc/meminfo",
        "MemTotal:        1024000 kB\nMemFree:          100000 kB\nMemAvailable:     768000 kB\nBuffers: 1 kB\nCached: 2 kB\n\
         SwapCached: 7 kB\nSwapTotal:        204800 kB\nSwapFree:         153600 kB\nHugePages_Total:       0\n",
    );
    let mut memory = Memory::new(&tree.root());
    let seen = look(|values| assert_eq!(memory.collect(values), Some(25.0)));
    assert_eq!(seen["memory.used"], 25.0);
    assert_eq!((seen["memory.total"], seen["memory.available"]), (1000.0 * MIB, 750.0 * MIB));
    assert_eq!(
        (seen["swap.total"], seen["swap.used_bytes"], seen["swap.used"]),
        (200.0 * MIB, 50.0 * MIB, 25.0)
    );
    assert!(!seen.keys().any(|name| name.contains("cgroup")), "none applies");
}

#[test]
fn an_old_kernel_and_no_swap_are_understood() {
    let tree = Tree::new();
    tree.file("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 50 kB\nCached: 100 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n");
    let seen = look(|values| assert_eq!(Memory::new(&tree.root()).collect(values), Some(75.0)));
    assert_eq!((seen["swap.total"], seen.get("swap.used")), (0.0, None));
}

#[test]
fn what_is_missing_or_garbage_is_absent_not_zero() {
    let tree = Tree::new();
    let mut memory = Memory::new(&tree.root());
    assert!(look(|values| assert_eq!(memory.collect(values), None)).is_empty());
    for odd in [
        "",
        "MemTotal:",
        "MemTotal: x kB",
        "MemTotal: 18446744073709551615 kB",
        "MemAvailable: 5 kB\nMemTotal 7",
    ] {
        tree.file("proc/meminfo", odd);
        let seen = look(|values| assert_eq!(memory.collect(values), None));
        assert!(!seen.contains_key("memory.used") && !seen.contains_key("memory.total"), "{odd}: {seen:?}");
    }
    tree.file("proc/meminfo", "MemTotal: 0 kB\nMemAvailable: 0 kB\n");
    look(|values| assert_eq!(memory.collect(values), None));
    tree.file("proc/meminfo", "MemTotal: 100 kB\nMemAvailable: 150 kB\n");
    look(|values| assert_eq!(memory.collect(values), Some(0.0)));
}
