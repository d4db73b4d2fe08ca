//! Ends: of forwards, of servers, of the network.

use testkit::Proxy;
use testkit::namespace::BlackHole;
use testkit::proxy::{Faults, Link};

use super::*;

fn logins(stage: &Stage) -> usize {
    stage.sshd.log().matches("Accepted publickey").count()
}

async fn refuses(port: u16) {
    let refused = timeout(LIMIT, async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(refused.await.is_ok(), "port {port} still listens");
}

#[tokio::test]
async fn forwards_to_one_server_share_a_connection_until_the_last_ends() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let target = echo().await;
    let server = stage.server();
    let (first, second) =
        tokio::join!(links.open(&server, 0, to(target)), links.open(&server, 0, to(target)));
    let (first, second) = (first.expect("a forward"), second.expect("a forward"));
    assert_ne!(first.rport(), second.rport());
    works(&first).await;
    works(&second).await;
    assert_eq!(logins(&stage), 1);
    let (gone, mut open) = (first.rport(), dial(&first).await);
    until("its channel is open", || first.channels() == 1).await;
    soon(first.close()).await;
    refuses(gone).await;
    assert!(matches!(soon(open.read(&mut [0])).await, Ok(0) | Err(_)), "its channel is closed");
    works(&second).await;
    let gone = second.rport();
    drop(second);
    refuses(gone).await;
    until("the connection is closed", || stage.sshd.connections().is_empty()).await;
    let third = stage.forward(&links, target).await;
    works(&third).await;
    assert_eq!(logins(&stage), 2);
}

/// Only the forward whose port the server names is meant, and only its target is dialled.
#[tokio::test]
async fn each_port_leads_to_its_own_target() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let ((first, at_first), (second, at_second)) = (listen().await, listen().await);
    let to_first = stage.forward(&links, at_first).await;
    let to_second = stage.forward(&links, at_second).await;
    let (mut client, mut target) = pair(&to_second, &second).await;
    client.write_all(b"2").await.expect("a write");
    assert_eq!(soon(target.read_u8()).await.expect("it"), b'2');
    let (mut client, mut target) = pair(&to_first, &first).await;
    client.write_all(b"1").await.expect("a write");
    assert_eq!(soon(target.read_u8()).await.expect("it"), b'1');
}

/// The server is told that there is no channel, not that one is closed which it never had: sshd ends the connection then.
#[tokio::test]
async fn a_forward_that_ends_while_its_target_is_dialled_ends_nothing_else() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let keep = stage.forward(&links, echo().await).await;
    let hole = BlackHole::start(0).await.expect("a port that takes nobody");
    let slow = stage.forward(&links, hole.addr()).await;
    let mut client = dial(&slow).await;
    until("its target is dialled", || slow.channels() == 1).await;
    soon(slow.close()).await;
    assert!(matches!(soon(client.read(&mut [0])).await, Ok(0) | Err(_)), "nobody answers");
    works(&keep).await;
    assert_eq!(logins(&stage), 1, "{}", stage.sshd.log());
}

/// The server may have said yes already when nobody wants to hear it any more.
#[tokio::test]
async fn a_forward_that_nobody_waits_for_any_more_is_ended() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let target = echo().await;
    let keep = stage.forward(&links, target).await;
    let (server, port) = (stage.server(), testkit::ports::free_port());
    let mut opening = Box::pin(links.open(&server, port, to(target)));
    let asked = std::future::poll_fn(|cx| std::task::Poll::Ready(opening.as_mut().poll(cx).is_pending()));
    assert!(asked.await, "the server is asked");
    // Answers come in the order of the questions.
    let later = stage.forward(&links, target).await;
    drop(opening);
    refuses(port).await;
    works(&later).await;
    works(&keep).await;
}

/// The port goes from one to the other at the same server, and the end of the first does not end the second.
#[tokio::test]
async fn a_port_can_be_taken_over_at_once() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let target = echo().await;
    let (_keep, server) = (stage.forward(&links, target).await, stage.server());
    let mut forward = stage.forward(&links, target).await;
    let port = forward.rport();
    for _ in 0..20 {
        let ((), next) =
            soon(async { tokio::join!(forward.close(), links.open(&server, port, to(target))) }).await;
        forward = next.expect("the same port");
        works(&forward).await;
    }
}

