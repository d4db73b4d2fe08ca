//! Servers that are not believed, and servers that do not want us.

use testkit::sshd::run_keygen;

use super::*;
use crate::services::ssh::link::trust::Distrust;

async fn refused(ways: Ways, server: &Server, rport: u16) -> Failure {
    let target = Target { host: "127.0.0.1".into(), port: 9 };
    soon(Links::new(ways).open(server, rport, target)).await.expect_err("no forward")
}

async fn distrusted(stage: &Stage, trust: Trust) -> Distrust {
    match refused(ways(&stage.sshd, &stage.key_path("ed25519"), trust), &stage.server(), 0).await {
        Failure::HostKey { source, .. } => Arc::into_inner(source).expect("nobody else has it"),
        other => panic!("{other:?}"),
    }
}

fn known_hosts(stage: &Stage, text: &str) -> Trust {
    let path = stage.key_path("known_hosts");
    std::fs::write(&path, text).expect("a file");
    Trust::known_hosts(&path)
}

#[tokio::test]
async fn only_the_right_host_key_is_believed() {
    let stage = Stage::plain().await;
    let (name, key) =
        (format!("[127.0.0.1]:{}", stage.sshd.port()), stage.sshd.host_key("ed25519").expect("a key"));
    let line = run_keygen(&["-l", "-f", stage.sshd.path("host_ed25519.pub").to_str().expect("text")]);
    let sum = line.expect("a fingerprint").split_whitespace().nth(1).expect("a fingerprint").to_owned();
    let own = Key::load(&stage.key_path("ed25519")).expect("a key").public();
    let error = distrusted(&stage, Trust::pinned(&own).expect("a key")).await;
    assert!(matches!(&error, Distrust::Wrong { .. }) && error.to_string().contains(&sum), "{error}");
    let error = distrusted(&stage, known_hosts(&stage, &format!("{name} {own}\n"))).await;
    assert!(matches!(&error, Distrust::Wrong { .. }) && error.to_string().contains(&sum), "{error}");
    let error = distrusted(&stage, known_hosts(&stage, &format!("other.example {key}\n"))).await;
    assert!(matches!(&error, Distrust::Unknown { .. }) && error.to_string().contains(&sum), "{error}");
    let error = distrusted(&stage, known_hosts(&stage, &format!("{name} {key}\n@revoked * {key}\n"))).await;
    assert!(matches!(&error, Distrust::Revoked { .. }), "{error}");
    assert!(!stage.sshd.log().contains("userauth-request"), "nobody logged in:\n{}", stage.sshd.log());
    let trust = known_hosts(&stage, &format!("{name} {key}\n"));
    let links = Links::new(ways(&stage.sshd, &stage.key_path("ed25519"), trust));
    works(&stage.forward(&links, echo().await).await).await;
}

#[tokio::test]
async fn a_server_with_rsa_only_is_refused() {
    let stage = Stage::of(Sshd::builder().host_key("rsa", 2048)).await;
    let error = distrusted(&stage, known_hosts(&stage, "")).await;
    assert!(matches!(error, Distrust::Kind), "{error}");
}

#[tokio::test]
async fn of_several_host_keys_the_one_on_file_is_asked_for() {
    let stage = Stage::of(Sshd::builder().host_key("ed25519", 0).host_key("ecdsa", 256)).await;
    let key = stage.sshd.host_key("ecdsa").expect("a key");
    let links =
        Links::new(ways(&stage.sshd, &stage.key_path("ed25519"), Trust::pinned(&key).expect("a key")));
    works(&stage.forward(&links, echo().await).await).await;
}

/// A server with a certificate, made with these options, and what is known of its authority.
async fn certified(options: &[&str]) -> (Stage, Trust) {
    let mut stage = Stage::of(Sshd::builder().line("HostCertificate {dir}/host_ed25519-cert.pub")).await;
    keygen(&stage.key_path("ca"), "ed25519", 0).expect("a key");
    let (ca, host) = (stage.key_path("ca"), stage.sshd.path("host_ed25519.pub"));
    let mut arguments = vec!["-q", "-s", ca.to_str().expect("text"), "-I", "test", "-h"];
    arguments.extend(options);
    arguments.push(host.to_str().expect("text"));
    run_keygen(&arguments).expect("a certificate");
    stage.sshd.kill();
    stage.sshd.start().await.expect("sshd with its certificate");
    let authority = Key::load(&ca).expect("a key").public();
    let trust = known_hosts(&stage, &format!("@cert-authority * {authority}\n"));
    (stage, trust)
}

