//! A disk in memory that fails, and loses what a real one may lose.
//!
//! A killed process leaves all it has written. After a power cut a file has what was synced; each page of what was
//! only written is there, is not, or is torn at any byte; of the changes of names since the last sync there are the first
//! few or all, as a file system's journal keeps them in order. After a failed sync the kernel holds the pages to be clean: what had not reached the disk
//! then never does, though every later sync succeeds.

mod fault;
mod inode;
mod names;
mod tests;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use testkit::Rng;

use super::Disk;
use fault::Call;
pub(crate) use fault::Fault;
use inode::{Inode, PAGE};
use names::{Move, Names};

/// The disk. Repeats itself for the same seed and calls.
#[derive(Debug)]
pub(crate) struct Faulty(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: Rng,
    inodes: Vec<Inode>,
    names: Names,
    /// Goes wrong after so many more calls that it can befall.
    coming: Option<(u64, Fault)>,
    read_only: bool,
    budget: u64,
    crashed: bool,
    failed_reads: bool,
    mutations: u64,
    peak: u64,
}

fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

fn dead() -> io::Error {
    io::Error::other("crashed by the test")
}

impl Faulty {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Self::with(seed, &BTreeMap::new())
    }

    /// A well disk with these files, all safe.
    pub(crate) fn with(seed: u64, files: &BTreeMap<String, Vec<u8>>) -> Arc<Self> {
        let names: BTreeMap<_, _> = files.keys().cloned().zip(0..).collect();
        let mut state = State {
            rng: Rng::new(seed),
            inodes: files.values().map(|bytes| Inode::safe(bytes)).collect(),
            names: Names::new(names),
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
    pub(crate) fn fail(&self, after: u64, fault: Fault) {
        self.lock().coming = Some((after, fault));
    }

    /// Makes it read-only, or writable again.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        self.lock().read_only = read_only;
    }

    /// The most bytes there are for files, each in whole pages.
    pub(crate) fn set_budget(&self, budget: u64) {
        self.lock().budget = budget;
    }

    /// No fault is to come, and none is going on.
    pub(crate) fn is_well(&self) -> bool {
        let state = self.lock();
        state.coming.is_none() && !state.read_only && !state.crashed && state.budget == u64::MAX
    }

    /// A read has failed, or may yet.
    pub(crate) fn is_unreadable(&self) -> bool {
        let state = self.lock();
        state.failed_reads || matches!(state.coming, Some((_, Fault::Read)))
    }

    pub(crate) fn is_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Nothing goes wrong from now on; what has crashed stays so.
    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        (state.coming, state.read_only, state.budget) = (None, false, u64::MAX);
        state.failed_reads = false;
    }

    /// Does this on a well disk, whatever is to come.
    pub(crate) fn while_well<T>(&self, what: impl FnOnce() -> T) -> T {
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
    pub(crate) fn mutations(&self) -> u64 {
        self.lock().mutations
    }

    /// Bytes that the files take, in whole pages.
    pub(crate) fn size(&self) -> u64 {
        self.lock().size()
    }

    /// The most they have taken since the last crash, or [`Faulty::forget_peak`].
    pub(crate) fn peak(&self) -> u64 {
        self.lock().peak
    }

    /// From now on.
    pub(crate) fn forget_peak(&self) {
        let mut state = self.lock();
        state.peak = state.size();
    }

    /// As the process sees them.
    pub(crate) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.lock();
        state
            .names
            .live()
            .iter()
            .map(|(name, &inode)| (name.clone(), state.inodes[inode].bytes().to_vec()))
            .collect()
    }

    /// The process is gone, all it wrote is there. The disk is well again.
    pub(crate) fn kill(&self) {
        self.lock().recover();
    }

    /// The power is gone, and with it by chance what was not synced. The disk is well again.
    pub(crate) fn cut(&self) {
        let mut state = self.lock();
        let State { inodes, names, rng, .. } = &mut *state;
        names.lose(rng);
        inodes.iter_mut().for_each(|inode| inode.cut(rng));
        state.recover();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn size(&self) -> u64 {
        self.names.live().values().map(|&inode| self.inodes[inode].pages() * PAGE).sum()
    }

    fn recover(&mut self) {
        (self.coming, self.read_only, self.budget) = (None, false, u64::MAX);
        (self.crashed, self.failed_reads) = (false, false);
        self.peak = self.size();
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
        self.names.live().get(name).copied().ok_or_else(|| errno(libc::ENOENT))
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
        let part = self.rng.below(4);
        if fault == Some(Fault::Crash) && part == 0 {
            return Err(dead());
        }
        let inode = match self.find(name) {
            Ok(inode) => inode,
            Err(_) => {
                let inode = self.make();
                self.names.change(Move::Link(name.to_owned(), inode));
                inode
            }
        };
        let mut fits = self.room(inode, offset, bytes.len());
        if matches!(fault, Some(Fault::Full | Fault::Crash)) && part > 1 {
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
        self.names.change(Move::Link(name.to_owned(), inode));
        self.peak = self.peak.max(self.size());
        match fault {
            Some(Fault::Crash) => return Err(dead()),
            // The old content may stand, or the new one; which of them, a power cut decides.
            Some(Fault::Sync) => return Err(errno(libc::EIO)),
            _ => {}
        }
        self.names.keep(name);
        Ok(())
    }
}

impl Disk for Faulty {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut state = self.lock();
        state.begin(Call::Read)?;
        let files = state.names.live().iter();
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
                state.names.sync();
                Ok(())
            }
        }
    }
}

impl State {
    fn name_fault(&mut self, fault: Option<Fault>, change: Move) -> io::Result<()> {
        let crashed = fault == Some(Fault::Crash);
        if !crashed || self.rng.below(2) == 0 {
            self.names.change(change);
        }
        if crashed { Err(dead()) } else { Ok(()) }
    }
}
