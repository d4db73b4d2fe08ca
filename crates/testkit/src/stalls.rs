//! A broker that stalls at a stage of its choice, and notes when its client has had enough.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use crate::certs::Identity;
use crate::feed::Feed;
use crate::seed::Rng;
use crate::tls;
use crate::wire::{self, kind, read_packet};

/// Longer packets from the client end the connection.
const PACKET_LIMIT: usize = 1 << 20;
/// Small, so that a client who goes on writing soon meets a closed window.
const RECEIVE_BUFFER: u32 = 4 * 1024;

/// Where the broker stalls. It reads on, and drops what it reads, except for [`Stage::Deaf`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Accepts the TCP connection and says nothing: no TLS handshake.
    Accepted,
    /// No CONNACK.
    NoConnack,
    /// The first half of a CONNACK.
    HalfConnack,
    /// A CONNACK of some 200 bytes, one a second (under MQTT 3.1.1 it has only four bytes; then as `NoSuback`).
    TrickledConnack,
    /// Instead of a CONNACK random bytes, for ever.
    Garbage,
    /// A CONNACK, PINGRESPs, and no other answer.
    NoSuback,
    /// A CONNACK, SUBACKs, PINGRESPs, but no PUBACK.
    NoPuback,
    /// Every answer but PINGRESP.
    NoPingresp,
    /// Every answer up to the first SUBACK; then it stops reading, so that the TCP window closes.
    Deaf,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Accepted,
        Self::NoConnack,
        Self::HalfConnack,
        Self::TrickledConnack,
        Self::Garbage,
        Self::NoSuback,
        Self::NoPuback,
        Self::NoPingresp,
        Self::Deaf,
    ];
}

/// One connection, after the client has left.
#[derive(Debug, Clone)]
pub struct Visit {
    /// When it was accepted.
    pub arrived: Instant,
    /// How long the client stayed. A client that leaves a [`Stage::Deaf`] broker with its window closed cannot say
    /// so: its next connection counts as its leaving.
    pub stayed: Duration,
    /// The MQTT packet types that came, in order: 1 CONNECT, 3 PUBLISH, 8 SUBSCRIBE, 12 PINGREQ, …
    pub packets: Vec<u8>,
}

/// The broker, on a free port of 127.0.0.1; it ends when dropped.
#[derive(Debug)]
pub struct Staller {
    address: SocketAddr,
    /// Connections accepted.
    arrivals: watch::Sender<u64>,
    /// What came so far, in the order in which the clients left.
    pub visits: Feed<Visit>,
    task: JoinHandle<()>,
}

impl Staller {
    /// Starts one, over TLS if it is given a certificate.
    ///
    /// # Errors
    /// When it cannot listen or the certificate cannot be used.
    pub async fn start(stage: Stage, identity: Option<&Identity>) -> anyhow::Result<Self> {
        let acceptor = identity.map(tls::acceptor).transpose()?;
        let listener = bind().context("bind the stalling broker")?;
        let address = listener.local_addr().context("ask for its address")?;
        let (visits, arrivals) = (Feed::default(), watch::Sender::new(0));
        let host = Host { stage, acceptor, visits: visits.clone(), arrivals: arrivals.clone() };
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                host.arrivals.send_modify(|count| *count += 1);
                connections.spawn(host.clone().receive(stream));
            }
        });
        Ok(Self { address, arrivals, visits, task })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub fn arrivals(&self) -> u64 {
        *self.arrivals.borrow()
    }

    /// Waits for the next client to leave.
    ///
    /// # Errors
    /// When none does within `timeout`.
    pub async fn next_visit(&self, timeout: Duration) -> anyhow::Result<Visit> {
        self.visits.next(|_| true, timeout).await.context("wait for a client to leave")
    }
}

impl Drop for Staller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn bind() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(128)
}

#[derive(Clone)]
struct Host {
    stage: Stage,
    acceptor: Option<TlsAcceptor>,
    visits: Feed<Visit>,
    arrivals: watch::Sender<u64>,
}

