//! A small HTTP/1.1 server that answers as it is told to, in order, and keeps what it was asked.

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use crate::{certs::Pki, tls::acceptor};

/// More than a request of a test has.
const LONGEST: usize = 1 << 20;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `GET` and the like.
    pub method: String,
    /// Path and query.
    pub target: String,
    headers: Vec<(String, String)>,
    /// What followed the head.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// How an answer ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Closed,
    Silent,
    ForEver,
    Reset,
}

/// An answer, byte for byte.
#[derive(Debug, Clone)]
pub struct Answer {
    bytes: Vec<u8>,
    end: End,
}

impl Answer {
    /// These bytes, and then the end of the connection.
    pub fn raw(bytes: &str) -> Self {
        Self { bytes: bytes.into(), end: End::Closed }
    }

    /// JSON with its length.
    pub fn json(status: u16, body: &str) -> Self {
        Self::with(status, "", body)
    }

    /// The same with more headers, each with its line end.
    pub fn with(status: u16, headers: &str, body: &str) -> Self {
        Self::raw(&format!(
            "HTTP/1.1 {status} Said\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    /// JSON in these chunks.
    pub fn chunked(status: u16, parts: &[&str]) -> Self {
        let chunks: String = parts.iter().map(|part| format!("{:x}\r\n{part}\r\n", part.len())).collect();
        Self::raw(&format!("HTTP/1.1 {status} Said\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"))
    }

    /// Then nothing comes, and the connection stays.
    pub fn then_silent(self) -> Self {
        Self { end: End::Silent, ..self }
    }

    /// Then more comes until the client has had enough.
    pub fn then_for_ever(self) -> Self {
        Self { end: End::ForEver, ..self }
    }

    /// Then the connection is reset.
    pub fn then_reset(self) -> Self {
        Self { end: End::Reset, ..self }
    }
}

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<VecDeque<Answer>>,
    requests: Mutex<Vec<Request>>,
    more: Notify,
}

/// The server; it ends with this.
#[derive(Debug)]
pub struct Web {
    shared: Arc<Shared>,
    url: String,
    task: AbortHandle,
}

impl Drop for Web {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Web {
    /// A server in the clear on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When it cannot be started; so for the other kind.
    pub async fn start() -> anyhow::Result<Self> {
        Self::begin("http", "127.0.0.1", |stream| async { Ok(stream) }).await
    }

    /// A server with TLS, for the name `localhost`, that `pki` vouches for.
    pub async fn start_tls(pki: &Pki) -> anyhow::Result<Self> {
        let acceptor = acceptor(&pki.server()?)?;
        Self::begin("https", "localhost", move |stream| {
            let acceptor = acceptor.clone();
            async move { Ok(acceptor.accept(stream).await?) }
        })
        .await
    }

    async fn begin<S, F>(
        scheme: &str,
        host: &str,
        wrap: impl Fn(TcpStream) -> F + Clone + Send + 'static,
    ) -> anyhow::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
        F: Future<Output = anyhow::Result<S>> + Send + 'static,
    {
        let shared = Arc::new(Shared::default());
        let state = Arc::clone(&shared);
        let (port, task) = serve(wrap, move |stream, socket| {
            let state = Arc::clone(&state);
            async move { talk(stream, &socket, &state).await }
        })
        .await?;
        Ok(Self { shared, url: format!("{scheme}://{host}:{port}/"), task })
    }

    /// Where it is; ends with a slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What to answer next, one request each. Without any it answers 500.
    pub fn answers(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared.answers).extend(answers);
    }

    /// All it was asked.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    /// The same, once there are so many.
    ///
    /// # Errors
    /// When there are fewer after `limit`.
    pub async fn wait(&self, count: usize, limit: Duration) -> anyhow::Result<Vec<Request>> {
        let enough = async {
            loop {
                let more = self.shared.more.notified();
                let requests = self.requests();
                if requests.len() >= count {
                    return requests;
                }
                more.await;
            }
        };
        let asked = timeout(limit, enough).await;
        asked.with_context(|| format!("{} requests of {count}", self.requests().len()))
    }
}

/// Has `talk` answer whoever connects, each over its own stream, with the socket beneath it for a reset: on a free port of
/// 127.0.0.1, which it returns, until that is aborted.
pub(crate) async fn serve<S, F, T>(
    wrap: impl Fn(TcpStream) -> F + Send + 'static,
    talk: impl Fn(S, OwnedFd) -> T + Clone + Send + 'static,
) -> anyhow::Result<(u16, AbortHandle)>
where
    S: Send,
    F: Future<Output = anyhow::Result<S>> + Send + 'static,
    T: Future<Output = anyhow::Result<()>> + Send,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen")?;
    let port = listener.local_addr()?.port();
    let serve = tokio::spawn(async move {
        let mut talks = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(socket) = rustix::io::dup(&stream) else { continue };
            let (talk, wrapped) = (talk.clone(), wrap(stream));
            talks.spawn(async move {
                if let Ok(stream) = wrapped.await {
                    // A client that goes away is a client's right.
                    talk(stream, socket).await.ok();
                }
            });
        }
    });
    Ok((port, serve.abort_handle()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    socket: &OwnedFd,
    shared: &Shared,
) -> anyhow::Result<()> {
    let request = read(&mut stream).await?;
    lock(&shared.requests).push(request);
    shared.more.notify_waiters();
    let answer = lock(&shared.answers).pop_front();
    let answer = answer.unwrap_or_else(|| Answer::json(500, "{\"error\": \"nothing to say\"}"));
    stream.write_all(&answer.bytes).await?;
    stream.flush().await?;
    match answer.end {
        End::Closed => stream.shutdown().await?,
        // Until the client ends it.
        End::Silent => drop(stream.read(&mut [0; 1]).await?),
        End::ForEver => loop {
            stream.write_all(&[b' '; 1024]).await?;
        },
        // Closing it is a reset, then.
        End::Reset => rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO))?,
    }
    Ok(())
}

pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<Request> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > LONGEST || stream.read_buf(&mut bytes).await? == 0 {
            bail!("half a head");
        }
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).context("the head is no text")?;
    let mut lines = head.lines();
    let first: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, _] = first.as_slice() else { bail!("no request line: {first:?}") };
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let mut request =
        Request { method: (*method).to_owned(), target: (*target).to_owned(), headers, body: Vec::new() };
    let length: usize = request.header("content-length").unwrap_or("0").parse().context("its length")?;
    while body.len() < length.min(LONGEST) {
        if stream.read_buf(&mut body).await? == 0 {
            bail!("half a body");
        }
    }
    request.body = body;
    Ok(request)
}
