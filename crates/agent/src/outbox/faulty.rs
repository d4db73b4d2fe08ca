//! A disk in memory that fails, and loses what a real one may lose.
//!
//! A killed process leaves all it has written. After a power cut a file has what was synced; each page of what was
//! only written is there, is not, or is torn at any byte; and names that were not synced are as they were or as they
//! became, each by itself. After a failed sync the kernel holds the pages to be clean: what had not reached the disk
//! then never does, though every later sync succeeds.

mod inode;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use testkit::Rng;

use super::Disk;
use inode::{Inode, PAGE};

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A part is written, and then there is no room.
    Full,
    /// Nothing can be written.
    ReadOnly,
    /// Nothing can be read.
    Read,
    /// All is written, and the sync fails.
    Sync,
    /// The machine or the process dies within the call, of which a part may have been done; nothing works from then
    /// on, until [`Faulty::kill`] or [`Faulty::cut`].
    Crash,
}

/// The kinds of calls, by what can befall them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Read,
    /// Of bytes.
    Write,
    /// Of bytes or names, safe on return.
    Sync,
    /// Of names.
    Name,
}

impl Fault {
    fn befalls(self, call: Call) -> bool {
        match self {
            Self::Full => matches!(call, Call::Write | Call::Sync),
            Self::ReadOnly | Self::Crash => call != Call::Read,
            Self::Read => call == Call::Read,
            Self::Sync => call == Call::Sync,
        }
    }
}

/// The disk. Repeats itself for the same seed and calls.
#[derive(Debug)]
pub(super) struct Faulty(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: Rng,
    inodes: Vec<Inode>,
    /// As the process sees them.
    names: BTreeMap<String, usize>,
    /// As they are after a power cut, but for `moves`.
    safe: BTreeMap<String, usize>,
    moves: Vec<Move>,
    /// Goes wrong after so many more calls that it can befall.
    coming: Option<(u64, Fault)>,
    read_only: bool,
    budget: u64,
    crashed: bool,
    failed_reads: bool,
    mutations: u64,
    peak: u64,
}

/// A change of names that is not safe yet.
#[derive(Debug, Clone)]
enum Move {
    Link(String, usize),
    Rename(String, String),
    Unlink(String),
}

impl Move {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Link(name, inode) => _ = names.insert(name.clone(), *inode),
            Self::Unlink(name) => _ = names.remove(name),
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
        }
    }

    fn is_about(&self, name: &str) -> bool {
        match self {
            Self::Link(about, _) | Self::Unlink(about) => about == name,
            Self::Rename(from, to) => from == name || to == name,
        }
    }
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn dead() -> io::Error {
    io::Error::other("crashed by the test")
}

