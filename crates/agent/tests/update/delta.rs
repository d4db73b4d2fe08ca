//! Packages with patches, made by the zstd program: what comes of them, and each reason why nothing does.

#[cfg(target_os = "linux")]
mod stories;

use std::{fs, path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::{
    bench::{Bench, content, done, refused, run},
    made::sha256,
    story::Story,
};

const FULL: &str = "https://updates.example/app-2.0.0.pkg";

/// A package of version 2.0.0 whose `lib/data` is a patch for that of 1.0.0; both can be changed before it is signed.
pub(crate) fn package(bench: &Bench, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> PathBuf {
    let files = content("2.0.0");
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(path, text)| (*path, text.as_bytes())).collect();
    let mut manifest = bench.manifest("2.0.0", &borrowed);
    let old = &content("1.0.0")[1].1;
    manifest["full_url"] = FULL.into();
    manifest["entries"][1]["base"] = sha256(old.as_bytes()).into();
    bench.made.write("old", old, 0o644);
    bench.made.write("new", &files[1].1, 0o644);
    bench.made.run("zstd", &["-q", "-f", "--patch-from=old", "new", "-o", "patch"]);
    let mut patch = fs::read(bench.path("patch")).unwrap();
    change(&mut manifest, &mut patch);
    for (path, text) in &files {
        bench.made.write(&format!("payload/{path}"), text, 0o755);
    }
    bench.made.write("payload/lib/data", patch, 0o755);
    bench.made.write("manifest.json", manifest.to_string(), 0o644);
    bench.made.run("minisign", &["-S", "-s", "release.key", "-m", "manifest.json"]);
    let members = ["manifest.json", "manifest.json.minisig", "payload"];
    bench.made.run("tar", &[&["-I", "zstd -q", "-cf", "delta.pkg"], &members[..]].concat());
    bench.path("delta.pkg")
}

fn unpack(bench: &Bench, file: &std::path::Path, memory: u64) -> Value {
    let mut order = bench.unpack(file, "2.0.0");
    order["delta_memory"] = memory.into();
    order
}

#[test]
fn a_patch_makes_the_new_file_of_the_installed_one() {
    let bench = Bench::new();
    bench.install("1.0.0");
    let file = package(&bench, |_, _| {});
    let order = unpack(&bench, &file, 1 << 20);
    let unpacked = done(&order);
    assert_eq!(bench.in_use().as_deref(), Some("1.0.0"));
    assert_eq!(done(&order), unpacked, "again, after a kill");
    done(&bench.switch("2.0.0", &unpacked["path"]));
    assert_eq!(bench.in_use().as_deref(), Some("2.0.0"));
    // What it was for is no more in use; by the hashes it is what is.
    let mut again = order;
    again["installed"] = json!({"app": {"version": "2.0.0", "sha256": again["sha256"], "floor": "2.0.0", "target": bench.target()}});
    assert_eq!(done(&again)["already"], true);
}

#[test]
fn another_base_asks_for_the_whole_package() {
    let bench = Bench::new();
    let file = package(&bench, |_, _| {});
    let needs = |memory, why: &str| {
        let (success, report) = run(&unpack(&bench, &file, memory));
        let full = &report["needs_full"];
        assert!(success && full["url"] == FULL && full["name"] == "app", "{report}");
        assert!(full["reason"].as_str().unwrap().contains(why), "{report}");
    };
    needs(1 << 20, "is not installed");
    bench.install("1.0.0");
    needs(1000, "bytes of memory, and delta_memory is 1000");
    needs(content("1.0.0")[1].1.len() as u64 + 10, "bytes of memory");
    let data = bench.target().join("current/lib/data");
    fs::write(&data, "another").unwrap();
    needs(1 << 20, "is installed");
    fs::remove_file(&data).unwrap();
    std::os::unix::fs::symlink(bench.path("old"), &data).unwrap();
    needs(1 << 20, "is not installed");
    let nowhere = package(&bench, |manifest, _| {
        manifest.as_object_mut().unwrap().remove("full_url");
    });
    assert!(refused(&unpack(&bench, &nowhere, 1 << 20)).contains("has no full_url"));
    assert!(!bench.versions().iter().any(|name| name.starts_with('.')));
}

#[test]
fn each_bad_patch_has_its_reason() {
    type Change = fn(&mut Value, &mut Vec<u8>);
    let cases: [(&str, Change, &str); 9] = [
        ("truncated", |_, patch| patch.truncate(patch.len() - 5), "ends too early"),
        ("empty", |_, patch| patch.clear(), "ends too early"),
        ("trailing", |_, patch| patch.push(0), "something behind its zstd frame"),
        ("twice", |_, patch| patch.extend(patch.clone()), "something behind its zstd frame"),
        ("no zstd", |_, patch| patch[0] = 0, "is no zstd stream"),
        ("dictionary", |_, patch| patch[4] |= 1, "needs a dictionary"),
        ("long", |_, patch| patch.resize(1 << 20, 0), "the whole file would be smaller"),
        ("bomb", |manifest, _| manifest["entries"][1]["size"] = 100.into(), "makes more than 100 bytes"),
        ("other", |manifest, _| manifest["entries"][1]["sha256"] = sha256(b"x").into(), "another SHA-256"),
    ];
    let bench = Bench::new();
    bench.install("1.0.0");
    for (name, change, why) in cases {
        let said = refused(&unpack(&bench, &package(&bench, change), 1 << 20));
        assert!(said.contains("patch for lib/data") && said.contains(why), "{name}: {said}");
        assert_eq!(bench.in_use().as_deref(), Some("1.0.0"), "{name}");
        assert_eq!(bench.versions(), ["1.0.0"], "{name}");
    }
    let command = package(&bench, |manifest, _| manifest["kind"] = "command".into());
    assert!(refused(&unpack(&bench, &command, 1 << 20)).contains("which only files and agent can have"));
}

/// What stands for a package with patches is the same software, and has none.
#[test]
fn the_whole_package_is_held_against_the_one_with_patches() {
    let bench = Bench::new();
    let delta = package(&bench, |_, _| {});
    let asked = |file: &std::path::Path, name: &str| {
        let mut order = unpack(&bench, file, 0);
        order["sha256"] = sha256(b"the one with patches").into();
        order["size"] = 1.into();
        order["full"] = json!({"url": FULL, "size": null, "sha256": null, "name": name, "hardware_ids": ["board-2"], "reason": ""});
        order
    };
    assert!(refused(&asked(&delta, "app")).contains("has patches itself"));
    let whole = bench.version("2.0.0");
    assert!(refused(&asked(&whole, "other")).contains("is another software"));
    assert_eq!(done(&asked(&whole, "app"))["version"], "2.0.0");
}

/// Over HTTP: a patch is installed; where the base is another, the whole package comes in its place, once.
#[tokio::test]
async fn a_device_takes_the_patch_or_the_whole_package() {
    let story = Story::begin(", max_retry_attempts: 0").await;
    let _agent = story.online().await;
    let (old, new) = ("one ".repeat(5000), "one ".repeat(5000) + "two");
    let first = story.package("1.0.0", &[("data", &old)], &[]);
    assert_eq!(story.update("u1", "1.0.0", &first).await["state"], "success");
    let delta = |version: &str, base: &str, full: Option<&str>| {
        let (builder, target) = (&story.builder, story.target());
        builder.write("old", base, 0o644);
        builder.write("payload/data", &new, 0o755);
        builder.write("payload/version", version, 0o644);
        builder.write("new", &new, 0o644);
        builder.run("zstd", &["-q", "-f", "--patch-from=old", "new", "-o", "payload/data"]);
        let entry = |path: &str, content: &str| json!({"path": path, "size": content.len(), "sha256": sha256(content.as_bytes()), "mode": "0755"});
        let mut manifest = json!({"schema": 1, "name": "app", "version": version, "hardware_ids": [], "created": "2026-11-01T12:00:00Z",
            "kind": "files", "target": target, "entries": [entry("data", &new), entry("version", version)]});
        manifest["entries"][0]["base"] = sha256(base.as_bytes()).into();
        if let Some(url) = full {
            manifest["full_url"] = url.into();
        }
        builder.write("manifest.json", manifest.to_string(), 0o644);
        builder.run("minisign", &["-S", "-s", "release.key", "-m", "manifest.json"]);
        let out = format!("delta-{version}.pkg");
        builder
            .run("tar", &["-I", "zstd -q", "-cf", &out, "manifest.json", "manifest.json.minisig", "payload"]);
        builder.path(&out)
    };
    assert_eq!(story.update("u2", "1.1.0", &delta("1.1.0", &old, None)).await["state"], "success");
    assert_eq!(fs::read_to_string(story.target().join("current/data")).unwrap(), new);
    // The base is another now.
    let end = story.update("u3", "1.2.0", &delta("1.2.0", &old, None)).await;
    assert!(end["state"] == "failed" && end["error"].as_str().unwrap().contains("has no full_url"), "{end}");
    let whole = story.package("1.2.0", &[("data", &new)], &[]);
    let url = story.request("", "1.2.0", &whole).await["update_url"].as_str().unwrap().to_owned();
    let patched = delta("1.2.0", &old, Some(&url));
    let request = story.request("u4", "1.2.0", &patched).await;
    story.send(request.to_string()).await;
    assert_eq!(story.end("u4").await["state"], "success", "{:#?}", story.said("u4"));
    assert_eq!(story.version().as_deref(), Some("1.2.0"));
    let why =
        |said: &Value| said["error"].as_str().is_some_and(|why| why.contains("the whole package is fetched"));
    assert!(story.said("u4").iter().any(|said| said["state"] == "downloading" && why(said)));
    // Once more under another id it is there already.
    let end = story.update("u5", "1.2.0", &patched).await;
    assert!(end["state"] == "success" && !story.states("u5").contains(&"installing".to_owned()), "{end}");
    // Its server does not have it, or has one with patches.
    let patched = delta("1.3.0", &old, Some(&url.replace("app-", "no/app-")));
    let end = story.update("u6", "1.3.0", &patched).await;
    assert_eq!(end["state"], "failed", "{end}");
    assert_eq!(story.version().as_deref(), Some("1.2.0"));
}

/// What stands for a signed package is signed itself, also where other files need not be.
#[test]
fn a_plain_file_does_not_stand_for_a_package() {
    let bench = Bench::new();
    bench.made.write("plain", "anything", 0o644);
    let file = bench.path("plain");
    let mut order = unpack(&bench, &file, 1 << 20);
    order["allow_unsigned"] = true.into();
    assert!(done(&order)["path"].is_string(), "asked for by itself it is taken");
    order["full"] = json!({"url": FULL, "name": "app", "hardware_ids": [], "reason": "another base"});
    let why = refused(&order);
    assert!(why.contains("not a package"), "{why}");
}

#[tokio::test]
async fn a_package_with_patches_is_made_by_this_program_too() {
    let story = Story::begin("").await;
    let noise = |seed: u64| {
        let mut rng = testkit::Rng::new(seed);
        (0..20_000).map(|_| char::from(b'a' + u8::try_from(rng.below(26)).unwrap())).collect::<String>()
    };
    let (old, new) = (noise(1), noise(1) + "new");
    let _agent = story.online().await;
    let first = story.package("1.0.0", &[("lib/data", &old), ("small", "a")], &[]);
    assert_eq!(story.update("u1", "1.0.0", &first).await["state"], "success");
    let full = story.package("2.0.0", &[("lib/data", &new), ("small", "b")], &[]);
    let whole = fs::metadata(&full).unwrap().len();
    let kept = story.builder.path("full.pkg");
    fs::rename(&full, &kept).unwrap();
    let from = story.builder.path("build-1.0.0");
    let more = ["--delta-from", from.to_str().unwrap(), "--full-url", FULL, "--full", kept.to_str().unwrap()];
    let delta = story.package("2.0.0", &[("lib/data", &new), ("small", "b")], &more);
    let size = fs::metadata(&delta).unwrap().len();
    assert!(size * 5 < whole, "{size} instead of {whole}");
    let said =
        Command::new(env!("CARGO_BIN_EXE_iot-agent")).args(["package", "inspect"]).arg(&delta).output();
    let said = String::from_utf8(said.unwrap().stdout).unwrap();
    let base = format!("lib/data, as a patch of {}", sha256(old.as_bytes()));
    assert!(said.contains(&base) && said.contains(FULL), "{said}");
    assert_eq!(story.update("u2", "2.0.0", &delta).await["state"], "success");
    assert_eq!(fs::read_to_string(story.target().join("current/lib/data")).unwrap(), new);
    assert_eq!(story.version().as_deref(), Some("2.0.0"));
}
