//! An HTTP/1.1 server of one file, with ranges, validators and redirects as they should be, or as they are told to be.

use std::{
    collections::VecDeque,
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{
    certs::Pki,
    tls::acceptor,
    web::{self, Request},
};

/// What is written at once, in bytes.
const PIECE: usize = 64 << 10;
/// What waits in the kernel to be sent, in bytes: little, so that what counts as sent is on its way.
const WAITING: usize = 64 << 10;

/// How an answer ends that does not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The connection is closed.
    Closed,
    /// It is reset.
    Reset,
    /// Nothing more comes.
    Silent,
}

/// What the server does with one request. The default is what a good server does.
#[derive(Debug, Clone, Default)]
pub struct Mood {
    /// A status without a file; with a `location` that of a redirect.
    pub status: Option<u16>,
    /// Where a redirect leads.
    pub location: Option<String>,
    /// Ranges are not known: the answer is always the whole file.
    pub whole: bool,
    /// `If-Range` is not known: the range is served whatever it says.
    pub blind: bool,
    /// The headers of validators, each with its line end; instead of a strong ETag.
    pub validators: Option<String>,
    /// Another `Content-Length`.
    pub length: Option<u64>,
    /// Another `Content-Range`.
    pub range: Option<String>,
    /// More headers, each with its line end.
    pub headers: String,
    /// In chunks, without a length.
    pub chunked: bool,
    /// So many bytes more than there are.
    pub more: u64,
    /// After so many bytes of this answer's body it ends.
    pub cut: Option<(u64, End)>,
    /// Bytes a second.
    pub rate: Option<u64>,
}

/// One request and what was sent upon it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The request as it came.
    pub request: Request,
    /// The first byte that was asked for, if not all.
    pub from: Option<u64>,
    /// Bytes of the body that were given to the connection.
    pub sent: u64,
}

#[derive(Debug, Clone)]
enum Body {
    Bytes(Arc<[u8]>),
    File(Arc<File>, u64),
}

impl Body {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }

    /// Fills the buffer from `at` on; beyond the end with points.
    fn read(&self, at: u64, buffer: &mut [u8]) -> anyhow::Result<()> {
        let here = usize::try_from(self.len().saturating_sub(at))?.min(buffer.len());
        let (here, beyond) = buffer.split_at_mut(here);
        beyond.fill(b'.');
        match self {
            Self::Bytes(bytes) => {
                let at = usize::try_from(at)?.min(bytes.len());
                here.copy_from_slice(&bytes[at..at + here.len()]);
            }
            Self::File(file, _) => file.read_exact_at(here, at)?,
        }
        Ok(())
    }
}

#[derive(Debug)]
struct State {
    body: Body,
    /// Of the file: its ETag says so.
    generation: u64,
    usual: Mood,
    next: VecDeque<Mood>,
    asked: Vec<Asked>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    more: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sent(&self, number: usize, count: u64) {
        self.lock().asked[number].sent += count;
        self.more.notify_waiters();
    }
}

