//! The steps of a whole small update, each from the folders that it begins with, and each of its system calls.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use testkit::Rng;

use crate::{
    bench::{Bench, done, installer, report},
    delta,
    made::{AGENT, sha256},
    support::tier,
};

/// What changes files, and what tells the agent how it went. Names that a machine's kernel does not have are passed over.
pub(crate) const MUTATING: &str = "?open,openat,?creat,?mkdir,mkdirat,write,pwrite64,writev,fsync,fdatasync,?rename,?renameat,renameat2,\
     ?symlink,symlinkat,?unlink,?rmdir,unlinkat,fchmod,fchmodat,?chmod,?link,linkat,ftruncate,?truncate,fallocate,umask";
/// What looks at files.
pub(crate) const LOOKING: &str = "read,pread64,?readlink,readlinkat,?stat,?lstat,?fstat,?newfstatat,?statx,?getdents64,lseek,fstatfs,?openat2";

/// The version that is there before, and the one that comes.
pub(crate) const OLD: &str = "1.0.0";
pub(crate) const NEW: &str = "2.0.0";

/// Which of many points the small proof takes: one of so many, from a first that is another each time. The large one takes
/// all.
pub(crate) struct Sample {
    every: u64,
    at: u64,
}

impl Sample {
    pub(crate) fn one_of(every: u64, rng: &mut Rng) -> Self {
        let every = if tier() > 1 { 1 } else { every };
        Self { every, at: rng.below(every) }
    }

    pub(crate) fn takes(&mut self) -> bool {
        self.at += 1;
        self.at.is_multiple_of(self.every)
    }
}

/// What the steps are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goods {
    /// A package of whole files.
    Whole,
    /// One with a patch for a file of the version that is there.
    Patch,
}

/// What strace is to do at the n-th of each of these calls, in each of these ways.
pub(crate) fn injections(calls: &[&str], ways: &[&str], nth: &[usize]) -> Vec<String> {
    let ways = calls.iter().flat_map(|call| ways.iter().map(move |way| format!("{call}:{way}")));
    ways.flat_map(|hurt| nth.iter().map(move |n| format!("{hurt}:when={n}"))).collect()
}

/// An order, and what has to be true around it.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) order: Value,
    /// What may be in use while it is followed.
    pub(crate) before: Option<&'static str>,
    /// What is in use once it was.
    pub(crate) after: Option<&'static str>,
    /// The folders that it begins with; none where the software is not there yet.
    template: Option<PathBuf>,
    /// Its patch is for another file than is there.
    needs_full: bool,
}

/// All steps, and the device that they are made on.
pub(crate) struct Steps {
    pub(crate) bench: Bench,
    pub(crate) steps: Vec<Step>,
}

impl Steps {
    pub(crate) fn of(goods: Goods, bench: Bench) -> Self {
        match goods {
            Goods::Whole => Self::whole(bench),
            Goods::Patch => Self::patch(bench),
        }
    }

    fn whole(bench: Bench) -> Self {
        let link = format!("versions/{OLD}");
        let unpack = bench.unpack(&bench.version(NEW), NEW);
        let mut this = Self { bench, steps: Vec::new() };
        // The first of all.
        this.add("unpack the first", &unpack, None, None);
        let staged = done(&unpack)["path"].clone();
        let switch = this.bench.switch(NEW, &staged);
        this.add("switch to the first", &switch, None, Some(NEW));
        done(&switch);
        this.add("back to nothing", &this.bench.back(NEW, None), Some(NEW), None);
        fs::remove_dir_all(this.bench.target()).unwrap();
        // One in place of another.
        ["0.9.0", OLD].iter().for_each(|version| this.bench.install(version));
        this.add("unpack", &unpack, Some(OLD), Some(OLD));
        done(&unpack);
        this.add("unpack again", &unpack, Some(OLD), Some(OLD));
        this.add("switch", &switch, Some(OLD), Some(NEW));
        let left = this.bench.target().join("versions").join(NEW);
        fs::create_dir_all(left.join("bin")).unwrap();
        fs::write(left.join("bin/app"), "of an earlier try").unwrap();
        this.add("switch over what was left", &switch, Some(OLD), Some(NEW));
        done(&switch);
        this.add("back", &this.bench.back(NEW, Some(&link)), Some(NEW), Some(OLD));
        this.add("clean", &this.bench.clean(2, Some(&link)), Some(NEW), Some(NEW));
        this
    }

    /// Unpacked and switched to; and where another file is there, the whole package after that.
    fn patch(bench: Bench) -> Self {
        let order = |name: &str, base: Option<&str>| {
            let made = delta::package(&bench, |manifest, _| {
                if let Some(base) = base {
                    manifest["entries"][1]["base"] = sha256(base.as_bytes()).into();
                }
            });
            let file = bench.path(name);
            fs::rename(made, &file).unwrap();
            let mut order = bench.unpack(&file, NEW);
            order["delta_memory"] = (1 << 20).into();
            order
        };
        let (unpack, other) = (order("patch.pkg", None), order("other.pkg", Some("another")));
        bench.version(NEW);
        ["0.9.0", OLD].iter().for_each(|version| bench.install(version));
        let mut this = Self { bench, steps: Vec::new() };
        this.add("unpack another's patch", &other, Some(OLD), Some(OLD));
        this.steps[0].needs_full = true;
        this.add("unpack a patch", &unpack, Some(OLD), Some(OLD));
        let staged = done(&unpack)["path"].clone();
        this.add("unpack a patch again", &unpack, Some(OLD), Some(OLD));
        this.add("switch", &this.bench.switch(NEW, &staged), Some(OLD), Some(NEW));
        this
    }

