//! A server that sends back what comes.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

/// Starts one on a free port of 127.0.0.1, for as long as the runtime lives. Each connection is answered by itself, and
/// ends when its client has said that no more is to come, and has everything back.
///
/// # Errors
/// When no port can be had.
pub async fn start() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("listen for an echo")?;
    let address = listener.local_addr().context("ask for the echo's address")?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                // Whoever asks may be gone.
                tokio::io::copy(&mut from, &mut to).await.ok();
                to.shutdown().await.ok();
            });
        }
    });
    Ok(address)
}
