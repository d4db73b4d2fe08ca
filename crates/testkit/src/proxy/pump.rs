//! One connection through the proxy: two directions, each through its link, until the end or a cut.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{broadcast, watch};
use tokio::time::{sleep, timeout};

use super::{Cut, Faults, Link, Shared, Stats};

/// How long after a FIN the other side has to end by itself.
const LINGER: Duration = Duration::from_secs(5);

/// One direction's part of what both share.
struct Direction {
    link: fn(&Faults) -> Link,
    counter: fn(&mut Stats) -> &mut u64,
}

const UP: Direction = Direction { link: |faults| faults.up, counter: |stats| &mut stats.up };
const DOWN: Direction = Direction { link: |faults| faults.down, counter: |stats| &mut stats.down };

pub(super) async fn run(
    shared: &Shared,
    mut client: TcpStream,
    mut server: TcpStream,
    cuts: &mut broadcast::Receiver<Cut>,
) {
    // Without it slices would be joined again; where it fails the connection is dead, which the pumps will see.
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let up = pump(shared, &UP, from_client, to_server);
        let down = pump(shared, &DOWN, from_server, to_client);
        tokio::select! {
            cut = cuts.recv() => Err(cut.unwrap_or(Cut::Rst)),
            ended = async { tokio::try_join!(up, down) } => ended,
        }
    };
    match ended {
        Ok(_) => {}
        Err(Cut::Rst) => {
            client.set_zero_linger().ok();
            server.set_zero_linger().ok();
        }
        Err(Cut::Fin) => {
            tokio::join!(finish(client), finish(server));
        }
    }
}

/// Closing with bytes unread would send an RST, so they are read.
async fn finish(mut stream: TcpStream) {
    stream.shutdown().await.ok();
    timeout(LINGER, tokio::io::copy(&mut stream, &mut tokio::io::sink())).await.ok();
}

async fn pump(
    shared: &Shared,
    direction: &Direction,
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
) -> Result<(), Cut> {
    let mut faults = shared.faults.subscribe();
    let mut buffer = vec![0; 16 * 1024];
    let mut offset = 0u64;
    loop {
        let read = from.read(&mut buffer).await.map_err(|_| Cut::Rst)?;
        let link = open_link(&mut faults, direction).await;
        sleep(link.latency).await;
        if read == 0 {
            // It fails when the other side is gone already.
            to.shutdown().await.ok();
            return Ok(());
        }
        let mut rest = &mut buffer[..read];
        while !rest.is_empty() {
            let link = open_link(&mut faults, direction).await;
            let (piece, after) = rest.split_at_mut(piece_length(&link, offset, rest.len())?);
            flip(&link, offset, piece);
            to.write_all(piece).await.map_err(|_| Cut::Rst)?;
            offset += piece.len() as u64;
            shared.stats.send_modify(|stats| *(direction.counter)(stats) += piece.len() as u64);
            pace(&link, piece.len()).await;
            rest = after;
        }
        // After the last byte, so that a cut at N does not wait for byte N + 1.
        piece_length(&(direction.link)(&faults.borrow()), offset, 1)?;
    }
}

/// The link as soon as it is no black hole.
async fn open_link(faults: &mut watch::Receiver<Faults>, direction: &Direction) -> Link {
    let healed = faults.wait_for(|faults| !(direction.link)(faults).blackhole).await;
    (direction.link)(&healed.expect("the sender lives as long as the connection"))
}

/// How much of `available` goes out in one write, or the cut that is due.
fn piece_length(link: &Link, offset: u64, available: usize) -> Result<usize, Cut> {
    let mut length = available.min(link.slice.unwrap_or(usize::MAX).max(1));
    if let Some(rate) = link.bytes_per_second {
        // Twenty writes a second are smooth enough.
        length = length.min(usize::try_from(rate / 20).unwrap_or(usize::MAX).max(1));
    }
    match link.cut_after {
        Some((limit, cut)) if offset >= limit => Err(cut),
        Some((limit, _)) => Ok(length.min(usize::try_from(limit - offset).unwrap_or(usize::MAX))),
        None => Ok(length),
    }
}

fn flip(link: &Link, offset: u64, piece: &mut [u8]) {
    let index =
        link.flip_at.and_then(|at| at.checked_sub(offset)).and_then(|index| usize::try_from(index).ok());
    if let Some(byte) = index.and_then(|index| piece.get_mut(index)) {
        *byte = !*byte;
    }
}

async fn pace(link: &Link, sent: usize) {
    if let Some(rate) = link.bytes_per_second {
        sleep(Duration::from_secs_f64(sent as f64 / rate.max(1) as f64)).await;
    } else if link.slice.is_some() {
        // Gives the receiver a turn to see the piece alone.
        tokio::task::yield_now().await;
    }
}
