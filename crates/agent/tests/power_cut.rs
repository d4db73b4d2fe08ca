//! The power is cut while the outbox is written to, on ext4: nothing is lost whose commit had returned.
//!
//! Not a usual test binary: it tells its story in a process whose mounts are its own, and the writer is another.

#![allow(clippy::print_stderr, clippy::print_stdout, clippy::unwrap_used)]

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        collections::{BTreeMap, HashMap, HashSet},
        fs,
        io::{BufRead, BufReader, Write},
        path::Path,
        process::{Command, ExitCode, Stdio},
        sync::{Arc, mpsc},
        time::Duration,
    };

    use iot_agent::clock::{self, Clock};
    use iot_agent::outbox::{Class, Disk, Draft, Fate, Folder, Outbox, Qos, Record, Tally};
    use testkit::{
        Rng,
        powercut::{self, PowerCut},
    };

    /// Segments of 256 KiB: some are done with in each round.
    const CAP: u64 = 16 << 20;
    const SOON: Duration = Duration::from_secs(30);
    const CLASSES: [Class; 2] = [Class::Command, Class::Metrics];

    pub(super) fn main() -> ExitCode {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["--told-on", "a-disk-of-its-own"] => tell(),
            ["--write", dir, from, seed] => {
                write(Path::new(dir), from.parse().unwrap(), seed.parse().unwrap())
            }
            ["--list", ..] => {}
            _ => {
                let seed = testkit::seed();
                let told = powercut::command(std::env::current_exe().unwrap())
                    .args(["--told-on", "a-disk-of-its-own"])
                    .env(testkit::seed::VARIABLE, seed.to_string())
                    .status();
                assert!(told.expect("power cuts need unshare, of util-linux").success(), "see above");
            }
        }
        ExitCode::SUCCESS
    }

    fn clock() -> Clock {
        Clock::new(clock::built(), None)
    }

    /// Nanoseconds of the clock that all processes share.
    fn now() -> u64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        (now.tv_sec * 1_000_000_000 + now.tv_nsec) as u64
    }

    fn tier() -> u32 {
        std::env::var("IOT_AGENT_TIER").map_or(1, |tier| tier.parse().unwrap())
    }

    fn tell() {
        the_cut_is_one();
        let (seed, cuts) = (testkit::seed(), [3, 50, 200][tier().min(3) as usize - 1]);
        let mut rng = Rng::new(seed);
        let disk = PowerCut::new(192).unwrap();
        let mut known = Known::default();
        for _ in 0..cuts {
            round(&disk, &mut known, &mut rng);
        }
        let Known { pushed, stored, settlements, .. } = &known;
        let stored = stored.len();
        println!(
            "proof power-cut tier={} wanted=0-lost cuts={cuts} pushed={pushed} on_disk={stored} settled={settlements} lost=0 seed={seed}",
            tier()
        );
        assert!(stored > 100 * cuts && *settlements > 100 * cuts, "too little happened between the cuts");
    }

    /// What was synced is there, what was only written is not: else the rest would show nothing.
    fn the_cut_is_one() {
        let disk = PowerCut::new(16).unwrap();
        let folder = Folder::new(disk.path().join("o"));
        folder.list().unwrap();
        folder.write_synced("synced", 0, b"synced").unwrap();
        folder.sync_names().unwrap();
        folder.replace("replaced", b"old").unwrap();
        folder.replace("replaced", b"new").unwrap();
        folder.write("written", 0, b"written").unwrap();
        folder.write("synced", 6, b" and more").unwrap();
        disk.cut().unwrap();
        folder.write_synced("synced", 0, b"late").unwrap_err();
        disk.restore().unwrap();
        let read = |name: &str| fs::read(disk.path().join("o").join(name)).unwrap_or_default();
        assert_eq!((read("synced"), read("replaced")), (b"synced".to_vec(), b"new".to_vec()));
        assert_ne!(read("written"), b"written");
    }

    /// What the writers have said.
    #[derive(Default)]
    struct Known {
        pushed: u64,
        stored: HashSet<u64>,
        settled: HashSet<u64>,
        settlements: usize,
        /// Which message has this number, of those that were on disk.
        numbers: HashMap<(String, u64), u64>,
    }

    impl Known {
        fn number(&mut self, id: u64, seq: u64) {
            let first = *self.numbers.entry((made(id, seq).topic, seq)).or_insert(id);
            assert_eq!(first, id, "number {seq} is given twice");
        }

        /// What was done after the power was gone does not count: the kernel may answer a sync that the cut
        /// overtakes with success, which a machine without power does not hear of.
        fn hear(&mut self, line: &str, power: impl Fn(u64) -> bool) {
            let (what, numbers) = line.split_once(' ').unwrap();
            let numbers: Vec<u64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
            match (what, &numbers[..]) {
                ("pushed", [id]) => self.pushed = *id,
                ("stored", [id, seq, at]) if power(*at) => {
                    self.stored.insert(*id);
                    self.number(*id, *seq);
                }
                ("stored", _) => {}
                ("settled", [id]) => {
                    self.settled.insert(*id);
                    self.settlements += 1;
                }
                _ => panic!("{line}"),
            }
        }
    }

    /// A writer writes until the power is cut; then all is there that it said was on disk.
    fn round(disk: &PowerCut, known: &mut Known, rng: &mut Rng) {
        let dir = disk.path().join("outbox");
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .arg("--write")
            .arg(&dir)
            .args([(known.pushed + 1).to_string(), rng.next_u64().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (heard, lines) = mpsc::channel();
        let stdout = BufReader::new(writer.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            for line in stdout.lines() {
                heard.send(line.unwrap()).unwrap();
            }
        });
        for _ in 0..600 + rng.below(2000) {
            known.hear(&lines.recv_timeout(SOON).unwrap(), |_| true);
        }
        let cut = now();
        disk.cut().unwrap();
        while let Ok(line) = lines.recv_timeout(SOON) {
            known.hear(&line, |at| at < cut);
        }
        reader.join().unwrap();
        assert!(writer.wait().unwrap().success());
        disk.restore().unwrap();
        compare(&dir, known);
    }

    fn compare(dir: &Path, known: &mut Known) {
        let mut outbox = Outbox::open(Arc::new(Folder::new(dir.to_owned())), CAP, clock());
        assert_eq!(outbox.degraded(), None);
        let mut there = HashSet::new();
        for class in CLASSES {
            let mut last = 0;
            for record in all(&outbox, class) {
                let (id, seq) = read(&record);
                assert!(id > last && id <= known.pushed, "{id} of {class} after {last}, of {}", known.pushed);
                assert_eq!((record.clone(), class), (made(id, seq), class_of(id)));
                known.number(id, seq);
                there.insert(id);
                last = id;
            }
        }
        let lost: Vec<_> =
            known.stored.iter().filter(|id| !known.settled.contains(id) && !there.contains(id)).collect();
        let total = outbox.total();
        assert!(lost.is_empty(), "lost: {lost:?} of {total:?}");
        assert_eq!((total.messages, total.dropped, total.damaged), (there.len() as u64, 0, 0));
        check_numbers(known);
        // What came back after it was settled waits again; the next writer may settle it again.
        known.settled.retain(|id| !there.contains(id));
        known.stored.extend(there);
        outbox.note();
    }

    /// What waits, page by page.
    fn all(outbox: &Outbox, class: Class) -> Vec<Record> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let page = outbox.list(class, from, usize::MAX).unwrap();
            let Some((last, _)) = page.last() else { return all };
            from = last + 1;
            all.extend(page.into_iter().map(|(_, record)| record));
        }
    }

    /// From 1 on without a gap.
    fn check_numbers(known: &Known) {
        let mut of_topic: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (topic, seq) in known.numbers.keys() {
            of_topic.entry(topic).or_default().push(*seq);
        }
        for (topic, mut numbers) in of_topic {
            numbers.sort_unstable();
            assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{topic}: {numbers:?}");
        }
    }

    /// The same for all of one topic.
    fn class_of(id: u64) -> Class {
        CLASSES[(id % 3 / 2) as usize]
    }

    fn read(record: &Record) -> (u64, u64) {
        let text = String::from_utf8_lossy(&record.payload);
        let mut words = text.split(' ').map(|word| word.parse().unwrap());
        (words.next().unwrap(), words.next().unwrap())
    }

    /// The message as it was pushed.
    fn made(id: u64, seq: u64) -> Record {
        let size = if id.is_multiple_of(50) { 20_000 } else { id as usize * 37 % 400 };
        let payload = format!("{id} {seq} {:0size$}", 1).into_bytes();
        Record { topic: format!("iot/d1/{}", id % 6), payload, qos: Qos::AtLeastOnce, retain: false }
    }

    /// Pushes and settles, saying so, until the disk fails.
    fn write(dir: &Path, from: u64, seed: u64) {
        let (mut rng, mut id) = (Rng::new(seed), from);
        let disk = Arc::new(Folder::new(dir.to_owned()));
        let mut outbox = Outbox::open(disk.clone(), CAP, clock());
        let mut out = std::io::stdout().lock();
        let mut taken = Vec::new();
        loop {
            let mut tallies = Vec::new();
            for _ in 0..=rng.below(6) {
                let Record { topic, qos, retain, .. } = made(id, 0);
                writeln!(out, "pushed {id}").unwrap();
                let mut number = 0;
                let mut payload = |seq| {
                    number = seq;
                    made(id, seq).payload
                };
                let tally = Arc::new(Tally::default());
                let draft = Draft { class: class_of(id), topic, qos, retain, payload: &mut payload };
                outbox.push(draft, Some(&tally));
                tallies.push((id, number, tally));
                id += 1;
            }
            while let Some(plan) = outbox.plan() {
                let result = plan.execute(&*disk);
                outbox.committed(plan, result);
                if outbox.degraded().is_some() {
                    break;
                }
            }
            let now = now();
            for (id, number, tally) in tallies {
                if tally.counts().on_disk == 1 {
                    writeln!(out, "stored {id} {number} {now}").unwrap();
                }
            }
            if outbox.degraded().is_some() {
                return;
            }
            for _ in 0..rng.below(12) {
                taken.extend(outbox.take(*rng.pick(&CLASSES)));
            }
            for _ in 0..rng.below(12).min(taken.len() as u64) {
                let (key, record) = taken.swap_remove(rng.below(taken.len() as u64) as usize);
                writeln!(out, "settled {}", read(&record).0).unwrap();
                outbox.settle(key, Fate::Sent);
            }
            if rng.below(8) == 0 {
                outbox.note();
            }
        }
    }
}

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("power_cut: there is no ext4 here, and no proof");
}
