//! U8: archives that want out of the folder they are unpacked into, or have something in them that no package has. Made
//! by another program's tar.

use std::{collections::BTreeSet, fs};

use iot_agent::services::update::package::{Error, Package, Trust};

use crate::{
    cases::CASES,
    made::{Bench, manifest, tree, unpack},
};

#[test]
#[allow(clippy::print_stdout, reason = "`make prove` gathers it")]
fn prove_u8_nothing_gets_out_of_the_staging_folder() {
    // What is made here twice has one mode, whichever test sets this meanwhile.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let bench = Bench::new();
    let text = serde_json::to_vec(&manifest()).unwrap();
    bench.write("manifest.json", &text, 0o644);
    bench.run("minisign", &["-S", "-s", "release.key", "-m", "manifest.json"]);
    bench.write("outside/kept", "kept", 0o644);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/package/hostile.py");
    let named: BTreeSet<String> =
        bench.run("python3", &[script, "list"]).lines().map(str::to_owned).collect();
    assert_eq!(named, CASES.iter().map(|(name, _)| (*name).to_owned()).collect(), "each case has its reason");
    let (outside, keys) = (bench.path("outside"), bench.keys());
    let before = tree(&outside);
    for (case, reason) in CASES {
        let archive = bench.try_run("python3", &[script, case]);
        assert!(archive.status.success(), "{case}: {}", String::from_utf8_lossy(&archive.stderr));
        let package = zstd::encode_all(&archive.stdout[..], 1).unwrap();
        let staging = bench.path("staging");
        fs::create_dir(&staging).unwrap();
        let everything = tree(bench.path("").as_path());
        match (unpack(&package, &keys, &staging), *reason) {
            (Ok(_), "") => {}
            (Ok(_), _) => panic!("{case} was accepted"),
            (Err(error), "") => panic!("{case}: {error}"),
            (Err(error), reason) => assert!(error.to_string().contains(reason), "{case}: {error}"),
        }
        let found = tree(&staging);
        assert!(
            found.iter().all(|(_, mode, _)| mode & 0o7000 == 0 && mode & 0o170_000 != 0o120_000),
            "{case}: {found:?}"
        );
        fs::remove_dir_all(&staging).unwrap();
        fs::create_dir(&staging).unwrap();
        assert_eq!(tree(bench.path("").as_path()), everything, "{case}");
        assert_eq!(tree(&outside), before, "{case}");
        fs::remove_dir(&staging).unwrap();
    }
    println!("proof U8 wanted=0-bytes-outside archives={} outside=0", CASES.len());
}

/// A million members cost a moment, not memory or files.
#[test]
fn a_million_folders_are_too_many() {
    use std::io::Write as _;
    let bench = Bench::new();
    let tar = zstd::decode_all(&crate::made::package(&bench)[..]).unwrap();
    let header = tar.windows(17).position(|bytes| bytes == b"payload/a\0\0\0\0\0\0\0\0").unwrap();
    let folder = bench.run("python3", &["-c", "import tarfile,sys; t=tarfile.TarInfo('payload/x'); t.type=tarfile.DIRTYPE; sys.stdout.buffer.write(t.tobuf(tarfile.USTAR_FORMAT))"]);
    assert_eq!(folder.len(), 512);
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.write_all(&tar[..header]).unwrap();
    let thousand = folder.repeat(1000);
    (0..1000).for_each(|_| encoder.write_all(thousand.as_bytes()).unwrap());
    encoder.write_all(&tar[header..]).unwrap();
    let package = encoder.finish().unwrap();
    let staging = tempfile::tempdir().unwrap();
    match unpack(&package, &bench.keys(), staging.path()) {
        Err(Error::TooManyMembers) => assert!(tree(staging.path()).is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn heads_have_limits() {
    let bench = Bench::new();
    bench.write("long/manifest.json", vec![b' '; (1 << 20) + 1], 0o644);
    bench.write("long/manifest.json.minisig", "x", 0o644);
    bench.write("signature/manifest.json", serde_json::to_vec(&manifest()).unwrap(), 0o644);
    bench.write("signature/manifest.json.minisig", vec![b'x'; 4097], 0o644);
    for (folder, subject) in
        [("long", "the manifest has 1048577 bytes"), ("signature", "the signature has 4097 bytes")]
    {
        bench.run("tar", &["-C", folder, "-cf", "x.tar", "manifest.json", "manifest.json.minisig"]);
        let package = zstd::encode_all(&bench.read("x.tar")[..], 1).unwrap();
        let error = Package::open(&package[..], Trust::Keys(&bench.keys())).err().unwrap().to_string();
        assert!(error.contains(subject), "{error}");
    }
}
