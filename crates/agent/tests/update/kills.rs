//! U1: the installer is killed at each of its system calls.

use testkit::Rng;

use crate::{
    bench::{Bench, done},
    steps::{Goods, LOOKING, MUTATING, Sample, Step, Steps, killed},
    support::{proof, tier},
};

#[test]
fn prove_u1_killed_at_any_call_the_old_version_is_in_use_or_the_new_one() {
    sweep("U1", Goods::Whole, 6, 60);
}

#[test]
fn prove_u1_killed_at_any_call_of_a_package_with_patches_it_is_the_same() {
    sweep("U1-delta", Goods::Patch, 20, 4);
}

/// Small, it takes one of so many points, and makes more kills than the least.
fn sweep(name: &str, goods: Goods, every: u64, least: usize) {
    let (seed, steps) = (testkit::seed(), Steps::of(goods, Bench::new()));
    let mut rng = Rng::new(seed);
    let calls = if tier() > 1 { format!("{MUTATING},{LOOKING}") } else { MUTATING.to_owned() };
    let mut sample = Sample::one_of(every, &mut rng);
    let (mut points, mut kills, mut restarts) = (0, 0, 0);
    for step in &steps.steps {
        let all = steps.calls(step, &calls);
        for (call, n) in &all {
            points += 1;
            if !sample.takes() {
                continue;
            }
            for given_up in [false, true] {
                kills += kill_at(&steps, step, (call, *n), &all, (given_up, &mut rng));
                restarts = restarts.max(if given_up { 1 } else { 2 });
            }
        }
    }
    assert!(kills > least, "{kills} kills only");
    proof(
        name,
        &format!(
            "wanted=100%-old-or-new,<=2-restarts points={points} kills={kills} mixed=0 restarts<={restarts} seed={seed}"
        ),
    );
}

/// Kills it there; then the next process does the same again, and is killed as well, and the third comes through. Or the
/// update is given up: the next process goes back.
fn kill_at(
    steps: &Steps,
    step: &Step,
    (call, n): (&str, usize),
    all: &[(String, usize)],
    (given_up, rng): (bool, &mut Rng),
) -> usize {
    let switching = step.order["op"] == "switch";
    if given_up && !switching {
        return 0;
    }
    let at = format!("killed at {call} {n}");
    steps.reset(step);
    let output = steps.inject(step, call, &format!("signal=SIGKILL:when={n}"));
    assert!(killed(&output), "{}, {at}: {output:?}", step.name);
    steps.assert_either(step, &at);
    if given_up {
        let link = step.before.map(|version| format!("versions/{version}"));
        done(&steps.bench.back(crate::steps::NEW, link.as_deref()));
        assert_eq!(steps.in_use().as_deref(), step.before, "{}, {at}, then back", step.name);
        assert!(!steps.bench.versions().iter().any(|name| name.starts_with('.')), "{}, {at}", step.name);
        return 1;
    }
    // It may have less to do now, and come through.
    let (call, n) = rng.pick(all);
    let again = steps.inject(step, call, &format!("signal=SIGKILL:when={n}"));
    let at = format!("{at}, then at {call} {n}");
    assert!(killed(&again) || again.status.success(), "{}, {at}: {again:?}", step.name);
    steps.assert_either(step, &at);
    let said = done(&step.order);
    steps.go_on(step, &said);
    1 + usize::from(killed(&again))
}
