//! What a look at this machine costs, counted: this test runs itself once more, under strace.

use std::{env, fs, process::Command, time::SystemTime};

use rustix::fs::{Access, access};

use super::*;

const CHILD: &str = "IOT_AGENT_TEST_COST_OF_SYSTEM";
const THIS: &str = "services::metrics::system::cost::a_look_is_made_of_few_system_calls";
const LOOKS: usize = 30;

#[test]
fn a_look_is_made_of_few_system_calls() {
    if env::var_os(CHILD).is_some() {
        return child();
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let done = Command::new("strace")
        .args(["-f", "-qq", "--signal=none", "-o"])
        .arg(&trace)
        .arg(env::current_exe().unwrap())
        .args(["--exact", THIS, "--test-threads=1"])
        .env(CHILD, "yes")
        .output()
        .expect("strace is installed by `scripts/tools check`");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    // Of all threads: the one that asks file systems belongs to it.
    let trace = fs::read_to_string(trace).unwrap();
    let lines: Vec<&str> = trace.lines().filter(|line| !line.contains(" resumed>")).collect();
    let end = lines.iter().position(|line| line.contains("/the-looks-end")).unwrap();
    let looks: Vec<&[&str]> = lines[..end].split(|line| line.contains("/a-look-begins")).skip(1).collect();
    assert_eq!(looks.len(), LOOKS);
    let most = looks.iter().map(|look| look.len()).max().unwrap();
    println!("at most {most} calls a look, {} in the last", looks[LOOKS - 1].len());
    let opened: Vec<_> =
        looks.iter().flat_map(|look| look.iter()).filter(|call| call.contains(" openat(")).collect();
    assert!(opened.is_empty(), "{opened:?}");
    // Each sensor costs two.
    assert!(most <= 100 + 2 * 50, "{looks:#?}");
}

/// The looks, each after a call that marks it; the first ones open what stays open.
fn child() {
    let wanted =
        Wanted { cpu: true, memory: true, disk: true, network: true, own: true, ..Wanted::default() };
    let mut system = System::new(&Root::system(), wanted, Clock::new(SystemTime::UNIX_EPOCH, None));
    let mut values = Values::default();
    for look in 0..LOOKS + 2 {
        if look >= 2 {
            assert!(access("/a-look-begins", Access::EXISTS).is_err());
        }
        values.begin();
        system.collect(Some(Duration::from_secs(1)), &mut values);
    }
    assert!(access("/the-looks-end", Access::EXISTS).is_err());
    assert!(values.get("memory.used").is_some() && values.get("fs./.used").is_some());
}