#[tokio::test]
async fn a_host_certificate_must_be_good() {
    let (stage, trust) = certified(&["-n", "127.0.0.1", "-V", "always:forever"]).await;
    let links = Links::new(ways(&stage.sshd, &stage.key_path("ed25519"), trust));
    works(&stage.forward(&links, echo().await).await).await;
    for (options, reason) in [
        (["-n", "other.example", "-V", "always:forever"], "other names"),
        (["-n", "127.0.0.1", "-V", "19990101:20000101"], "expired"),
        (["-n", "127.0.0.1", "-V", "21000101:21010101"], "not valid yet"),
    ] {
        let (stage, trust) = certified(&options).await;
        let error = distrusted(&stage, trust).await.to_string();
        assert!(error.contains(reason), "{error}");
    }
    let (stage, _) = certified(&["-n", "127.0.0.1", "-V", "always:forever"]).await;
    let own = Key::load(&stage.key_path("ed25519")).expect("a key").public();
    let error =
        distrusted(&stage, known_hosts(&stage, &format!("@cert-authority * {own}\n"))).await.to_string();
    assert!(error.contains("is not known to sign"), "{error}");
}

#[tokio::test]
async fn every_kind_of_key_logs_in() {
    let stage = Stage::plain().await;
    let target = echo().await;
    for (kind, bits) in [("ecdsa", 256), ("ecdsa", 384), ("rsa", 2048)] {
        let name = format!("{kind}{bits}");
        keygen(&stage.key_path(&name), kind, bits).expect("a key");
        stage.let_in(&name, "");
        let trust = Trust::pinned(&stage.sshd.host_key("ed25519").expect("a key")).expect("a key");
        let links = Links::new(ways(&stage.sshd, &stage.key_path(&name), trust));
        works(&stage.forward(&links, target).await).await;
    }
    assert!(!stage.sshd.log().contains("ssh-rsa "), "no SHA-1");
}

#[tokio::test]
async fn a_key_that_the_server_does_not_know_is_refused() {
    let stage = Stage::plain().await;
    stage.sshd.let_in("").expect("authorized_keys");
    let error = refused(stage.ways(), &stage.server(), 0).await;
    assert!(matches!(&error, Failure::KeyRefused { user, .. } if *user == stage.sshd.user()), "{error:?}");
    assert!(error.to_string().contains("authorized_keys"));
}

#[tokio::test]
async fn a_server_that_does_not_listen_for_us_says_so() {
    for line in ["AllowTcpForwarding no", "AllowTcpForwarding local", "PermitListen 1"] {
        let stage = Stage::of(Sshd::builder().line(line)).await;
        let error = refused(stage.ways(), &stage.server(), testkit::ports::free_port()).await;
        assert!(matches!(error, Failure::ForwardRefused { .. }), "{line}: {error:?}");
        until("the connection is closed", || stage.sshd.connections().is_empty()).await;
    }
    let stage = Stage::plain().await;
    let port = testkit::ports::free_port();
    stage.let_in("ed25519", &format!("restrict,port-forwarding,permitlisten=\"127.0.0.1:{port}\""));
    let error = refused(stage.ways(), &stage.server(), testkit::ports::free_port()).await;
    assert!(matches!(error, Failure::ForwardRefused { .. }), "{error:?}");
    let links = stage.links();
    let forward = links.open(&stage.server(), port, to(echo().await)).await.expect("the permitted port");
    assert_eq!(forward.rport(), port);
    works(&forward).await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused_and_the_connection_stays() {
    let stage = Stage::plain().await;
    let mut ways = stage.ways();
    // For localhost, sshd is content with one of its two addresses.
    ways.bind = "127.0.0.1".into();
    let links = Links::new(ways);
    let forward = stage.forward(&links, echo().await).await;
    let (_taken, address) = listen().await;
    for port in [address.port(), forward.rport()] {
        let target = Target { host: "127.0.0.1".into(), port: 9 };
        let error = links.open(&stage.server(), port, target).await.expect_err("no forward");
        assert!(matches!(error, Failure::ForwardRefused { rport, .. } if rport == port), "{error:?}");
    }
    works(&forward).await;
}
