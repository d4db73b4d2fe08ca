//! What goes along a forward comes out whole, with its ends.

use ring::digest::{Context, Digest, SHA256};
use testkit::Rng;
use tokio::time::Instant;

use super::*;

const BULK: usize = 48 << 20;

/// Bytes that no compression and no mistake reproduces.
fn noise(seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    std::iter::repeat_with(|| rng.below(1 << 32).to_le_bytes())
        .take(1 << 18)
        .flat_map(|word| word[..4].to_vec())
        .collect()
}

/// Writes `BULK` bytes, then says that no more is to come.
async fn send(mut to: impl tokio::io::AsyncWrite + Unpin, seed: u64) -> Digest {
    let piece = noise(seed);
    let mut sum = Context::new(&SHA256);
    for _ in 0..BULK / piece.len() {
        to.write_all(&piece).await.expect("a write");
        sum.update(&piece);
    }
    to.shutdown().await.expect("an end");
    sum.finish()
}

/// Reads to the end, `slice` bytes at a time.
async fn receive(mut from: impl tokio::io::AsyncRead + Unpin, slice: usize) -> Digest {
    let mut sum = Context::new(&SHA256);
    let mut buffer = vec![0; slice];
    loop {
        match from.read(&mut buffer).await.expect("a read") {
            0 => return sum.finish(),
            count => sum.update(&buffer[..count]),
        }
    }
}

async fn both_ways(forward: &Forward, listener: &TcpListener) {
    let (client, target) = pair(forward, listener).await;
    let ((from_client, to_client), (from_target, to_target)) = (client.into_split(), target.into_split());
    let (inward, outward, came, went) = timeout(4 * LIMIT, async {
        tokio::join!(
            tokio::spawn(send(to_client, 1)),
            tokio::spawn(send(to_target, 2)),
            tokio::spawn(receive(from_target, 100_000)),
            tokio::spawn(receive(from_client, 100_000)),
        )
    })
    .await
    .expect("an end in time");
    assert_eq!(inward.expect("sent").as_ref(), came.expect("received").as_ref());
    assert_eq!(outward.expect("sent").as_ref(), went.expect("received").as_ref());
}

#[tokio::test]
async fn bulk_goes_both_ways_at_once() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let (listener, address) = listen().await;
    let forward = stage.forward(&links, address).await;
    both_ways(&forward, &listener).await;
    until("the count of channels is back", || forward.channels() == 0).await;
    assert_eq!(forward.bytes(), (BULK as u64, BULK as u64));
}

/// Sends in both directions to a server with these settings while keys are agreed on anew after `limit`; how often sshd
/// says that it has proposed some.
async fn renewed(lines: &[&str], limit: Limit) -> usize {
    let server = lines.iter().fold(Sshd::builder(), |server, line| server.line(line));
    let stage = Stage::of(server).await;
    let links = Links::new(Ways { limit, ..stage.ways() });
    let (listener, address) = listen().await;
    let forward = stage.forward(&links, address).await;
    both_ways(&forward, &listener).await;
    until("the count of channels is back", || forward.channels() == 0).await;
    assert_eq!(forward.bytes(), (BULK as u64, BULK as u64));
    // One for each exchange, whoever began it.
    stage.sshd.log().matches("SSH2_MSG_KEXINIT sent").count()
}

#[tokio::test]
async fn new_keys_are_agreed_upon_under_load() {
    let rekeys = renewed(&["RekeyLimit 2M"], Limit::default()).await;
    assert!(rekeys > 10, "{rekeys} times");
}

/// The server does not begin one before a gigabyte. By bytes, by packets, and with each cipher.
#[tokio::test]
async fn we_ask_for_new_keys_ourselves() {
    let (bytes, packets) = (1 << 20, 1 << 31);
    for (cipher, limit) in [
        ("aes128-gcm@openssh.com", Limit { packets, bytes }),
        ("chacha20-poly1305@openssh.com", Limit { packets, bytes }),
        ("aes256-gcm@openssh.com", Limit { packets: 200, bytes: u64::MAX }),
    ] {
        let rekeys = renewed(&[&format!("Ciphers {cipher}")], limit).await;
        assert!(rekeys > 10, "{cipher}: {rekeys} times");
    }
}

/// Both begin, now and then at the same moment.
#[tokio::test]
async fn both_may_ask_for_new_keys() {
    let rekeys = renewed(&["RekeyLimit 1M"], Limit { packets: 1 << 31, bytes: 1 << 20 }).await;
    assert!(rekeys > 20, "{rekeys} times");
}

