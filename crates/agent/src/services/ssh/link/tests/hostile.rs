//! Servers that are none, stall, or want what nobody offered.

use std::sync::Arc;

use russh::keys::PrivateKey;
use russh::keys::ssh_key::LineEnding;
use russh::server::{self, Auth, Handle, Msg, Session, VerifiedPublicKey};
use russh::{Channel, ChannelMsg};
use tokio::sync::mpsc;

use super::*;

/// A server that says `greeting` and then nothing more.
async fn says(greeting: &'static [u8]) -> Server {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.write_all(greeting).await.ok();
            held.push(stream);
        }
    });
    local(address.port())
}

fn target() -> Target {
    Target { host: "127.0.0.1".into(), port: 9 }
}

#[tokio::test]
async fn a_server_that_stalls_is_left_in_time() {
    let stage = Stage::plain().await;
    for greeting in [&b""[..], b"SSH-2.0-", b"SSH-2.0-Stalls\r\n"] {
        let mut ways = stage.ways();
        ways.timeout = Duration::from_millis(500);
        let error = soon(Links::new(ways).open(&says(greeting).await, 0, target())).await.expect_err("none");
        assert!(matches!(error, Failure::TimedOut { .. }), "{greeting:?}: {error:?}");
    }
}

#[tokio::test]
async fn what_does_not_speak_ssh_is_no_server() {
    let stage = Stage::plain().await;
    let zeroes: &[u8] = &[0; 70_000];
    let huge: &[u8] = b"SSH-2.0-Huge\r\n\xff\xff\xff\xff\x04garbage that is no packet";
    let short: &[u8] = b"SSH-2.0-Short\r\n\0\0\0\x02\x01\x14";
    for greeting in [&b"HTTP/1.0 400 Bad Request\r\n\r\n"[..], b"SSH-1.5-Old\r\n", zeroes, huge, short] {
        let mut ways = stage.ways();
        ways.timeout = Duration::from_secs(2);
        let error = soon(Links::new(ways).open(&says(greeting).await, 0, target())).await.expect_err("none");
        assert!(matches!(error, Failure::Handshake { .. } | Failure::TimedOut { .. }), "{error:?}");
    }
}

/// A server of the library's own, which lets everybody in, listens nowhere and hands out the way to open channels.
#[derive(Clone)]
struct Rogue(mpsc::UnboundedSender<Handle>);

impl server::Handler for Rogue {
    type Error = russh::Error;

    async fn auth_publickey(&mut self, _: &str, _: VerifiedPublicKey<'_>) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn tcpip_forward(
        &mut self,
        _: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, russh::Error> {
        if *port == 0 {
            *port = 4242;
        }
        self.0.send(session.handle()).ok();
        Ok(true)
    }
}

/// A forward of such a server to `address`, and its way to open channels.
async fn rogue(stage: &Stage, address: SocketAddr) -> (Links, Forward, Handle) {
    let key = PrivateKey::read_openssh_file(stage.sshd.path("host_ed25519")).expect("a key");
    key.to_openssh(LineEnding::LF).expect("a key that is whole");
    let config = Arc::new(server::Config { keys: vec![key], ..server::Config::default() });
    let (listener, at) = listen().await;
    let (tell, mut handles) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        let session = server::run_stream(config, stream, Rogue(tell)).await.expect("a session");
        session.await.ok();
    });
    let links = stage.links();
    let forward = soon(links.open(&local(at.port()), 0, to(address))).await.expect("a forward");
    let handle = soon(handles.recv()).await.expect("a session");
    (links, forward, handle)
}

async fn answer(mut channel: Channel<Msg>) -> Option<ChannelMsg> {
    channel.data(&b"x"[..]).await.ok();
    channel.wait().await
}

#[tokio::test]
async fn only_channels_to_a_granted_port_are_opened() {
    let stage = Stage::plain().await;
    let (listener, address) = listen().await;
    let (_links, forward, handle) = rogue(&stage, address).await;
    assert_eq!(forward.rport(), 4242);
    let (host, port) = ("127.0.0.1", u32::from(address.port()));
    soon(handle.channel_open_session()).await.expect_err("a session is refused");
    soon(handle.channel_open_agent()).await.expect_err("an agent is refused");
    soon(handle.channel_open_x11(host, 1)).await.expect_err("X11 is refused");
    soon(handle.channel_open_direct_tcpip(host, port, host, 1))
        .await
        .expect_err("a target of its own is refused");
    soon(handle.channel_open_forwarded_streamlocal("/run/x")).await.expect_err("a socket is refused");
    for wrong in [0, port, 4243, 4242 + 65_536] {
        let opened = soon(handle.channel_open_forwarded_tcpip(host, wrong, host, 1)).await;
        opened.expect_err("a port that nobody asked for is refused");
    }
    let nothing = timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(nothing.is_err(), "nothing was dialled");
    let good = soon(handle.channel_open_forwarded_tcpip("localhost", 4242, host, 1))
        .await
        .expect("the granted port");
    let (mut target, _) = soon(listener.accept()).await.expect("a connection");
    target.write_all(b"hello").await.expect("a write");
    let said = soon(answer(good)).await;
    assert!(matches!(&said, Some(ChannelMsg::Data { data }) if data[..] == b"hello"[..]), "{said:?}");
}

#[tokio::test]
async fn a_flood_of_channels_costs_no_more_than_the_limit() {
    let stage = Stage::plain().await;
    let (_links, forward, handle) = rogue(&stage, echo().await).await;
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..1_000 {
        match soon(handle.channel_open_forwarded_tcpip("localhost", 4242, "x", 1)).await {
            Ok(channel) => held.push(channel),
            Err(_) => refused += 1,
        }
    }
    assert_eq!((held.len(), refused), (super::super::CHANNELS, 1_000 - super::super::CHANNELS));
    assert_eq!(forward.channels(), super::super::CHANNELS);
}
