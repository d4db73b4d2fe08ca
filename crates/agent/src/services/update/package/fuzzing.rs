//! What must hold for whatever comes as a package.

mod patch;

use std::{collections::BTreeSet, fs, fs::File, path::Path};

use super::{
    Manifest, Package, Place, Sink as _, Staging, Trust, Unkept, Writer, claim::Claim, members::Members,
};

pub use patch::patch;

/// A manifest is sound or refused for a reason; one that is sound says the same when it is written and read again.
pub fn manifest(data: &[u8]) {
    match Manifest::parse(data) {
        Err(error) => assert!(!error.to_string().is_empty(), "no reason"),
        Ok(manifest) => {
            let again = manifest.to_bytes().and_then(|bytes| Manifest::parse(&bytes));
            assert_eq!(again.expect("what is written can be read"), manifest);
            let mut files = BTreeSet::new();
            for entry in manifest.entries() {
                sound(entry.path.as_str());
                assert!(files.insert(entry.path.as_str()), "twice: {entry:?}");
                assert_eq!(entry.mode.bits() & !0o777, 0, "{entry:?}");
            }
            let folders = manifest.entries().iter().flat_map(|entry| entry.path.folders());
            folders.for_each(|folder| assert!(!files.contains(folder), "a file and a folder: {folder}"));
            assert!(manifest.size() <= super::MAX_PAYLOAD);
        }
    }
    if let Ok(claim) = Claim::parse(&String::from_utf8_lossy(data)) {
        assert!(claim.fits(None).is_ok() == claim.hardware_ids.is_empty());
    }
}

/// A path leads down.
fn sound(path: &str) {
    assert!(Place::new(path.to_owned()).is_ok(), "{path:?}");
    let mut parts = Path::new(path).components();
    assert!(parts.all(|part| matches!(part, std::path::Component::Normal(_))), "{path:?}");
}

/// A whole package, and its bytes as the archive within one: nothing gets out of the staging folder, and what is taken is
/// what the manifest says.
pub fn archive(data: &[u8]) {
    taken(data);
    let packed = zstd::encode_all(data, 1).expect("memory can be compressed");
    taken(&packed);
    // The members alone, whatever the first is called.
    if let Ok(stream) = super::inflate::Inflate::new(&packed[..]) {
        let (mut members, mut chunk) = (Members::new(stream), [0; 4096]);
        while let Ok(Some(member)) = members.next() {
            let mut size = 0;
            while let Ok(count @ 1..) = members.content(&mut chunk, &member.path) {
                size += count as u64;
            }
            if size < member.size {
                return;
            }
        }
    }
}

fn taken(package: &[u8]) {
    let folder = crate::fuzzing::Folder::new();
    let (outer, staging) = (folder.path(), folder.path().join("staging"));
    fs::create_dir(&staging).expect("a new folder can be written");
    let opened = |trust| Package::open(package, trust);
    let Ok(read) = opened(Trust::UnsafeAnyone) else { return };
    let nobody = super::Keys::default();
    assert!(opened(Trust::Keys(&nobody)).is_err(), "trusted without a key");
    let (manifest, bytes) = (read.manifest().clone(), read.manifest_bytes().to_vec());
    let mut sink = Staging::new(File::open(&staging).expect("it is there").into());
    let whole = read.payload(&mut sink);
    assert_eq!(fs::read_dir(outer).expect("it is there").count(), 1, "something beside the staging folder");
    if whole.is_err() {
        return;
    }
    sink.finish().expect("the disk takes it");
    let again = opened(Trust::UnsafeAnyone).and_then(|read| read.payload(&mut Unkept));
    assert_eq!(again.expect("the same as before"), whole.expect("looked at above"));
    let mut writer = Writer::new(Vec::new(), 1, &bytes, None).expect("memory can be written");
    for entry in manifest.entries() {
        let content = fs::read(staging.join(entry.path.as_str())).expect("each entry is there");
        assert_eq!(content.len() as u64, entry.size);
        writer
            .begin(entry)
            .and_then(|()| writer.write(&content))
            .and_then(|()| writer.end())
            .expect("memory");
    }
    let written = writer.finish().expect("memory can be written");
    let read = Package::open(&written[..], Trust::UnsafeAnyone).and_then(|read| read.payload(&mut Unkept));
    read.expect("what is written can be read");
}