impl Faulty {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Self::with(seed, &BTreeMap::new())
    }

    /// A well disk with these files, all safe.
    pub(super) fn with(seed: u64, files: &BTreeMap<String, Vec<u8>>) -> Arc<Self> {
        let names: BTreeMap<_, _> = files.keys().cloned().zip(0..).collect();
        let mut state = State {
            rng: Rng::new(seed),
            inodes: files.values().map(|bytes| Inode::safe(bytes)).collect(),
            safe: names.clone(),
            names,
            moves: Vec::new(),
            coming: None,
            read_only: false,
            budget: u64::MAX,
            crashed: false,
            failed_reads: false,
            mutations: 0,
            peak: 0,
        };
        state.peak = state.size();
        Arc::new(Self(Mutex::new(state)))
    }

    /// Does this to the `after`-th call from now (0: the next) that it can befall.
    pub(super) fn fail(&self, after: u64, fault: Fault) {
        self.lock().coming = Some((after, fault));
    }

    /// Makes it read-only, or writable again.
    pub(super) fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// The most bytes there are for files, each in whole pages.
    pub(super) fn set_budget(&self, budget: u64) {
        self.lock().budget = budget;
    }

    /// No fault is to come, and none is going on.
    pub(super) fn is_well(&self) -> bool {
        let state = self.lock();
        state.coming.is_none() && !state.read_only && !state.crashed && state.budget == u64::MAX
    }

    /// A read has failed, or may yet.
    pub(super) fn is_unreadable(&self) -> bool {
        let state = self.lock();
        state.failed_reads || matches!(state.coming, Some((_, Fault::Read)))
    }

    pub(super) fn is_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Nothing goes wrong from now on; what has crashed stays so.
    pub(super) fn heal(&self) {
        let mut state = self.lock();
        (state.coming, state.read_only, state.budget) = (None, false, u64::MAX);
        state.failed_reads = false;
    }

    /// Does this on a well disk, whatever is to come.
    pub(super) fn while_well<T>(&self, what: impl FnOnce() -> T) -> T {
        let (coming, crashed) = {
            let mut state = self.lock();
            (state.coming.take(), std::mem::take(&mut state.crashed))
        };
        let done = what();
        let mut state = self.lock();
        (state.coming, state.crashed) = (coming, crashed);
        done
    }

    /// Calls so far that change something.
    pub(super) fn mutations(&self) -> u64 {
        self.lock().mutations
    }

    /// Bytes that the files take, in whole pages.
    pub(super) fn size(&self) -> u64 {
        self.lock().size()
    }

    /// The most they have taken since the last crash, or [`Faulty::forget_peak`].
    pub(super) fn peak(&self) -> u64 {
        self.lock().peak
    }

    /// From now on.
    pub(super) fn forget_peak(&self) {
        let mut state = self.lock();
        state.peak = state.size();
    }

    /// As the process sees them.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        state
            .names
            .iter()
            .map(|(name, &inode)| (name.clone(), state.inodes[inode].bytes().to_vec()))
            .collect()
    }

    /// The process is gone, all it wrote is there. The disk is well again.
    pub(super) fn kill(&self) {
        self.lock().recover();
    }

    /// The power is gone, and with it by chance what was not synced. The disk is well again.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        state.lose_names();
        let State { inodes, rng, .. } = &mut *state;
        inodes.iter_mut().for_each(|inode| inode.cut(rng));
        state.recover();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn size(&self) -> u64 {
        self.names.values().map(|&inode| self.inodes[inode].pages() * PAGE).sum()
    }

    fn recover(&mut self) {
        (self.coming, self.read_only, self.budget) = (None, false, u64::MAX);
        (self.crashed, self.failed_reads) = (false, false);
        self.peak = self.size();
    }

    fn lose_names(&mut self) {
        let mut names = std::mem::take(&mut self.safe);
        let moves = std::mem::take(&mut self.moves);
        // In order, as a journal keeps them, or each by itself.
        let journal = (self.rng.below(2) == 0).then(|| self.rng.below(moves.len() as u64 + 1));
        for (at, change) in (0..).zip(&moves) {
            if journal.map_or_else(|| self.rng.below(2) == 0, |kept| at < kept) {
                change.apply(&mut names);
            }
        }
        (self.names, self.safe) = (names.clone(), names);
    }

    /// What befalls this call; the error of those that then do nothing.
    fn begin(&mut self, call: Call) -> io::Result<Option<Fault>> {
        if self.crashed {
            return Err(dead());
        }
        self.mutations += u64::from(call != Call::Read);
        let fault = match &mut self.coming {
            Some((0, fault)) if fault.befalls(call) => self.coming.take().map(|(_, fault)| fault),
            Some((after, fault)) if fault.befalls(call) => {
                *after -= 1;
                None
            }
            _ => None,
        };
        match fault {
            Some(Fault::Read) => {
                self.failed_reads = true;
                Err(errno(libc::EIO))
            }
            Some(Fault::ReadOnly) => Err(errno(libc::EROFS)),
            _ if self.read_only && call != Call::Read => Err(errno(libc::EROFS)),
            fault => {
                self.crashed = fault == Some(Fault::Crash);
                Ok(fault)
            }
        }
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| errno(libc::ENOENT))
    }

    fn change_names(&mut self, change: Move) {
        change.apply(&mut self.names);
        self.moves.push(change);
    }

    /// A new file, not in any folder yet.
    fn make(&mut self) -> usize {
        self.inodes.push(Inode::default());
        self.inodes.len() - 1
    }

    /// How many of the bytes fit, and whether those are all.
    fn room(&self, inode: usize, offset: u64, wanted: usize) -> usize {
        let others = self.size() - self.inodes[inode].pages() * PAGE;
        let end = self.budget.saturating_sub(others) / PAGE * PAGE;
        wanted.min(usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX))
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8], fault: Option<Fault>) -> io::Result<usize> {
        if fault == Some(Fault::Crash) && self.rng.below(4) == 0 {
            return Err(dead());
        }
        let inode = match self.find(name) {
            Ok(inode) => inode,
            Err(_) => {
                let inode = self.make();
                self.change_names(Move::Link(name.to_owned(), inode));
                inode
            }
        };
        let mut fits = self.room(inode, offset, bytes.len());
        if matches!(fault, Some(Fault::Full | Fault::Crash)) {
            fits = fits.min(self.rng.below(bytes.len() as u64 + 1) as usize);
        }
        self.inodes[inode].write(offset, &bytes[..fits]);
        self.peak = self.peak.max(self.size());
        match fault {
            Some(Fault::Crash) => Err(dead()),
            Some(Fault::Full) => Err(errno(libc::ENOSPC)),
            _ if fits < bytes.len() => Err(errno(libc::ENOSPC)),
            _ => Ok(inode),
        }
    }

    fn replace(&mut self, name: &str, bytes: &[u8], fault: Option<Fault>) -> io::Result<()> {
        let crashed = fault == Some(Fault::Crash);
        if fault == Some(Fault::Full)
            || self.size() + (bytes.len() as u64).next_multiple_of(PAGE) > self.budget
        {
            return Err(errno(libc::ENOSPC));
        }
        if crashed && self.rng.below(2) == 0 {
            return Err(dead());
        }
        let inode = self.make();
        self.inodes[inode] = Inode::safe(bytes);
        self.change_names(Move::Link(name.to_owned(), inode));
        self.peak = self.peak.max(self.size());
        match fault {
            Some(Fault::Crash) => return Err(dead()),
            // The old content may stand, or the new one; which of them, a power cut decides.
            Some(Fault::Sync) => return Err(errno(libc::EIO)),
            _ => {}
        }
        // Only this name is safe now: more is not promised.
        self.safe.insert(name.to_owned(), inode);
        for change in &mut self.moves {
            if let Move::Rename(from, to) = change
                && to == name
            {
                *change = Move::Unlink(from.clone());
            }
        }
        self.moves.retain(|change| !change.is_about(name));
        Ok(())
    }
}

