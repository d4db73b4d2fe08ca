//! What goes to a client, each packet at its time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{Instant, sleep_until};

use super::host::Stream;

/// Bytes, and when they may go.
pub(super) type Outgoing = mpsc::UnboundedSender<(Instant, Vec<u8>)>;

/// The task that writes; it does not outlive a connection that is aborted.
pub(super) struct Writer(JoinHandle<()>);

impl Writer {
    pub(super) fn start(to: WriteHalf<Box<dyn Stream>>) -> (Outgoing, Self) {
        let (outgoing, queue) = mpsc::unbounded_channel();
        (outgoing, Self(spawn_local(write(to, queue))))
    }

    /// Waits until what was due is written.
    pub(super) async fn finish(mut self) {
        // A panic in it has been printed, and the client is gone either way.
        (&mut self.0).await.ok();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn write(mut to: WriteHalf<Box<dyn Stream>>, mut queue: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>) {
    let (mut due, mut count) = (BTreeMap::new(), 0u64);
    loop {
        let first = due.first_key_value().map(|((at, _), _): (&(Instant, u64), &Vec<u8>)| *at);
        tokio::select! {
            biased;
            more = queue.recv() => match more {
                Some((at, bytes)) => {
                    due.insert((at, count), bytes);
                    count += 1;
                    continue;
                }
                None => {
                    flush(&mut to, &mut due).await.ok();
                    // What the line no longer takes is lost either way.
                    to.shutdown().await.ok();
                    return;
                }
            },
            () = sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() => {
                if flush(&mut to, &mut due).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Writes what is due by now, at once.
async fn flush(
    to: &mut WriteHalf<Box<dyn Stream>>,
    due: &mut BTreeMap<(Instant, u64), Vec<u8>>,
) -> std::io::Result<()> {
    let later = due.split_off(&(Instant::now() + Duration::from_nanos(1), 0));
    let bytes: Vec<u8> = std::mem::replace(due, later).into_values().flatten().collect();
    to.write_all(&bytes).await?;
    to.flush().await
}
