//! The broker's process: its listeners, its orders, and the one place that writes the journal.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, spawn_local};

use super::connection;
use super::journal::{Event, Journal};
use super::mood::{Mood, Order, Start};
use super::state::{State, matches};
use super::{JOURNAL, MARK};
use crate::certs::Identity;
use crate::seed::Rng;
use crate::tls;

/// What all connections share, on one thread.
pub(super) struct Host {
    pub(super) state: RefCell<State>,
    pub(super) mood: RefCell<Mood>,
    pub(super) rng: RefCell<Rng>,
    pub(super) peers: RefCell<HashMap<u64, Peer>>,
    journal: RefCell<Journal>,
    /// Events noted, and those of them on disk.
    noted: watch::Sender<u64>,
    committed: watch::Sender<u64>,
}

/// An open connection, as the others see it.
pub(super) struct Peer {
    pub(super) orders: mpsc::UnboundedSender<ToPeer>,
    pub(super) task: AbortHandle,
}

/// What a connection is told.
pub(super) enum ToPeer {
    /// There is something to send.
    Look,
    /// DISCONNECT with this code, and the end.
    Leave(u8),
}

/// Serves until standard input ends.
pub(super) async fn serve(start: Start) -> anyhow::Result<()> {
    let (journal, entries) = Journal::open(&start.folder.join(JOURNAL))?;
    let mut state = State::default();
    entries.iter().for_each(|entry| state.apply(&entry.event));
    let host = Rc::new(Host {
        state: RefCell::new(state),
        rng: RefCell::new(Rng::new(start.mood.seed)),
        mood: RefCell::new(start.mood),
        peers: RefCell::default(),
        journal: RefCell::new(journal),
        noted: watch::Sender::new(0),
        committed: watch::Sender::new(0),
    });
    host.note(Event::Started { forgetful: start.forgetful })?;
    let plain = TcpListener::bind((Ipv4Addr::LOCALHOST, start.port)).await.context("bind")?;
    spawn_local(committer(Rc::clone(&host)));
    spawn_local(accept(Rc::clone(&host), plain, None));
    if let Some((port, cert, key)) = start.tls {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.context("bind for TLS")?;
        let acceptor = tls::acceptor(&Identity { cert, key })?;
        spawn_local(accept(Rc::clone(&host), listener, Some(acceptor)));
    }
    host.commit().await?;
    say(&json!("ready"))?;
    let mut orders = orders();
    while let Some(line) = orders.recv().await {
        let answer = match host.obey(&line).await {
            Ok(()) => json!("done"),
            Err(error) => json!({ "error": format!("{error:#}") }),
        };
        say(&answer)?;
    }
    Ok(())
}

/// One answer. The test harness writes to the same output, also in the middle of a line.
pub(super) fn say(answer: &Value) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "\n{MARK}{answer}").and_then(|()| stdout.flush()).context("answer")
}

/// Lines of standard input. Its end is that of the test, which may have been killed.
fn orders() -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn accept(host: Rc<Host>, listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>) {
    while let Ok((stream, _)) = listener.accept().await {
        // Where it fails the connection is dead, which reading will show.
        stream.set_nodelay(true).ok();
        let number = host.state.borrow().last_connection + 1;
        host.note(Event::Accepted { connection: number }).expect("an event can be encoded");
        let (orders, inbox) = mpsc::unbounded_channel();
        let (entered, tls) = (Rc::clone(&host), tls.clone());
        let task = spawn_local(async move {
            if let Some(stream) = secure(stream, tls).await {
                connection::run(Rc::clone(&entered), stream, number, inbox).await;
            }
            entered.peers.borrow_mut().remove(&number);
        });
        host.peers.borrow_mut().insert(number, Peer { orders, task: task.abort_handle() });
    }
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

async fn secure(stream: TcpStream, tls: Option<tokio_rustls::TlsAcceptor>) -> Option<Box<dyn Stream>> {
    match tls {
        None => Some(Box::new(stream)),
        Some(tls) => Some(Box::new(tls.accept(stream).await.ok()?)),
    }
}

/// Writes what all connections noted since the last time in one go, then lets them answer.
async fn committer(host: Rc<Host>) {
    let mut noted = host.noted.subscribe();
    loop {
        let upto = *noted.borrow_and_update();
        host.journal.borrow_mut().commit().expect("the journal can be written");
        host.committed.send_replace(upto);
        if noted.changed().await.is_err() {
            return;
        }
        // The others that have something to note are ready as well.
        tokio::task::yield_now().await;
    }
}

impl Host {
    /// Takes note; on disk after [`Host::commit`].
    pub(super) fn note(&self, event: Event) -> anyhow::Result<()> {
        self.state.borrow_mut().apply(&event);
        self.journal.borrow_mut().push(&event)?;
        self.noted.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Waits until everything noted so far is on disk.
    pub(super) async fn commit(&self) -> anyhow::Result<()> {
        let upto = *self.noted.borrow();
        let mut committed = self.committed.subscribe();
        committed.wait_for(|count| *count >= upto).await.map(drop).context("the journal ended")
    }

    async fn obey(&self, line: &str) -> anyhow::Result<()> {
        match serde_json::from_str(line).context("understand the order")? {
            Order::Mood(mood) => {
                *self.rng.borrow_mut() = Rng::new(mood.seed);
                *self.mood.borrow_mut() = mood;
            }
            Order::Send { client, topic, payload, qos } => {
                self.send(client, topic, payload, qos)?;
                self.commit().await?;
                self.peers.borrow().values().for_each(|peer| tell(peer, ToPeer::Look));
            }
            Order::Disconnect { code } => {
                self.peers.borrow().values().for_each(|peer| tell(peer, ToPeer::Leave(code)));
            }
            Order::Drop => {
                let peers = std::mem::take(&mut *self.peers.borrow_mut());
                for (connection, peer) in peers {
                    peer.task.abort();
                    self.note(Event::Closed { connection, goodbye: false })?;
                }
            }
        }
        Ok(())
    }

    fn send(&self, client: String, topic: String, payload: String, qos: u8) -> anyhow::Result<()> {
        let state = self.state.borrow();
        let session = state.sessions.get(&client).with_context(|| format!("{client} has no session"))?;
        let granted = session.filters.iter().filter(|(filter, _)| matches(filter, &topic));
        let granted = granted.map(|(_, qos)| *qos).max();
        let granted = granted.with_context(|| format!("{client} has not subscribed to {topic}"))?;
        let open = state.clients.values().any(|other| *other == client);
        ensure!(qos.min(granted) > 0 || open, "{client} is not there, and QoS 0 does not wait");
        drop(state);
        self.note(Event::Queued { client, topic, qos: qos.min(granted), payload })
    }
}

pub(super) fn tell(peer: &Peer, what: ToPeer) {
    // It may be on its way out.
    peer.orders.send(what).ok();
}
