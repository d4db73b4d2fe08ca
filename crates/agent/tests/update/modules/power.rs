//! U2 of updates by a module: the device's folder, and what the module installs there, on a disk whose power is cut.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use testkit::Rng;
use tokio::time::sleep;

use super::module::Module;
use crate::{
    cuts,
    power::Device,
    support::{proof, tier},
};

#[test]
fn prove_u2_the_power_cut_while_a_module_installs_leaves_one_version_and_one_end() {
    let seed = testkit::seed();
    let name =
        "modules::power::prove_u2_the_power_cut_while_a_module_installs_leaves_one_version_and_one_end";
    let tell = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(tell(seed))
    };
    if let Some(figures) = cuts::apart(name, seed, tell) {
        proof("U2-module", &format!("wanted=100%-old-or-new,one-end {figures} mixed=0 seed={seed}"));
    }
}

async fn tell(seed: u64) -> String {
    let (mut rng, rounds) = (Rng::new(seed), if tier() > 1 { 100 } else { 8 });
    let module = Module::begin("").await;
    module.says("SupportsRollback", "Yes");
    let device = Device::new(module.story.home.path());
    let mut agent = module.story.online().await;
    let began = Instant::now();
    assert_eq!(module.update("first", "0.1.0").await["state"], "success");
    let whole = began.elapsed();
    let (mut before, mut midst) = (Some("0.1.0".to_owned()), 0);
    let mut ends = BTreeMap::<String, usize>::new();
    for round in 1..=rounds {
        let (id, version) = (format!("u{round}"), format!("1.{round}.0"));
        module.ask(&id, &version).await;
        sleep(rng.between(Duration::ZERO, whole)).await;
        midst += usize::from(module.story.ends(&id).is_empty());
        device.cut(&mut agent).await;
        let (now, next) = (module.installed(), Some(version));
        assert!(now == before || now == next, "{id}: {now:?} after {before:?}");
        agent = module.story.online().await;
        let end = module.end(&id).await;
        let wanted = if end["state"] == "success" { next } else { before };
        assert_eq!(module.installed(), wanted, "{id}: {end:#}");
        assert_eq!(module.story.ends(&id).len(), 1, "{id}");
        *ends.entry(end["state"].as_str().unwrap().to_owned()).or_default() += 1;
        before = wanted;
    }
    assert!(midst > 0, "each was over before the cut");
    format!("cuts={rounds} in_the_midst={midst} ends={ends:?}").replace(": ", ":").replace(", ", ",")
}
