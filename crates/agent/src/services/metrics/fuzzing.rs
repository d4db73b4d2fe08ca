//! What a kernel, a file of settings or a program's name may say. See [`crate::fuzzing`].

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{DeviceId, Timestamp, metrics::Metrics};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    change::{Changes, Extent},
    files::Root,
    glob::{Choice, Glob},
    name::Name,
    payload::{Head, Look},
    processes::{Processes, Selector, Wanted},
    sample::Values,
    settings::{Config, OverlayFile},
    system::{self, Summary, System},
};
use crate::{clock::Clock, fuzzing::Folder};

/// Any bytes are settings or an error with its place; what was understood can be written down, is understood as the
/// same again, and can be worked with.
pub fn settings(data: &[u8]) {
    let folder = Folder::new();
    let path = folder.path().join("metrics.json");
    let read = |data: &[u8]| {
        fs::write(&path, data).expect("a new folder can be written");
        OverlayFile::new(path.clone()).news(Config::default()).expect("it was not read before")
    };
    match read(data) {
        Err(why) => {
            assert!(why.starts_with(&path.display().to_string()), "without a place: {why}");
            assert!(!why.contains('\n'), "more than a line: {why}");
        }
        Ok(config) => {
            let mut tree = serde_json::to_value(&config).expect("settings can be written");
            let written = tree.clone();
            for not_there in ["topic", "qos", "delivery", "interval", "timeout", "metrics_config_file"] {
                tree.as_object_mut().and_then(|tree| tree.remove(not_there));
            }
            let again = read(tree.to_string().as_bytes()).unwrap_or_else(|why| panic!("{why}: {tree:#}"));
            assert_eq!(serde_json::to_value(&again).expect("settings can be written"), written);
            MACHINE.with_borrow_mut(|machine| machine.look_with(&config));
        }
    }
}

/// A pattern on the first line, a name in the rest: the pattern means what its definition says, and the name makes
/// names of values.
pub fn names(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (pattern, name) = (String::from_utf8_lossy(&data[..end]), data.get(end + 1..).unwrap_or_default());
    let glob = Glob::new(&pattern);
    assert_eq!(glob.matches(name), means(pattern.as_bytes(), name), "{pattern:?} {name:?}");
    let choice = Choice { include: vec![glob], exclude: vec![] };
    assert_eq!(choice.takes(name, false), means(pattern.as_bytes(), name));
    let mut value = Name::default();
    value.begin("fs", name);
    let shown = value.of("used").strip_prefix("fs.").and_then(|shown| shown.strip_suffix(".used"));
    assert_eq!(shown, Some(&*String::from_utf8_lossy(name)));
    let text = String::from_utf8_lossy(name);
    if let Ok(selector) = serde_json::from_value::<Selector>(text.clone().into()) {
        assert_eq!(selector.key(), text);
        let again = serde_json::to_value(&selector).expect("a selector can be written");
        assert_eq!(serde_json::from_value::<Selector>(again).expect("as it was written"), selector);
    }
}

/// By the table of all prefixes, as in a book.
fn means(pattern: &[u8], name: &[u8]) -> bool {
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for byte in pattern {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            next[at] = match byte {
                b'*' => reached[at] || at > 0 && next[at - 1],
                _ => at > 0 && reached[at - 1] && (*byte == b'?' || *byte == name[at - 1]),
            };
        }
        reached = next;
    }
    reached[name.len()]
}

/// Whatever the kernel and others write, no value is absurd, and the sample is one that a backend can read. A line
/// `@proc/stat` begins the content of that file, `@look` takes a look at what was written until then.
pub fn procfs(data: &[u8]) {
    MACHINE.with_borrow_mut(|machine| machine.play(data));
}

thread_local! {
    static MACHINE: RefCell<Machine> = RefCell::new(Machine::new());
}

/// More looks than this show nothing new.
const LOOKS: usize = 4;