impl Disk for Faulty {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.lock();
        state.begin(Call::Read)?;
        let files = state.names.iter();
        Ok(files.map(|(name, &inode)| (name.clone(), state.inodes[inode].bytes().len() as u64)).collect())
    }

    fn read(&self, name: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        state.begin(Call::Read)?;
        let inode = state.find(name)?;
        let bytes = state.inodes[inode].bytes();
        let rest = bytes.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buf.len());
        buf[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_synced(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let fault = state.begin(Call::Sync)?;
        let inode = state.write(name, offset, bytes, fault)?;
        let State { inodes, rng, .. } = &mut *state;
        if fault == Some(Fault::Sync) {
            inodes[inode].fail_to_sync(rng);
            return Err(errno(libc::EIO));
        }
        inodes[inode].sync();
        Ok(())
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let fault = state.begin(Call::Write)?;
        state.write(name, offset, bytes, fault).map(drop)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        let fault = state.begin(Call::Sync)?;
        state.replace(name, bytes, fault)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let fault = state.begin(Call::Name)?;
        state.find(from)?;
        state.name_fault(fault, Move::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        let fault = state.begin(Call::Name)?;
        if state.find(name).is_err() && fault.is_none() {
            return Ok(());
        }
        state.name_fault(fault, Move::Unlink(name.to_owned()))
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut state = self.lock();
        match state.begin(Call::Sync)? {
            Some(Fault::Crash) => Err(dead()),
            Some(Fault::Full | Fault::Sync) => Err(errno(libc::EIO)),
            _ => {
                state.safe = state.names.clone();
                state.moves.clear();
                Ok(())
            }
        }
    }
}

impl State {
    fn name_fault(&mut self, fault: Option<Fault>, change: Move) -> io::Result<()> {
        let crashed = fault == Some(Fault::Crash);
        if !crashed || self.rng.below(2) == 0 {
            self.change_names(change);
        }
        if crashed { Err(dead()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(disk: &Faulty, name: &str) -> Option<Vec<u8>> {
        disk.files().remove(name)
    }

    #[test]
    fn what_was_synced_survives_and_the_rest_may() {
        let (mut kept, mut lost, mut torn, mut gone) = (0, 0, 0, 0);
        for seed in 0..200 {
            let disk = Faulty::new(seed);
            disk.write_synced("a", 0, b"safe").unwrap();
            disk.sync_names().unwrap();
            disk.write("a", 4, b"written").unwrap();
            disk.write_synced("b", 0, b"without a name").unwrap();
            disk.cut();
            let a = read(&disk, "a").unwrap();
            assert!(a.starts_with(b"safe"), "seed {seed}");
            match &a[4..] {
                b"written" => kept += 1,
                b"" => lost += 1,
                _ => torn += 1,
            }
            gone += i32::from(read(&disk, "b").is_none());
        }
        assert!(kept > 20 && lost > 20 && torn > 20 && gone > 20, "{kept} {lost} {torn} {gone}");
    }

    #[test]
    fn names_return_unless_synced() {
        let (mut back, mut moved) = (0, 0);
        for seed in 0..100 {
            let disk = Faulty::new(seed);
            disk.replace("a", b"1").unwrap();
            disk.replace("b", b"2").unwrap();
            disk.remove("a").unwrap();
            disk.rename("b", "c").unwrap();
            disk.cut();
            back += i32::from(read(&disk, "a").is_some());
            moved += i32::from(read(&disk, "c").is_some());
            assert!(read(&disk, "b").is_some() != read(&disk, "c").is_some(), "seed {seed}");
            disk.remove("a").unwrap();
            disk.sync_names().unwrap();
            disk.cut();
            assert_eq!(read(&disk, "a"), None, "seed {seed}");
        }
        assert!((20..80).contains(&back) && (20..80).contains(&moved), "{back} {moved}");
    }

    #[test]
    fn a_failed_sync_is_not_made_good_by_the_next() {
        let mut lost = 0;
        for seed in 0..100 {
            let disk = Faulty::new(seed);
            disk.replace("a", b"").unwrap();
            disk.fail(0, Fault::Sync);
            assert_eq!(disk.write_synced("a", 0, b"bytes").unwrap_err().raw_os_error(), Some(libc::EIO));
            disk.write_synced("a", 5, b"").unwrap();
            disk.cut();
            lost += i32::from(read(&disk, "a").unwrap() != b"bytes");
        }
        assert!((20..80).contains(&lost), "{lost}");
    }

    #[test]
    fn each_fault_is_met_once() {
        let disk = Faulty::new(1);
        disk.fail(1, Fault::Full);
        disk.write("a", 0, b"1").unwrap();
        assert_eq!(disk.write("a", 1, b"2").unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        disk.write("a", 1, b"2").unwrap();
        disk.fail(0, Fault::Crash);
        disk.write("a", 2, b"3").unwrap_err();
        disk.read("a", 0, &mut [0]).unwrap_err();
        disk.kill();
        assert!(read(&disk, "a").unwrap().starts_with(b"12"));
        disk.set_budget(2 * PAGE);
        assert_eq!(disk.write("a", 0, &[0; 9000]).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
        assert_eq!((disk.size(), disk.peak()), (2 * PAGE, 2 * PAGE));
        disk.set_read_only(true);
        assert_eq!(disk.remove("a").unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
}
