//! The frame layer against a peer that says what the test makes it say. The whole against mosquitto:
//! `tests/transport.rs`.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;

const BINARY: u8 = 2;
const PING: u8 = 9;
const LAST: u8 = 0x80;

/// A frame as a server sends it.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..=125 => bytes.push(length as u8),
        length @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// Reads one frame as a server does: it must be masked and whole.
async fn receive(peer: &mut DuplexStream) -> io::Result<(u8, Vec<u8>)> {
    let (first, second) = (peer.read_u8().await?, peer.read_u8().await?);
    assert!(second & 0x80 != 0, "a client masks");
    let length = match second & 0x7f {
        126 => usize::from(peer.read_u16().await?),
        127 => peer.read_u64().await? as usize,
        length => usize::from(length),
    };
    let mut key = [0; 4];
    peer.read_exact(&mut key).await?;
    let mut payload = vec![0; length];
    peer.read_exact(&mut payload).await?;
    payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    Ok((first, payload))
}

async fn bounded<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("an end within 10 s")
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(bounded(future))
}

/// One message, cut into frames, with a ping before some of them.
fn message(parts: &[(Vec<u8>, bool)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (at, (part, ping)) in parts.iter().enumerate() {
        if *ping {
            bytes.extend(frame(LAST | PING, b"are you there"));
        }
        let opcode = if at == 0 { BINARY } else { 0 };
        let last = if at + 1 == parts.len() { LAST } else { 0 };
        bytes.extend(frame(opcode | last, part));
    }
    bytes
}

type Parts = Vec<(Vec<u8>, bool)>;

fn messages() -> impl Strategy<Value = Vec<Parts>> {
    let part = prop_oneof![4 => vec(any::<u8>(), 0..200), 1 => vec(any::<u8>(), 65_530..65_540)];
    vec(vec((part, any::<bool>()), 1..5), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However the server cuts its messages, TCP its stream and the reader its reads: the same bytes.
    #[test]
    fn any_fragmentation_reads_the_same(messages in messages(), pipe in 1..3000_usize, read in 1..3000_usize) {
        let expected: Vec<u8> = messages.iter().flatten().flat_map(|(part, _)| part.clone()).collect();
        let pinged = messages.iter().flatten().any(|(_, ping)| *ping);
        let sent: Vec<u8> = messages.iter().flat_map(|parts| message(parts)).collect();
        let (ours, theirs) = duplex(pipe);
        let (mut from_us, mut to_us) = tokio::io::split(theirs);
        let server = async {
            to_us.write_all(&sent).await?;
            to_us.shutdown().await
        };
        let client = async {
            let (mut socket, mut got, mut buffer) = (WebSocket::new(ours), Vec::new(), vec![0; read]);
            loop {
                match socket.read(&mut buffer).await? {
                    0 => break,
                    count => got.extend_from_slice(&buffer[..count]),
                }
            }
            socket.flush().await?;
            io::Result::Ok(got)
        };
        let answers = async {
            let mut answers = Vec::new();
            from_us.read_to_end(&mut answers).await.map(|_| answers)
        };
        let (got, answers) = run(async {
            let (_, got, answers) = tokio::try_join!(server, client, answers)?;
            io::Result::Ok((got, answers))
        })?;
        prop_assert!(got == expected);
        prop_assert_eq!(!answers.is_empty(), pinged);
    }

    /// However the writer cuts its writes and TCP its stream: the server reads the same bytes, in masked binary
    /// messages of bounded size.
    #[test]
    fn any_writes_arrive_whole(writes in vec(vec(any::<u8>(), 0..10_000), 0..8), pipe in 1..3000_usize) {
        let (ours, mut theirs) = duplex(pipe);
        let client = async {
            let mut socket = WebSocket::new(ours);
            for write in &writes {
                socket.write_all(write).await?;
            }
            socket.shutdown().await
        };
        let server = async {
            let mut got = Vec::new();
            loop {
                let (first, payload) = receive(&mut theirs).await?;
                assert!(payload.len() <= CHUNK);
                match first {
                    0x82 => got.extend(payload),
                    0x88 => return io::Result::Ok((got, payload)),
                    other => panic!("a frame that begins with {other:#x}"),
                }
            }
        };
        let (got, code) = run(async {
            let (_, got) = tokio::try_join!(client, server)?;
            io::Result::Ok(got)
        })?;
        prop_assert_eq!(got, writes.concat());
        prop_assert_eq!(code, NORMAL);
    }
}

/// A client and a peer that has already said `bytes`.
async fn told(bytes: &[u8]) -> (WebSocket<DuplexStream>, DuplexStream) {
    let (ours, mut theirs) = duplex(64 * 1024);
    bounded(theirs.write_all(bytes)).await.expect("room in the pipe");
    (WebSocket::new(ours), theirs)
}

#[tokio::test]
async fn a_frame_is_passed_on_while_it_arrives() {
    let mut start = vec![LAST | BINARY, 127];
    start.extend_from_slice(&(1_u64 << 40).to_be_bytes());
    start.extend_from_slice(b"the beginning");
    let (mut socket, _peer) = told(&start).await;
    let mut buffer = [0; 100];
    let got = bounded(socket.read(&mut buffer)).await.expect("what has arrived");
    assert_eq!(&buffer[..got], b"the beginning");
}

#[tokio::test]
async fn what_a_server_must_not_send_is_refused() {
    let cases: [(&[u8], &str); 10] = [
        (&[0x81, 1, b'x'], "a text frame"),
        (&[0x82, 0x81, 0, 0, 0, 0, b'x'], "a masked frame"),
        (&[0xc2, 1, b'x'], "a frame with reserved bits"),
        (&[0x83, 0], "a frame of unknown kind"),
        (&[0x8b, 0], "a frame of unknown kind"),
        (&[0x89, 126, 0, 126], "a control frame that is fragmented or too long"),
        (&[0x09, 0], "a control frame that is fragmented or too long"),
        (&[0x80, 0], "the continuation of nothing"),
        (&[0x02, 0, 0x82, 0], "a message inside another"),
        (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], "a frame of impossible length"),
    ];
    for (bytes, what) in cases {
        let (mut socket, mut peer) = told(bytes).await;
        let error = bounded(socket.read(&mut [0; 8])).await.expect_err(what);
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.to_string(), format!("the WebSocket server sent {what}"));
        assert_eq!(bounded(socket.read(&mut [0; 8])).await.expect("the end"), 0);
        assert_eq!(
            bounded(receive(&mut peer)).await.expect("a close frame"),
            (0x88, PROTOCOL_ERROR.to_vec())
        );
    }
}

