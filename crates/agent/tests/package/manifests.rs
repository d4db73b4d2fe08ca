//! Manifests that are signed and still wrong: each gets its own reason.

use std::collections::BTreeSet;

use iot_agent::services::update::package::{Error, Manifest};
use serde_json::{Value, json};

use crate::made::{entry, manifest};

fn parse(value: &Value) -> Result<Manifest, Error> {
    Manifest::parse(&serde_json::to_vec(value).unwrap())
}

/// The manifest with one thing changed; null takes it away.
fn changed(path: &str, value: Value) -> Value {
    let mut manifest = manifest();
    let (parent, key) = path.rsplit_once('/').unwrap();
    let at = manifest.pointer_mut(parent).unwrap();
    match (at, value) {
        (Value::Object(map), Value::Null) => drop(map.remove(key).unwrap()),
        (Value::Object(map), value) => drop(map.insert(key.to_owned(), value)),
        (Value::Array(list), value) => list[key.parse::<usize>().unwrap()] = value,
        _ => unreachable!(),
    }
    manifest
}

#[test]
fn a_sound_one_is_read_and_written() {
    let read = parse(&manifest()).unwrap();
    assert_eq!((read.name(), read.version().to_string().as_str()), ("app", "1.4.0"));
    assert_eq!(read.entries().iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), ["a", "d/b"]);
    assert_eq!(Manifest::parse(&read.to_bytes().unwrap()).unwrap(), read);
    assert_eq!(serde_json::from_slice::<Value>(&read.to_bytes().unwrap()).unwrap(), manifest());
    // What a newer backend says besides.
    parse(&changed("/channel", json!({"beta": [1, 2, {"x": null}]}))).unwrap();
    let mut more = manifest();
    more["entries"][0]["origin"] = json!("x");
    more["scripts"]["later"] = json!("not looked at");
    more["min_version"] = json!("1.0.0-rc.1+build");
    assert_eq!(parse(&more).unwrap().min_version().unwrap().to_string(), "1.0.0-rc.1+build");
    parse(&changed("/hardware_ids", json!([]))).unwrap().fits(None).unwrap();
    parse(&changed("/entries", json!([]))).unwrap_err();
    let mut bare = changed("/entries", json!([]));
    bare.as_object_mut().unwrap().remove("scripts");
    parse(&bare).unwrap();
}

#[test]
fn patches_name_what_they_are_for() {
    let mut delta = manifest();
    delta["entries"][0]["base"] = delta["entries"][1]["sha256"].clone();
    delta["full_url"] = json!("https://a.example/b");
    let read = parse(&delta).unwrap();
    assert!(read.is_delta());
    assert_eq!(serde_json::from_slice::<Value>(&read.to_bytes().unwrap()).unwrap(), delta);
    for (key, value, why) in [
        ("full_url", "http://a.example/b", "full_url"),
        ("full_url", "b", "full_url"),
        ("full_sha256", "x", "full_sha256"),
        ("kind", "command", "which only files and agent can have"),
    ] {
        let mut bad = delta.clone();
        bad[key] = json!(value);
        let said = parse(&bad).unwrap_err().to_string();
        assert!(said.contains(why), "{key} {value}: {said}");
    }
    delta["entries"][0]["base"] = json!("x");
    assert!(parse(&delta).unwrap_err().to_string().contains("has a base that is not 64"));
}

