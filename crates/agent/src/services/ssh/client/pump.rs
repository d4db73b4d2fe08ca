//! Working on a channel: reaching its target, and then bytes in both directions until there are none left.

use std::{io, sync::Arc, time::Duration};

use rustix::net::{Shutdown, shutdown};
use tokio::{net::TcpStream, sync::Notify, task::yield_now, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    channel::Turn,
    core::Core,
    forward::{Open, Target},
};

/// How long a target may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Packets that a channel sends until it is another's turn.
const TURN: usize = 2;

/// Works on a channel from its beginning to its end.
pub(super) async fn serve(
    core: Arc<Core>,
    id: u32,
    target: Arc<Target>,
    open: Open,
    token: CancellationToken,
) {
    let work = async {
        let stream = match timeout(CONNECT, target.connect()).await {
            Ok(Ok(stream)) => Arc::new(stream),
            Ok(Err(error)) => return core.say(|state| state.refuse(id, &error.to_string())),
            Err(_) => return core.say(|state| state.refuse(id, "it does not answer")),
        };
        core.say(|state| state.confirm(id, &stream));
        let (inward, outward) = {
            let state = core.state();
            let Some(channel) = state.channels.get(&id) else { return };
            (Arc::clone(&channel.inward), Arc::clone(&channel.outward))
        };
        // Either ends the other by what it makes of the channel.
        let (inward, outward) =
            tokio::join!(inwards(&core, id, &stream, &inward), outwards(&core, id, &stream, &outward));
        if inward.is_err() || outward.is_err() {
            tracing::debug!(target = %target, "a connection through a tunnel has broken");
        }
    };
    tokio::select! {
        () = work => {}
        () = token.cancelled() => {}
    }
    core.say(|state| state.left(id));
    drop(open);
}

/// From the target to the server, until the target has nothing more to say.
async fn outwards(core: &Core, id: u32, target: &TcpStream, more: &Notify) -> io::Result<()> {
    let mut sent = 0;
    loop {
        // Before looking, so that no room is missed that comes right after it.
        let room = core.room.notified();
        tokio::pin!(room);
        room.as_mut().enable();
        let turn = core.say(|state| state.forward(id, target));
        match turn {
            Ok(Turn::Sent) => {
                sent = (sent + 1) % TURN;
                if sent == 0 {
                    yield_now().await;
                }
            }
            Ok(Turn::Nothing) => tokio::select! {
                ready = target.readable() => ready?,
                () = more.notified() => {}
            },
            Ok(Turn::Window) => more.notified().await,
            Ok(Turn::Busy) => room.await,
            Ok(Turn::Over) => return Ok(()),
            Err(error) => {
                core.say(|state| state.end(id));
                return Err(error);
            }
        }
    }
}

/// From the server to the target, what that has not taken at once, until the server has nothing more to say.
async fn inwards(core: &Core, id: u32, target: &TcpStream, more: &Notify) -> io::Result<()> {
    loop {
        match core.say(|state| state.drain(id, target)) {
            Ok(true) => {
                // The other end may be gone already.
                shutdown(target, Shutdown::Write).ok();
                return Ok(());
            }
            Ok(false) if core.state().has_pending(id) => {
                tokio::select! {
                    ready = target.writable() => ready?,
                    () = more.notified() => {}
                }
            }
            Ok(false) => more.notified().await,
            Err(error) => {
                core.say(|state| state.end(id));
                return Err(error);
            }
        }
    }
}
