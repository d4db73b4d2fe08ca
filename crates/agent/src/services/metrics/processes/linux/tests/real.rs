//! Over the machine's own `/proc`, with children of this test.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Instant,
};

use super::*;

/// A shell that has said that it is ready, and is named by what it was told in its arguments.
struct Shell(Child);

impl Shell {
    fn new(mark: &str, script: &str) -> Self {
        let script = format!("echo ready; {script}");
        let mut child = Command::new("sh")
            .args(["-c", &script, mark])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it is ours");
    }
}

/// A word that nobody else has in their arguments.
fn mark(what: &str) -> String {
    format!("mark-{what}-{}", std::process::id())
}

struct Watch {
    processes: Processes,
    found: BTreeMap<String, Process>,
    last: Option<Instant>,
}

impl Watch {
    fn new(list: Value) -> Self {
        let processes = Processes::new(&Root::system(), selectors(list), ALL);
        Self { processes, found: BTreeMap::new(), last: None }
    }

    fn look(&mut self) -> &BTreeMap<String, Process> {
        let now = Instant::now();
        let elapsed = self.last.replace(now).map(|last| now - last);
        self.processes.collect(elapsed, &mut self.found);
        &self.found
    }

    /// Looks until it is so.
    fn until(&mut self, what: &str, is: impl Fn(&BTreeMap<String, Process>) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is(self.look()) {
            assert!(Instant::now() < deadline, "never {what}: {:?}", self.found);
            std::thread::yield_now();
        }
    }
}

fn one(mark: &str) -> Value {
    json!([{"cmdline": mark, "as": "it"}])
}

#[test]
fn one_that_sleeps() {
    let mark = mark("sleeps");
    let shell = Shell::new(&mark, "read x");
    let mut watch = Watch::new(one(&mark));
    watch.look();
    let found = watch.look()["it"].clone();
    let usage = testkit::procfs::usage(shell.0.id()).unwrap();
    assert_eq!((found.count, found.threads), (1, Some(1)));
    assert_eq!(found.fds, Some(usage.fds as u64));
    let (memory, rss) = (found.memory.unwrap(), usage.rss);
    assert!(memory.abs_diff(rss) < 256 * 1024, "{memory} {rss}");
    let age = watch.processes.booted.unwrap() as f64 + since_boot().as_secs_f64() - found.started.unwrap();
    assert!((-1.0..30.0).contains(&age), "{age}");
    drop(shell);
    assert_eq!(watch.look()["it"], Process::default(), "it has been waited for");
}

#[test]
fn one_that_is_busy() {
    let mark = mark("busy");
    let shell = Shell::new(&mark, "while :; do :; done");
    let mut watch = Watch::new(one(&mark));
    let ticks = || testkit::procfs::usage(shell.0.id()).unwrap().cpu_ticks;
    // It is looked at between two readings, each time; what it has to say is between what those do.
    let (least, began) = (ticks(), Instant::now());
    assert_eq!(watch.look()["it"].cpu_usage, None);
    let (first, first_began) = (ticks(), Instant::now());
    while ticks() < first + 50 {
        assert!(began.elapsed() < Duration::from_secs(60), "it gets nowhere");
        std::thread::yield_now();
    }
    let (then, short) = (ticks(), first_began.elapsed());
    let cpu = watch.look()["it"].cpu_usage.unwrap();
    let (most, long) = (ticks(), began.elapsed());
    let percent = |ticks: u64, time: Duration| {
        ticks as f64 * 100.0 / clock_ticks_per_second() as f64 / time.as_secs_f64()
    };
    let (low, high) = (percent(then - first, long), percent(most - least, short));
    assert!(low > 0.0 && cpu >= low - 0.1 && cpu <= high + 0.1, "{low} <= {cpu} <= {high}");
}

