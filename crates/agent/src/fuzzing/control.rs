//! What a client may send to the control socket.

use std::{
    io::{self, Read as _, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::Folder;
use crate::{
    control::{Command, Control, Desk, MAX_REQUEST, Talk},
    publish,
};

/// Longer than the daemon's own patience.
const PATIENCE: Duration = Duration::from_secs(30);

thread_local! {
    /// The socket of a daemon that lasts as long as this thread.
    static SOCKET: PathBuf = serve();
}

/// Each line is answered by one line, `{"ok": …}` or `{"error": "…"}`, in their order, and then the daemon hangs up;
/// it answers the next client as if nothing had been.
pub fn control(data: &[u8]) {
    SOCKET.with(|socket| {
        let mut client = UnixStream::connect(socket).expect("the daemon listens");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket");
        client.set_write_timeout(Some(PATIENCE)).expect("a socket");
        // It may hang up on us before we are through.
        client.write_all(data).and_then(|()| client.shutdown(Shutdown::Write)).ok();
        let mut replies = Vec::new();
        match client.read_to_end(&mut replies) {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("no end: {error}"),
            _ => judge(data, &replies),
        }
    });
}

fn judge(data: &[u8], replies: &[u8]) {
    let requests: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
    let commands: Vec<Option<Command>> =
        requests.iter().map(|line| serde_json::from_slice(line).ok()).collect();
    // What comes after it are its lines.
    let is_publish = |command: &Option<Command>| matches!(command, Some(Command::Publish(_)));
    let conversation = commands.iter().position(is_publish).map_or(commands.len(), |at| at + 1);
    let replies: Vec<&[u8]> = replies.split_inclusive(|byte| *byte == b'\n').collect();
    assert!(replies.len() <= conversation, "more answers than questions");
    for (command, reply) in commands.iter().zip(&replies) {
        let reply: Value = serde_json::from_slice(reply).expect("an answer is a line of JSON");
        match reply.as_object().map(|reply| reply.iter().collect::<Vec<_>>()).as_deref() {
            Some([(key, _)]) if *key == "ok" => assert!(command.is_some(), "what is no command was obeyed"),
            Some([(key, Value::String(why))]) if *key == "error" => {
                assert!(command.is_none() && !why.is_empty(), "{command:?}: {why:?}");
            }
            other => panic!("{other:?} is no answer"),
        }
    }
    let short = requests[..conversation].iter().all(|request| (request.len() as u64) < MAX_REQUEST);
    assert!(!short || replies.len() == conversation, "{} of {conversation} answered", replies.len());
}

/// Says yes to everything, and swallows what is published.
struct Yes;

impl Desk for Yes {
    async fn answer(&self, _: Command) -> Result<Value, String> {
        Ok(json!({}))
    }

    async fn publish(&self, _: publish::Request, talk: Talk) -> io::Result<()> {
        let (mut replies, mut lines) = talk.split();
        tokio::io::copy(&mut lines, &mut tokio::io::sink()).await?;
        replies.send(&json!({"ok": {}}), PATIENCE).await
    }
}

fn serve() -> PathBuf {
    let (ready, bound) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let folder = Folder::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let control = Control::bind(folder.path()).expect("a new folder");
            ready.send(control.path().to_owned()).expect("somebody waits");
            control.serve(Yes).await;
        });
    });
    bound.recv().expect("the daemon has started")
}
