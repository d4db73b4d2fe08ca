//! One process that is watched: its files, kept open, and what they said.

use std::{fs::File, io};

use super::{
    Wanted,
    parse::{self, Io, Stat},
    procfs::{Proc, fill, gone},
};

/// One that is watched.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) pid: u32,
    /// The selectors that it counts for.
    pub(super) matches: Vec<u16>,
    /// As of this look.
    pub(super) stat: Stat,
    /// Its ticks at the last look; not known where it ran then, and was not watched.
    pub(super) before: Option<u64>,
    /// Its name as it is in `stat`.
    name: Vec<u8>,
    files: Files,
}

/// Its files that are read at each look.
#[derive(Debug, Default)]
struct Files {
    /// Whether they stay open.
    keep: bool,
    stat: Option<File>,
    statm: Option<File>,
    io: Option<File>,
}

/// What became of it since the last look.
#[derive(Debug)]
pub(super) enum News {
    /// Nothing.
    Same,
    /// It runs another program.
    Renamed,
    /// It has ended, or is another of the same number.
    Gone,
    /// It may be there.
    Unknown(io::Error),
}

/// What it uses, beside what is in `stat`; each as it could be read.
pub(super) struct Usage {
    pub(super) pages: Option<io::Result<u64>>,
    pub(super) io: Option<io::Result<Io>>,
    pub(super) fds: io::Result<u64>,
}

impl Instance {
    /// Begins to watch it.
    ///
    /// # Errors
    /// When it has ended meanwhile.
    pub(super) fn new(proc: &Proc, pid: u32, keep: bool, buffer: &mut Vec<u8>) -> io::Result<Self> {
        let mut files = Files { keep, ..Files::default() };
        let (name, stat) = read_stat(&mut files, proc, pid, buffer)?;
        Ok(Self { pid, matches: Vec::new(), stat, before: None, name: name.to_vec(), files })
    }

    /// Whether its files stay open.
    pub(super) fn kept(&self) -> bool {
        self.files.keep
    }

    /// Looks whether it is there, and takes its `stat`.
    pub(super) fn refresh(&mut self, proc: &Proc, buffer: &mut Vec<u8>) -> News {
        let (name, stat) = match read_stat(&mut self.files, proc, self.pid, buffer) {
            Ok(read) => read,
            Err(error) if gone(&error) => return News::Gone,
            Err(error) => return News::Unknown(error),
        };
        if stat.start != self.stat.start {
            return News::Gone;
        }
        self.stat = stat;
        if name == self.name {
            return News::Same;
        }
        self.name.clear();
        self.name.extend_from_slice(name);
        News::Renamed
    }

    /// What it uses.
    ///
    /// # Errors
    /// When it has ended meanwhile.
    pub(super) fn usage(
        &mut self,
        proc: &mut Proc,
        wanted: Wanted,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Usage> {
        let Self { pid, files: Files { keep, statm, io, .. }, .. } = self;
        let pages = wanted.memory.then(|| {
            read(statm, *keep, proc, (*pid, "statm"), buffer).and_then(|()| known(parse::resident(buffer)))
        });
        let io = wanted
            .io
            .then(|| read(io, *keep, proc, (*pid, "io"), buffer).and_then(|()| known(parse::io(buffer))));
        let fds = proc.open_files(*pid);
        let usage = Usage { pages, io, fds };
        // A kernel may be without one of them; without the process, all are gone.
        if usage.errors().any(gone) && !proc.exists(*pid) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(usage)
    }
}

impl Usage {
    fn errors(&self) -> impl Iterator<Item = &io::Error> {
        let pages = self.pages.as_ref().and_then(|pages| pages.as_ref().err());
        let io = self.io.as_ref().and_then(|io| io.as_ref().err());
        pages.into_iter().chain(io).chain(self.fds.as_ref().err())
    }
}

fn known<T>(parsed: Option<T>) -> io::Result<T> {
    parsed.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not understood"))
}

fn read_stat<'b>(
    files: &mut Files,
    proc: &Proc,
    pid: u32,
    buffer: &'b mut Vec<u8>,
) -> io::Result<(&'b [u8], Stat)> {
    read(&mut files.stat, files.keep, proc, (pid, "stat"), buffer)?;
    let (name, stat) = known(parse::stat(buffer))?;
    // It does nothing any more, but for being waited for.
    if stat.zombie { Err(io::ErrorKind::NotFound.into()) } else { Ok((name, stat)) }
}

/// From the file that is open, else from one opened now, which is then kept if it may be.
fn read(
    open: &mut Option<File>,
    keep: bool,
    proc: &Proc,
    (pid, name): (u32, &str),
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    if let Some(file) = open {
        let read = fill(file, buffer);
        if read.is_err() {
            *open = None;
        }
        return read;
    }
    let file = proc.open(pid, name)?;
    fill(&file, buffer)?;
    *open = keep.then_some(file);
    Ok(())
}
