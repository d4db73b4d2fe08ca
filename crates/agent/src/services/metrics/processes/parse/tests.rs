use testkit::seed::{Rng, seed};

use super::*;

const REST: &[u8] =
    b" S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 9 20 0 3 0 123456 9000000 4711 18446744073709551615 1 1 0\n";

fn of(name: &[u8]) -> Vec<u8> {
    [b"42 (", name, b")", REST].concat()
}

#[test]
fn a_name_may_hold_anything() {
    for name in [&b"sleep"[..], b"a b", b"a) S 1 2 (b", b"(sd-pam)", b")", b"", b"\xff\xfe", b"a\\nb", b"((("]
    {
        let text = of(name);
        let (found, stat) = stat(&text).unwrap();
        assert_eq!(found, name);
        assert_eq!(stat, Stat { zombie: false, ticks: 300, threads: 3, start: 123_456 });
    }
}

#[test]
fn a_zombie_is_one_that_has_no_threads_left() {
    let state = |state: &str, threads: &str| {
        let text = String::from_utf8(of(b"x")).unwrap();
        stat(text.replace(") S", &format!(") {state}")).replace(" 3 0 123456", threads).as_bytes())
            .unwrap()
            .1
            .zombie
    };
    assert!(state("Z", " 1 0 123456"));
    assert!(state("X", " 0 0 123456"));
    assert!(!state("Z", " 3 0 123456"), "its first thread has ended; it has not");
    assert!(!state("S", " 1 0 123456"));
}

#[test]
fn what_is_cut_or_odd_is_nothing() {
    let whole = of(b"x");
    let start = whole.windows(6).position(|part| part == b"123456").unwrap();
    for end in 0..start {
        assert_eq!(stat(&whole[..end]), None, "{end}");
    }
    let negative = String::from_utf8(whole).unwrap().replace(" 250 ", " -250 ");
    assert_eq!(stat(negative.as_bytes()), None);
    let huge = negative.replace(" -250 ", " 18446744073709551615 ");
    assert_eq!(stat(huge.as_bytes()), None, "no sum");
}

#[test]
fn memory_and_io() {
    assert_eq!(resident(b"12000 4711 900 10 0 2000 0\n"), Some(4711));
    assert_eq!(resident(b"12000"), None);
    let text = b"rchar: 5\nwchar: 6\nsyscr: 7\nsyscw: 8\nread_bytes: 4096\nwrite_bytes: 8192\ncancelled_write_bytes: 1\n";
    assert_eq!(io(text), Some(Io { read_bytes: 4096, write_bytes: 8192, reads: 7, writes: 8 }));
    assert_eq!(io(&text[..40]), None);
    assert_eq!(boot_time(b"cpu 1 2\nintr 5\nctxt 1\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_000));
    assert_eq!(boot_time(b"cpu 1 2\n"), None);
}

#[test]
fn a_unit_is_found_in_each_version_of_cgroups() {
    for text in [
        &b"0::/system.slice/ssh.service\n"[..],
        b"0::/system.slice/ssh.service/made-by-itself\n",
        b"12:cpu,cpuacct:/\n2:name=systemd:/system.slice/ssh.service\n1:pids:/x\n",
        b"1:name=systemd:/system.slice/ssh.service\n0::/system.slice/ssh.service\n",
        b"0::/../system.slice/ssh.service",
    ] {
        assert!(in_unit(text, b"ssh.service"), "{}", text.escape_ascii());
    }
    for text in [
        &b"0::/system.slice/openssh.service\n"[..],
        b"0::/system.slice/ssh.service.d\n",
        b"4:memory:/system.slice/ssh.service\n",
        b"0::ssh\n",
        b"ssh.service",
        b"",
    ] {
        assert!(!in_unit(text, b"ssh.service"), "{}", text.escape_ascii());
    }
}

#[test]
fn a_pid_file_begins_with_the_pid() {
    for (text, expected) in [
        (&b"42"[..], Some(42)),
        (b"42\n", Some(42)),
        (b"  42 \n", Some(42)),
        (b"42\n/var/lib/postgresql\n1700000000\n", Some(42)),
        (b"", None),
        (b"\n42\n", None),
        (b"0\n", None),
        (b"-1\n", None),
        (b"4294967296\n", None),
        (b"x42\n", None),
    ] {
        assert_eq!(pid(text), expected, "{}", text.escape_ascii());
    }
}

#[test]
fn base_names_of_a_program_and_of_a_script() {
    let names = |executable: &[u8], arguments: &[u8]| {
        base_names(executable, arguments).map(|name| name.escape_ascii().to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(b"/usr/bin/a (deleted)", b"a\0-x\0"), ["a", "a", "-x", ""]);
    assert_eq!(
        names(b"/usr/bin/python3.13", b"python3\0-u\0/opt/x/long.py\0more"),
        ["python3.13", "python3", "-u", "long.py"]
    );
    assert_eq!(names(b"", b""), ["", ""]);
}

/// Whatever a file says, it is read or it is not.
#[test]
fn no_text_makes_them_panic() {
    let mut rng = Rng::new(seed());
    let texts: [&[u8]; 5] = [
        &of(b"a) b"),
        b"12000 4711 900\n",
        b"syscr: 7\nsyscw: 8\nread_bytes: 4096\nwrite_bytes: 8192\n",
        b"1:name=systemd:/system.slice/ssh.service\n0::/\n",
        b"cpu 1\nbtime 1700000000\n",
    ];
    for _ in 0..20_000 {
        let mut text = rng.pick(&texts).to_vec();
        for _ in 0..=rng.below(4) {
            let place = rng.below(text.len() as u64 + 1) as usize;
            match rng.below(4) {
                0 => text.truncate(place),
                1 => text.insert(place, *rng.pick(b"()0 \n:-/\xff9")),
                2 if place < text.len() => text[place] = rng.below(256) as u8,
                _ => text.extend_from_within(place..),
            }
        }
        if let Some((name, _)) = stat(&text) {
            assert!(
                text.windows(name.len() + 2).any(|part| part[0] == b'(' && &part[1..part.len() - 1] == name)
            );
        }
        std::hint::black_box((
            resident(&text),
            io(&text),
            pid(&text),
            boot_time(&text),
            in_unit(&text, b"x"),
        ));
        assert!(base_names(&text, &text).all(|name| !name.contains(&b'/')));
    }
}
