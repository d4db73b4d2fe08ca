//! From a name to a TCP connection. While DNS hangs, at most one question is outstanding.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Error;

/// How long one address may keep us waiting.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long before the next address is tried beside a silent one (RFC 8305, section 8).
const STAGGER: Duration = Duration::from_millis(250);
/// Of a name with hundreds of addresses, how many are tried.
const ADDRESSES: usize = 16;

type Lookup = JoinHandle<io::Result<Vec<SocketAddr>>>;

/// Dials one host and port.
#[derive(Debug)]
pub(super) struct Dialer {
    host: String,
    port: u16,
    /// The question asked and not yet answered. `getaddrinfo` cannot be cancelled and holds a thread: when the
    /// caller gives up, the question stays here for the next call instead of being asked beside itself.
    lookup: Mutex<Option<Lookup>>,
}

impl Dialer {
    pub(super) fn new(host: String, port: u16) -> Self {
        Self { host, port, lookup: Mutex::new(None) }
    }

    /// Resolves the name and connects to the first address that answers.
    pub(super) async fn connect(&self) -> Result<TcpStream, Error> {
        let addresses = self.resolve().await?;
        let stream = race(interleave(addresses))
            .await
            .unwrap_or_else(|| Err(Error::NoAddress { host: self.host.clone() }))?;
        // MQTT writes whole packets and waits for answers; a socket that is already dead says so at the first read.
        stream.set_nodelay(true).ok();
        Ok(stream)
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let mut slot = self.lookup.lock().await;
        let mut stale = slot.as_ref().is_some_and(|lookup| lookup.is_finished());
        loop {
            let answer = slot.get_or_insert_with(|| ask(self.host.clone(), self.port)).await;
            *slot = None;
            match answer.unwrap_or_else(|lost| Err(io::Error::other(lost))) {
                Ok(addresses) => return Ok(addresses),
                // A failure that waited for us since the last call says nothing about now.
                Err(_) if stale => stale = false,
                Err(source) => return Err(Error::Resolve { host: self.host.clone(), source }),
            }
        }
    }
}

fn ask(host: String, port: u16) -> Lookup {
    tokio::spawn(async move { Ok(lookup_host((host, port)).await?.collect()) })
}

/// Alternates the families, beginning with the resolver's favourite, so that one broken family costs one try.
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let favourite = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv6() == favourite);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut mixed = Vec::new();
    loop {
        let before = mixed.len();
        mixed.extend(first.next());
        mixed.extend(second.next());
        if mixed.len() == before {
            mixed.truncate(ADDRESSES);
            return mixed;
        }
    }
}

type Attempt = Pin<Box<dyn Future<Output = Result<TcpStream, Error>> + Send>>;

/// Tries each address, the next one as soon as the last has failed or kept silent for a moment. The first to
/// answer wins; of failures the last is reported. `None` when there was no address.
async fn race(addresses: Vec<SocketAddr>) -> Option<Result<TcpStream, Error>> {
    let mut waiting = addresses.into_iter();
    let mut tries: Vec<Attempt> = vec![Box::pin(attempt(waiting.next()?))];
    loop {
        let more = waiting.len() > 0;
        tokio::select! {
            ended = poll_fn(|cx| poll_any(&mut tries, cx)) => match ended {
                Err(_) if more || !tries.is_empty() => {}
                ended => return Some(ended),
            },
            () = sleep(STAGGER), if more => {}
        }
        if let Some(address) = waiting.next() {
            tries.push(Box::pin(attempt(address)));
        }
    }
}

fn poll_any(tries: &mut Vec<Attempt>, cx: &mut Context<'_>) -> Poll<Result<TcpStream, Error>> {
    for at in 0..tries.len() {
        if let Poll::Ready(ended) = tries[at].as_mut().poll(cx) {
            drop(tries.swap_remove(at));
            return Poll::Ready(ended);
        }
    }
    Poll::Pending
}

async fn attempt(address: SocketAddr) -> Result<TcpStream, Error> {
    match timeout(ATTEMPT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(Error::Connect { address, source }),
        Err(_) => Err(Error::ConnectTimeout { address, limit: ATTEMPT }),
    }
}
