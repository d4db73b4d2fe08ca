use std::time::Duration;

use anyhow::Result;
use iot_agent_testkit::proxy::{Cut, Faults, Link};
use iot_agent_testkit::{Endpoint, Mosquitto, Proxy, Watcher, echo, publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::SOON;

/// A proxy before an echo server, and a connection through it.
async fn through(faults: Faults) -> Result<(Proxy, TcpStream)> {
    let proxy = Proxy::start(echo::start().await?).await?;
    proxy.set(faults);
    let stream = TcpStream::connect(proxy.addr()).await?;
    Ok((proxy, stream))
}

async fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(bytes).await?;
    let mut answer = vec![0; bytes.len()];
    timeout(SOON, stream.read_exact(&mut answer)).await??;
    Ok(answer)
}

async fn read_to_end(stream: &mut TcpStream) -> Result<std::io::Result<Vec<u8>>> {
    let mut got = Vec::new();
    Ok(timeout(SOON, stream.read_to_end(&mut got)).await?.map(|_| got))
}

fn is_reset(result: &std::io::Result<Vec<u8>>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn passes_and_counts() -> Result<()> {
    let (proxy, mut stream) = through(Faults::default()).await?;
    let bytes: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    let (mut from, mut to) = stream.split();
    let mut answer = vec![0; bytes.len()];
    let both = async { tokio::try_join!(to.write_all(&bytes), from.read_exact(&mut answer)) };
    timeout(SOON, both).await??;
    assert_eq!(answer, bytes);
    to.shutdown().await?;
    assert_eq!(read_to_end(&mut stream).await??, b"", "the end passes too, both ways");
    let stats = proxy.wait(|stats| stats.open == 0, SOON).await?;
    assert_eq!((stats.connections, stats.up, stats.down, stats.unreachable), (1, 100_000, 100_000, 0));
    Ok(())
}

#[tokio::test]
async fn latency_throttle_and_slices_slow_down_without_loss() -> Result<()> {
    let slow = Link { latency: Duration::from_millis(50), ..Link::default() };
    let (proxy, mut stream) = through(Faults::both(slow)).await?;
    let start = Instant::now();
    assert_eq!(exchange(&mut stream, b"ping").await?, b"ping");
    assert!(start.elapsed() >= Duration::from_millis(100), "twice 50 ms");

    let throttled = Link { bytes_per_second: Some(10_000), ..Link::default() };
    proxy.set(Faults { up: throttled, down: Link::default() });
    let start = Instant::now();
    assert_eq!(exchange(&mut stream, &[7; 2_000]).await?, [7; 2_000]);
    // The last piece is through before its pause.
    assert!(start.elapsed() >= Duration::from_millis(140), "2,000 bytes at 10,000/s");

    proxy.set(Faults::both(Link { slice: Some(1), ..Link::default() }));
    assert_eq!(exchange(&mut stream, &[8; 500]).await?, [8; 500]);
    Ok(())
}

#[tokio::test]
async fn a_flip_hits_one_byte() -> Result<()> {
    let flip = Link { flip_at: Some(2), ..Link::default() };
    let (_proxy, mut stream) = through(Faults { up: flip, down: Link::default() }).await?;
    assert_eq!(exchange(&mut stream, &[1, 2, 3, 4]).await?, [1, 2, !3, 4]);
    assert_eq!(exchange(&mut stream, &[1, 2, 3, 4]).await?, [1, 2, 3, 4]);
    Ok(())
}

#[tokio::test]
async fn a_cut_comes_after_exactly_so_many_bytes() -> Result<()> {
    for cut in [Cut::Fin, Cut::Rst] {
        let after_3 = Link { cut_after: Some((3, cut)), ..Link::default() };
        let (proxy, mut stream) = through(Faults { up: Link::default(), down: after_3 }).await?;
        stream.write_all(b"abcdef").await?;
        let got = read_to_end(&mut stream).await?;
        match cut {
            Cut::Fin => assert_eq!(got?, b"abc"),
            Cut::Rst => assert!(is_reset(&got), "{got:?}"),
        }
        assert_eq!(proxy.stats().down, 3);
    }
    Ok(())
}

#[tokio::test]
async fn resets_and_ends_on_demand() -> Result<()> {
    let (proxy, mut stream) = through(Faults::default()).await?;
    exchange(&mut stream, b"x").await?;
    proxy.reset_all();
    let got = read_to_end(&mut stream).await?;
    assert!(is_reset(&got), "{got:?}");

    let mut stream = TcpStream::connect(proxy.addr()).await?;
    exchange(&mut stream, b"x").await?;
    proxy.cut_all(Cut::Fin);
    assert_eq!(read_to_end(&mut stream).await??, b"");
    Ok(())
}

#[tokio::test]
async fn a_black_hole_holds_one_direction_until_healed() -> Result<()> {
    let (proxy, mut stream) = through(Faults::default()).await?;
    exchange(&mut stream, b"x").await?;
    proxy.update(|faults| faults.down.blackhole = true);
    stream.write_all(b"lost?").await?;
    proxy.wait(|stats| stats.up == 6, SOON).await?;
    assert!(timeout(Duration::from_millis(100), stream.read_u8()).await.is_err(), "nothing comes back");
    assert_eq!(proxy.stats().down, 1);
    proxy.heal();
    let mut answer = [0; 5];
    timeout(SOON, stream.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"lost?");
    Ok(())
}

#[tokio::test]
async fn refuses_accepts_and_changes_its_target() -> Result<()> {
    let (proxy, mut stream) = through(Faults::default()).await?;
    exchange(&mut stream, b"x").await?;
    proxy.refuse().await;
    let refused = TcpStream::connect(proxy.addr()).await.expect_err("it must refuse");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    exchange(&mut stream, b"the old one lives").await?;
    proxy.accept().await;

    let nobody = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    proxy.retarget(nobody);
    let mut nowhere = TcpStream::connect(proxy.addr()).await?;
    let got = read_to_end(&mut nowhere).await?;
    assert!(is_reset(&got), "{got:?}");
    assert_eq!(proxy.stats().unreachable, 1);
    proxy.retarget(echo::start().await?);
    let mut again = TcpStream::connect(proxy.addr()).await?;
    exchange(&mut again, b"x").await?;
    Ok(())
}

#[tokio::test]
async fn mqtt_lives_through_chaos() -> Result<()> {
    let broker = Mosquitto::plain().await?;
    let proxy = Proxy::start(broker.addr()).await?;
    publish(Endpoint::from(proxy.addr()), "t", "1", 1, false).await?;
    let _watcher = Watcher::start(proxy.addr(), "t").await?;
    let chaos = proxy.chaos(1, Duration::from_millis(5), Duration::from_millis(20));
    proxy.wait(|stats| stats.connections >= 3 && stats.open == 0, SOON).await?;
    assert!(chaos.resets() >= 1);
    Ok(())
}