#[test]
fn one_that_writes() {
    let mark = mark("writes");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x");
    let script = format!(
        "i=0; while [ $i -lt 100 ]; do echo 0123456789 >> {}; i=$((i+1)); done; read x",
        file.display()
    );
    let _shell = Shell::new(&mark, &script);
    let mut watch = Watch::new(one(&mark));
    watch.until("100 lines", |found| found["it"].write_ops >= Some(100));
    let found = watch.found["it"].clone();
    // Each line dirties the page of the same block again, or is the first to; on a file system without storage none does.
    assert!(found.write_ops < Some(1000) && found.write_bytes < Some(1 << 20), "{found:?}");
    assert!(found.read_ops > Some(0), "its libraries: {found:?}");
}

/// This program has many threads, and is found by its pid file.
#[test]
fn one_with_threads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.pid");
    std::fs::write(&file, format!("{}\n", std::process::id())).unwrap();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let threads: Vec<_> = (0..20)
        .map(|_| {
            let wait = wait.clone();
            std::thread::spawn(move || wait.lock().unwrap().recv().unwrap_err())
        })
        .collect();
    let mut watch = Watch::new(json!([{"pid_file": file, "as": "it"}]));
    let found = watch.look()["it"].clone();
    assert!(found.threads >= Some(21) && found.fds > Some(3), "{found:?}");
    drop(done);
    threads.into_iter().for_each(|thread| _ = thread.join().unwrap());
}

#[test]
fn a_new_one_is_found_on_request_and_by_the_name_it_takes() {
    // No longer than the kernel keeps.
    let name = format!("m2-{}", std::process::id());
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join(&name);
    std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
    let mut watch = Watch::new(json!([name]));
    assert_eq!(watch.look()[&name].count, 0);
    let mut shell = Shell::new("a", &format!("read x; exec {} 60", program.display()));
    watch.processes.look_again();
    assert_eq!(watch.look()[&name].count, 0, "it is a shell yet");
    drop(shell.0.stdin.take());
    let (comm, began) = (format!("/proc/{}/comm", shell.0.id()), Instant::now());
    while std::fs::read_to_string(&comm).unwrap().trim_end() != name {
        assert!(began.elapsed() < Duration::from_secs(20), "it stays a shell");
        std::thread::yield_now();
    }
    watch.processes.collect_at(since_boot() + WALK, None, &mut watch.found);
    assert_eq!(watch.found[&name].count, 1);
}

#[test]
fn many_at_once_are_read_without_keeping_all_open() {
    let mark = mark("many");
    let shells: Vec<_> = (0..KEPT + 8).map(|_| Shell::new(&mark, "read x")).collect();
    let mut watch = Watch::new(one(&mark));
    for _ in 0..3 {
        let found = watch.look()["it"].clone();
        assert_eq!(found.count, shells.len() as u64);
        assert!(found.memory.is_some() && found.read_ops.is_some() && found.fds.is_some());
    }
    let kept = watch.processes.watched.iter().filter(|instance| instance.kept()).count();
    assert_eq!(kept, KEPT);
}

/// Between the list of processes and their files, and between one file and the next, some are gone.
#[test]
fn those_that_end_while_they_are_looked_at_are_none() {
    let (stays, churn) = (mark("stays"), mark("churn"));
    let _stays = Shell::new(&stays, "read line");
    let _churn = Shell::new(
        &churn,
        &format!("while :; do sh -c 'sleep 1; :' {churn} & sh -c ':; :' {churn}; sleep 0.01; done"),
    );
    let list = json!([{"cmdline": stays, "as": "stays"}, {"cmdline": churn, "as": "churn"}, {"glob": "*"}]);
    let mut watch = Watch::new(list);
    let (began, mut looks, mut counts) = (Instant::now(), 0, std::collections::BTreeSet::new());
    while looks < 10 || counts.len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "{looks} looks, in which there were {counts:?}");
        looks += 1;
        watch.processes.look_again();
        let found = watch.look();
        assert_eq!(found["stays"].count, 1, "{found:?}");
        assert!(found["stays"].memory.is_some());
        counts.insert(found["churn"].count);
        // Not "hidden": those that have gone may be told apart from those that may not be looked at.
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(!watch.processes.hidden);
    }
}
