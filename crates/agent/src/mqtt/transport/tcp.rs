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
pub(crate) struct Dialer {
    host: String,
    port: u16,
    /// The question asked and not yet answered. `getaddrinfo` cannot be cancelled and holds a thread: when the
    /// caller gives up, the question stays here for the next call instead of being asked beside itself.
    lookup: Mutex<Option<Lookup>>,
    /// In bytes; the kernel decides where there is none.
    receive_buffer: Option<usize>,
}

impl Dialer {
    pub(crate) fn new(host: String, port: u16) -> Self {
        Self { host, port, lookup: Mutex::new(None), receive_buffer: None }
    }

    /// Lets no more than this many bytes wait in the kernel, about, or the double where that is Linux.
    pub(super) fn set_receive_buffer(&mut self, bytes: usize) {
        self.receive_buffer = Some(bytes);
    }

    /// Resolves the name and connects to the first address that answers.
    pub(crate) async fn connect(&self) -> Result<TcpStream, Error> {
        let addresses = self.resolve().await?;
        let stream = race(interleave(addresses))
            .await
            .unwrap_or_else(|| Err(Error::NoAddress { host: self.host.clone() }))?;
        // MQTT writes whole packets and waits for answers; a socket that is already dead says so at the first read.
        stream.set_nodelay(true).ok();
        if let Some(bytes) = self.receive_buffer {
            // Without it more is on its way than is of use, and no harm done.
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, bytes).ok();
        }
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

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::net::{TcpListener, TcpSocket};
    use tokio::sync::oneshot;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn v4(last: u8) -> SocketAddr {
        (Ipv4Addr::new(127, 0, 0, last), 1).into()
    }

    fn v6(last: u16) -> SocketAddr {
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, last), 1).into()
    }

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        (listener, address)
    }

    /// A port that is taken, so that nobody else gets it, and refuses all the same.
    fn closed() -> (TcpSocket, SocketAddr) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let address = socket.local_addr().expect("its address");
        (socket, address)
    }

    #[test]
    fn families_take_turns_and_the_first_stays_first() {
        assert_eq!(interleave(vec![]), []);
        assert_eq!(interleave(vec![v4(1), v4(2), v4(3), v6(1)]), [v4(1), v6(1), v4(2), v4(3)]);
        assert_eq!(interleave(vec![v6(1), v6(2), v4(1)]), [v6(1), v4(1), v6(2)]);
        assert_eq!(interleave((0..=255).map(v4).collect()).len(), ADDRESSES);
    }

    #[tokio::test]
    async fn the_first_address_that_answers_wins() {
        let (_listener, open) = listening().await;
        let (first, last) = (closed(), closed());
        let raced = timeout(LIMIT, race(vec![first.1, open, last.1])).await.expect("an end");
        let stream = raced.expect("addresses").expect("a connection");
        assert_eq!(stream.peer_addr().expect("its peer"), open);
    }

    #[tokio::test]
    async fn of_failures_the_last_is_told() {
        let (first, last) = (closed(), closed());
        let raced = timeout(LIMIT, race(vec![first.1, last.1])).await.expect("an end");
        match raced.expect("addresses") {
            Err(Error::Connect { address, .. }) => assert_eq!(address, last.1),
            other => panic!("{other:?}"),
        }
        assert!(race(vec![]).await.is_none());
    }

    /// A listener whose queue is full drops what knocks: the silence of a firewall, on loopback.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_silent_address_delays_the_next_one_only_a_moment() {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        let silent = socket.listen(1).expect("a listener");
        let silent = (silent.local_addr().expect("its address"), silent);
        let mut fillers = Vec::new();
        while let Ok(filler) = timeout(STAGGER, TcpStream::connect(silent.0)).await {
            fillers.push(filler.expect("a place in the queue"));
        }
        let (_listener, open) = listening().await;
        let raced =
            timeout(ATTEMPT / 2, race(vec![silent.0, open])).await.expect("no wait for the silent one");
        let stream = raced.expect("addresses").expect("a connection");
        assert_eq!(stream.peer_addr().expect("its peer"), open);
    }

    /// DNS that hangs: however often the caller gives up and dials again, one question is outstanding, and its
    /// answer is taken by whoever dials then.
    #[tokio::test]
    async fn one_question_outlives_the_dials_that_wait_for_it() {
        let (_listener, open) = listening().await;
        let (answer, question) = oneshot::channel();
        let dialer = Dialer::new("broker.example".into(), open.port());
        let lookup: Lookup = tokio::spawn(async { Ok(question.await.expect("an answer")) });
        let asked = lookup.id();
        *dialer.lookup.lock().await = Some(lookup);
        for _ in 0..3 {
            timeout(Duration::from_millis(10), dialer.connect()).await.expect_err("DNS hangs");
            assert_eq!(dialer.lookup.lock().await.as_ref().map(JoinHandle::id), Some(asked));
        }
        answer.send(vec![open]).expect("somebody who waits");
        let stream = timeout(LIMIT, dialer.connect()).await.expect("an end").expect("a connection");
        assert_eq!(stream.peer_addr().expect("its peer"), open);
        assert!(dialer.lookup.lock().await.is_none());
    }

    #[tokio::test]
    async fn a_failure_from_before_is_asked_again() {
        let (_listener, open) = listening().await;
        let dialer = Dialer::new("localhost".into(), open.port());
        let failed: Lookup = tokio::spawn(async { Err(io::Error::other("no network yet")) });
        while !failed.is_finished() {
            tokio::task::yield_now().await;
        }
        *dialer.lookup.lock().await = Some(failed);
        timeout(LIMIT, dialer.connect()).await.expect("an end").expect("a connection");
    }
}