#[test]
fn each_mistake_has_its_reason() {
    let with = |key: &str, value: Value| {
        let mut entry = entry("x", b"x");
        entry[key] = value;
        changed("/entries/0", entry)
    };
    let path = |path: &str| changed("/entries/0", entry(path, b"x"));
    let huge = 1_u64 << 40;
    let cases: Vec<(Value, &str)> = vec![
        (changed("/schema", json!(2)), "schema 2, and this agent knows schema 1"),
        (changed("/schema", Value::Null), "cannot be read"),
        (changed("/name", json!("")), "manifest's name \"\" is not"),
        (changed("/name", json!("a b")), "manifest's name \"a b\" is not"),
        (changed("/name", json!("../a")), "manifest's name \"../a\" is not"),
        (changed("/name", json!(7)), "cannot be read"),
        (changed("/version", json!("1.4")), "manifest's version \"1.4\" is no semantic version"),
        (changed("/version", json!("v1.4.0")), "manifest's version \"v1.4.0\" is no semantic version"),
        (changed("/version", json!("1.4.0/..")), "is no semantic version"),
        (changed("/min_version", json!("one")), "manifest's min_version \"one\" is no semantic version"),
        (changed("/hardware_ids", Value::Null), "cannot be read"),
        (changed("/hardware_ids", json!(["a,b"])), "manifest's hardware_ids \"a,b\" is not"),
        (changed("/created", json!("yesterday")), "cannot be read"),
        (changed("/kind", json!("magic")), "of kind \"magic\", and this agent knows files, command,"),
        (changed("/kind", json!("agent")), "of kind agent and has no entry iot-agent"),
        (changed("/kind", json!("module")), "of kind module and names no module"),
        (changed("/kind", json!("rauc")), "of kind rauc and does not have exactly one entry"),
        (changed("/module", json!("deb")), "of kind files and names a module"),
        (changed("/meta_data", json!({})), "of kind files and has meta_data"),
        (changed("/module", json!("../deb")), "manifest's module \"../deb\" is not"),
        (changed("/target", Value::Null), "of kind files and has no target"),
        (changed("/target", json!("opt/app")), "manifest's target \"opt/app\" is not absolute"),
        (changed("/target", json!("/opt/../etc")), "manifest's target \"/opt/../etc\" has a part `..`"),
        (changed("/target", json!("/")), "manifest's target \"/\" is empty"),
        (path(""), "the entry \"\" is empty"),
        (path("/etc/passwd"), "the entry \"/etc/passwd\" is absolute"),
        (path("../x"), "the entry \"../x\" has a part `..`"),
        (path("x/../y"), "the entry \"x/../y\" has a part `..`"),
        (path("./x"), "the entry \"./x\" has a part `.`"),
        (path("x//y"), "the entry \"x//y\" has an empty part"),
        (path("x/"), "the entry \"x/\" has an empty part"),
        (path("x\ny"), "the entry \"x\\ny\" has a control character"),
        (path("x\0y"), "the entry \"x\\0y\" has a control character"),
        (path(&"x".repeat(256)), "has a part longer than 255 bytes"),
        (path(&"x/".repeat(600)), "is longer than 1024 bytes"),
        (path(&"x/".repeat(33)), "has more than 32 parts"),
        (path("d/b"), "the entry d/b is there twice"),
        (path("d"), "the entry d/b lies below d, which is a file"),
        (path("d/b/c/e"), "the entry d/b/c/e lies below d/b, which is a file"),
        (with("sha256", json!("00")), "the entry x has no SHA-256"),
        (with("sha256", json!("A".repeat(64))), "the entry x has no SHA-256"),
        (with("mode", json!("4755")), "mode \"4755\", which is setuid, setgid or sticky"),
        (with("mode", json!("1777")), "mode \"1777\", which is setuid, setgid or sticky"),
        (with("mode", json!("0o755")), "which is not three or four octal digits"),
        (with("mode", json!("0855")), "which is not three or four octal digits"),
        (with("mode", json!("0133")), "mode \"0133\", which does not let its owner read it"),
        (with("mode", json!(493)), "cannot be read"),
        (with("size", json!(-1)), "cannot be read"),
        (with("size", json!(huge)), "bytes together"),
        (with("size", json!(u64::MAX)), "bytes together"),
        (changed("/scripts/health", json!("c")), "script health is \"c\", which is no entry"),
        (changed("/scripts/pre_install", json!("../c")), "script pre_install is \"../c\", which is no entry"),
    ];
    for (value, reason) in cases {
        match parse(&value) {
            Ok(_) => panic!("accepted: {reason}"),
            Err(error) => assert!(error.to_string().contains(reason), "{error}, not {reason}"),
        }
    }
    let mut silent = manifest();
    silent["entries"][1]["mode"] = json!("0644");
    assert!(parse(&silent).unwrap_err().to_string().contains("cannot be executed"));
}

#[test]
fn bytes_that_are_no_manifest_are_none() {
    let sound = serde_json::to_string(&manifest()).unwrap();
    let twice = sound.replacen("\"name\":", "\"name\":\"other\",\"name\":", 1);
    let deep = "[".repeat(100_000);
    for text in ["", "{}", "[]", "null", &deep, &format!("{sound} x"), &twice, &sound[..sound.len() - 1]] {
        assert!(matches!(Manifest::parse(text.as_bytes()), Err(Error::Manifest(_))), "{:.80}", text);
    }
    assert!(matches!(Manifest::parse(b"{\"schema\": 1, \"name\": \"\xff\"}"), Err(Error::Manifest(_))));
}

#[test]
fn hardware_is_this_or_another() {
    let manifest = parse(&changed("/hardware_ids", json!(["board-1", "board-2"]))).unwrap();
    manifest.fits(Some("board-2")).unwrap();
    let reasons: BTreeSet<String> = [Some("board-3"), Some("board"), Some(""), None]
        .into_iter()
        .map(|device| manifest.fits(device).unwrap_err().to_string())
        .collect();
    assert_eq!(reasons.len(), 4);
    assert!(reasons.contains("the package is for board-1, board-2, and this device has no hardware_id"));
}
