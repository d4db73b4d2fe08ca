use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex},
    time::Instant,
};

use super::*;
use crate::services::metrics::fixture::{Tree, look};

const SPACE: Space = Space { total: 1000, free: 400, available: 200, inodes: 50, free_inodes: 40 };
const DEADLINE: Duration = Duration::from_millis(100);

/// File systems of which some do not answer until they are let go.
#[derive(Default)]
struct Farm {
    hung: Mutex<Vec<PathBuf>>,
    changed: Condvar,
    asked: Mutex<Vec<PathBuf>>,
}

impl Farm {
    fn ask(&self, at: &Path) -> io::Result<Space> {
        self.asked.lock().unwrap().push(at.to_owned());
        let hung = self.hung.lock().unwrap();
        drop(self.changed.wait_while(hung, |hung| hung.iter().any(|other| other == at)).unwrap());
        if at == Path::new("/broken") { Err(io::ErrorKind::StaleNetworkFileHandle.into()) } else { Ok(SPACE) }
    }

    fn hang(&self, mounts: &[&str]) {
        *self.hung.lock().unwrap() = mounts.iter().map(PathBuf::from).collect();
        self.changed.notify_all();
    }

    fn asked(&self, at: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|other| *other == Path::new(at)).count()
    }
}

fn machine(mounts: &[&str]) -> (Tree, Arc<Farm>, FileSystems) {
    let tree = Tree::new();
    mount(&tree, mounts);
    let farm = Arc::new(Farm::default());
    let ask = farm.clone();
    let systems = FileSystems::with(&tree.root(), Choice::default(), DEADLINE, move |at| ask.ask(at));
    (tree, farm, systems)
}

fn mount(tree: &Tree, mounts: &[&str]) {
    let line = |(number, at): (usize, &&str)| {
        let (id, parent) = if *at == "/" { (1000, 1) } else { (number + 30, 1000) };
        format!("{id} {parent} 8:{number} / {at} rw - ext4 /dev/sda rw\n")
    };
    tree.file("proc/self/mountinfo", mounts.iter().enumerate().map(line).collect::<String>());
}

fn seen(systems: &mut FileSystems) -> Vec<String> {
    let seen = look(|values| systems.collect(values));
    seen.keys().filter_map(|name| Some(name.strip_prefix("fs.")?.strip_suffix(".used")?.to_owned())).collect()
}

/// Looks until these answer; late answers come when they come.
fn until(systems: &mut FileSystems, expected: &[&str]) {
    let end = Instant::now() + Duration::from_secs(20);
    while seen(systems) != expected {
        assert!(Instant::now() < end, "never saw {expected:?}");
    }
}

#[test]
fn space_is_told_as_df_does() {
    let (_tree, _farm, mut systems) = machine(&["/data"]);
    let seen = look(|values| assert_eq!(systems.collect(values), None, "no /"));
    assert_eq!((seen["fs./data.used"], seen["fs./data.inodes_used"]), (75.0, 20.0));
    assert_eq!((seen["fs./data.total"], seen["fs./data.free"]), (1000.0, 200.0));
    let none = Space { total: 0, free: 0, available: 0, inodes: 0, free_inodes: 0 };
    assert_eq!(none.used(), None);
    assert_eq!(Space { free: 1001, ..SPACE }.used(), None);
    assert_eq!(Space { available: u64::MAX, ..SPACE }.used(), None);
}

#[test]
fn the_one_that_hangs_is_left_out_until_it_answers() {
    let (_tree, farm, mut systems) = machine(&["/a", "/dead", "/z", "/"]);
    until(&mut systems, &["/", "/a", "/dead", "/z"]);
    farm.hang(&["/dead"]);
    let begin = Instant::now();
    until(&mut systems, &["/", "/a", "/z"]);
    let asked = farm.asked("/dead");
    for _ in 0..50 {
        let seen = look(|values| assert_eq!(systems.collect(values), Some(75.0)));
        assert!(!seen.contains_key("fs./dead.used"));
    }
    assert!(begin.elapsed() < Duration::from_secs(10), "only the first look waited");
    assert_eq!(farm.asked("/dead"), asked, "not asked again while it hangs");
    assert_eq!(systems.asker.threads(), 2);
    farm.hang(&[]);
    until(&mut systems, &["/", "/a", "/dead", "/z"]);
    assert_eq!(systems.asker.threads(), 1, "the lost thread is let go");
}

#[test]
fn threads_do_not_pile_up_however_many_hang() {
    let mounts: Vec<String> = (0..20).map(|number| format!("/mnt/{number}")).collect();
    let mut mounts: Vec<&str> = mounts.iter().map(String::as_str).collect();
    mounts.push("/");
    let (_tree, farm, mut systems) = machine(&mounts);
    farm.hang(&mounts[..20]);
    for _ in 0..20 {
        let begin = Instant::now();
        assert_eq!(seen(&mut systems), ["/"]);
        assert!(begin.elapsed() < 20 * DEADLINE, "one look took {:?}", begin.elapsed());
        assert!(systems.asker.threads() <= 17);
    }
    farm.hang(&[]);
    let end = Instant::now() + Duration::from_secs(20);
    while seen(&mut systems).len() < 21 {
        assert!(Instant::now() < end, "not all came back");
    }
    assert_eq!(systems.asker.threads(), 1);
}

#[test]
fn one_that_fails_or_is_unmounted_is_absent() {
    let (tree, farm, mut systems) = machine(&["/a", "/broken", "/dead"]);
    farm.hang(&["/dead"]);
    until(&mut systems, &["/a"]);
    mount(&tree, &["/a", "/b"]);
    until(&mut systems, &["/a", "/b"]);
    farm.hang(&[]);
    let end = Instant::now() + Duration::from_secs(20);
    while systems.asker.threads() > 1 {
        assert_eq!(seen(&mut systems), ["/a", "/b"]);
        assert!(Instant::now() < end, "the thread of the unmounted one stays");
    }
}

#[test]
fn without_proc_there_is_the_root_still() {
    let tree = Tree::new();
    let mut systems = FileSystems::new(&tree.root(), Choice::default());
    let mut disk = None;
    let seen = look(|values| disk = systems.collect(values));
    assert_eq!(seen.get("fs./.used").copied(), disk);
    assert!(disk.is_some_and(|used| used > 0.0 && used <= 100.0), "{disk:?}");
}
