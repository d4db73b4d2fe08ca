//! U2: the power is cut at each of the installer's system calls, on ext4.

use std::{fs, process::Command};

use testkit::{Rng, powercut, powercut::PowerCut};

use crate::{
    bench::{Bench, done},
    steps::{Goods, MUTATING, Sample, Step, Steps, killed},
    support::proof,
};

/// Names the file for the figures of the process whose mounts are its own.
const OWN_MOUNTS: &str = "IOT_AGENT_TEST_OWN_MOUNTS";

/// Tells a story in a process whose mounts are its own, which is this test once more, and gives its figures; none in that
/// process.
pub(crate) fn apart(test: &str, seed: u64, tell: impl FnOnce() -> String) -> Option<String> {
    if let Some(figures) = std::env::var_os(OWN_MOUNTS) {
        fs::write(figures, tell()).unwrap();
        return None;
    }
    let figures = tempfile::NamedTempFile::new().unwrap();
    let told = powercut::command(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(OWN_MOUNTS, figures.path())
        .env(testkit::seed::VARIABLE, seed.to_string())
        .output()
        .expect("power cuts need unshare, of util-linux");
    let said = String::from_utf8_lossy(&told.stdout) + String::from_utf8_lossy(&told.stderr);
    assert!(told.status.success(), "{said}");
    let figures = fs::read_to_string(figures.path()).unwrap();
    assert!(!figures.is_empty(), "it has not told anything: {said}");
    Some(figures)
}

#[test]
fn prove_u2_the_power_cut_at_any_call_leaves_the_old_version_or_the_new_one() {
    let seed = testkit::seed();
    let name = "cuts::prove_u2_the_power_cut_at_any_call_leaves_the_old_version_or_the_new_one";
    if let Some(figures) = apart(name, seed, || tell(Goods::Whole, 8)) {
        proof("U2", &format!("wanted=100%-old-or-new {figures} mixed=0 seed={seed}"));
    }
}

#[test]
fn prove_u2_the_power_cut_at_any_call_of_a_package_with_patches_is_the_same() {
    let seed = testkit::seed();
    let name = "cuts::prove_u2_the_power_cut_at_any_call_of_a_package_with_patches_is_the_same";
    if let Some(figures) = apart(name, seed, || tell(Goods::Patch, 30)) {
        proof("U2-delta", &format!("wanted=100%-old-or-new {figures} mixed=0 seed={seed}"));
    }
}

/// Small, it takes one of so many points.
fn tell(goods: Goods, every: u64) -> String {
    let mut rng = Rng::new(testkit::seed());
    let disk = PowerCut::new(32).unwrap();
    // Made anew on each start: the files lie in a folder of their own.
    let steps = Steps::of(goods, Bench::at(disk.path().join("opt/app")));
    let mut sample = Sample::one_of(every, &mut rng);
    let (mut points, mut cuts) = (0, 0);
    for step in &steps.steps {
        for (call, n) in steps.calls(step, MUTATING) {
            points += 1;
            if !sample.takes() {
                continue;
            }
            cut_at(&disk, &steps, step, Some((&call, n)));
            cuts += 1;
        }
        cut_at(&disk, &steps, step, None);
        cuts += 1;
    }
    format!("points={points} cuts={cuts}")
}

/// The power goes at that call, or once all was done.
fn cut_at(disk: &PowerCut, steps: &Steps, step: &Step, at: Option<(&str, usize)>) {
    steps.reset(step);
    // What was there before is on the disk.
    assert!(Command::new("sync").arg("-f").arg(disk.path()).status().unwrap().success());
    let said = match at {
        Some((call, n)) => {
            let output = steps.inject(step, call, &format!("signal=SIGKILL:when={n}"));
            assert!(killed(&output), "{} at {call} {n}: {output:?}", step.name);
            None
        }
        None => Some(done(&step.order)),
    };
    disk.cut().unwrap();
    disk.restore().unwrap();
    steps.assert_either(step, &format!("the power cut at {at:?}"));
    // What was said to be done is; what was not is done now.
    let said = said.unwrap_or_else(|| done(&step.order));
    steps.go_on(step, &said);
}
