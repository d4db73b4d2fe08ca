//! The table: commands, and what becomes of each.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use iot_agent::executor::{End, End::*, Executor, Job, Kept, Within};

use crate::fixture::{Place, executor, held_by, proof, run};

/// What of a stream is expected.
enum Said {
    Text(&'static [u8]),
    /// So many bytes in all.
    Count(u64),
    /// This is within.
    Has(&'static str),
    Anything,
}

struct Row {
    command: &'static str,
    end: End,
    stdout: Said,
    stderr: Said,
    change: fn(&mut Job),
}

fn row(command: &'static str, end: End) -> Row {
    Row { command, end, stdout: Said::Text(b""), stderr: Said::Text(b""), change: |_| {} }
}

impl Row {
    fn out(self, text: &'static str) -> Self {
        Self { stdout: Said::Text(text.as_bytes()), ..self }
    }

    fn bytes(self, bytes: &'static [u8]) -> Self {
        Self { stdout: Said::Text(bytes), ..self }
    }

    fn err(self, text: &'static str) -> Self {
        Self { stderr: Said::Text(text.as_bytes()), ..self }
    }

    fn says(self, stdout: Said) -> Self {
        Self { stdout, ..self }
    }

    fn complains(self, stderr: Said) -> Self {
        Self { stderr, ..self }
    }

    fn with(self, change: fn(&mut Job)) -> Self {
        Self { change, ..self }
    }
}

/// A deadline soon enough to wait for it, and too late for anything that ends by itself.
fn soon(job: &mut Job) {
    job.timeout = Duration::from_millis(400);
    job.grace = Duration::from_millis(300);
}

fn exits() -> Vec<Row> {
    vec![
        row("true", Exited(0)),
        row("false", Exited(1)),
        row("exit 2", Exited(2)),
        row("exit 42", Exited(42)),
        row("exit 255", Exited(255)),
        row("exit 256", Exited(0)),
        row("/etc/passwd", Exited(126)).complains(Said::Has("ermission denied")),
        row("/", Exited(126)).complains(Said::Anything),
        row("no-such-command", Exited(127)).complains(Said::Has("not found")),
        row("(", Exited(2)).complains(Said::Has("yntax error")),
        row("", Exited(0)),
        row("sh -c 'kill -9 $$'", Exited(137)).complains(Said::Anything),
        row("exec sh -c 'exit 7'", Exited(7)),
        row("true & wait $!; echo $?", Exited(0)).out("0\n"),
    ]
}

fn signals() -> Vec<Row> {
    let mut rows = Vec::new();
    for (command, number) in [
        ("kill -HUP $$", 1),
        ("kill -INT $$", 2),
        ("kill -QUIT $$", 3),
        ("kill -ILL $$", 4),
        ("kill -TRAP $$", 5),
        ("kill -ABRT $$", 6),
        ("kill -BUS $$", 7),
        ("kill -FPE $$", 8),
        ("kill -KILL $$", 9),
        ("kill -USR1 $$", 10),
        ("kill -SEGV $$", 11),
        ("kill -USR2 $$", 12),
        ("kill -PIPE $$", 13),
        ("kill -ALRM $$", 14),
        ("kill -TERM $$", 15),
        ("kill -XCPU $$", 24),
        ("kill -SYS $$", 31),
        ("kill -40 $$", 40),
        ("kill -9 0", 9),
        ("kill -TERM 0", 15),
        ("exec sh -c 'kill -SEGV $$'", 11),
    ] {
        rows.push(row(command, Signaled(number)));
    }
    rows.push(row("trap 'echo caught; exit 3' TERM; kill -TERM $$", Exited(3)).out("caught\n"));
    // What the agent ignores (a Rust program: SIGPIPE) is not ignored by what it starts.
    rows.push(row("yes | head -n 1", Exited(0)).out("y\n"));
    rows.push(row("sh -c 'yes; echo $? >&2' | true", Exited(0)).complains(Said::Anything));
    rows
}

fn output() -> Vec<Row> {
    vec![
        row("echo hello", Exited(0)).out("hello\n"),
        row("printf hello", Exited(0)).out("hello"),
        row("echo hello >&2", Exited(0)).err("hello\n"),
        row("echo one; echo two >&2; echo three", Exited(0)).out("one\nthree\n").err("two\n"),
        row("echo kept; exit 5", Exited(5)).out("kept\n"),
        row("echo kept; kill -9 $$", Signaled(9)).out("kept\n"),
        row(r"printf '\000\001\377\376\n\r\033'", Exited(0)).bytes(b"\0\x01\xff\xfe\n\r\x1b"),
        row("printf '\u{e4}\u{20ac}\u{1f600}'", Exited(0)).out("\u{e4}\u{20ac}\u{1f600}"),
        row("head -c 4096 /dev/zero", Exited(0)).says(Said::Count(4096)),
        row("head -c 4097 /dev/zero", Exited(0)).says(Said::Count(4097)),
        row("head -c 10000000 /dev/zero", Exited(0)).says(Said::Count(10_000_000)),
        row("head -c 10000000 /dev/zero >&2", Exited(0)).complains(Said::Count(10_000_000)),
        row("head -c 3000000 /dev/zero & head -c 4000000 /dev/zero >&2; wait", Exited(0))
            .says(Said::Count(3_000_000))
            .complains(Said::Count(4_000_000)),
        row("seq 200000", Exited(0)).says(Said::Count(1_288_895)),
        row("echo some", Exited(0)).says(Said::Count(5)).with(|job| job.output_limit = 0),
        row("echo some", Exited(0)).says(Said::Count(5)).with(|job| job.output_limit = 1),
        row("echo x; exec >&- 2>&-; sleep 0.1; exit 6", Exited(6)).out("x\n"),
        row("exec >&-; echo x", Exited(1)).complains(Said::Anything),
        row("cat; echo end", Exited(0)).out("end\n"),
        row("read line; echo \"$? $line\"", Exited(0)).out("1 \n"),
        row("(sleep 2; echo late) & echo now", Exited(0)).out("now\n"),
        row("(exec sleep 100) & echo now", Exited(0)).out("now\n"),
        row("exec echo done", Exited(0)).out("done\n"),
        row("yes & sleep 0.2", Exited(0)).says(Said::Anything),
        row("printf '%s|' \"$0\" \"$@\"", Exited(0))
            .bytes(b"\x01\x7f'\"\\ $(x)\n|*|\xf0\x9f\x98\x80||")
            .with(|job| job.argv.extend(["\u{1}\u{7f}'\"\\ $(x)\n", "*", "\u{1f600}", ""].map(String::from))),
    ]
}

fn ends() -> Vec<Row> {
    vec![
        row("sleep 100", TimedOut).with(soon),
        row("echo before; sleep 100", TimedOut).out("before\n").with(soon),
        row("trap '' TERM; echo deaf; while :; do sleep 1; done", TimedOut).out("deaf\n").with(soon),
        row("trap 'echo bye; exit 0' TERM; sleep 100 & wait", TimedOut).out("bye\n").with(soon),
        row("kill -STOP $$", TimedOut).with(soon),
        row("yes", TimedOut).says(Said::Anything).with(soon),
        row("cat /dev/zero", TimedOut).says(Said::Anything).with(soon),
        row("cat /dev/zero >&2", TimedOut).complains(Said::Anything).with(soon),
        row("while :; do :; done", TimedOut).with(soon),
        row("exec 1>&- 2>&-; sleep 100", TimedOut).with(soon),
        row("setsid sh -c 'trap \"\" TERM HUP; sleep 100' & sleep 100", TimedOut).with(soon),
        row("sleep 100 | sleep 100 | sleep 100", TimedOut).with(soon),
        row("sh -c 'sleep 100; sleep 100'; sleep 100", TimedOut).complains(Said::Anything).with(soon),
        row("nohup sleep 100 & sleep 100", TimedOut).complains(Said::Anything).with(soon),
        row("kill $PPID; sleep 100", Interrupted),
        row("kill -INT $PPID; sleep 100", Interrupted),
        row("kill -HUP $PPID; sleep 100", Interrupted),
        row("echo first; echo second >&2; sleep 0.2; kill -9 $PPID; sleep 100", Lost)
            .out("first\n")
            .err("second\n"),
        row("setsid sleep 100 & (setsid sleep 100 &) ; kill -9 $PPID; sleep 100", Lost),
    ]
}

fn leftovers() -> Vec<Row> {
    vec![
        row("sleep 100 &", Exited(0)),
        row("nohup sleep 100 >/dev/null 2>&1 &", Exited(0)),
        row("setsid sleep 100 & sleep 0.1", Exited(0)),
        row("(setsid sh -c 'sleep 100 &' &) ; sleep 0.1; exit 4", Exited(4)),
        row(
            "setsid -f sh -c 'exec >/dev/null 2>&1; trap \"\" TERM HUP INT; while :; do sleep 1; done'",
            Exited(0),
        ),
        row("for i in 1 2 3 4 5 6 7 8 9 10; do (setsid setsid sleep 100 &) ; done; sleep 0.1", Exited(0)),
        row("sh -c 'kill -STOP $$' & sleep 0.1", Exited(0)),
        // Each ends and leaves the next: no moment without one.
        row("f() { (sleep 0.01; f) & }; f; sleep 0.2; echo $?", Exited(0)).out("0\n"),
        row(
            "python3 -c \"import os,time; os.fork() or (os.setsid(), os.fork() or time.sleep(99))\"",
            Exited(0),
        )
        .complains(Said::Anything),
        // A namespace of its own, and an init in it.
        row("unshare -pf sh -c 'sleep 100 & sleep 100' & sleep 0.2", Exited(0)),
        row("strace -f -o /dev/null sleep 100 & sleep 0.3", Exited(0)),
    ]
}

fn failures() -> Vec<Row> {
    let failed = |text: &str| Failed(text.into());
    vec![
        row("true", failed("cannot enter /no/such: No such file or directory"))
            .with(|job| job.cwd = "/no/such".into()),
        row("true", failed("cannot enter /etc/passwd: Not a directory"))
            .with(|job| job.cwd = "/etc/passwd".into()),
        row("true", failed("cannot run /no/shell: No such file or directory"))
            .with(|job| job.argv[0] = "/no/shell".into()),
        row("true", failed("cannot run /etc/passwd: Permission denied"))
            .with(|job| job.argv[0] = "/etc/passwd".into()),
        row("echo in time", Exited(0))
            .out("in time\n")
            .with(|job| (job.timeout, job.grace) = (Duration::MAX, Duration::MAX)),
        row("true", failed(&format!("cannot run /{}: File name too long", "x".repeat(199))))
            .with(|job| job.argv[0] = format!("/{}", "x".repeat(100_000))),
        row("true", failed("no program is named")).with(|job| job.argv.clear()),
        row("true", failed("cannot run /bin/sh: Argument list too long"))
            .with(|job| job.argv.push("x".repeat(128 << 10))),
        row("true", failed("cannot run /bin/sh: nul byte found in provided data"))
            .with(|job| job.argv.push("a\0b".into())),
        row("true", failed("no user \"no-such-user\" in /etc/passwd"))
            .with(|job| job.run_as = Some("no-such-user".into())),
        row("echo ${#0}", Exited(0)).out("131000\n").with(|job| job.argv.push("x".repeat(131_000))),
        row("env | wc -l; ls /proc/self/fd | wc -l", Exited(0)).says(Said::Anything),
    ]
}

fn rows() -> Vec<Row> {
    [exits(), signals(), output(), ends(), leftovers(), failures()].into_iter().flatten().collect()
}

/// What is wrong with a stream, if anything.
fn judge(said: &Said, kept: &Kept, limit: u64) -> Result<(), String> {
    let bytes = [kept.head.as_slice(), &kept.tail].concat();
    let count = bytes.len() as u64 + kept.dropped;
    let right = match said {
        Said::Text(text) => bytes == *text && kept.dropped == 0,
        Said::Count(wanted) => count == *wanted,
        Said::Has(text) => String::from_utf8_lossy(&bytes).contains(text),
        Said::Anything => true,
    };
    let kept_right =
        bytes.len() as u64 == count.min(limit) && kept.head.len() as u64 == count.min(limit.div_ceil(2));
    if right && kept_right {
        return Ok(());
    }
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    Err(format!("{count} bytes, {} kept, beginning {start:?}", bytes.len()))
}

async fn try_row(executor: &Executor, place: &Place, row: &Row) -> Result<(), String> {
    let mut job = place.job(row.command);
    (row.change)(&mut job);
    let report = run(executor, &job).await.report;
    let mut wrong = String::new();
    if report.end != row.end {
        write!(wrong, " ended {:?}, not {:?};", report.end, row.end).unwrap();
    }
    for (name, said, kept) in
        [("stdout", &row.stdout, &report.stdout), ("stderr", &row.stderr, &report.stderr)]
    {
        // A lost keeper has taken the tail with it.
        let limit = job.output_limit;
        if let Err(why) = judge(said, kept, limit) {
            write!(wrong, " {name}: {why};").unwrap();
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("`{}`:{wrong} took {:?}", row.command, report.duration))
    }
}

async fn whole_table(within: Within) {
    // Which of them there are depends on the machine; the tree is everywhere.
    let executor = executor(None, within);
    let (place, rows) = (Arc::new(Place::new()), Arc::new(rows()));
    assert!(rows.len() >= 60, "{} rows", rows.len());
    let mut tasks = tokio::task::JoinSet::new();
    let turns = Arc::new(tokio::sync::Semaphore::new(4));
    for at in 0..rows.len() {
        let (executor, place, rows, turns) = (executor.clone(), place.clone(), rows.clone(), turns.clone());
        tasks.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            try_row(&executor, &place, &rows[at]).await
        });
    }
    let wrong: Vec<String> = tasks.join_all().await.into_iter().filter_map(Result::err).collect();
    let held_by = held_by(&executor);
    assert!(wrong.is_empty(), "{held_by}: {} of {}:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    proof("X1-table", "0-wrong", &format!("commands={} wrong=0 held_by={held_by}", rows.len()));
}

#[tokio::test]
async fn prove_x1_every_command_ends_as_it_should() {
    whole_table(Within::Hierarchies).await;
}

#[tokio::test]
async fn prove_x1_so_it_does_where_cgroup_v2_kills() {
    whole_table(Within::Unified).await;
}

#[tokio::test]
async fn prove_x1_so_it_does_without_any_cgroup() {
    whole_table(Within::Nothing).await;
}
