//! The broker behind real proxies; TLS goes through them end to end.

use iot_agent::mqtt::transport::{Credentials, Proxy, ProxyKind};
use testkit::Mosquitto;
use testkit::mosquitto::Tls;
use tokio::net::TcpListener;

use super::peers::{microsocks, tinyproxy};
use super::*;

fn login(password: &str) -> Option<Credentials> {
    Some(Credentials { user: "agent".into(), password: password.to_owned().into() })
}

fn through(kind: ProxyKind, port: u16, credentials: Option<Credentials>, endpoint: Endpoint) -> Endpoint {
    let host = "127.0.0.1".to_owned();
    Endpoint { proxy: Some(Proxy { kind, host, port, credentials }), ..endpoint }
}

async fn tls_broker(pki: &Pki) -> anyhow::Result<Mosquitto> {
    let tls = Tls {
        server: pki.server()?,
        client_ca: pki.ca_file(),
        require_client_certificate: false,
        only_version: None,
    };
    Mosquitto::builder().tls(tls).secure_websockets().start().await
}

#[tokio::test]
async fn http_connect() -> anyhow::Result<()> {
    let (pki, dir) = (Pki::new()?, tempfile::tempdir()?);
    let broker = tls_broker(&pki).await?;
    let proxy = tinyproxy(dir.path(), broker.tls_port()).await?;
    let to = |credentials, port| {
        let endpoint = endpoint(Scheme::Mqtts, port, trusting(&pki));
        through(ProxyKind::Http, proxy.port, credentials, endpoint)
    };
    let name = format!("the proxy 127.0.0.1:{} refused", proxy.port);

    let mut stream = connect(to(login("s3cret"), broker.tls_port())).await?;
    bounded(greet(&mut stream)).await?;

    let text = refusal(to(None, broker.tls_port())).await;
    assert_eq!(text, format!("{name}: it requires a user and a password"));
    let text = refusal(to(login("wrong"), broker.tls_port())).await;
    assert!(text.starts_with(&name) && !text.contains("wrong"), "{text}");
    let text = refusal(to(login("s3cret"), broker.wss_port())).await;
    assert!(text.starts_with(&format!("{name}: 403 ")), "{text}");
    Ok(())
}

#[tokio::test]
async fn socks5_with_a_login() -> anyhow::Result<()> {
    let pki = Pki::new()?;
    let broker = tls_broker(&pki).await?;
    let proxy = microsocks(true).await?;
    let to = |credentials| {
        let endpoint = endpoint(Scheme::Wss, broker.wss_port(), trusting(&pki));
        through(ProxyKind::Socks5, proxy.port, credentials, endpoint)
    };
    let name = format!("the proxy 127.0.0.1:{} refused", proxy.port);

    let mut stream = connect(to(login("s3cret"))).await?;
    bounded(greet(&mut stream)).await?;

    let text = refusal(to(None)).await;
    assert_eq!(text, format!("{name}: it requires a user and a password"));
    let text = refusal(to(login("wrong"))).await;
    assert_eq!(text, format!("{name}: it does not accept the user or the password"));
    Ok(())
}

#[tokio::test]
async fn socks5_without_a_login() -> anyhow::Result<()> {
    let broker = Mosquitto::plain().await?;
    let proxy = microsocks(false).await?;
    let to = |host: &str, port, credentials| {
        let endpoint = Endpoint { host: host.into(), ..endpoint(Scheme::Mqtt, port, TlsFiles::default()) };
        through(ProxyKind::Socks5, proxy.port, credentials, endpoint)
    };
    // By name and by address; a login that is not asked for does no harm.
    for (host, credentials) in [("localhost", None), ("127.0.0.1", None), ("127.0.0.1", login("s3cret"))] {
        let mut stream = connect(to(host, broker.port(), credentials)).await?;
        bounded(greet(&mut stream)).await?;
    }
    let text = refusal(to("127.0.0.1", testkit::ports::free_port(), None)).await;
    assert_eq!(
        text,
        format!("the proxy 127.0.0.1:{} refused: the broker refuses its connection", proxy.port)
    );
    Ok(())
}

#[tokio::test]
async fn a_proxy_that_is_none() -> anyhow::Result<()> {
    let cases: [(ProxyKind, &[u8], &str); 6] = [
        (ProxyKind::Http, b"", "lost the proxy"),
        (ProxyKind::Http, b"\x20\x02\0\0\0\0\0\0", "refused: it does not answer in HTTP"),
        (ProxyKind::Http, b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "refused: 502 Bad Gateway"),
        (ProxyKind::Socks5, b"", "lost the proxy"),
        (ProxyKind::Socks5, b"HTTP/1.1 400 Bad Request\r\n\r\n", "refused: it does not answer in SOCKS 5"),
        (ProxyKind::Socks5, b"\x05\0\x05\0\0\x09", "lost the proxy"),
    ];
    for (kind, answer, reason) in cases {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let target = endpoint(Scheme::Mqtt, 1883, TlsFiles::default());
        let server = async {
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(answer).await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        let dialled = refusal(through(kind, port, None, target));
        let (text, served) = bounded(async { tokio::join!(dialled, server) }).await;
        assert!(text.contains(reason), "{text:?} should say {reason:?}; the server: {served:?}");
    }
    Ok(())
}
