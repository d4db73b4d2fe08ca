//! A TCP proxy that misbehaves on demand.

mod pump;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::ports::free_port;
use crate::seed::Rng;

/// How a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// RST to both sides; what was on its way is lost.
    Rst,
    /// FIN to both sides.
    Fin,
}

/// What happens to the bytes of one direction. Offsets count from the beginning of each connection. The default
/// passes everything on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Waits before passing on what was read.
    pub latency: Duration,
    /// Passes on no faster, each connection by itself.
    pub bytes_per_second: Option<u64>,
    /// Writes pieces of this size, each a TCP segment.
    pub slice: Option<usize>,
    /// Keeps the connection but passes nothing on, until healed. The end of a stream is held back as well.
    pub blackhole: bool,
    /// Ends the connection once so many bytes are through.
    pub cut_after: Option<(u64, Cut)>,
    /// Inverts the byte at this offset.
    pub flip_at: Option<u64>,
}

/// What happens to both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// From the client to the target.
    pub up: Link,
    /// From the target to the client.
    pub down: Link,
}

impl Faults {
    /// The same both ways.
    pub fn both(link: Link) -> Self {
        Self { up: link, down: link }
    }
}

/// What went through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections accepted.
    pub connections: u64,
    /// Of these, those still open.
    pub open: u64,
    /// Of these, those for which the target could not be reached; they were reset.
    pub unreachable: u64,
    /// Bytes passed on to the target.
    pub up: u64,
    /// Bytes passed on to the clients.
    pub down: u64,
}

/// The proxy, on a port of its own on 127.0.0.1; it and its connections end when dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<SocketAddr>,
    faults: watch::Sender<Faults>,
    cut: broadcast::Sender<Cut>,
    /// Whether the listener shall be closed, and whether it is.
    refuse: watch::Sender<bool>,
    refusing: watch::Sender<bool>,
    stats: watch::Sender<Stats>,
}

impl Proxy {
    /// Starts one in front of `target`.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = bind_any().await?;
        let port = listener.local_addr().context("ask for the proxy's port")?.port();
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            faults: watch::Sender::new(Faults::default()),
            cut: broadcast::Sender::new(16),
            refuse: watch::Sender::new(false),
            refusing: watch::Sender::new(false),
            stats: watch::Sender::new(Stats::default()),
        });
        let task = tokio::spawn(serve(Arc::clone(&shared), listener, port));
        Ok(Self { shared, port, task })
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Sets the faults, for open and for new connections, from the next byte on.
    pub fn set(&self, faults: Faults) {
        self.shared.faults.send_replace(faults);
    }

    /// Changes some of the faults.
    pub fn update(&self, change: impl FnOnce(&mut Faults)) {
        self.shared.faults.send_modify(change);
    }

    /// No faults any more; what a black hole held back goes through.
    pub fn heal(&self) {
        self.set(Faults::default());
    }

    /// Sends new connections elsewhere.
    pub fn retarget(&self, target: SocketAddr) {
        *self.shared.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Ends every open connection now.
    pub fn cut_all(&self, cut: Cut) {
        // It fails when no connection is open.
        self.shared.cut.send(cut).ok();
    }

    /// RST to every open connection now.
    pub fn reset_all(&self) {
        self.cut_all(Cut::Rst);
    }

    /// Closes the listener, so that new connections are refused; returns once they are. Open ones live on.
    pub async fn refuse(&self) {
        self.set_refuse(true).await;
    }

    /// Takes connections again; returns once it does.
    pub async fn accept(&self) {
        self.set_refuse(false).await;
    }

    /// What went through so far.
    pub fn stats(&self) -> Stats {
        *self.shared.stats.borrow()
    }

    /// Waits until the figures are as wanted.
    ///
    /// # Errors
    /// When they are not within `limit`; the error holds them.
    pub async fn wait(&self, wanted: impl FnMut(&Stats) -> bool, limit: Duration) -> anyhow::Result<Stats> {
        let mut stats = self.shared.stats.subscribe();
        match timeout(limit, stats.wait_for(wanted)).await {
            Ok(Ok(stats)) => Ok(*stats),
            _ => anyhow::bail!("the proxy's figures are not as wanted within {limit:?}: {:?}", self.stats()),
        }
    }

    /// From now on resets every connection after each random interval of `min..=max`, until the result is dropped.
    pub fn chaos(&self, seed: u64, min: Duration, max: Duration) -> Chaos {
        let resets = Arc::new(AtomicU64::new(0));
        let (counted, shared) = (Arc::clone(&resets), Arc::clone(&self.shared));
        let task = tokio::spawn(async move {
            let mut rng = Rng::new(seed);
            loop {
                sleep(rng.between(min, max)).await;
                let hit = shared.cut.send(Cut::Rst).unwrap_or(0);
                counted.fetch_add(hit as u64, Ordering::Relaxed);
            }
        });
        Chaos { resets, task }
    }

    async fn set_refuse(&self, refuse: bool) {
        self.shared.refuse.send_replace(refuse);
        let mut refusing = self.shared.refusing.subscribe();
        refusing.wait_for(|now| *now == refuse).await.expect("the sender lives in self");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Random resets; they stop when this is dropped.
#[derive(Debug)]
pub struct Chaos {
    resets: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Chaos {
    /// How many connections were reset so far.
    pub fn resets(&self) -> u64 {
        self.resets.load(Ordering::Relaxed)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn bind_any() -> anyhow::Result<TcpListener> {
    // Another process may take the port between the look and the bind.
    for _ in 0..10 {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).await {
            return Ok(listener);
        }
    }
    anyhow::bail!("no port for the proxy")
}

async fn serve(shared: Arc<Shared>, mut listener: TcpListener, port: u16) {
    let mut connections = JoinSet::new();
    let mut refuse = shared.refuse.subscribe();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                // Here, not in the task: a cut ordered from now on must reach it.
                let cuts = shared.cut.subscribe();
                shared.stats.send_modify(|stats| { stats.connections += 1; stats.open += 1; });
                connections.spawn(connection(Arc::clone(&shared), client, cuts));
            },
            Some(_) = connections.join_next() => {}
            Ok(()) = refuse.changed() => if *refuse.borrow_and_update() {
                drop(listener);
                shared.refusing.send_replace(true);
                let Some(again) = reopen(&mut refuse, port).await else { return };
                listener = again;
                shared.refusing.send_replace(false);
            },
        }
    }
}

async fn reopen(refuse: &mut watch::Receiver<bool>, port: u16) -> Option<TcpListener> {
    refuse.wait_for(|refuse| !refuse).await.ok()?;
    loop {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            return Some(listener);
        }
        // A dialling client may hold the port for a moment.
        sleep(Duration::from_millis(5)).await;
    }
}

async fn connection(shared: Arc<Shared>, client: TcpStream, mut cuts: broadcast::Receiver<Cut>) {
    let _open = Open(Arc::clone(&shared));
    let target = *shared.target.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(server) = TcpStream::connect(target).await else {
        shared.stats.send_modify(|stats| stats.unreachable += 1);
        client.set_zero_linger().ok();
        return;
    };
    pump::run(&shared, client, server, &mut cuts).await;
}

/// Counts a connection out, however its task ends.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.stats.send_modify(|stats| stats.open -= 1);
    }
}
