//! What a job sees of the machine and of the agent.

use std::{
    fs,
    os::{
        fd::AsFd as _,
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
};

use iot_agent::executor::{End, Executor, Within};

use crate::fixture::{Place, executor, run, said, whole};

#[tokio::test]
async fn it_has_three_descriptors_whatever_the_agent_has_open() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    // One that would be inherited: of a library that forgot.
    let (leaking, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    rustix::io::fcntl_setfd(leaking.as_fd(), rustix::io::FdFlags::empty()).unwrap();
    let mut job = place.job("");
    job.argv = vec!["/bin/readlink".into()];
    job.argv.extend((0..512).map(|number| format!("/proc/self/fd/{number}")));
    let report = run(&executor, &job).await.report;
    let listed = whole(&report.stdout);
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    assert_eq!(lines[0], "/dev/null");
    assert!(
        lines[1].starts_with("pipe:") && lines[2].starts_with("pipe:") && lines[1] != lines[2],
        "{listed}"
    );
    let keeper = said(&executor, &place.job("ls -l /proc/$PPID/fd; cat /proc/$PPID/environ")).await;
    assert!(!keeper.contains("PATH=") && !keeper.contains("MARK="), "{keeper}");
}

#[tokio::test]
async fn it_has_its_own_environment_and_nothing_of_ours() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job = place.job("env");
    job.argv = vec!["/usr/bin/env".into()];
    job.env =
        [("MARK", "x y=z"), ("EMPTY", ""), ("UMLAUT", "ä\n!")].map(|(k, v)| (k.into(), v.into())).into();
    assert_eq!(said(&executor, &job).await, "EMPTY=\nMARK=x y=z\nUMLAUT=ä\n!\n");
    // Neither are its order's contents to be seen in the arguments of anybody.
    let shown = said(&executor, &place.job(": secret; tr '\\0' ' ' </proc/$PPID/cmdline")).await;
    assert_eq!(shown, "iot-agent executor ");
}

#[tokio::test]
async fn it_starts_where_it_should_with_a_strict_umask_in_a_session_of_its_own() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job =
        place.job("pwd; umask; ulimit -c; touch made; cut -d' ' -f5,6,7 /proc/$$/stat; echo $$; ulimit -Hc");
    job.cwd = place.path().canonicalize().unwrap();
    let text = said(&executor, &job).await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], job.cwd.to_str().unwrap());
    assert_eq!((lines[1], lines[2], lines[5]), ("0077", "0", "0"));
    assert_eq!(lines[3], format!("{0} {0} 0", lines[4]), "group, session, no terminal");
    assert_eq!(fs::metadata(place.path().join("made")).unwrap().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn it_is_the_first_to_go_when_memory_is_short() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    assert_eq!(said(&executor, &place.job("cat /proc/self/oom_score_adj")).await, "500\n");
    assert_eq!(said(&executor, &place.job("cat /proc/$PPID/oom_score_adj")).await, "0\n");
}

#[tokio::test]
async fn no_signal_is_blocked_or_ignored() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let mut job = place.job("");
    job.argv = ["/bin/cat", "/proc/self/status"].map(String::from).into();
    let text = said(&executor, &job).await;
    for name in ["SigBlk:", "SigIgn:", "SigCgt:"] {
        let mask = text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
        // 32 and 33 are the C library's own, and it lets nobody touch them.
        assert_eq!(u64::from_str_radix(mask, 16).unwrap() & !(0b11 << 31), 0, "{name}{mask}");
    }
}

#[tokio::test]
async fn run_as_gives_up_all_that_root_has() {
    for within in [Within::Best, Within::Nothing] {
        let (executor, place) = (executor(Some("nobody"), within), Place::new());
        let secret = place.path().join("secret");
        fs::write(&secret, "s").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let mut job = place.job(&format!(
            "id -un; id -Gn; cat {} 2>&1; grep -E '^(Cap(Prm|Eff|Amb)|Uid|Gid)' /proc/self/status; kill -9 $PPID 2>&1",
            secret.display()
        ));
        job.run_as = Some("nobody".into());
        let report = run(&executor, &job).await.report;
        assert_eq!(report.end, End::Exited(1), "the keeper is not to be killed by it");
        let text = whole(&report.stdout);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["nobody", "nogroup"]);
        assert!(lines[2].ends_with("Permission denied"), "{text}");
        assert_eq!(lines[3..5], ["Uid:\t65534\t65534\t65534\t65534", "Gid:\t65534\t65534\t65534\t65534"]);
        for line in &lines[5..8] {
            assert!(line.ends_with("\t0000000000000000"), "{line}");
        }
        assert!(lines[8].contains("not permitted"), "{text}");
    }
}

#[tokio::test]
async fn a_group_that_is_named_is_the_only_one() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    for (run_as, expected) in [
        ("nobody:daemon", "65534 1 1\n"),
        ("65534:1", "65534 1 1\n"),
        ("4242:4343", "4242 4343 4343\n"),
        ("65534", "65534 65534 65534\n"),
        ("root", "0 0 0\n"),
    ] {
        let mut job = place.job("echo $(id -u) $(id -g) $(id -G)");
        job.run_as = Some(run_as.into());
        assert_eq!(said(&executor, &job).await, expected, "{run_as}");
    }
    assert_eq!(Executor::check_account("nobody"), Ok(()));
    assert_eq!(Executor::check_account("nosuch"), Err("no user \"nosuch\" in /etc/passwd".into()));
}

#[tokio::test]
async fn a_folder_closed_to_its_user_is_not_entered_as_root() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let closed = place.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let mut job = place.job("true");
    job.run_as = Some("nobody".into());
    job.cwd = closed.clone();
    let report = run(&executor, &job).await.report;
    assert_eq!(report.end, End::Failed(format!("cannot enter {}: Permission denied", closed.display())));
}

/// A disk that the job fills is the job's trouble.
#[tokio::test]
async fn a_full_disk_is_told_by_the_job_itself() {
    let (executor, place) = (executor(None, Within::Best), Place::new());
    let job = place.job(
        "unshare -m sh -c 'mount -t tmpfs -o size=64k none /mnt && dd if=/dev/zero of=/mnt/x bs=4k 2>&1; echo $?'",
    );
    let text = said(&executor, &job).await;
    assert!(text.contains("No space left on device") && text.ends_with("\n1\n"), "{text}");
}
