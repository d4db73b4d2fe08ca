//! What people use tunnels for: ssh, scp, rsync and HTTP to the device's side.

use std::{fs, path::Path, process::Output};

use serde_json::json;
use testkit::{
    sshd::{self, Sshd},
    web::{Answer, Web},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
    time::timeout,
};

use crate::{
    story::{Story, answers},
    support::{SOON, command, tier},
};

async fn done(mut command: Command) -> Output {
    let output = tokio::time::timeout(10 * SOON, command.kill_on_drop(true).output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn sum(path: &Path) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, &fs::read(path).unwrap()).as_ref().to_vec()
}

#[tokio::test]
async fn ssh_scp_and_rsync_work_through_it() {
    let inner = Sshd::plain().await.unwrap();
    let story = Story::begin(&format!(", targets: ['127.0.0.1:{}']", inner.port())).await;
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    sshd::keygen(&key, "ed25519", 0).unwrap();
    inner.let_in(&fs::read_to_string(dir.path().join("key.pub")).unwrap()).unwrap();
    let _agent = story.online().await;
    let port = story.open("a", json!({ "lport": inner.port() })).await.to_string();
    let known = dir.path().join("known");
    fs::write(&known, format!("[127.0.0.1]:{port} {}\n", inner.host_key("ed25519").unwrap())).unwrap();
    let options = [
        format!("IdentityFile={}", key.display()),
        format!("UserKnownHostsFile={}", known.display()),
        "IdentitiesOnly=yes".to_owned(),
        "BatchMode=yes".to_owned(),
    ];
    let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
    let place = format!("{}@127.0.0.1", inner.user());
    let mut ssh = Command::new("ssh");
    ssh.args(["-F", "none", "-p", &port]).args(&options).arg(&place).arg("echo here");
    assert_eq!(done(ssh).await.stdout, b"here\n");
    let size = if tier() > 1 { 1 << 30 } else { 16 << 20 };
    let (sent, got, back) = (dir.path().join("sent"), dir.path().join("got"), dir.path().join("back"));
    let block: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&sent, block.repeat(size >> 20)).unwrap();
    let remote = |path: &Path| format!("{place}:{}", path.display());
    for (from, to) in [(sent.display().to_string(), remote(&got)), (remote(&got), back.display().to_string())]
    {
        let mut scp = Command::new("scp");
        scp.args(["-F", "none", "-q", "-P", &port]).args(&options).arg(from).arg(to);
        done(scp).await;
    }
    assert!(sum(&sent) == sum(&got) && sum(&sent) == sum(&back));
    let mut rsync = Command::new("rsync");
    rsync
        .args(["-e", &format!("ssh -F none -p {port} {}", options.join(" "))])
        .arg(&sent)
        .arg(remote(&dir.path().join("synced")));
    done(rsync).await;
    assert_eq!(sum(&sent), sum(&dir.path().join("synced")));
    story.close("a").await;
    let end = story.end("a").await;
    for bytes in ["bytes_in", "bytes_out"] {
        assert!(end[bytes].as_u64().unwrap() > size as u64, "{end}");
    }
}

#[tokio::test]
async fn a_web_page_of_the_device_is_seen_through_it() {
    let web = Web::start().await.unwrap();
    web.answers([Answer::json(200, r#"{"page": "of the device"}"#)]);
    let place = web.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let lport: u16 = place.rsplit(':').next().unwrap().parse().unwrap();
    let story = Story::begin(&format!(", targets: ['{place}']")).await;
    let _agent = story.online().await;
    let port = story.open("a", json!({ "lport": lport })).await;
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = "GET /status HTTP/1.1\r\nHost: device\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    timeout(SOON, stream.read_to_string(&mut page)).await.unwrap().unwrap();
    assert!(page.starts_with("HTTP/1.1 200") && page.ends_with(r#"{"page": "of the device"}"#), "{page}");
    assert_eq!(web.requests()[0].target, "/status");
}

/// The request names one of the list; each has a connection of its own.
#[tokio::test]
async fn two_servers_have_their_own_tunnels() {
    let other = Sshd::plain().await.unwrap();
    let story = Story::begin(&format!(", backends: ['127.0.0.1:{}']", other.port())).await;
    let key = command::run(&story.home, &["ssh", "key"], "").await.out;
    other.let_in(&key).unwrap();
    let known =
        |server: &Sshd| format!("[127.0.0.1]:{} {}\n", server.port(), server.host_key("ed25519").unwrap());
    story.home.file("known_hosts", &(known(&story.server) + &known(&other)), 0o644);
    let _agent = story.online().await;
    let first = story.open("a", json!({})).await;
    let named = json!({ "backend_host": "127.0.0.1", "backend_port": other.port() });
    let second = story.open("b", named).await;
    for port in [first, second] {
        answers(port, "hello").await;
    }
    assert_eq!(
        [&story.server, &other].map(|server| server.log().matches("Accepted publickey").count()),
        [1, 1]
    );
    story.close("a").await;
    story.end("a").await;
    answers(second, "still there").await;
}