/// The server; it ends with this.
#[derive(Debug)]
pub struct Downloads {
    shared: Arc<Shared>,
    url: String,
    task: AbortHandle,
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Downloads {
    /// A server of these bytes in the clear on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When it cannot be started; so for the other kinds.
    pub async fn start(bytes: impl Into<Arc<[u8]>>) -> anyhow::Result<Self> {
        Self::begin("http", "127.0.0.1", Body::Bytes(bytes.into()), |stream| async { Ok(stream) }).await
    }

    /// The same of a file on the disk.
    ///
    /// # Errors
    /// Also when there is none.
    pub async fn of_file(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let length = file.metadata()?.len();
        let body = Body::File(Arc::new(file), length);
        Self::begin("http", "127.0.0.1", body, |stream| async { Ok(stream) }).await
    }

    /// One that speaks TLS as `localhost`.
    ///
    /// # Errors
    /// As above.
    pub async fn start_tls(pki: &Pki, bytes: impl Into<Arc<[u8]>>) -> anyhow::Result<Self> {
        let acceptor = acceptor(&pki.server()?)?;
        Self::begin("https", "localhost", Body::Bytes(bytes.into()), move |stream| {
            let acceptor = acceptor.clone();
            async move { Ok(acceptor.accept(stream).await?) }
        })
        .await
    }

    async fn begin<S, F>(
        scheme: &str,
        host: &str,
        body: Body,
        wrap: impl Fn(TcpStream) -> F + Clone + Send + 'static,
    ) -> anyhow::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = anyhow::Result<S>> + Send + 'static,
    {
        let state =
            State { body, generation: 1, usual: Mood::default(), next: VecDeque::new(), asked: Vec::new() };
        let shared = Arc::new(Shared { state: Mutex::new(state), more: Notify::new() });
        let served = Arc::clone(&shared);
        let (port, task) = web::serve(wrap, move |stream, socket| {
            rustix::net::sockopt::set_socket_send_buffer_size(&socket, WAITING).ok();
            let shared = Arc::clone(&served);
            async move { talk(stream, &socket, &shared).await }
        })
        .await?;
        Ok(Self { shared, url: format!("{scheme}://{host}:{port}/"), task })
    }

    /// Where it is; ends with a slash. Every path below it is the file.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Serves other bytes from now on, under another ETag.
    pub fn replace(&self, bytes: impl Into<Arc<[u8]>>) {
        let mut state = self.shared.lock();
        state.body = Body::Bytes(bytes.into());
        state.generation += 1;
    }

    /// What becomes of requests for which nothing else is said.
    pub fn usually(&self, mood: Mood) {
        self.shared.lock().usual = mood;
    }

    /// What becomes of the next requests, one each.
    pub fn next(&self, moods: impl IntoIterator<Item = Mood>) {
        self.shared.lock().next.extend(moods);
    }

    /// All it was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// Bytes of bodies that were given to connections so far.
    pub fn sent(&self) -> u64 {
        self.shared.lock().asked.iter().map(|asked| asked.sent).sum()
    }

    /// Waits until so many were.
    ///
    /// # Errors
    /// When there are fewer after `limit`.
    pub async fn wait_sent(&self, bytes: u64, limit: Duration) -> anyhow::Result<()> {
        let enough = async {
            loop {
                let more = self.shared.more.notified();
                if self.sent() >= bytes {
                    return;
                }
                more.await;
            }
        };
        timeout(limit, enough).await.with_context(|| format!("{} bytes of {bytes}", self.sent()))
    }
}

/// One answer: its head, and which bytes of which file.
struct Answer {
    mood: Mood,
    body: Body,
    head: String,
    from: u64,
    until: u64,
}

impl Answer {
    fn new(request: &Request, state: &mut State) -> Self {
        let mood = state.next.pop_front().unwrap_or_else(|| state.usual.clone());
        let (body, size) = (state.body.clone(), state.body.len());
        if let Some(status) = mood.status {
            let location = mood.location.as_ref().map(|to| format!("Location: {to}\r\n")).unwrap_or_default();
            let head =
                format!("HTTP/1.1 {status} Said\r\n{location}{}Content-Length: 0\r\n\r\n", mood.headers);
            return Self { mood, body, head, from: 0, until: 0 };
        }
        let tag = format!("\"generation-{}\"", state.generation);
        let validators = mood.validators.clone().unwrap_or_else(|| format!("ETag: {tag}\r\n"));
        let same = mood.blind
            || request.header("if-range").is_none_or(|value| validators.contains(&format!(": {value}\r\n")));
        let from = first_byte(request).filter(|_| same && !mood.whole);
        let (status, range) = match from {
            Some(from) if from >= size => {
                let head = format!(
                    "HTTP/1.1 416 Said\r\nContent-Range: bytes */{size}\r\nContent-Length: 0\r\n\r\n"
                );
                return Self { mood, body, head, from: 0, until: 0 };
            }
            Some(from) => (206, Some(format!("bytes {from}-{}/{size}", size - 1))),
            None => (200, None),
        };
        let (from, until) = (from.unwrap_or(0), size + mood.more);
        let range = range.map(|range| mood.range.clone().unwrap_or(range));
        let range = range.map(|range| format!("Content-Range: {range}\r\n")).unwrap_or_default();
        let length = if mood.chunked {
            "Transfer-Encoding: chunked\r\n".to_owned()
        } else {
            format!("Content-Length: {}\r\n", mood.length.unwrap_or(until - from))
        };
        let head = format!("HTTP/1.1 {status} Said\r\n{validators}{range}{length}{}\r\n", mood.headers);
        Self { mood, body, head, from, until }
    }
}

fn first_byte(request: &Request) -> Option<u64> {
    request.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    socket: &OwnedFd,
    shared: &Shared,
) -> anyhow::Result<()> {
    let request = web::read(&mut stream).await?;
    let (answer, number) = {
        let mut state = shared.lock();
        let answer = Answer::new(&request, &mut state);
        let from = first_byte(&request);
        state.asked.push(Asked { request, from, sent: 0 });
        (answer, state.asked.len() - 1)
    };
    shared.more.notify_waiters();
    stream.write_all(answer.head.as_bytes()).await?;
    let ended = send(&mut stream, &answer, |count| shared.sent(number, count)).await?;
    stream.flush().await?;
    match ended {
        End::Closed => stream.shutdown().await?,
        // Until the client ends it.
        End::Silent => drop(stream.read(&mut [0; 1]).await?),
        // Closing it is a reset, then.
        End::Reset => rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO))?,
    }
    Ok(())
}

async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    answer: &Answer,
    sent: impl Fn(u64),
) -> anyhow::Result<End> {
    let Answer { mood, body, from, until, .. } = answer;
    let (mut at, mut buffer) = (*from, vec![0; PIECE]);
    let stop = mood.cut.map_or(*until, |(after, _)| until.min(&(from + after)).to_owned());
    // Twenty times a second, where there is a rate.
    let piece =
        mood.rate.map_or(PIECE, |rate| usize::try_from(rate / 20).map_or(PIECE, |n| n.clamp(1, PIECE)));
    while at < stop {
        let count = usize::try_from(stop - at)?.min(piece);
        body.read(at, &mut buffer[..count])?;
        if mood.chunked {
            stream.write_all(format!("{count:x}\r\n").as_bytes()).await?;
        }
        stream.write_all(&buffer[..count]).await?;
        if mood.chunked {
            stream.write_all(b"\r\n").await?;
        }
        at += count as u64;
        sent(count as u64);
        if let Some(rate) = mood.rate {
            sleep(Duration::from_secs_f64(count as f64 / rate as f64)).await;
        }
    }
    if at < *until || mood.cut.is_some() {
        return Ok(mood.cut.map_or(End::Closed, |(_, end)| end));
    }
    if mood.chunked {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(End::Closed)
}