    fn add(
        &mut self,
        name: &'static str,
        order: &Value,
        before: Option<&'static str>,
        after: Option<&'static str>,
    ) {
        let (order, target) = (order.clone(), self.bench.target());
        let template = target.exists().then(|| self.bench.path(&format!("template-{}", self.steps.len())));
        if let Some(template) = &template {
            copy(&target, template);
        }
        self.steps.push(Step { name, order, before, after, template, needs_full: false });
    }

    /// The folders as they are before a step.
    pub(crate) fn reset(&self, step: &Step) {
        let target = self.bench.target();
        let parent = target.parent().unwrap();
        if parent.exists() {
            fs::remove_dir_all(parent).unwrap();
        }
        if let Some(template) = &step.template {
            fs::create_dir_all(parent).unwrap();
            copy(template, &target);
        }
    }

    /// Each call that the step makes, of these, as often as it makes it.
    pub(crate) fn calls(&self, step: &Step, calls: &str) -> Vec<(String, usize)> {
        self.reset(step);
        let log = self.bench.path("trace");
        let output = traced(&step.order, &["-e", &format!("trace={calls}")], &log).output().unwrap();
        let (success, said) = report(&output);
        assert!(success, "{}: {said}", step.name);
        let mut counts = BTreeMap::<String, usize>::new();
        for line in fs::read_to_string(&log).unwrap().lines() {
            if let Some((call, _)) = line.split_once('(') {
                *counts.entry(call.to_owned()).or_default() += 1;
            }
        }
        let each = counts.into_iter().flat_map(|(call, count)| (1..=count).map(move |n| (call.clone(), n)));
        each.collect()
    }

    /// Follows a step's order until its n-th call of that kind, where this happens to it.
    pub(crate) fn inject(&self, step: &Step, call: &str, what: &str) -> Output {
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{what}"));
        let mut command = traced(&step.order, &["-e", &trace, "-e", &inject], Path::new("/dev/null"));
        command.output().unwrap()
    }

    /// The version in use, all of it; none where there is no software.
    pub(crate) fn in_use(&self) -> Option<String> {
        self.bench.in_use()
    }

    /// Either the version of before a step or that of after it.
    pub(crate) fn assert_either(&self, step: &Step, at: &str) {
        let found = self.in_use();
        let found = found.as_deref();
        assert!(found == step.before || found == step.after, "{}, {at}: {found:?} is in use", step.name);
    }

    /// What lies ready once an order to unpack was followed: what it says, or the whole package, where it asks for that.
    pub(crate) fn unpacked(&self, step: &Step, said: &Value) -> Value {
        if said["needs_full"].is_null() {
            return said.clone();
        }
        let mut order = step.order.clone();
        order["file"] = json!(self.bench.path(&format!("{NEW}.pkg")));
        order["full"] = said["needs_full"].clone();
        done(&order)
    }

    /// Once the step was done: forth and back again, each to a version that is whole.
    pub(crate) fn go_on(&self, step: &Step, said: &Value) {
        assert_eq!(self.in_use().as_deref(), step.after, "{}", step.name);
        let old = step.before.filter(|before| *before == OLD);
        let link = old.map(|old| format!("versions/{old}"));
        if step.order["op"] == "unpack" {
            assert_eq!(!said["needs_full"].is_null(), step.needs_full, "{}: {said}", step.name);
            let said = self.unpacked(step, said);
            assert_eq!(said["previous"].as_str(), link.as_deref());
            done(&self.bench.switch(NEW, &said["path"]));
        }
        if step.after != Some(OLD) || step.order["op"] == "unpack" {
            let link = if step.name == "clean" { Some(format!("versions/{OLD}")) } else { link };
            if step.name != "back to nothing" {
                assert_eq!(self.in_use().as_deref(), Some(NEW), "{}", step.name);
                done(&self.bench.back(NEW, link.as_deref()));
            }
            let back = link.as_deref().map(|_| OLD);
            assert_eq!(self.in_use().as_deref(), back, "{}", step.name);
        }
        // Nothing of it is left, wherever it was interrupted.
        let versions = self.bench.versions();
        assert!(
            !versions.iter().any(|name| name == NEW || name.starts_with('.')),
            "{}: {versions:?}",
            step.name
        );
        assert!(!self.bench.target().join(".current.next").is_symlink(), "{}", step.name);
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn traced(order: &Value, options: &[&str], log: &Path) -> Command {
    let mut command = Command::new("strace");
    command.args(["-qq", "-o"]).arg(log).args(options).arg(AGENT);
    command.args(installer(order).get_args()).env_clear();
    command
}

/// Whether it ended by SIGKILL.
pub(crate) fn killed(output: &Output) -> bool {
    output.status.signal() == Some(9)
}
