//! Modules that are not there, or that others could have put there; packages that no module can take.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use super::module::Module;

#[tokio::test]
async fn a_module_that_anybody_could_change_is_not_run() {
    let module = Module::begin("").await;
    let _agent = module.story.online().await;
    let path = module.story.home.path().join("modules/single-file");
    for (at, (mode, said)) in [
        (0o644, "is not executable"),
        (0o757, "has the mode 0757, so others could change it"),
        (0o775, "has the mode 0775, so others could change it"),
    ]
    .into_iter()
    .enumerate()
    {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let end = module.update(&format!("u{at}"), "1.0.0").await;
        assert_eq!(end["state"], "failed", "{end}");
        assert!(end["error"].as_str().unwrap().contains(said), "{end}");
    }
    fs::remove_file(&path).unwrap();
    let end = module.update("none", "1.0.0").await;
    let said = format!("there is no update module single-file in {}", path.parent().unwrap().display());
    assert!(end["error"].as_str().unwrap().starts_with(&said), "{end}");
    assert_eq!(module.states("none").last().unwrap(), "failed");
    // Not even unpacked.
    assert!(!module.states("none").iter().any(|state| state == "installing"));
    assert_eq!(module.asked(), [""; 0]);
}

#[tokio::test]
async fn what_no_module_can_take_is_not_packed() {
    let module = Module::begin("").await;
    module.story.builder.write("flat/app", "x", 0o644);
    module.story.builder.write("deep/bin/app", "x", 0o644);
    for (folder, name, said) in [
        ("deep", "single-file", "has an entry in a folder"),
        ("flat", "../single-file", "module"),
        ("flat", "a/b", "module"),
        ("flat", ".hidden", "module"),
        ("flat", "", "module"),
    ] {
        let done = Command::new(env!("CARGO_BIN_EXE_iot-agent"))
            .args(["package", "create", folder, "-o", "out.pkg", "--name", "app", "--version", "1.0.0"])
            .args(["--kind", "module", "--module", name])
            .current_dir(module.story.builder.path(""))
            .output()
            .unwrap();
        let why = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && why.contains(said), "{folder} {name:?}: {why}");
    }
}
