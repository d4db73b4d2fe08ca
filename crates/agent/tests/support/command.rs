//! Commands of `iot-agent` other than the daemon: their input, output and end.

use std::process::Stdio;

use tokio::{
    io::AsyncWriteExt,
    process::{Child, Command},
    time::timeout,
};

use super::{Home, SOON};

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub errors: String,
}

impl Ended {
    /// With this code, and exactly this on standard output.
    #[track_caller]
    pub fn assert(&self, code: i32, out: &str) {
        assert_eq!((self.code, self.out.as_str()), (code, out), "{self:#?}");
    }

    /// This is on standard error.
    #[track_caller]
    pub fn assert_said(&self, what: &str) {
        assert!(self.errors.contains(what), "{what:?} in {self:#?}");
    }
}

/// Starts a command whose standard input the caller writes.
pub fn begin(home: &Home, arguments: &[&str]) -> Child {
    let mut command = Command::from(home.command(arguments));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}

/// Waits for its end.
pub async fn end(child: Child) -> Ended {
    let output = timeout(SOON, child.wait_with_output()).await.expect("still runs").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: output.status.code().unwrap(), out: text(output.stdout), errors: text(output.stderr) }
}

/// Runs a command on these bytes. One that ends before it has read them all is no error here.
pub async fn run(home: &Home, arguments: &[&str], input: impl AsRef<[u8]>) -> Ended {
    let mut child = begin(home, arguments);
    let mut stdin = child.stdin.take().unwrap();
    let feed = async {
        stdin.write_all(input.as_ref()).await.ok();
        drop(stdin);
    };
    tokio::join!(feed, end(child)).1
}
