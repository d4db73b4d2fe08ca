//! The files of the outbox.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    clock::{self, Clock},
    outbox::{Class, Disk, Draft, Fate, Outbox, Qos},
};

/// As small as `outbox.max_size` can sensibly be.
const CAP: u64 = 1 << 20;
/// The least a record takes.
const RECORD: usize = 32;
const TOPIC: &str = "iot/d1/data/fuzz";

/// The bytes are files: a length and a name, a length of two bytes and a content, and so on. Whatever they are, the
/// outbox opens, hands out no more than can be in them, takes a new message and hands it out; and when all is
/// acknowledged, nothing waits, also after a restart.
pub fn outbox(data: &[u8]) {
    let disk = Arc::new(Memory(Mutex::new(files(data))));
    let mut outbox = open(&disk);
    let mut payload = |seq: u64| format!("number {seq}").into_bytes();
    let draft = Draft {
        class: Class::Metrics,
        topic: TOPIC.to_owned(),
        qos: Qos::AtLeastOnce,
        retain: false,
        payload: &mut payload,
    };
    outbox.push(draft, None);
    commit(&mut outbox, &disk);
    assert_eq!(outbox.degraded(), None, "nothing is wrong with the disk");
    for class in Class::ALL {
        outbox.list(class, 0, 1_000).expect("nothing is wrong with the disk");
    }
    let mut taken = Vec::new();
    for class in Class::ALL {
        while let Some((key, record)) = outbox.take(class) {
            taken.push((record.topic, record.payload));
            assert!(taken.len() <= data.len() / RECORD + 1, "more messages than there can be");
            outbox.settle(key, Fate::Sent);
        }
    }
    let ours = |(topic, payload): &(String, Vec<u8>)| topic == TOPIC && payload.starts_with(b"number ");
    assert!(taken.iter().any(ours), "the new message is lost");
    assert_eq!(outbox.total().messages, 0, "all is acknowledged: {:?}", outbox.total());
    commit(&mut outbox, &disk);
    outbox.note();
    let sent = outbox.total().sent;
    drop(outbox);

    let mut outbox = open(&disk);
    let again = Class::ALL.into_iter().find_map(|class| outbox.take(class));
    assert!(again.is_none(), "{again:?} comes again");
    assert_eq!((outbox.total().messages, outbox.total().sent), (0, sent), "{:?}", outbox.total());
}

fn open(disk: &Arc<Memory>) -> Outbox {
    Outbox::open(Arc::clone(disk) as _, CAP, Clock::new(clock::built(), None))
}

fn commit(outbox: &mut Outbox, disk: &Arc<Memory>) {
    while let Some(plan) = outbox.plan() {
        let result = plan.execute(&**disk);
        outbox.committed(plan, result);
    }
}

pub(super) type Files = BTreeMap<String, Vec<u8>>;

pub(super) fn files(data: &[u8]) -> Files {
    let mut files = Files::new();
    let mut rest = data;
    while let Some((&length, more)) = rest.split_first() {
        let (name, more) = more.split_at(usize::from(length).min(more.len()));
        let Some((length, more)) = more.split_first_chunk::<2>() else { break };
        let (content, more) = more.split_at(usize::from(u16::from_be_bytes(*length)).min(more.len()));
        files.insert(String::from_utf8_lossy(name).into_owned(), content.to_vec());
        rest = more;
    }
    files
}

/// A disk in memory, with which nothing is wrong but what lies on it.
#[derive(Debug)]
pub(super) struct Memory(pub(super) Mutex<Files>);

impl Memory {
    pub(super) fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.files().iter().map(|(name, content)| (name.clone(), content.len() as u64)).collect())
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let files = self.files();
        let content = files.get(name).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let length = buf.len().min(content.len() - from);
        buf[..length].copy_from_slice(&content[from..from + length]);
        Ok(length)
    }

    fn write_synced(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(name, offset, bytes)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.files();
        let content = files.entry(name.to_owned()).or_default();
        let end = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(bytes.len());
        assert!(end as u64 <= 2 * CAP, "{name}: {offset}");
        content.resize(content.len().max(end), 0);
        content[end - bytes.len()..end].copy_from_slice(bytes);
        Ok(())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.files().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        let content = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files().remove(name);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}
