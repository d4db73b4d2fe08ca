//! A job to change, a place to run it in, and the look round afterwards.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use iot_agent::executor::{End, Event, Executor, Job, Kept, Limits, Report, Running, Within};

/// Longer than anything here takes, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The keeper is the real program.
pub(crate) fn executor(run_as: Option<&str>, within: Within) -> Executor {
    Executor::with(env!("CARGO_BIN_EXE_iot-agent").into(), run_as, within)
}

/// A folder of one's own, and jobs in it.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    count: AtomicU64,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("iot-agent-job-").tempdir().unwrap();
        // For jobs of other users.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), mode).unwrap();
        Self { folder, count: AtomicU64::new(0) }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `sh -c COMMAND`, with a mark of its own in its environment.
    pub(crate) fn job(&self, command: &str) -> Job {
        let number = self.count.fetch_add(1, Relaxed);
        let mark = format!("{}-{number}", self.path().display());
        Job {
            argv: ["/bin/sh", "-c", command].map(str::to_owned).into(),
            env: BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into()), ("MARK".into(), mark)]),
            cwd: "/".into(),
            run_as: None,
            timeout: Duration::from_secs(20),
            grace: Duration::from_secs(2),
            output_limit: 4096,
            chunk_every: None,
            limits: Limits::default(),
            spool: self.spool(number),
        }
    }

    fn spool(&self, number: u64) -> PathBuf {
        self.path().join(format!("spool-{number}"))
    }
}

/// What comes before the end, and the report.
pub(crate) struct Done {
    pub(crate) events: Vec<Event>,
    pub(crate) report: Report,
}

/// Runs it to its end, and looks whether anything of it is left.
pub(crate) async fn run(executor: &Executor, job: &Job) -> Done {
    let mut running = executor.start(job).unwrap();
    let keeper = running.keeper().unwrap();
    let done = follow(&mut running).await;
    assert_eq!(alive(job), [] as [String; 0], "{:?} left something", job.argv);
    assert_eq!(groups(keeper), [] as [PathBuf; 0], "{:?} left a group", job.argv);
    drop(running);
    assert!(!job.spool.exists());
    done
}

/// Until it has ended.
pub(crate) async fn follow(running: &mut Running) -> Done {
    let mut events = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, running.next()).await.expect("something happens") {
            Event::Ended(report) => return Done { events, report },
            event => events.push(event),
        }
    }
}

/// The processes that have the mark of this job, by their arguments. One that is dead has no environment any more.
pub(crate) fn alive(job: &Job) -> Vec<String> {
    let mark = format!("MARK={}", job.env["MARK"]);
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    })
    .map(|pid| format!("{pid}: {:?}", fs::read_to_string(format!("/proc/{pid}/cmdline"))))
    .collect()
}

/// The cgroups of a keeper that are there.
pub(crate) fn groups(keeper: u32) -> Vec<PathBuf> {
    fn look(folder: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(name) {
                    found.push(entry.path());
                }
                look(&entry.path(), name, found);
            }
        }
    }
    let mut found = Vec::new();
    look(Path::new("/sys/fs/cgroup"), &format!("iot-agent-{keeper}-"), &mut found);
    found
}

/// All that was kept, where nothing was dropped.
pub(crate) fn whole(kept: &Kept) -> String {
    assert_eq!(kept.dropped, 0);
    String::from_utf8([kept.head.as_slice(), &kept.tail].concat()).unwrap()
}

/// What a job says that must end well.
pub(crate) async fn said(executor: &Executor, job: &Job) -> String {
    let report = run(executor, job).await.report;
    assert_eq!((&report.end, whole(&report.stderr).as_str()), (&End::Exited(0), ""), "{:?}", job.argv);
    whole(&report.stdout)
}

/// How much is proved: 1 with every test run, 2 and 3 with `make prove`.
pub(crate) fn tier() -> u32 {
    std::env::var("IOT_AGENT_TIER").map_or(1, |tier| tier.parse().unwrap())
}

/// A line of figures.
#[allow(clippy::print_stdout, reason = "`make prove` gathers it")]
pub(crate) fn proof(name: &str, wanted: &str, figures: &str) {
    println!("proof {name} tier={} wanted={wanted} {figures}", tier());
}

/// What holds jobs, as one word.
pub(crate) fn held_by(executor: &Executor) -> String {
    executor.containment().split([';', ',']).next().unwrap().replace(' ', "-")
}
