//! U8 once more, by the program that unpacks on a device: whatever an archive has in it, nothing beside the staging folder
//! is another than before.

use std::{fs, path::Path};

use crate::{
    bench::{Bench, done, run},
    cases::CASES,
    made::{FILES, tree},
};

#[test]
fn prove_u8_the_installer_changes_nothing_outside_its_folder() {
    let bench = Bench::new();
    let mut manifest = bench.manifest("1.4.0", &FILES);
    manifest["scripts"] = serde_json::json!({ "health": "d/b" });
    bench.made.write("manifest.json", serde_json::to_vec(&manifest).unwrap(), 0o644);
    bench.made.run("minisign", &["-S", "-s", "release.key", "-m", "manifest.json"]);
    bench.made.write("outside/kept", "kept", 0o644);
    fs::create_dir_all(bench.target().join("versions")).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/package/hostile.py");
    for (case, reason) in CASES {
        let archive = bench.made.try_run("python3", &[script, case]);
        assert!(archive.status.success(), "{case}: {}", String::from_utf8_lossy(&archive.stderr));
        let package = zstd::encode_all(&archive.stdout[..], 1).unwrap();
        bench.made.write("hostile.pkg", &package, 0o644);
        let before = tree(&bench.path(""));
        let (success, report) = run(&bench.unpack(&bench.path("hostile.pkg"), "1.4.0"));
        if reason.is_empty() {
            assert!(success, "{case}: {report}");
            let staged = report["unpacked"]["path"].as_str().unwrap();
            assert_eq!(tree(Path::new(staged)).len(), 3, "{case}");
            done(&bench.clean(1, None));
        } else {
            assert!(!success, "{case} was accepted");
            let said = report["error"]["reason"].as_str().unwrap();
            assert!(said.contains(reason), "{case}: {said}, not {reason}");
        }
        assert_eq!(tree(&bench.path("")), before, "{case}");
    }
    crate::support::proof(
        "U8-installer",
        &format!("wanted=0-bytes-outside archives={} outside=0", CASES.len()),
    );
}
