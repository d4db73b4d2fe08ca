//! Patches through the whole agent: what is fetched instead, what is known again, and the agent itself.

use std::{fs, path::PathBuf};

use serde_json::Value;
use testkit::{
    Process,
    downloads::{End, Mood},
};

use crate::{
    itself::release,
    story::{Story, sha256, until},
    support::{stop, wait_status},
};

/// What cannot be packed, so that a download has a middle.
fn noise(seed: u64) -> String {
    let mut rng = testkit::Rng::new(seed);
    (0..20_000).map(|_| char::from(b'a' + u8::try_from(rng.below(26)).unwrap())).collect()
}

/// A device with version 1.0.0.
async fn begin(more: &str) -> (Story, Process) {
    let story = Story::begin(more).await;
    let agent = story.online().await;
    let first = story.package("1.0.0", &[("data", &noise(1))], &[]);
    assert_eq!(story.update("u1", "1.0.0", &first).await["state"], "success");
    (story, agent)
}

/// A whole package of a version, out of the way of the next one, and its URL, which is served from now on.
async fn whole(story: &Story, version: &str, data: &str) -> (PathBuf, String) {
    let made = story.package(version, &[("data", data)], &[]);
    let kept = story.builder.path(&format!("full-{version}.pkg"));
    fs::rename(made, &kept).unwrap();
    let url = story.request("", version, &kept).await["update_url"].as_str().unwrap().to_owned();
    (kept, url)
}

/// The same version with a patch against the folder of another.
fn patched(
    story: &Story,
    version: &str,
    data: &str,
    from: &str,
    (url, full): (&str, Option<&str>),
) -> PathBuf {
    let from = story.builder.path(from);
    let mut more = vec!["--delta-from", from.to_str().unwrap(), "--full-url", url];
    more.extend(full.iter().flat_map(|full| ["--full", full]));
    story.package(version, &[("data", data)], &more)
}

/// A folder that no device has, to make patches against.
fn elsewhere(story: &Story) {
    story.builder.write("elsewhere/data", noise(1) + "of another", 0o755);
}

#[tokio::test]
async fn an_agent_that_is_killed_while_it_fetches_the_whole_goes_on_with_that() {
    let (story, mut agent) = begin(", download: {stall_timeout: 20s}").await;
    elsewhere(&story);
    let new = noise(1) + "new";
    let (kept, url) = whole(&story, "2.0.0", &new).await;
    // It is in the midst of the whole package, and no further.
    story.next([Mood { cut: Some((9000, End::Silent)), ..Mood::default() }]);
    let delta = patched(&story, "2.0.0", &new, "elsewhere", (&url, kept.to_str()));
    story.ask("u2", "2.0.0", &delta).await;
    let why =
        |said: &Value| said["error"].as_str().is_some_and(|why| why.contains("the whole package is fetched"));
    until("the whole package is asked for", || {
        story.said("u2").iter().any(why) && story.asked() == [1, 1, 1]
    })
    .await;
    agent.kill().await.unwrap();
    let mut agent = story.online().await;
    assert_eq!(story.end("u2").await["state"], "success", "{:#?}", story.said("u2"));
    assert_eq!(story.asked(), [1, 2, 1], "the one with patches is not fetched again");
    assert_eq!((story.version().as_deref(), story.ends("u2").len()), (Some("2.0.0"), 1));
    stop(&mut agent, "after the whole package").await;
}

#[tokio::test]
async fn the_whole_package_is_what_the_manifest_says_of_it() {
    let (story, mut agent) = begin(", max_retry_attempts: 0").await;
    elsewhere(&story);
    let new = noise(1) + "new";
    let (kept, url) = whole(&story, "2.0.0", &new).await;
    let bytes = fs::read(&kept).unwrap();
    let longer = story.builder.write("longer", [&bytes[..], b"x"].concat(), 0o644);
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    let other = story.builder.write("other", &changed, 0o644);
    for (id, full, why) in [("size", &longer, "bytes"), ("sha256", &other, sha256(&changed).as_str())] {
        let delta = patched(&story, "2.0.0", &new, "elsewhere", (&url, full.to_str()));
        let end = story.update(id, "2.0.0", &delta).await;
        assert_eq!(end["state"], "failed", "{id}: {end}");
        assert!(end["error"].as_str().unwrap().contains(why), "{id}: {end}");
        assert_eq!(story.version().as_deref(), Some("1.0.0"), "{id}");
    }
    let delta = patched(&story, "2.0.0", &new, "elsewhere", (&url, kept.to_str()));
    let end = story.update("right", "2.0.0", &delta).await;
    assert_eq!((&end["state"], story.version().as_deref()), (&"success".into(), Some("2.0.0")), "{end}");
    stop(&mut agent, "after the whole package").await;
}