/// Every file that is read, as a small board with one program has it.
const FILES: &[(&str, &[u8])] = &[
    ("proc/stat", b"cpu  100 0 100 800 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0\nbtime 1700000000\n"),
    ("proc/loadavg", b"0.00 0.01 0.05 1/70 4711\n"),
    (
        "proc/meminfo",
        b"MemTotal: 1000 kB\nMemFree: 500 kB\nMemAvailable: 600 kB\nSwapTotal: 10 kB\nSwapFree: 5 kB\n",
    ),
    ("proc/diskstats", b" 179 0 mmcblk0 10 0 20 0 30 0 40 0 0 0 0\n"),
    ("proc/net/dev", b"Inter-|\n face |bytes\n  eth0:5000 1 2 3 0 0 0 0 7000 4 5 6 0 0 0 0\n"),
    ("proc/self/mountinfo", b"27 1 179:1 / / rw - ext4 /dev/mmcblk0p1 rw\n"),
    ("proc/self/cgroup", b"0::/a\n"),
    ("proc/self/status", b"Name:\tx\nVmRSS:\t 500 kB\nThreads:\t2\n"),
    ("proc/uptime", b"17236.53 29001.20\n"),
    ("proc/pressure/cpu", b"some avg10=1.00 avg60=0.00 avg300=0.00 total=0\n"),
    ("proc/pressure/memory", b"some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"),
    ("proc/pressure/io", b"full avg10=0.50 avg60=0.00 avg300=0.00 total=0\n"),
    ("sys/fs/cgroup/a/memory.max", b"100\n"),
    ("sys/fs/cgroup/a/memory.current", b"25\n"),
    ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", b"9223372036854771712\n"),
    ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", b"25\n"),
    ("sys/class/thermal/thermal_zone0/type", b"soc\n"),
    ("sys/class/thermal/thermal_zone0/temp", b"48000\n"),
    ("sys/class/hwmon/hwmon0/name", b"nvme\n"),
    ("sys/class/hwmon/hwmon0/temp1_input", b"31850\n"),
    ("sys/class/hwmon/hwmon0/temp1_label", b"Composite\n"),
    ("sys/block/mmcblk0/device/type", b"SD\n"),
    ("sys/class/net/eth0/type", b"1\n"),
    ("sys/class/net/eth0/device/uevent", b""),
    ("proc/7/stat", b"7 (x) S 1 1 1 0 -1 0 0 0 0 0 5 6 0 0 20 0 2 0 70 0 0\n"),
    ("proc/7/statm", b"100 20 5 1 0 30 0\n"),
    ("proc/7/io", b"rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 6\n"),
    ("proc/7/comm", b"x\n"),
    ("proc/7/cmdline", b"/bin/x\0-a\0"),
    ("proc/7/cgroup", b"0::/system.slice/x.service\n"),
    ("proc/7/fd/0", b""),
    ("run/x.pid", b"7\n"),
];

/// The board, which is put in order again after each play.
struct Machine {
    folder: Folder,
    changed: Vec<usize>,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: Folder::new(), changed: Vec::new() };
        for (path, content) in FILES {
            let path = machine.path(path);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("a new folder");
            fs::write(path, content).expect("a new folder");
        }
        machine
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn play(&mut self, data: &[u8]) {
        let mut eyes = Eyes::new(&Root::at(self.folder.path()), &Config::default());
        let (mut file, mut content, mut looks) = (None, Vec::new(), 0);
        for line in data.split_inclusive(|byte| *byte == b'\n') {
            let Some(name) = line.strip_prefix(b"@") else {
                content.extend_from_slice(line);
                continue;
            };
            let name = name.trim_ascii_end();
            self.write(file.take(), &mut content);
            if name == b"look" && looks < LOOKS {
                looks += 1;
                eyes.look();
            }
            file = FILES.iter().position(|(path, _)| path.as_bytes() == name);
        }
        self.write(file, &mut content);
        eyes.look();
        for at in self.changed.drain(..) {
            overwrite(&self.folder.path().join(FILES[at].0), FILES[at].1).expect("it was written before");
        }
    }

    fn write(&mut self, file: Option<usize>, content: &mut Vec<u8>) {
        if let Some(at) = file {
            overwrite(&self.path(FILES[at].0), content).expect("it was written before");
            self.changed.push(at);
        }
        content.clear();
    }

    fn look_with(&mut self, config: &Config) {
        let mut eyes = Eyes::new(&Root::at(self.folder.path()), config);
        eyes.look();
        eyes.look();
    }
}

