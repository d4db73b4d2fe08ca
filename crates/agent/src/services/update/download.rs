//! Brings the file of an update to this device, however often the way breaks.
//!
//! One [`Download::fetch`] is one try over one connection. What came before the end of a try is kept, and the next one,
//! also of a later process, goes on there. Nothing that a server says is believed: the file has the size and SHA-256
//! that were wanted, or there is none. Memory does not grow with it.

mod ask;
mod error;
mod pace;
mod partial;
mod span;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper::{StatusCode, body::Bytes};
use ring::digest::{SHA256, digest};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

pub(super) use self::ask::document;
pub(super) use self::error::Error;
use self::{
    ask::{Rest, Way, get},
    error::Why,
    pace::{Flow, Pace},
    partial::{Kind, Partial},
};
use super::installer::Full;
use crate::{
    clock::Clock,
    http::{Client, Response, Url},
    outbox::apart,
};

/// Parts of a body on their way to the disk; none is longer than what the client reads at once.
const QUEUE: usize = 2;
/// How long an earlier try may take to leave the file alone: its last write and sync.
const LEAVE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// What is to be fetched: the file is exactly this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Where it lies.
    pub(super) url: String,
    /// Its length, in bytes.
    pub(super) size: u64,
    /// Its hash; none where a signature within has to do.
    pub(super) sha256: Option<[u8; 32]>,
}

/// How it is fetched.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// In bytes a second.
    pub(super) bandwidth_limit: Option<u64>,
    /// For how long nothing may come.
    pub(super) stall_timeout: Duration,
    /// The largest file that is begun with, in bytes.
    pub(super) max_size: u64,
}

/// Fetches one file at a time into a folder.
#[derive(Debug)]
pub(super) struct Download {
    folder: PathBuf,
    rules: Rules,
    way: Way,
    /// Of the last URL: it remembers lookups that hang, so that they do not add up.
    client: Mutex<Option<Arc<Client>>>,
}

impl Download {
    /// In a folder of its own (0700, made where it is missing): the file, and what is known of it beside.
    pub(super) fn new(folder: PathBuf, rules: Rules, clock: Clock) -> Self {
        let receive_buffer = pace::receive_buffer(rules.bandwidth_limit);
        Self { folder, rules, way: Way { clock, receive_buffer }, client: Mutex::default() }
    }

    /// The whole file, with the size and hash that are wanted, safe on the disk. Goes on where an earlier try has ended.
    /// `progress` is told how many bytes are there by now, often.
    ///
    /// May be dropped at any time: the next try goes on.
    ///
    /// # Errors
    /// Says whether another try may mend it, and what this one has gained.
    pub(super) async fn fetch(
        &self,
        wanted: &Wanted,
        mut progress: impl FnMut(u64),
    ) -> Result<PathBuf, Error> {
        let client = self.client(wanted)?;
        let mut held = Held(Some(self.open(wanted).await?));
        let most = held.get().most();
        let ended = self.complete(&client, wanted, &mut held, &mut progress).await;
        ended
            .map_err(|why| Error::new(why, held.0.map_or(0, |partial| partial.length().saturating_sub(most))))
    }

    /// What is to be fetched in place of a package with patches. Where nobody has said how long it is, its server does.
    ///
    /// # Errors
    /// It cannot be asked, or does not know.
    pub(super) async fn whole(&self, full: &Full) -> Result<Wanted, Error> {
        let sha256 = full.sha256.map(|sha256| sha256.0);
        let mut wanted = Wanted { url: full.url.clone(), size: full.size.unwrap_or(0), sha256 };
        if full.size.is_none() {
            let client = self.client(&wanted)?;
            let response = get(&self.way, &client, None).await?;
            if response.status() != StatusCode::OK {
                return Err(Why::status(&response).into());
            }
            let length = response.header("content-length").and_then(|length| length.parse().ok());
            wanted.size = length.ok_or_else(|| Why::NoLength { host: response.host().to_owned() })?;
        }
        Ok(wanted)
    }

    /// Where the file is, once it is whole.
    pub(super) fn file(&self) -> PathBuf {
        partial::path(&self.folder)
    }

    /// Removes all of it: for the end of an update. Blocks for as long as the disk does.
    ///
    /// # Errors
    /// Those of the disk.
    pub(super) fn discard(&self) -> io::Result<()> {
        partial::remove(&self.folder)
    }

    fn client(&self, wanted: &Wanted) -> Result<Arc<Client>, Why> {
        let max = self.rules.max_size;
        if wanted.size > max {
            return Err(Why::TooLarge { size: wanted.size, max });
        }
        let url: Url = wanted.url.parse().map_err(Why::Url)?;
        let mut kept = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.as_ref().filter(|client| *client.url() == url) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(self.way.to(url)?);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }

    /// What is there of it by now, once no earlier try has it any more.
    async fn open(&self, wanted: &Wanted) -> Result<Partial, Why> {
        let by = Instant::now() + LEAVE;
        // Without a hash it is known by where it comes from.
        let by_url = || digest(&SHA256, wanted.url.as_bytes()).as_ref().try_into().unwrap_or_default();
        let kind = Kind { size: wanted.size, sha256: wanted.sha256.unwrap_or_else(by_url) };
        loop {
            let (folder, gone) = (self.folder.clone(), CancellationToken::new());
            // Reading what is there may take minutes, which nobody needs who has left.
            let _left = gone.clone().drop_guard();
            match apart(move || Partial::open(folder, kind, &|| gone.is_cancelled())).await {
                Ok(Some(partial)) => return Ok(partial),
                Ok(None) if Instant::now() < by => sleep(LOOK).await,
                Ok(None) => return Err(Why::Busy),
                Err(source) => return Err(self.disk(source)),
            }
        }
    }

