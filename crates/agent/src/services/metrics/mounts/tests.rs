use super::*;
use crate::services::metrics::glob::Glob;

fn at(text: &str, choice: &Choice) -> Vec<String> {
    choose(text.as_bytes(), choice).iter().map(|mount| mount.at.display().to_string()).collect()
}

const MACHINE: &str = r"22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw - devtmpfs devtmpfs rw,size=12334556k
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
31 27 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro
33 27 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
40 27 8:1 / /mnt/my\040usb\011disk\134x rw master:1 propagate_from:2 - vfat /dev/sda1 rw
41 27 8:2 /sub /srv/part rw - ext4 /dev/sda2 rw
42 27 8:2 / /srv/whole/deeper/than/it rw - ext4 /dev/sda2 rw
43 27 254:0 /var/data /data rw - ext4 /dev/vda rw
44 27 0:50 / /net rw - nfs4 server:/x rw
45 27 254:0 /docker/hosts /etc/hosts rw - ext4 /dev/vda rw
46 27 0:51 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
";

#[test]
fn real_ones_and_each_device_once() {
    let expected = ["/", "/mnt/my usb\tdisk\\x", "/srv/whole/deeper/than/it", "/net"];
    assert_eq!(at(MACHINE, &Choice::default()), expected);
    assert!(choose(MACHINE.as_bytes(), &Choice::default()).iter().all(|mount| mount.wanted));
}

#[test]
fn globs_choose_but_the_root_is_looked_at_in_any_case() {
    let globs = |patterns: &[&str]| patterns.iter().map(|pattern| Glob::new(pattern)).collect();
    let choice = Choice { include: globs(&["/data", "/sys/*"]), exclude: vec![] };
    assert_eq!(at(MACHINE, &choice), ["/", "/sys/fs/cgroup"], "/data is of the device of /");
    let wanted: Vec<bool> = choose(MACHINE.as_bytes(), &choice).iter().map(|mount| mount.wanted).collect();
    assert_eq!(wanted, [false, true]);
    let choice = Choice { include: vec![], exclude: globs(&["/mnt/*", "/n?t", "/"]) };
    assert_eq!(at(MACHINE, &choice), ["/", "/srv/whole/deeper/than/it"]);
}

#[test]
fn a_container_has_an_overlay_as_its_root() {
    let text = "700 500 0:60 / / rw - overlay overlay rw,lowerdir=/a:/b\n701 700 254:0 /x/hosts /etc/hosts rw - ext4 /dev/vda rw\n702 700 0:61 / /tmp rw - tmpfs tmpfs rw\n";
    assert_eq!(at(text, &Choice::default()), ["/"]);
}

#[test]
fn what_is_mounted_over_is_not_asked() {
    let under = "1 1 0:1 / / rw - rootfs rootfs rw\n27 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 27 8:2 / /mnt rw - ext4 /dev/sda2 rw\n31 30 8:3 / /mnt rw - ext4 /dev/sda3 rw\n";
    assert_eq!(at(under, &Choice::default()), ["/", "/mnt"]);
    let all: Vec<Entry> = lines(under.as_bytes()).filter_map(Entry::parse).collect();
    let visible: Vec<&[u8]> =
        all.iter().filter(|entry| entry.is_visible(&all)).map(|entry| entry.device).collect();
    assert_eq!(visible, [&b"8:1"[..], b"8:3"]);
    let above = "27 1 8:1 / / rw - ext4 x rw\n30 27 8:2 / /mnt/a rw - ext4 x rw\n31 27 8:3 / /mnt rw - ext4 x rw\n32 27 8:4 / /mnt2 rw - ext4 x rw\n";
    assert_eq!(at(above, &Choice::default()), ["/", "/mnt", "/mnt2"]);
}

#[test]
fn escapes_are_octal_and_all_else_is_itself() {
    for (escaped, plain) in [
        (r"/a\040b", &b"/a b"[..]),
        (r"/\012\134\377", b"/\n\\\xff"),
        (r"/\04", br"/\04"),
        (r"/\800\400\", br"/\800\400\"),
        (r"/\0400", b"/ 0"),
    ] {
        assert_eq!(unescape(escaped.as_bytes()), plain, "{escaped}");
    }
}

#[test]
fn garbage_is_no_mount() {
    for odd in [
        "",
        "\n\n",
        "1 2 3",
        "1 2 8:1 / /mnt rw",
        "1 2 8:1 / /mnt rw -",
        "1 2 8:1 / mnt rw - ext4 x rw",
        "- - - - -",
    ] {
        assert_eq!(at(odd, &Choice::default()), Vec::<String>::new(), "{odd}");
    }
}
