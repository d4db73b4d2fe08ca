use super::*;
use crate::services::metrics::fixture::{Tree, look};

fn seen(tree: &Tree, total: u64) -> Vec<(String, f64)> {
    let mut cgroup = Cgroup::new(&tree.root());
    look(|values| cgroup.collect(Some(total), values)).into_iter().collect()
}

fn limited(limit: f64, used: f64) -> Vec<(String, f64)> {
    [
        ("memory.cgroup_limit", limit),
        ("memory.cgroup_used", 100.0 * used / limit),
        ("memory.cgroup_used_bytes", used),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

#[test]
fn in_v2_the_tightest_limit_on_the_way_up_applies() {
    let tree = Tree::new();
    tree.file("proc/self/cgroup", "0::/system.slice/iot-agent.service\n");
    tree.file("sys/fs/cgroup/system.slice/iot-agent.service/memory.max", "max\n");
    tree.file("sys/fs/cgroup/system.slice/iot-agent.service/memory.current", "1000\n");
    assert_eq!(seen(&tree, 1 << 30), []);
    tree.file("sys/fs/cgroup/system.slice/memory.max", "65536\n");
    tree.file("sys/fs/cgroup/system.slice/memory.current", "16384\n");
    assert_eq!(seen(&tree, 1 << 30), limited(65536.0, 16384.0));
    assert_eq!(seen(&tree, 65536), [], "as much as the machine has is no limit");
    tree.file("sys/fs/cgroup/system.slice/iot-agent.service/memory.max", "8192\n");
    assert_eq!(seen(&tree, 1 << 30), limited(8192.0, 1000.0));
}

#[test]
fn a_container_finds_its_own_group_as_the_root() {
    let tree = Tree::new();
    tree.file("proc/self/cgroup", "0::/../../not/seen/from/here\n");
    tree.file("sys/fs/cgroup/memory.max", "4096\n");
    tree.file("sys/fs/cgroup/memory.current", "1024\n");
    assert_eq!(seen(&tree, 1 << 30), limited(4096.0, 1024.0));
}

#[test]
fn in_v1_no_limit_is_a_large_number() {
    let tree = Tree::new();
    tree.file("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/a:b\n0::/\n");
    tree.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    tree.file("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000000\n");
    assert_eq!(seen(&tree, u64::MAX), []);
    tree.file("sys/fs/cgroup/memory/docker/a:b/memory.limit_in_bytes", "1000\n");
    tree.file("sys/fs/cgroup/memory/docker/a:b/memory.usage_in_bytes", "250\n");
    assert_eq!(seen(&tree, 1 << 30), limited(1000.0, 250.0));
}

#[test]
fn garbage_is_no_limit() {
    for odd in ["", "\n", "0", "0:", "0::", ":memory", "x:memory:\u{0}", "0::relative", "4:memory:////"] {
        let tree = Tree::new();
        tree.file("proc/self/cgroup", odd);
        assert_eq!(seen(&tree, 1 << 30), [], "{odd}");
    }
}
