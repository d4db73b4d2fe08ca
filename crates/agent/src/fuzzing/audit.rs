//! The files of the audit log, and records that somebody else has kept.

use std::sync::{Arc, Mutex};

use protocol::audit::Chain;

use super::outbox::{Memory, files};
use crate::{
    action::audit::{Log, Verifier, fuzzed, verify},
    outbox::Disk,
};

/// The bytes are files, as for the outbox; and records, one a line. Whatever they are: reading ends, what is said to be
/// whole is a chain, and a log takes a new record, which is read back.
pub fn audit(data: &[u8]) {
    exported(data);
    let disk: Arc<dyn Disk> = Arc::new(Memory(Mutex::new(files(data))));
    let (verifier, fault) = verify(&disk).expect("nothing is wrong with the disk");
    let before = Log::read(Arc::clone(&disk)).expect("nothing is wrong with the disk").records;
    if fault.is_none() {
        let mut again = Verifier::default();
        before.iter().for_each(|record| again.take(record.as_bytes()).expect("it is said to be whole"));
        assert_eq!(again.records(), verifier.records());
    }
    match fuzzed(Arc::clone(&disk)) {
        Ok(record) => {
            let after = Log::read(disk).expect("nothing is wrong with the disk").records;
            assert_eq!(after.last(), Some(&record), "the new record is lost");
        }
        // There is a number after which there is none.
        Err(error) => assert!(error.to_string().contains("no number is left"), "{error}"),
    }
}

fn exported(data: &[u8]) {
    let mut chain = Chain::default();
    let mut verifier = Verifier::default();
    for record in data.split(|byte| *byte == b'\n') {
        assert_eq!(chain.take(record).is_ok(), verifier.take(record).is_ok());
    }
    assert_eq!(verifier.summary().lines().count(), 1);
}
