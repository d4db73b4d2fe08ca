//! Packs the relocations of a release build: a quarter of a megabyte less to read and to map. What loads the program has to
//! know of it, as glibc does from 2.36 on, so it is done only where the build is for such a machine as this one. Decision 9.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, wanted: &str| env::var(name).is_ok_and(|value| value == wanted);
    let native = env::var("TARGET") == env::var("HOST");
    if native && is("CARGO_CFG_TARGET_ENV", "gnu") && is("PROFILE", "release") && glibc() >= Some((2, 36)) {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this machine's.
fn glibc() -> Option<(u32, u32)> {
    let output = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
