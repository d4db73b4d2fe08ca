//! U3: the disk fails at each of the installer's system calls, once or from then on.

use serde_json::Value;
use testkit::Rng;

use crate::{
    bench::{Bench, done},
    steps::{Goods, LOOKING, MUTATING, Sample, Step, Steps},
    support::proof,
};

#[test]
fn prove_u3_a_failing_disk_is_no_success_and_leaves_a_version_whole() {
    sweep("U3", Goods::Whole, 40, 20);
}

#[test]
fn prove_u3_a_failing_disk_leaves_a_version_whole_with_patches_too() {
    sweep("U3-delta", Goods::Patch, 60, 4);
}

/// Small, it takes one of so many points, and has more failures than the least.
fn sweep(name: &str, goods: Goods, every: u64, least: usize) {
    let (seed, steps) = (testkit::seed(), Steps::of(goods, Bench::new()));
    let mut rng = Rng::new(seed);
    let mut sample = Sample::one_of(every, &mut rng);
    let (mut failures, mut unharmed) = (0, 0);
    for step in &steps.steps {
        let table = [(MUTATING, &["ENOSPC", "EIO", "EROFS"][..]), (LOOKING, &["EIO"][..])];
        for (calls, errors) in table {
            for (call, n) in steps.calls(step, calls) {
                for error in errors {
                    for when in [format!("{n}"), format!("{n}+")] {
                        if !sample.takes() {
                            continue;
                        }
                        let failed = fail_at(&steps, step, &call, &format!("error={error}:when={when}"));
                        *(if failed { &mut failures } else { &mut unharmed }) += 1;
                    }
                }
            }
        }
    }
    assert!(failures > least, "{failures} failures only");
    proof(
        name,
        &format!(
            "wanted=no-false-success,old-runs failures={failures} unharmed={unharmed} false=0 mixed=0 seed={seed}"
        ),
    );
}

/// Whether it says that it could not do it.
fn fail_at(steps: &Steps, step: &Step, call: &str, what: &str) -> bool {
    let at = format!("{}, {call}:{what}", step.name);
    steps.reset(step);
    let output = steps.inject(step, call, what);
    steps.assert_either(step, what);
    if output.status.success() {
        // What it could do without was refused to it. Then all of it is true.
        let said: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{at}: {output:?}"));
        assert_eq!(steps.in_use().as_deref(), step.after, "{at}");
        let said = said.get("unpacked").unwrap_or(&said);
        if step.order["op"] == "unpack" {
            // An installed file that cannot be opened is as none: the whole package is asked for.
            let said = steps.unpacked(step, said);
            done(&steps.bench.switch(crate::steps::NEW, &said["path"]));
            assert_eq!(steps.in_use().as_deref(), Some(crate::steps::NEW), "{at}");
        }
        return false;
    }
    // Without a report where even that could not be written, or the program not be loaded.
    if let Ok(said) = serde_json::from_slice::<Value>(&output.stdout) {
        assert!(said["error"]["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{at}: {said}");
    }
    match step.order["op"].as_str() {
        Some("switch") => {
            // As the table of states has it: what could not be switched is taken back.
            let link = step.before.map(|version| format!("versions/{version}"));
            done(&steps.bench.back(crate::steps::NEW, link.as_deref()));
            assert_eq!(steps.in_use().as_deref(), step.before, "{at}, then back");
        }
        Some("unpack") => assert_eq!(steps.in_use().as_deref(), step.before, "{at}"),
        _ => {}
    }
    if step.order["op"] != "switch" {
        // The disk works again.
        let said = done(&step.order);
        steps.go_on(step, &said);
    }
    true
}
