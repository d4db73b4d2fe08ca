use std::fs;

use tempfile::TempDir;

use super::*;

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000 + seconds * 1000).unwrap()
}

fn nonce(n: u32) -> Nonce {
    format!("{n:032x}").try_into().unwrap()
}

fn enrolment(client: &str, device: &str) -> Enrolment {
    Enrolment {
        device_id: device.parse().unwrap(),
        client_id: client.parse().unwrap(),
        device_name: Some("pump".into()),
        org_id: None,
        metadata: None,
        agent_version: Some("0.1.0".into()),
        enrolled_at: at(0),
    }
}

fn remember(store: &Store, nonce: &Nonce, now: Timestamp) -> NonceOutcome {
    let tx = store.begin().unwrap();
    let outcome = tx.remember(nonce, now).unwrap();
    tx.commit().unwrap();
    outcome
}

#[test]
fn what_is_committed_is_there_after_reopening_and_what_is_not_is_not() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let tx = store.begin().unwrap();
    tx.enrol(&enrolment("c1", "d1")).unwrap();
    tx.commit().unwrap();
    let tx = store.begin().unwrap();
    tx.enrol(&enrolment("c2", "d2")).unwrap();
    drop(tx);
    assert_eq!(remember(&store, &nonce(1), at(0)), NonceOutcome::Fresh);
    let name = store.client_id(|| "hub-1".into()).unwrap();
    drop(store);

    let store = Store::open_existing(folder.path()).unwrap();
    assert_eq!(store.enrolments().unwrap(), [enrolment("c1", "d1")]);
    let tx = store.begin().unwrap();
    assert_eq!(tx.enrolment(&"c2".parse().unwrap()).unwrap(), None);
    assert!(tx.is_taken(&"d1".parse().unwrap()).unwrap());
    assert!(!tx.is_taken(&"d2".parse().unwrap()).unwrap());
    drop(tx);
    assert_eq!(remember(&store, &nonce(1), at(1)), NonceOutcome::Seen);
    assert_eq!(store.client_id(|| "hub-2".into()).unwrap(), name);
}

#[test]
fn a_nonce_is_remembered_for_fifteen_minutes_in_either_spelling() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let lower = nonce(0xabcdef);
    let upper: Nonce = lower.as_str().to_uppercase().try_into().unwrap();
    assert_eq!(remember(&store, &lower, at(0)), NonceOutcome::Fresh);
    assert_eq!(remember(&store, &upper, at(1)), NonceOutcome::Seen);
    assert_eq!(remember(&store, &lower, at(900)), NonceOutcome::Seen);
    assert_eq!(remember(&store, &lower, at(901)), NonceOutcome::Fresh);
}

#[test]
fn a_full_memory_refuses_rather_than_forgets() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap().with_max_nonces(3);
    for n in 0..3 {
        assert_eq!(remember(&store, &nonce(n), at(i64::from(n))), NonceOutcome::Fresh);
    }
    assert_eq!(remember(&store, &nonce(9), at(10)), NonceOutcome::Full);
    assert_eq!(remember(&store, &nonce(0), at(10)), NonceOutcome::Seen);
    // The oldest two are out of date now.
    assert_eq!(remember(&store, &nonce(9), at(902)), NonceOutcome::Fresh);
    assert_eq!(remember(&store, &nonce(2), at(902)), NonceOutcome::Seen);
}

#[test]
fn one_process_at_a_time_and_nobody_else_reads_it() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("a/b");
    let store = Store::open(&data).unwrap();
    assert!(matches!(Store::open(&data), Err(StoreError::InUse { .. })));
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&data), mode(&data.join(FILE))), (0o700, 0o600));
    drop(store);
    assert!(Store::open(&data).is_ok());
}

#[test]
fn a_damaged_database_is_refused_not_replaced() {
    let folder = TempDir::new().unwrap();
    assert!(matches!(Store::open_existing(folder.path()), Err(StoreError::Missing { .. })));
    let path = folder.path().join(FILE);
    fs::write(&path, vec![0x55; 100_000]).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Open { .. })));
    assert_eq!(fs::read(&path).unwrap(), vec![0x55; 100_000]);
}

#[test]
fn a_later_schema_is_refused() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let tx = store.begin().unwrap();
    tx.tx.open_table(META).unwrap().insert("schema", "2").unwrap();
    tx.commit().unwrap();
    drop(store);
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Newer(schema)) if schema == "2"));
}

/// A copy of the file as it stands while the database is open is what a kill would leave.
#[test]
fn what_a_kill_leaves_is_what_was_committed() {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for n in 0..20 {
        let tx = store.begin().unwrap();
        tx.enrol(&enrolment(&format!("c{n}"), &format!("d{n}"))).unwrap();
        tx.commit().unwrap();
        // Begun, not committed.
        let half = store.begin().unwrap();
        half.enrol(&enrolment("never", "never")).unwrap();
        let left = TempDir::new().unwrap();
        fs::copy(folder.path().join(FILE), left.path().join(FILE)).unwrap();
        drop(half);
        let after = Store::open(left.path()).unwrap().enrolments().unwrap();
        assert_eq!(after.len(), n + 1);
        assert!(after.iter().all(|e| e.client_id.as_str() != "never"));
    }
}
