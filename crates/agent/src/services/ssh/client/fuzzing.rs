//! What must hold for whatever a server sends.

use std::{cell::RefCell, sync::Arc};

use tokio::{
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};
use tokio_util::sync::CancellationToken;

use super::{
    cipher::{Opener, Sealer},
    core::{Asked, State},
    dispatch::Wanted,
    forward::{Listener, Target, traffic},
    handshake::disconnected,
    kex::{Exchange, Session},
    wire::msg,
};

/// The port that leads here.
const PORT: u16 = 22;
/// Connections through it at once.
const MOST: usize = 8;

/// Packets of a server, as before there are keys. None of them breaks anything, makes us believe a server that has proved
/// nothing, opens what was not offered, or makes us keep or say much more than it has sent.
pub fn server(data: &[u8]) {
    let (mut opener, mut bytes, mut at) = (Opener::plain(), data.to_vec(), 0);
    let mut peer = Peer::new();
    while let Ok(Some((payload, whole))) = opener.open(&mut bytes[at..]) {
        assert!(!payload.is_empty() && payload.len() < whole, "{} of {whole}", payload.len());
        let sound = peer.message(payload);
        at += whole;
        peer.check(at);
        if !sound {
            break;
        }
    }
}

/// A connection, and what the server may have been asked on it.
struct Peer {
    state: State,
    session: Session,
    exchange: Option<Exchange>,
    /// Kept for as long as their channels may be open.
    open: Vec<Wanted>,
}

impl Peer {
    fn new() -> Self {
        let session = Session {
            versions: ("SSH-2.0-a".to_owned(), "SSH-2.0-b".to_owned()),
            id: None,
            host_key: Vec::new(),
            strict: false,
            host_keys: vec!["ssh-ed25519", "ecdsa-sha2-nistp256"],
        };
        let mut state = State::new(Sealer::plain());
        state.listeners.insert(PORT, listener());
        let (answer, _) = tokio::sync::oneshot::channel();
        state.ask("tcpip-forward", None, Asked::Listen { port: 0, listener: listener(), answer });
        state.ask("keepalive@openssh.com", None, Asked::Alive);
        Self { state, session, exchange: None, open: Vec::new() }
    }

    /// Whether the connection goes on.
    fn message(&mut self, payload: &[u8]) -> bool {
        match payload[0] {
            msg::DISCONNECT => {
                assert!(disconnected(payload).to_string().len() < 1000);
                false
            }
            msg::KEXINIT => match Exchange::begin(&mut self.session, payload) {
                Ok((exchange, _)) => {
                    self.exchange = Some(exchange);
                    true
                }
                Err(_) => false,
            },
            30..=49 => {
                let taken = self.exchange.take().map(|exchange| exchange.finish(&mut self.session, payload));
                assert!(!matches!(taken, Some(Ok(_))), "believed without a proof");
                false
            }
            80..=127 => match self.state.connection(payload) {
                Ok(wanted) => {
                    wanted.into_iter().for_each(|wanted| self.opened(wanted));
                    true
                }
                Err(_) => false,
            },
            _ => true,
        }
    }

    /// Every third target accepts nobody.
    fn opened(&mut self, wanted: Wanted) {
        assert_eq!((wanted.target.host.as_str(), wanted.target.port), ("127.0.0.1", PORT));
        if wanted.id % 3 == 2 {
            self.state.refuse(wanted.id, "it does not");
        } else {
            self.state.confirm(wanted.id, &target());
            self.open.push(wanted);
        }
    }

    fn check(&self, sent: usize) {
        assert!(self.open.len() <= MOST, "{} connections", self.open.len());
        assert!(self.state.granted <= 8 << 20, "{} bytes of windows", self.state.granted);
        // An answer is not much longer than the question.
        let said = self.state.port.backlog();
        assert!(said <= 1024 + 16 * sent, "{said} bytes to {sent}");
        let kept: usize = (0..self.state.next_channel).filter(|id| self.state.has_pending(*id)).count();
        assert!(kept <= self.open.len());
    }
}

fn listener() -> Listener {
    Listener {
        bind: "localhost".to_owned(),
        target: Arc::new(Target { host: "127.0.0.1".to_owned(), port: PORT }),
        traffic: traffic(),
        token: CancellationToken::new(),
        most: MOST,
    }
}

/// A target whose other end reads nothing, the same for all.
fn target() -> Arc<TcpStream> {
    thread_local! {
        static STUCK: RefCell<Option<(Runtime, Arc<TcpStream>, TcpStream)>> = const { RefCell::new(None) };
    }
    let make = || {
        let runtime = Builder::new_current_thread().enable_io().build().expect("a runtime");
        let (ours, theirs) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("its address");
            let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
            (ours.expect("a connection"), theirs.expect("its other end").0)
        });
        (runtime, Arc::new(ours), theirs)
    };
    STUCK.with_borrow_mut(|stuck| Arc::clone(&stuck.get_or_insert_with(make).1))
}