/// What is installed counts, and not which file it came in; another content under the same version stays refused.
#[tokio::test]
async fn the_same_version_packed_otherwise_is_installed_already() {
    let (story, mut agent) = begin(", max_retry_attempts: 0").await;
    let new = noise(1) + "new";
    let (kept, url) = whole(&story, "2.0.0", &new).await;
    let delta = patched(&story, "2.0.0", &new, "build-1.0.0", (&url, kept.to_str()));
    assert_eq!(story.update("u2", "2.0.0", &delta).await["state"], "success");
    assert!(!story.said("u2").iter().any(|said| said["error"].is_string()), "by the patch");
    let end = story.update("u3", "2.0.0", &kept).await;
    assert_eq!(end["state"], "success", "{end}");
    assert!(!story.states("u3").contains(&"installing".to_owned()), "{:?}", story.states("u3"));
    // Also by patches that could not be applied.
    elsewhere(&story);
    let delta = patched(&story, "2.0.0", &new, "elsewhere", (&url, None));
    assert_eq!(story.update("u4", "2.0.0", &delta).await["state"], "success");
    // Less of it is not the same, nor more, nor one with other programs.
    let fewer = story.package("2.0.0", &[], &[]);
    let other = story.package("2.0.0", &[("data", &noise(2))], &[]);
    let more = story.package("2.0.0", &[("data", &new), ("more", "x")], &[]);
    for (id, file) in [("fewer", &fewer), ("other", &other), ("more", &more)] {
        let file_of = story.builder.path(&format!("{id}.pkg"));
        fs::copy(file, &file_of).unwrap();
    }
    let scripts = story.package("2.0.0", &[("data", &new)], &["--health", "data"]);
    fs::copy(scripts, story.builder.path("scripts.pkg")).unwrap();
    for id in ["fewer", "other", "more", "scripts"] {
        let end = story.update(id, "2.0.0", &story.builder.path(&format!("{id}.pkg"))).await;
        assert_eq!(end["state"], "failed", "{id}: {end}");
        assert!(end["error"].as_str().unwrap().contains("installed with another content"), "{id}: {end}");
    }
    assert_eq!(story.version().as_deref(), Some("2.0.0"));
    stop(&mut agent, "after the same again").await;
}

/// The base is the program that runs, as long as none came by an update; then the one that did.
#[tokio::test]
async fn the_agent_itself_comes_as_a_patch() {
    let story = Story::begin(", health: {timeout: 20s}").await;
    // Without what only debuggers read: base and window go into delta_memory.
    let small = story.home.path().join("iot-agent");
    story.builder.run("strip", &["-o", small.to_str().unwrap(), env!("CARGO_BIN_EXE_iot-agent")]);
    let mut command = std::process::Command::new(&small);
    command.args(story.home.command(&["run"]).get_args());
    let program = fs::read(&small).unwrap();
    let mut agent = Process::run(command.into()).unwrap();
    wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
    for (id, version, base, tail) in [("u1", "9.0.0", "", "one"), ("u2", "9.1.0", "one", "two")] {
        let of = |tail: &str| [&program[..], tail.as_bytes()].concat();
        story.builder.write("old/iot-agent", of(base), 0o755);
        story.builder.write("new/iot-agent", of(tail), 0o755);
        let create = ["package", "create", "new", "-o", "a.pkg", "--version", version, "--level", "1"];
        let more = ["--kind", "agent", "--name", "iot-agent", "--delta-from", "old"];
        let ours = env!("CARGO_BIN_EXE_iot-agent");
        story.builder.run(ours, &[&create[..], &more].concat());
        story.builder.run(ours, &["package", "sign", "a.pkg", "--key", "release.key", "--level", "1"]);
        let size = fs::metadata(story.builder.path("a.pkg")).unwrap().len();
        assert!(size < program.len() as u64 / 100, "{size} of {}", program.len());
        let end = story.update(id, version, &story.builder.path("a.pkg")).await;
        assert_eq!(end["state"], "success", "{id}: {end}");
        assert_eq!(release(&story).as_deref(), Some(version));
        let installed = fs::read(story.home.path().join("state/agent/current/iot-agent")).unwrap();
        assert!(installed == of(tail), "{id}: another program than was packed");
    }
    stop(&mut agent, "after patches of itself").await;
}
