use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;

/// Says the same to every question, and of a publisher how much came.
struct Says(Result<Value, String>);

impl Desk for Says {
    async fn answer(&self, _: Command) -> Result<Value, String> {
        self.0.clone()
    }

    async fn publish(&self, request: publish::Request, talk: Talk) -> io::Result<()> {
        let (mut replies, mut input) = talk.split();
        let mut lines = Vec::new();
        input.read_to_end(&mut lines).await?;
        replies.send(&json!({"ok": [request.stream, lines.len()]}), PATIENCE).await
    }
}

/// A daemon that answers, and the folder it answers in.
struct Daemon {
    run: TempDir,
    serving: JoinHandle<()>,
}

impl Daemon {
    fn start() -> Self {
        let run = tempfile::tempdir().unwrap();
        let control = Control::bind(&run.path().join("run")).unwrap();
        let serving = tokio::spawn(control.serve(Says(Ok(json!({"device_id": "d1"})))));
        Self { run, serving }
    }

    fn folder(&self) -> PathBuf {
        self.run.path().join("run")
    }

    fn socket(&self) -> PathBuf {
        self.folder().join(SOCKET)
    }

    async fn stop(self) -> TempDir {
        self.serving.abort();
        assert!(self.serving.await.unwrap_err().is_cancelled());
        self.run
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.expect("took too long")
}

/// [`ask`] blocks, and the daemon lives on this thread.
async fn ask_from_aside(socket: PathBuf) -> Result<Value, AskError> {
    within(tokio::task::spawn_blocking(move || ask(&socket, &Command::Status))).await.unwrap()
}

/// Sends these bytes and the end, and returns all that comes back.
async fn say(socket: &Path, bytes: &[u8]) -> String {
    let mut stream = within(UnixStream::connect(socket)).await.unwrap();
    within(stream.write_all(bytes)).await.unwrap();
    within(stream.shutdown()).await.unwrap();
    let mut reply = String::new();
    within(stream.read_to_string(&mut reply)).await.unwrap();
    reply
}

#[tokio::test]
async fn answers_what_it_is_asked() {
    let daemon = Daemon::start();
    assert_eq!(ask_from_aside(daemon.socket()).await.unwrap(), json!({"device_id": "d1"}));
    assert_eq!(fs::metadata(daemon.socket()).unwrap().permissions().mode() & 0o777, 0o600);

    let socket = daemon.socket();
    let run = daemon.stop().await;
    assert!(!socket.exists());
    let gone = ask_from_aside(socket).await.unwrap_err();
    assert!(
        matches!(gone, AskError::NotRunning { .. }) && gone.to_string().contains("systemctl status"),
        "{gone}"
    );
    drop(run);
}

#[tokio::test]
async fn each_line_has_its_reply() {
    let daemon = Daemon::start();
    let ok = "{\"ok\":{\"device_id\":\"d1\"}}\n";
    let unknown = "{\"error\":\"unknown command\"}\n";
    for (said, expected) in [
        ("{\"command\":\"status\"}\n{\"command\":\"status\"}\n", [ok, ok].concat()),
        ("{\"command\":\"status\"}", ok.into()),
        (
            "{\"command\":\"reboot\"}\nnonsense\n\n\u{0}\u{7f}\n{\"command\":\"status\"}\n",
            [unknown, unknown, unknown, unknown, ok].concat(),
        ),
        ("", String::new()),
    ] {
        assert_eq!(say(&daemon.socket(), said.as_bytes()).await, expected, "{said:?}");
    }
    assert_eq!(say(&daemon.socket(), b"\xff\xfe\n").await, unknown);
}

/// Of a command that exists the user learns which part is wrong.
#[tokio::test]
async fn a_malformed_request_is_answered_with_its_reason() {
    let daemon = Daemon::start();
    for (said, reason) in [
        (r#"{"command": "publish"}"#, "missing field `stream`"),
        (r#"{"command": "publish", "stream": "a/b", "class": "metrics", "qos": 1}"#, "a stream is 1 to 64"),
        (r#"{"command": "publish", "stream": "a", "class": "low", "qos": 1}"#, "unknown variant `low`"),
        (r#"{"command": "publish", "stream": "a", "class": "metrics", "qos": 3}"#, "expected 0, 1 or 2"),
        (r#"{"command": "outbox_list"}"#, "missing field `class`"),
        (r#"{"command": "outbox_purge", "classes": "audit"}"#, "invalid type"),
    ] {
        let reply = say(&daemon.socket(), format!("{said}\n").as_bytes()).await;
        assert!(reply.starts_with("{\"error\":\"bad request: ") && reply.contains(reason), "{said}: {reply}");
        assert_eq!(reply.lines().count(), 1, "{reply}");
    }
}

const PUBLISH: &[u8] = b"{\"command\":\"publish\",\"stream\":\"a\",\"class\":\"metrics\",\"qos\":1}\n";

/// `tail -f log | iot-agent publish log` may say nothing for days, and there may be several of them.
#[tokio::test(start_paused = true)]
async fn idle_publishers_are_not_cut_off_and_keep_nobody_out() {
    let daemon = Daemon::start();
    let mut publishers = Vec::new();
    for _ in 0..2 * MAX_CLIENTS {
        let mut publisher = UnixStream::connect(daemon.socket()).await.unwrap();
        within(publisher.write_all(PUBLISH)).await.unwrap();
        publishers.push(publisher);
    }
    let asked_at = tokio::time::Instant::now();
    assert!(say(&daemon.socket(), b"{\"command\":\"status\"}\n").await.starts_with("{\"ok\""));
    assert!(asked_at.elapsed() < PATIENCE, "{:?}: waited for a place", asked_at.elapsed());
    tokio::time::sleep(Duration::from_secs(86_400)).await;
    for mut publisher in publishers {
        within(publisher.write_all(b"a line\n")).await.unwrap();
        within(publisher.shutdown()).await.unwrap();
        let mut reply = String::new();
        within(publisher.read_to_string(&mut reply)).await.unwrap();
        assert_eq!(reply, "{\"ok\":[\"a\",7]}\n");
    }
}

#[tokio::test]
async fn a_line_without_end_is_not_read_to_it() {
    let daemon = Daemon::start();
    let mut stream = UnixStream::connect(daemon.socket()).await.unwrap();
    let flood = vec![b'x'; 16 << 20];
    let cut = within(stream.write_all(&flood)).await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::BrokenPipe);
    assert!(ask_from_aside(daemon.socket()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn silent_clients_keep_nobody_out_for_long() {
    let daemon = Daemon::start();
    let mut silent = Vec::new();
    for _ in 0..MAX_CLIENTS {
        silent.push(UnixStream::connect(daemon.socket()).await.unwrap());
    }
    let asked_at = tokio::time::Instant::now();
    assert!(say(&daemon.socket(), b"{\"command\":\"status\"}\n").await.starts_with("{\"ok\""));
    assert!(asked_at.elapsed() >= PATIENCE, "there was no place before");
}

#[tokio::test]
async fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
    let daemon = Daemon::start();
    let refused = Control::bind(&daemon.folder()).unwrap_err();
    assert!(matches!(refused, Error::InUse { pid: Some(pid), .. } if pid == std::process::id()), "{refused}");
    assert!(ask_from_aside(daemon.socket()).await.is_ok());

    let run = daemon.stop().await;
    let socket = run.path().join("run").join(SOCKET);
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(
        matches!(ask_from_aside(socket.clone()).await, Err(AskError::NotRunning { .. })),
        "a dead socket"
    );
    let control = Control::bind(socket.parent().unwrap()).unwrap();
    let _serving = tokio::spawn(control.serve(Says(Ok(json!(1)))));
    assert_eq!(ask_from_aside(socket).await.unwrap(), json!(1));
}

#[tokio::test]
async fn a_child_that_still_has_the_lock_keeps_nobody_out() {
    let run = tempfile::tempdir().unwrap();
    let control = Control::bind(run.path()).unwrap();
    let _childs = control.lock.try_clone().unwrap();
    drop(control);
    Control::bind(run.path()).unwrap();
}

#[tokio::test]
async fn a_handlers_refusal_and_a_dumb_daemon_are_told() {
    let run = tempfile::tempdir().unwrap();
    let control = Control::bind(run.path()).unwrap();
    let socket = control.path().to_owned();
    let serving = tokio::spawn(control.serve(Says(Err("not now".to_owned()))));
    assert_eq!(ask_from_aside(socket.clone()).await.unwrap_err().to_string(), "the agent says: not now");
    serving.abort();
    assert!(serving.await.is_err());

    let dumb = UnixListener::bind(&socket).unwrap();
    let (asked, accepted) = tokio::join!(ask_from_aside(socket), async { drop(within(dumb.accept()).await) });
    assert_eq!(accepted, ());
    assert!(matches!(asked, Err(AskError::Silent { .. })));
}

#[tokio::test]
async fn says_which_key_to_set() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = Control::bind(&file.join("run")).unwrap_err();
    assert!(
        matches!(refused, Error::Folder { .. }) && refused.to_string().contains("`paths.run`"),
        "{refused}"
    );
    let refused = Control::bind(&dir.path().join("x".repeat(120))).unwrap_err();
    assert!(
        matches!(refused, Error::Listen { .. }) && refused.to_string().contains("`paths.run`"),
        "{refused}"
    );
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn other_users_are_not_answered() {
    if !rustix::process::geteuid().is_root() {
        return; // Nobody else can become somebody else.
    }
    const NOBODY: u32 = 65534;
    let daemon = Daemon::start();
    for folder in [daemon.run.path(), &daemon.folder()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let as_nobody = |socket: PathBuf| async move {
        let thread = std::thread::spawn(move || {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(NOBODY)).unwrap();
            ask(&socket, &Command::Status)
        });
        within(tokio::task::spawn_blocking(|| thread.join().unwrap())).await.unwrap()
    };
    let denied = as_nobody(daemon.socket()).await.unwrap_err();
    assert!(matches!(denied, AskError::Denied { .. }) && denied.to_string().contains("sudo"), "{denied}");
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    let refused = as_nobody(daemon.socket()).await.unwrap_err();
    assert!(matches!(&refused, AskError::Refused { message } if message.contains("only root")), "{refused}");
}
