use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use iot_agent_testkit::certs::{Flaw, Identity, Pki};
use iot_agent_testkit::mosquitto::Tls;
use iot_agent_testkit::{Endpoint, Mosquitto, Watcher, publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::SOON;

#[tokio::test]
async fn keeps_sessions_over_a_stop_only_with_persistence() -> Result<()> {
    let mut broker = Mosquitto::builder().persistence().unix_socket().start().await?;
    let port = broker.port();
    publish(&broker, "kept", "1", 1, true).await?;

    broker.stop().await?;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "it still listens");
    broker.start().await?;
    assert_eq!(broker.port(), port);
    let watcher = Watcher::start(&broker, "#").await?;
    assert_eq!(watcher.next_on("kept", SOON).await?.text(), "1");

    broker.kill().await?;
    broker.start_without_session().await?;
    let watcher = Watcher::start(&broker, "#").await?;
    publish(&broker, "end", "", 1, false).await?;
    watcher.next_on("end", SOON).await?;
    assert_eq!(watcher.all().len(), 1, "the retained message must be forgotten");
    publish(Endpoint::unix(broker.socket_path()), "socket", "", 1, false).await?;
    watcher.next_on("socket", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn tls_takes_only_clients_with_a_certificate() -> Result<()> {
    let pki = Pki::new()?;
    let tls = Tls {
        server: pki.server()?,
        client_ca: pki.ca_file(),
        require_client_certificate: true,
        only_version: Some("tlsv1.3"),
    };
    let broker = Mosquitto::builder().without_plain().tls(tls).start().await?;
    let at = |identity: Option<Identity>| {
        Endpoint::tcp("localhost", broker.tls_port()).tls(pki.ca_file(), identity)
    };
    let good = pki.client("device-1")?;
    publish(at(Some(good.clone())), "t", "1", 1, false).await?;
    broker.wait_log("u'device-1'", SOON).await?;
    assert_eq!(good.key.metadata()?.permissions().mode() & 0o777, 0o600);

    assert!(publish(at(None), "t", "1", 1, false).await.is_err());
    let expired = pki.client_valid("device-1", (2001, 1, 1), (2002, 1, 1))?;
    assert_ne!(expired, good);
    assert!(publish(at(Some(expired)), "t", "1", 1, false).await.is_err());
    let stranger = Pki::new()?.client("device-1")?;
    assert!(publish(at(Some(stranger)), "t", "1", 1, false).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_flawed_server_is_refused_by_openssl_clients_too() -> Result<()> {
    let pki = Pki::new()?;
    let tls = Tls {
        server: pki.flawed(Flaw::WrongName)?,
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    let broker = Mosquitto::builder().tls(tls).start().await?;
    let secure = Endpoint::tcp("localhost", broker.tls_port()).tls(pki.ca_file(), None);
    assert!(publish(secure, "t", "1", 1, false).await.is_err());
    publish(&broker, "t", "1", 1, false).await
}

#[tokio::test]
async fn users_and_acl_decide() -> Result<()> {
    let acl = "user reader\ntopic read open/#\nuser writer\ntopic readwrite open/#\n";
    let broker =
        Mosquitto::builder().user("reader", "r 1").user("writer", "w").acl(acl).unix_socket().start().await?;
    assert!(publish(&broker, "open/x", "1", 1, false).await.is_err(), "anonymous");
    let plain = Endpoint::from(&broker);
    assert!(publish(plain.clone().login("writer", "wrong"), "open/x", "1", 1, false).await.is_err());

    let socket = Endpoint::unix(broker.socket_path());
    let watcher = Watcher::start(socket.login("reader", "r 1"), "#").await?;
    let writer = plain.clone().login("writer", "w");
    assert!(publish(&writer, "closed/x", "1", 1, false).await.is_err(), "a topic that is not its own");
    assert!(publish(plain.login("reader", "r 1"), "open/x", "1", 1, false).await.is_err(), "read only");
    publish(&writer, "open/x", "2", 1, false).await?;
    watcher.next_on("open/x", SOON).await?;
    assert_eq!(watcher.all().len(), 1);
    Ok(())
}

#[tokio::test]
async fn websockets_answer_and_limits_hold() -> Result<()> {
    let pki = Pki::new()?;
    let tls = Tls {
        server: pki.server()?,
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    let builder = Mosquitto::builder().tls(tls).websockets().secure_websockets();
    let broker = builder.line("max_packet_size 100").start().await?;
    let mut stream = TcpStream::connect(("127.0.0.1", broker.ws_port())).await?;
    let request = "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 12];
    timeout(SOON, stream.read_exact(&mut answer)).await??;
    assert_eq!(&answer, b"HTTP/1.1 101");
    TcpStream::connect(("127.0.0.1", broker.wss_port())).await?;

    publish(&broker, "small", "1", 1, false).await?;
    assert!(publish(&broker, "large", [b'x'; 200], 1, false).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_bad_configuration_says_why() {
    let error = Mosquitto::builder().line("no_such_option 1").start().await.expect_err("it must not start");
    assert!(format!("{error:#}").contains("no_such_option"), "{error:#}");
}
