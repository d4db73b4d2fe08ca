//! Configuration files: those of `tests/config/invalid`, to the command that checks them.

use std::{fs, path::Path};

use crate::support::Home;

/// How many there are.
pub(crate) fn table() -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config");
    let mut count = 0;
    for entry in fs::read_dir(folder.join("invalid")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let reason = fs::read_to_string(path.with_extension("expected")).unwrap();
            let (code, said) = check(&path);
            assert_eq!((code, said), (Some(78), format!("iot-agent: {}\n", reason.trim_end())), "{path:?}");
            count += 1;
        }
    }
    assert_eq!(check(&folder.join("valid/minimal.yaml")), (Some(0), String::new()));
    count
}

fn check(file: &Path) -> (Option<i32>, String) {
    let home = Home::new("mqtt://localhost");
    let mut command = home.command(&["config", "check"]);
    // Instead of what the home has written: some of these are no text.
    fs::remove_dir_all(home.path().join("conf.d")).unwrap();
    fs::write(home.path().join("config.yaml"), fs::read(file).unwrap()).unwrap();
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said.replace(&format!("{}/", home.path().display()), ""))
}