/// In place, for a reader that has it open. Many file systems flush what was cut to nothing first, which takes
/// milliseconds.
fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)
}

/// What looks at the board.
struct Eyes {
    system: System,
    processes: Processes,
    changes: Changes,
    values: Values,
    found: BTreeMap<String, super::sample::Process>,
    elapsed: Option<Duration>,
}

impl Eyes {
    fn new(root: &Root, config: &Config) -> Self {
        let mut selectors = config.selectors().expect("they were checked");
        if selectors.is_empty() {
            selectors = serde_json::from_str(SELECTORS).expect("selectors");
        }
        Self {
            system: System::new(root, system::Wanted { own: true, ..config.machine() }, clock()),
            processes: Processes::new(root, selectors, Wanted { cpu: true, memory: true, io: true }),
            changes: Changes::new(config.on_change.clone()),
            values: Values::default(),
            found: BTreeMap::new(),
            elapsed: None,
        }
    }

    fn look(&mut self) {
        self.values.begin();
        let summary = self.system.collect(self.elapsed, &mut self.values);
        self.processes.look_again();
        self.processes.collect(self.elapsed, &mut self.found);
        self.elapsed = Some(Duration::from_secs(1));
        self.judge(summary);
    }

    fn judge(&mut self, summary: Summary) {
        for (name, value) in self.values.iter() {
            let bounds = match value.unit {
                // A group may use more than its limit, for a moment.
                "%" if name != "memory.cgroup_used" => 0.0..=100.000_001,
                "°C" => -90.0..=200.0,
                _ => 0.0..=f64::MAX,
            };
            assert!(bounds.contains(&value.value), "{name} {value:?}");
        }
        for (key, process) in &self.found {
            let without = super::sample::Process { count: process.count, ..Default::default() };
            assert!(process.count > 0 || *process == without, "{key}: none runs, and yet {process:?}");
            assert!(process.cpu_usage.is_none_or(|usage| usage >= 0.0 && usage.is_finite()), "{process:?}");
        }
        let look = Look { summary, values: &self.values, processes: &self.found };
        let device_id: DeviceId = "d1".parse().expect("an id");
        let timestamp: Timestamp = "2026-01-31T12:00:00.000Z".parse().expect("a time");
        let extent = self.changes.judge(&look, Instant::now()).unwrap_or(Extent::Changed);
        let bytes = look.encode(Head { device_id: &device_id, timestamp, seq: 1 }, (extent, &self.changes));
        let read: Metrics = serde_json::from_slice(&bytes).expect("what was written");
        assert_eq!(read.processes.len(), self.found.len());
        let plain: Value = serde_json::from_slice(&bytes).expect("what was written");
        assert!(!has_null(&plain), "absent rather than null: {plain:#}");
    }
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(map) => map.values().any(has_null),
        _ => false,
    }
}

/// One of each kind.
const SELECTORS: &str = r#"["x", "nu?l*", "a-name-longer-than-fifteen", {"cmdline": "^/bin/[x-z]+ "},
    {"pid_file": "/run/x.pid"}, {"unit": "x"}]"#;

fn clock() -> Clock {
    Clock::new(std::time::SystemTime::UNIX_EPOCH, None)
}