    async fn complete(
        &self,
        client: &Client,
        wanted: &Wanted,
        held: &mut Held,
        progress: &mut impl FnMut(u64),
    ) -> Result<PathBuf, Why> {
        progress(held.get().length());
        if held.get().length() == wanted.size {
            match self.finish(held, wanted).await {
                // Damaged by whatever it was: from the start again.
                Err(Why::Sha256 { .. }) => {}
                ended => return ended,
            }
        }
        self.check_room(held, wanted.size).await?;
        let response = self.ask(client, wanted, held).await?;
        let (parts, queue) = mpsc::channel(QUEUE);
        let from = held.get().length();
        let received = self.receive(response, parts, from..wanted.size, progress);
        let (written, received) = tokio::join!(held.apart(|partial| partial.take(queue)), received);
        written.map_err(|source| self.disk(source))?;
        if matches!(received, Err(Why::More { .. })) {
            self.clear(held, None).await?;
        }
        received?;
        self.finish(held, wanted).await
    }

    /// An answer that goes on where the file ends, or begins at its start if the server has it otherwise.
    async fn ask(&self, client: &Client, wanted: &Wanted, held: &mut Held) -> Result<Response, Why> {
        let (from, validator) = (held.get().length(), held.get().validator().map(str::to_owned));
        let mut response = None;
        if from > 0 {
            let rest = Rest { from, validator: validator.as_deref() };
            let answer = get(&self.way, client, Some(rest)).await?;
            match answer.status() {
                StatusCode::PARTIAL_CONTENT => {
                    if span::is_the_rest(&answer, from, validator.as_deref(), wanted.size)? {
                        return Ok(answer);
                    }
                }
                // Another file, or a server that knows no ranges.
                StatusCode::OK => response = Some(answer),
                // A file that ends before ours does.
                StatusCode::RANGE_NOT_SATISFIABLE => {}
                _ => return Err(Why::status(&answer)),
            }
        }
        let response = match response {
            Some(response) => response,
            None => get(&self.way, client, None).await?,
        };
        if response.status() != StatusCode::OK {
            return Err(Why::status(&response));
        }
        span::check_length(&response, wanted.size)?;
        self.clear(held, span::validator(&response)).await?;
        Ok(response)
    }

    /// Hands on what comes, until the `span` of bytes is full or no more comes.
    async fn receive(
        &self,
        mut response: Response,
        parts: mpsc::Sender<Bytes>,
        span: std::ops::Range<u64>,
        progress: &mut impl FnMut(u64),
    ) -> Result<(), Why> {
        let (mut there, size, stall) = (span.start, span.end, self.rules.stall_timeout);
        let limit = self.rules.bandwidth_limit;
        let (mut pace, mut flow) = (limit.map(Pace::new), Flow::new(stall, limit));
        let broken = |error, there| Why::broken(error, there, size);
        while let Some(part) =
            response.part(Instant::now() + stall, stall).await.map_err(|error| broken(error, there))?
        {
            let length = part.len() as u64;
            there += length;
            if there > size {
                return Err(Why::More { host: response.host().to_owned(), size });
            }
            if parts.send(part).await.is_err() {
                // The disk has failed, and says why.
                return Ok(());
            }
            progress(there);
            if let Some(bytes) = flow.trickles(length).filter(|_| there < size) {
                return Err(Why::Trickle { bytes, within: flow.within, there, size });
            }
            if let Some(pace) = &mut pace {
                pace.keep(length).await;
            }
        }
        if there < size { Err(Why::Fewer { host: response.host().to_owned(), there, size }) } else { Ok(()) }
    }

    /// Judges the whole file; none is left where it is wrong.
    async fn finish(&self, held: &mut Held, wanted: &Wanted) -> Result<PathBuf, Why> {
        let found = held.apart(Partial::finish).await.map_err(|source| self.disk(source))?;
        match wanted.sha256 {
            Some(wanted) if found != wanted => {
                self.clear(held, None).await?;
                Err(Why::Sha256 { wanted, found })
            }
            _ => Ok(partial::path(&self.folder)),
        }
    }

    async fn clear(&self, held: &mut Held, validator: Option<String>) -> Result<(), Why> {
        let cleared = held.apart(move |partial| partial.clear(validator)).await;
        cleared.map_err(|source| self.disk(source))
    }

    async fn check_room(&self, held: &mut Held, size: u64) -> Result<(), Why> {
        let needed = size - held.get().length();
        let free = held.apart(|partial| partial.free()).await.map_err(|source| self.disk(source))?;
        if free < needed {
            return Err(Why::Room { folder: self.folder.clone(), needed, free });
        }
        Ok(())
    }

    fn disk(&self, source: io::Error) -> Why {
        Why::disk(self.folder.clone(), source)
    }
}

/// The file, but while a thread has it that waits for the disk.
struct Held(Option<Partial>);

impl Held {
    fn get(&self) -> &Partial {
        self.0.as_ref().expect("a thread gives the file back before anything else is done")
    }

    async fn apart<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Partial) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let mut partial = self.0.take().expect("a thread gives the file back before anything else is done");
        let (partial, done) = apart(move || {
            let done = work(&mut partial);
            (partial, done)
        })
        .await;
        self.0 = Some(partial);
        done
    }
}

#[cfg(test)]
mod tests;
