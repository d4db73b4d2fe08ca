use super::*;

fn kind(bytes: &[u8]) -> Kind {
    let sha256 = ring::digest::digest(&SHA256, bytes).as_ref().try_into().unwrap();
    Kind { size: bytes.len() as u64, sha256 }
}

fn open(folder: &Path, kind: Kind) -> Partial {
    Partial::open(folder.to_owned(), kind, &|| false).unwrap().unwrap()
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 % 251) as u8).collect()
}

/// The note as it would stand had it been written in another boot.
fn boot_again(folder: &Path) {
    let mut note = read_note(folder).unwrap();
    note.boot = "another".to_owned();
    replace(&folder.join(NOTE), &serde_json::to_vec(&note).unwrap()).unwrap();
}

#[test]
fn what_is_there_stays_for_the_same_file_only() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, all) = (dir.path().join("download"), bytes(1000));
    let mut partial = open(&folder, kind(&all));
    assert!(Partial::open(folder.clone(), kind(&all), &|| false).unwrap().is_none(), "it is taken");
    partial.clear(Some("\"a\"".to_owned())).unwrap();
    partial.append(&all[..600], || Ok(())).unwrap();
    drop(partial);
    let mut partial = open(&folder, kind(&all));
    assert_eq!((partial.length(), partial.most(), partial.validator()), (600, 600, Some("\"a\"")));
    partial.append(&all[600..], || Ok(())).unwrap();
    assert_eq!(partial.finish().unwrap(), kind(&all).sha256);
    assert_eq!(fs::read(path(&folder)).unwrap(), all);
    drop(partial);
    let partial = open(&folder, kind(b"another"));
    assert_eq!((partial.length(), partial.most(), partial.validator()), (0, 0, None));
    drop(partial);
    assert_eq!(fs::metadata(path(&folder)).unwrap().len(), 0);
}

#[test]
fn the_most_there_was_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, all) = (dir.path().join("download"), bytes(1000));
    let mut partial = open(&folder, kind(&all));
    partial.clear(None).unwrap();
    partial.append(&all[..600], || Ok(())).unwrap();
    partial.clear(Some("\"b\"".to_owned())).unwrap();
    partial.append(&all[..100], || Ok(())).unwrap();
    drop(partial);
    let partial = open(&folder, kind(&all));
    assert_eq!((partial.length(), partial.most(), partial.validator()), (100, 600, Some("\"b\"")));
}

/// After another boot only what is sure to be on the disk is believed.
#[test]
fn a_power_cut_costs_two_steps_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("download");
    let step = usize::try_from(STEP).unwrap();
    let all = bytes(3 * step + 10);
    for (length, kept) in
        [(10, 0), (step + 1, 0), (2 * step, 0), (2 * step + 1, step), (3 * step + 5, 2 * step)]
    {
        remove(&folder).unwrap();
        let mut partial = open(&folder, kind(&all));
        partial.clear(None).unwrap();
        partial.append(&all[..length], || Ok(())).unwrap();
        drop(partial);
        boot_again(&folder);
        let mut partial = open(&folder, kind(&all));
        assert_eq!(partial.length(), kept as u64, "{length}");
        assert_eq!(partial.most(), kept as u64, "{length}");
        partial.append(&all[kept..], || Ok(())).unwrap();
        assert_eq!(partial.finish().unwrap(), kind(&all).sha256, "{length}");
        drop(partial);
        // In the same boot all of it is.
        assert_eq!(open(&folder, kind(&all)).length(), all.len() as u64);
    }
}

/// What is written while a sync runs is written, and each step waits for the one before.
#[test]
fn syncs_run_behind() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("download");
    let all = &bytes(usize::try_from(3 * STEP).unwrap() + 10);
    let mut partial = open(&folder, kind(all));
    partial.clear(None).unwrap();
    let (send, receive) = mpsc::channel(4);
    thread::scope(|scope| {
        scope.spawn(move || {
            all.chunks(100_000).for_each(|part| send.blocking_send(part.to_vec().into()).unwrap())
        });
        // The sender ends with its thread.
        scope.spawn(|| partial.take(receive).unwrap());
    });
    assert_eq!((partial.length(), partial.finish().unwrap()), (all.len() as u64, kind(all).sha256));
}

/// Whatever stands in the note, it is a note or none.
#[test]
fn a_damaged_note_costs_the_file_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, all) = (dir.path().join("download"), bytes(100));
    let mut partial = open(&folder, kind(&all));
    partial.clear(Some("\"a\"".to_owned())).unwrap();
    partial.append(&all[..60], || Ok(())).unwrap();
    drop(partial);
    let (note, part) = (fs::read(folder.join(NOTE)).unwrap(), fs::read(path(&folder)).unwrap());
    for length in 0..=note.len() {
        fs::write(folder.join(NOTE), &note[..length]).unwrap();
        fs::write(path(&folder), &part).unwrap();
        let partial = open(&folder, kind(&all));
        assert_eq!(partial.length(), if length == note.len() { 60 } else { 0 }, "{length}");
    }
    let newer = String::from_utf8(note).unwrap().replace("\"version\":1", "\"version\":2");
    fs::write(folder.join(NOTE), newer).unwrap();
    assert_eq!(open(&folder, kind(&all)).length(), 0);
}

#[test]
fn a_longer_file_than_the_whole_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, all) = (dir.path().join("download"), bytes(100));
    let mut partial = open(&folder, kind(&all));
    partial.clear(None).unwrap();
    partial.append(&all, || Ok(())).unwrap();
    partial.append(b"more", || Ok(())).unwrap();
    drop(partial);
    assert_eq!(open(&folder, kind(&all)).length(), 0);
}

#[test]
fn who_has_left_is_not_read_for() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, all) = (dir.path().join("download"), bytes(100));
    let mut partial = open(&folder, kind(&all));
    partial.clear(None).unwrap();
    partial.append(&all, || Ok(())).unwrap();
    drop(partial);
    let error = Partial::open(folder.clone(), kind(&all), &|| true).err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    assert_eq!(open(&folder, kind(&all)).length(), 100, "and the lock is free again");
}