#[tokio::test]
async fn opening_and_closing_leaves_nothing_behind() {
    let stage = Stage::plain().await;
    let links = stage.links();
    let target = echo().await;
    let keep = stage.forward(&links, target).await;
    works(&keep).await;
    for _ in 0..50 {
        let forward = stage.forward(&links, target).await;
        works(&forward).await;
        soon(forward.close()).await;
    }
    works(&keep).await;
    assert_eq!(logins(&stage), 1);
}

#[tokio::test]
async fn a_server_that_dies_is_noticed_and_found_again() {
    let mut stage = Stage::plain().await;
    let links = stage.links();
    let target = echo().await;
    let forward = stage.forward(&links, target).await;
    let mut client = dial(&forward).await;
    until("its channel is open", || forward.channels() == 1).await;
    stage.sshd.kill();
    let error = soon(forward.lost()).await;
    assert!(matches!(error, Failure::Lost { .. }), "{error:?}");
    assert!(matches!(soon(client.read(&mut [0])).await, Ok(0) | Err(_)));
    until("its channels are gone", || forward.channels() == 0).await;
    let error = links.open(&stage.server(), 0, to(target)).await.expect_err("no server");
    assert!(matches!(error, Failure::NotReached { .. }), "{error:?}");
    stage.sshd.start().await.expect("sshd");
    works(&stage.forward(&links, target).await).await;
    soon(forward.close()).await;
}

/// A line behind which nobody answers, found out by asking.
async fn black_holed(loaded: bool) {
    let stage = Stage::plain().await;
    let proxy = Proxy::start(stage.sshd.addr()).await.expect("a proxy");
    let mut ways = stage.ways();
    ways.keep_alive = Duration::from_millis(300);
    let links = Links::new(ways);
    let (listener, address) = listen().await;
    let forward = links.open(&local(proxy.port()), 0, to(address)).await.expect("a forward");
    let (client, target) = pair(&forward, &listener).await;
    let load = tokio::spawn(async move {
        let mut target = target;
        while loaded && target.write_all(&[0; 100_000]).await.is_ok() {}
        target
    });
    let reading = tokio::spawn(async move {
        let mut client = client;
        tokio::io::copy(&mut client, &mut tokio::io::sink()).await.ok();
    });
    if loaded {
        until("it flows", || forward.bytes().1 > 10_000_000).await;
    }
    proxy.set(Faults::both(Link { blackhole: true, ..Link::default() }));
    let error = soon(forward.lost()).await;
    assert!(
        matches!(&error, Failure::Lost { reason, .. } if reason.contains("nothing was heard")),
        "{error:?}"
    );
    until("its channels are gone", || forward.channels() == 0).await;
    soon(forward.close()).await;
    load.abort();
    reading.abort();
}

#[tokio::test]
async fn a_black_hole_is_noticed_on_an_idle_line() {
    black_holed(false).await;
}

#[tokio::test]
async fn a_black_hole_is_noticed_in_mid_transfer() {
    black_holed(true).await;
}

#[tokio::test]
async fn an_idle_forward_outlives_every_keep_alive() {
    let stage = Stage::of(Sshd::builder().line("ClientAliveInterval 1").line("ClientAliveCountMax 2")).await;
    let mut ways = stage.ways();
    ways.keep_alive = Duration::from_millis(200);
    let links = Links::new(ways);
    let (listener, address) = listen().await;
    let forward = links.open(&stage.server(), 0, to(address)).await.expect("a forward");
    let (mut client, mut target) = pair(&forward, &listener).await;
    let lost = timeout(Duration::from_secs(4), forward.lost()).await;
    assert!(lost.is_err(), "{lost:?}");
    client.write_all(b"x").await.expect("a write");
    assert_eq!(soon(target.read_u8()).await.expect("it"), b'x');
}
