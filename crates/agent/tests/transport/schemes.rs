//! Each scheme leads to a broker, and says what is wrong where there is none.

use iot_agent::mqtt::transport::explain;
use testkit::Mosquitto;
use testkit::mosquitto::Tls;
use tokio::net::TcpListener;

use super::*;

async fn everything(pki: &Pki) -> anyhow::Result<Mosquitto> {
    let tls = Tls {
        server: pki.server()?,
        client_ca: pki.ca_file(),
        require_client_certificate: true,
        only_version: None,
    };
    Mosquitto::builder().tls(tls).websockets().secure_websockets().unix_socket().start().await
}

#[tokio::test]
async fn every_scheme_reaches_the_broker() -> anyhow::Result<()> {
    let pki = Pki::new()?;
    let broker = everything(&pki).await?;
    let files = as_client(&pki, pki.client("agent")?);
    let socket = Endpoint {
        path: broker.socket_path().display().to_string(),
        ..endpoint(Scheme::Unix, 0, TlsFiles::default())
    };
    let endpoints = [
        endpoint(Scheme::Mqtt, broker.port(), TlsFiles::default()),
        endpoint(Scheme::Mqtts, broker.tls_port(), files.clone()),
        endpoint(Scheme::Ws, broker.ws_port(), TlsFiles::default()),
        endpoint(Scheme::Wss, broker.wss_port(), files),
        socket,
    ];
    for endpoint in endpoints {
        let scheme = endpoint.scheme;
        let mut stream = connect(endpoint).await?;
        bounded(greet(&mut stream)).await.unwrap_or_else(|error| panic!("{scheme:?}: {error}"));
        bounded(stream.shutdown()).await?;
    }
    Ok(())
}

/// 200 KB make frames of every length form in both directions.
#[tokio::test]
async fn a_large_message_comes_back_through_websockets() -> anyhow::Result<()> {
    let broker = Mosquitto::builder().websockets().start().await?;
    let mut stream = connect(endpoint(Scheme::Ws, broker.ws_port(), TlsFiles::default())).await?;
    bounded(greet(&mut stream)).await?;
    bounded(stream.write_all(b"\x82\x06\0\x01\0\x01t\0")).await?; // SUBSCRIBE to t
    bounded(stream.flush()).await?;
    let mut acknowledged = [0; 5];
    bounded(stream.read_exact(&mut acknowledged)).await?;
    assert_eq!(acknowledged[0], 0x90, "a SUBACK");

    let mut publish = b"\x30\xc3\x9a\x0c\0\x01t".to_vec(); // PUBLISH, 200,003 bytes to come
    publish.extend((0..200_000_u32).map(|at| (at % 251) as u8));
    bounded(stream.write_all(&publish)).await?;
    bounded(stream.flush()).await?;
    let mut back = vec![0; publish.len()];
    bounded(stream.read_exact(&mut back)).await?;
    assert!(back == publish, "what came back is not what was sent");
    Ok(())
}

/// Under TLS 1.3 the handshake is over for us before the broker has looked at our certificate.
#[tokio::test]
async fn a_broker_that_refuses_our_certificate_says_so() -> anyhow::Result<()> {
    let (pki, stranger) = (Pki::new()?, Pki::new()?);
    let broker = everything(&pki).await?;
    let cases = [
        (trusting(&pki), "the broker refused: it requires a client certificate"),
        (
            as_client(&pki, stranger.client("agent")?),
            "the broker refused: our client certificate comes from an authority it does not trust",
        ),
        (
            as_client(&pki, pki.client_valid("agent", (2001, 1, 1), (2002, 1, 1))?),
            "the broker refused: our client certificate has expired",
        ),
    ];
    for (files, reason) in cases {
        let mut stream = connect(endpoint(Scheme::Mqtts, broker.tls_port(), files)).await?;
        let error = bounded(greet(&mut stream)).await.expect_err(reason);
        assert_eq!(explain(&error).as_deref(), Some(reason), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn each_unreachable_broker_has_its_reason() -> anyhow::Result<()> {
    let closed = testkit::ports::free_port();
    let text = refusal(endpoint(Scheme::Mqtt, closed, TlsFiles::default())).await;
    assert!(text.starts_with("cannot connect to "), "{text}");
    assert!(text.contains(&format!(":{closed}: Connection refused")), "{text}");

    // Too long for DNS to be asked.
    let host = format!("{}.example", "x".repeat(64));
    let nowhere = Endpoint { host: host.clone(), ..endpoint(Scheme::Mqtt, 1883, TlsFiles::default()) };
    let text = refusal(nowhere).await;
    assert!(text.starts_with(&format!("cannot resolve {host}: ")), "{text}");

    let socket = Endpoint { path: "/nonexistent".into(), ..endpoint(Scheme::Unix, 0, TlsFiles::default()) };
    let text = refusal(socket).await;
    assert!(text.starts_with("cannot connect to the socket /nonexistent: No such file"), "{text}");
    Ok(())
}

/// A port that speaks something else, or says nothing more.
#[tokio::test]
async fn a_server_that_is_no_broker_is_told_apart() -> anyhow::Result<()> {
    let pki = Pki::new()?;
    let cases: [(Scheme, &[u8], &str); 5] = [
        (Scheme::Mqtts, b"HTTP/1.1 400 Bad Request\r\n\r\n", "is this its port for plain MQTT?"),
        (Scheme::Mqtts, b"", "lost localhost during the TLS handshake"),
        (
            Scheme::Ws,
            b"\x20\x02\0\0 it is MQTT",
            "no WebSocket at localhost/mqtt: it does not answer in HTTP",
        ),
        (Scheme::Ws, b"HTTP/1.1 404 Not Found\r\n\r\n", "404 Not Found: brokers usually serve /mqtt"),
        (Scheme::Ws, b"", "lost localhost during the WebSocket upgrade"),
    ];
    for (scheme, answer, reason) in cases {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let host = endpoint(scheme, listener.local_addr()?.port(), trusting(&pki));
        let server = async {
            let (mut stream, _) = listener.accept().await?;
            let mut first = [0; 64];
            stream.read_exact(&mut first).await?;
            stream.write_all(answer).await?;
            stream.shutdown().await?;
            // Whoever closes with unread bytes resets the connection, and the answer with it.
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
        };
        let (text, served) = bounded(async { tokio::join!(refusal(host), server) }).await;
        assert!(text.contains(reason), "{text:?} should say {reason:?}; the server: {served:?}");
    }
    Ok(())
}
