//! The named pipes through which a module may take the files of a package. What goes through them was verified before.

use std::{
    fs::File,
    future::pending,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::unix::pipe::{OpenOptions, Sender},
    time::sleep,
};

use crate::{log::chain, outbox::apart};

/// Where the module reads which is the next.
const NEXT: &str = "stream-next";
/// Where the pipes of the files lie.
const STREAMS: &str = "streams";
/// How soon it is looked again whether the module reads.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes that are read at once.
const PIECE: usize = 256 << 10;

/// The files of a package, for a module that wants to read them.
#[derive(Debug)]
pub(super) struct Streams {
    tree: PathBuf,
    payload: PathBuf,
    /// Names and sizes, in the order of the names.
    files: Vec<(String, u64)>,
    /// The sizes are told, too.
    sizes: bool,
    began: AtomicBool,
    finished: AtomicBool,
}

impl Streams {
    /// Of the files that lie in the folder of the payload, for a module that works in the tree.
    ///
    /// # Errors
    /// What the system said, or what cannot go through a pipe.
    pub(super) fn new(tree: &Path, payload: &Path, sizes: bool) -> io::Result<Self> {
        let mut files = Vec::new();
        for item in std::fs::read_dir(payload)? {
            let item = item?;
            let name = item.file_name().to_string_lossy().into_owned();
            files.push((name, item.metadata()?.len()));
        }
        files.sort();
        let (tree, payload) = (tree.to_owned(), payload.to_owned());
        Ok(Self {
            tree,
            payload,
            files,
            sizes,
            began: AtomicBool::new(false),
            finished: AtomicBool::new(false),
        })
    }

    /// Makes the pipes.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn make(&self) -> io::Result<()> {
        let folder = self.tree.join(STREAMS);
        std::fs::create_dir(&folder)?;
        make_pipe(&self.tree.join(NEXT))?;
        self.files.iter().try_for_each(|(name, _)| make_pipe(&folder.join(name)))
    }

    /// Removes them.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(self.tree.join(NEXT))?;
        std::fs::remove_dir_all(self.tree.join(STREAMS))
    }

    /// The module has begun to read.
    pub(super) fn began(&self) -> bool {
        self.began.load(Ordering::Relaxed)
    }

    /// It has read all, and that there is no more.
    pub(super) fn finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }

    /// Gives the module what it reads, for as long as it does. Ends only where that cannot go on, and says why.
    pub(super) async fn serve(&self) -> String {
        match self.all().await {
            Ok(()) => pending().await,
            Err(why) => why,
        }
    }

    async fn all(&self) -> Result<(), String> {
        for (name, size) in &self.files {
            let mut next = self.opened(NEXT).await?;
            self.began.store(true, Ordering::Relaxed);
            let line =
                if self.sizes { format!("{STREAMS}/{name} {size}\n") } else { format!("{STREAMS}/{name}\n") };
            next.write_all(line.as_bytes())
                .await
                .map_err(|error| format!("stopped reading {NEXT}: {}", chain(&error)))?;
            // Its end is what the module waits for.
            drop(next);
            let stream = self.opened(&format!("{STREAMS}/{name}")).await?;
            let file = self.payload.join(name);
            pour(&file, stream).await.map_err(|error| {
                format!("stopped reading {STREAMS}/{name} before its end: {}", chain(&error))
            })?;
        }
        // Nothing in it says that this was all.
        let end = self.opened(NEXT).await?;
        self.began.store(true, Ordering::Relaxed);
        self.finished.store(true, Ordering::Relaxed);
        drop(end);
        Ok(())
    }

    /// Opened for writing, once somebody reads.
    async fn opened(&self, name: &str) -> Result<Sender, String> {
        let path = self.tree.join(name);
        loop {
            match OpenOptions::new().open_sender(&path) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                    sleep(LOOK).await;
                }
                opened => {
                    return opened.map_err(|error| format!("cannot be given {name}: {}", chain(&error)));
                }
            }
        }
    }
}

async fn pour(path: &Path, mut stream: Sender) -> io::Result<()> {
    let path = path.to_owned();
    let mut file = apart(move || File::open(path)).await?;
    let mut buffer = vec![0; PIECE];
    loop {
        let read;
        (file, buffer, read) = apart(move || {
            let read = file.read(&mut buffer);
            (file, buffer, read)
        })
        .await;
        match read? {
            0 => return Ok(()),
            read => stream.write_all(&buffer[..read]).await?,
        }
    }
}

#[cfg(not(target_vendor = "apple"))]
fn make_pipe(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o600))?)
}

/// Modules are of Linux.
#[cfg(target_vendor = "apple")]
fn make_pipe(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
