//! What people use tunnels for: ssh, scp, rsync and HTTP to the device's side.

use std::{fs, path::Path, process::Output};

use serde_json::json;
use testkit::sshd::{self, Sshd};
use tokio::process::Command;

use crate::{
    story::Story,
    support::{SOON, tier},
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