#[tokio::test]
async fn a_ping_is_answered_by_a_client_that_only_reads() {
    let (mut socket, mut peer) = told(&frame(LAST | PING, b"12345")).await;
    let mut byte = [0];
    tokio::select! {
        read = socket.read(&mut byte) => panic!("nothing was sent, but {read:?}"),
        pong = bounded(receive(&mut peer)) => assert_eq!(pong.expect("a frame"), (0x8a, b"12345".to_vec())),
    }
}

#[tokio::test]
async fn a_stalled_peer_costs_one_pong_and_one_chunk() {
    let (ours, mut theirs) = duplex(16);
    let mut socket = WebSocket::new(ours);
    let flood = async {
        for _ in 0..10_000 {
            theirs.write_all(&frame(LAST | PING, &[0; CONTROL])).await?;
        }
        theirs.write_all(&frame(LAST | BINARY, b"x")).await
    };
    let mut byte = [0];
    let (flooded, read) = bounded(async { tokio::join!(flood, socket.read_exact(&mut byte)) }).await;
    flooded.and(read).expect("the byte after the pings");
    assert!(socket.out.capacity() <= 2 * CHUNK, "{} bytes are kept", socket.out.capacity());
}

#[tokio::test]
async fn a_close_is_answered_and_ends_both_ways() {
    for code in [&b""[..], &1000_u16.to_be_bytes(), &1001_u16.to_be_bytes()] {
        let (mut socket, mut peer) = told(&frame(LAST | 8, code)).await;
        assert_eq!(bounded(socket.read(&mut [0; 8])).await.expect("the end"), 0);
        let error = bounded(socket.write(b"late")).await.expect_err("a closed socket");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(bounded(receive(&mut peer)).await.expect("a close frame"), (0x88, code.to_vec()));
    }
}

#[tokio::test]
async fn a_close_for_a_reason_tells_it_once() {
    let (mut socket, _peer) = told(&frame(LAST | 8, b"\x03\xf0who are\x07 you?")).await;
    let error = bounded(socket.read(&mut [0; 8])).await.expect_err("a reason");
    assert_eq!(error.to_string(), "the server closed the WebSocket: 1008 who are you?");
    assert_eq!(bounded(socket.read(&mut [0; 8])).await.expect("the end"), 0);
}

#[tokio::test]
async fn a_connection_cut_inside_a_frame_is_an_error() {
    for bytes in [&[0x82][..], &[0x82, 5, b'x'], &[0x89, 5, b'x']] {
        let (mut socket, peer) = told(bytes).await;
        drop(peer);
        let error = bounded(socket.read_to_end(&mut Vec::new())).await.expect_err("a cut frame");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