impl Host {
    async fn receive(self, mut stream: TcpStream) {
        let arrived = Instant::now();
        let mut packets = Vec::new();
        match &self.acceptor {
            _ if self.stage == Stage::Accepted => swallow(&mut stream).await,
            None => self.entertain(&mut stream, &mut packets, |stream| stream).await,
            Some(acceptor) => {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    self.entertain(&mut stream, &mut packets, |stream| stream.get_ref().0).await;
                }
            }
        }
        self.visits.push(Visit { arrived, stayed: arrived.elapsed(), packets });
    }

    /// Returns when the client has left.
    async fn entertain<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        packets: &mut Vec<u8>,
        tcp: impl Fn(&S) -> &TcpStream,
    ) {
        let Some(connect) = read_packet(stream, PACKET_LIMIT).await else { return };
        packets.push(connect.kind());
        let Some(level) = connect.level() else { return };
        if !self.greet(stream, level).await {
            return;
        }
        while let Some(packet) = read_packet(stream, PACKET_LIMIT).await {
            packets.push(packet.kind());
            let answer = match packet.kind() {
                kind::SUBSCRIBE if self.stage != Stage::NoSuback => wire::suback(level, &packet),
                kind::PUBLISH if self.stage == Stage::NoPingresp && packet.qos() == 1 => {
                    wire::puback(&packet)
                }
                kind::PINGREQ if self.stage != Stage::NoPingresp => Some(wire::PINGRESP.to_vec()),
                _ => None,
            };
            let Some(answer) = answer else { continue };
            if !send(stream, &answer).await {
                return;
            }
            if self.stage == Stage::Deaf && packet.kind() == kind::SUBSCRIBE {
                return self.ignore(tcp(stream)).await;
            }
        }
    }

    /// Answers the CONNECT, or does not; `false` when that was all.
    async fn greet<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S, level: u8) -> bool {
        let connack = wire::connack(level, "");
        match self.stage {
            Stage::Accepted | Stage::NoConnack => swallow(stream).await,
            Stage::HalfConnack => {
                if send(stream, &connack[..connack.len() / 2]).await {
                    swallow(stream).await;
                }
            }
            Stage::TrickledConnack => {
                return trickle(stream, &wire::connack(level, &"slowly ".repeat(28))).await;
            }
            Stage::Garbage => babble(stream).await,
            Stage::NoSuback | Stage::NoPuback | Stage::NoPingresp | Stage::Deaf => {
                return send(stream, &connack).await;
            }
        }
        false
    }

    /// Reads nothing until the client has hung up or connected anew.
    async fn ignore(&self, stream: &TcpStream) {
        let mut arrivals = self.arrivals.subscribe();
        let hung_up = async {
            // Unread bytes make it ready at once, each time; so it is asked now and then.
            while stream.ready(Interest::READABLE).await.is_ok_and(|ready| !ready.is_read_closed()) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = hung_up => {}
            // The host holds the sender, so this is an arrival.
            _ = arrivals.changed() => {}
        }
    }
}

/// Reads until the client leaves.
async fn swallow(stream: &mut (impl AsyncRead + Unpin)) {
    // A reset is a way to leave, too.
    tokio::io::copy(stream, &mut tokio::io::sink()).await.ok();
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
}

/// Sends a byte a second; `false` when the client leaves meanwhile.
async fn trickle(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    let (mut from, mut to) = tokio::io::split(stream);
    let all = async {
        for byte in bytes {
            if !send(&mut to, &[*byte]).await {
                return false;
            }
            sleep(Duration::from_secs(1)).await;
        }
        true
    };
    tokio::select! {
        sent = all => sent,
        () = hung_up(&mut from) => false,
    }
}

/// A client that waits for its CONNACK sends at most a few packets; they are dropped.
async fn hung_up(from: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 1024];
    while let Ok(1..) = from.read(&mut buffer).await {}
}

/// Ends when the client no longer takes it.
async fn babble(stream: &mut (impl AsyncWrite + Unpin)) {
    let mut rng = Rng::new(0);
    let mut chunk = [0; 1024];
    loop {
        rng.fill(&mut chunk);
        if !send(stream, &chunk).await {
            return;
        }
    }
}