#[tokio::test]
async fn each_side_may_end_first_and_still_hear_the_other() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let (listener, address) = listen().await;
    let forward = stage.forward(&links, address).await;
    for client_first in [true, false] {
        let (client, target) = pair(&forward, &listener).await;
        let (mut first, mut second) = if client_first { (client, target) } else { (target, client) };
        first.write_all(b"question").await.expect("a write");
        first.shutdown().await.expect("an end");
        let mut question = Vec::new();
        soon(second.read_to_end(&mut question)).await.expect("the end of it");
        assert_eq!(question, b"question");
        let answer = noise(3);
        let mut heard = Vec::new();
        let (told, read) = soon(async {
            tokio::join!(
                async {
                    second.write_all(&answer).await?;
                    second.shutdown().await
                },
                first.read_to_end(&mut heard)
            )
        })
        .await;
        told.expect("an answer");
        read.expect("an answer");
        assert!(heard == answer, "{} of {} bytes", heard.len(), answer.len());
    }
    until("both are over", || forward.channels() == 0).await;
}

#[tokio::test]
async fn a_slow_reader_at_either_end_gets_everything() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let (listener, address) = listen().await;
    let forward = stage.forward(&links, address).await;
    for to_target in [true, false] {
        let (client, target) = pair(&forward, &listener).await;
        let (from, to) = if to_target { (client, target) } else { (target, client) };
        let sending = tokio::spawn(send(from, 4));
        // It reads nothing until everything on the way is full, then little by little.
        sleep(Duration::from_secs(1)).await;
        assert!(!sending.is_finished(), "so much is held nowhere");
        let received = timeout(4 * LIMIT, receive(to, 4_000)).await.expect("an end in time");
        assert_eq!(sending.await.expect("sent").as_ref(), received.as_ref());
    }
}

#[tokio::test]
async fn two_hundred_connections_at_once() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let forward = stage.forward(&links, echo().await).await;
    let mut clients = Vec::new();
    for at in 0..200_u32 {
        let mut client = dial(&forward).await;
        client.write_all(&at.to_be_bytes()).await.expect("a write");
        clients.push(client);
    }
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(soon(client.read_u32()).await.expect("an answer") as usize, at);
    }
    assert_eq!(forward.channels(), 200);
    assert!(forward.idle_since().is_none());
    drop(clients);
    until("all are over", || forward.channels() == 0).await;
    assert!(forward.idle_since().is_some());
    assert_eq!(forward.bytes(), (800, 800));
}

#[tokio::test]
async fn too_many_connections_are_refused_and_the_rest_go_on() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let forward = stage.forward(&links, echo().await).await;
    let mut clients = Vec::new();
    for _ in 0..super::super::CHANNELS {
        let mut client = dial(&forward).await;
        client.write_all(b"x").await.expect("a write");
        assert_eq!(soon(client.read_u8()).await.expect("an answer"), b'x');
        clients.push(client);
    }
    assert!(matches!(soon(dial(&forward).await.read(&mut [0])).await, Ok(0) | Err(_)), "one too many");
    clients.pop();
    until("there is room again", || forward.channels() < super::super::CHANNELS).await;
    works(&forward).await;
}

#[tokio::test]
async fn a_reset_is_passed_on() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let (listener, address) = listen().await;
    let forward = stage.forward(&links, address).await;
    for target_resets in [true, false] {
        let (client, target) = pair(&forward, &listener).await;
        let (resets, mut hears) = if target_resets { (target, client) } else { (client, target) };
        resets.set_zero_linger().expect("a reset");
        drop(resets);
        // sshd tells its client of a reset no better than of an end, and us likewise.
        assert!(matches!(soon(hears.read(&mut [0])).await, Ok(0) | Err(_)));
        drop(hears);
        until("it is over", || forward.channels() == 0).await;
    }
}

#[tokio::test]
async fn a_target_that_is_not_there_refuses() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let (listener, address) = listen().await;
    drop(listener);
    let forward = stage.forward(&links, address).await;
    assert!(matches!(soon(dial(&forward).await.read(&mut [0])).await, Ok(0) | Err(_)));
    until("it is over", || forward.channels() == 0).await;
}

/// However long: what it does not take stays with whoever sends it, and is all there when it does.
#[tokio::test]
async fn a_target_that_takes_nothing_holds_up_nobody_else() {
    let stage = Stage::plain().await;
    let mut ways = stage.ways();
    ways.keep_alive = Duration::from_millis(500);
    let links = Links::new(ways);
    let (listener, address) = listen().await;
    let stuck = stage.forward(&links, address).await;
    let others = stage.forward(&links, echo().await).await;
    let (client, target) = pair(&stuck, &listener).await;
    let sending = tokio::spawn(send(client, 7));
    until("it is stuck", {
        let mut before = (0, Instant::now());
        let stuck = &stuck;
        move || {
            let bytes = stuck.bytes().0;
            if bytes != before.0 {
                before = (bytes, Instant::now());
            }
            // Longer than every keep-alive.
            bytes > 0 && before.1.elapsed() > Duration::from_secs(2)
        }
    })
    .await;
    assert!(stuck.bytes().0 < 16 << 20, "{} bytes were taken that nobody reads", stuck.bytes().0);
    for _ in 0..20 {
        works(&others).await;
    }
    let received = soon(receive(target, 1 << 16)).await;
    assert_eq!(received.as_ref(), soon(sending).await.expect("all of it").as_ref());
}
