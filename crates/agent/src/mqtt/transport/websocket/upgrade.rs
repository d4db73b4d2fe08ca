//! From HTTP/1.1 to WebSocket (RFC 6455, section 4), for the sub-protocol `mqtt` (MQTT 5, section 6).

use base64::prelude::{BASE64_STANDARD, Engine};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::super::http::{self, Failure, Head};
use super::super::{Endpoint, Error, Scheme, Stream};

/// Joined to our key, it shows that the answer comes from a WebSocket server (RFC 6455, section 1.3).
const MAGIC: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Asks the HTTP server at the other end of `stream` to speak WebSocket from here on.
pub(super) async fn upgrade(stream: &mut Stream, endpoint: &Endpoint) -> Result<(), Error> {
    let refused =
        |reason: String| Error::Upgrade { host: endpoint.host.clone(), path: endpoint.path.clone(), reason };
    if !http::is_token(&endpoint.host) || !http::is_token(&endpoint.path) {
        return Err(refused(
            "the address holds white space or letters that need percent-encoding".to_owned(),
        ));
    }
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)
        .map_err(|error| Error::UpgradeIo { host: endpoint.host.clone(), source: error.into() })?;
    let key = BASE64_STANDARD.encode(nonce);
    let head = http::exchange(stream, &request(endpoint, &key)).await.map_err(|failure| match failure {
        Failure::Io(source) => Error::UpgradeIo { host: endpoint.host.clone(), source },
        Failure::Malformed(reason) => refused(reason.to_owned()),
    })?;
    accept(&head, &key).map_err(refused)
}

fn request(endpoint: &Endpoint, key: &str) -> String {
    let Endpoint { scheme, host, port, path, .. } = endpoint;
    let usual = if *scheme == Scheme::Wss { 443 } else { 80 };
    let mut authority = http::authority(host, *port);
    if *port == usual {
        authority.truncate(authority.len() - format!(":{port}").len());
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!(
        "GET {slash}{path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
}

fn accept(head: &Head, key: &str) -> Result<(), String> {
    let status = head.status_line();
    match head.status {
        101 => {}
        300..=399 => {
            let target = head.values("location").next().unwrap_or("nowhere");
            return Err(format!("{status}: it moved to {target:.200}; configure that address"));
        }
        401 | 403 => return Err(format!("{status}: the server wants a login before MQTT's own")),
        404 => return Err(format!("{status}: brokers usually serve /mqtt")),
        _ => return Err(status),
    }
    let has = |name, value: &str| head.values(name).any(|found| found.eq_ignore_ascii_case(value));
    if !has("upgrade", "websocket") || !has("connection", "upgrade") {
        return Err("the server switches to another protocol".to_owned());
    }
    let expected =
        BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{MAGIC}").as_bytes()));
    if !head.values("sec-websocket-accept").eq([expected.as_str()]) {
        return Err("the server's answer is not to our question (Sec-WebSocket-Accept)".to_owned());
    }
    if !head.values("sec-websocket-protocol").eq(["mqtt"]) {
        return Err("the server does not choose the sub-protocol mqtt".to_owned());
    }
    if head.values("sec-websocket-extensions").next().is_some() {
        return Err("the server chooses an extension that was not offered".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::timeout;

    use super::super::super::TlsFiles;
    use super::*;

    const GOOD: [&str; 5] = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: WebSocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Accept: {accept}",
        "Sec-WebSocket-Protocol: mqtt",
    ];

    fn endpoint(path: &str) -> Endpoint {
        let (host, path) = ("broker.example".to_owned(), path.to_owned());
        Endpoint { scheme: Scheme::Wss, host, port: 443, path, tls: TlsFiles::default(), proxy: None }
    }

    /// Runs an upgrade against a server that gives one scripted answer; its request, and how it ended.
    async fn against(answer: &str, path: &str) -> (String, Result<(), Error>) {
        let (ours, mut theirs) = duplex(64 * 1024);
        let server = async {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(theirs.read_u8().await.expect("a whole request"));
            }
            let request = String::from_utf8(request).expect("an ASCII request");
            let key = request.split("Sec-WebSocket-Key: ").nth(1).and_then(|rest| rest.lines().next());
            let proof = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{}{MAGIC}", key.unwrap()).as_bytes());
            let answer = answer.replace("{accept}", &BASE64_STANDARD.encode(proof));
            theirs.write_all(answer.as_bytes()).await.expect("room for the answer");
            theirs.shutdown().await.expect("an open pipe");
            request
        };
        let mut stream: Stream = Box::new(ours);
        let endpoint = endpoint(path);
        let both = async { tokio::join!(server, upgrade(&mut stream, &endpoint)) };
        timeout(Duration::from_secs(5), both).await.expect("an end")
    }

    fn with(line: usize, text: &str) -> String {
        let mut lines = GOOD;
        lines[line] = text;
        lines.iter().filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect::<String>()
            + "\r\n"
    }

    #[tokio::test]
    async fn asks_as_rfc_6455_has_it() {
        let (request, ended) = against(&with(0, GOOD[0]), "/mqtt").await;
        ended.expect("an upgrade");
        let lines: Vec<&str> = request.trim_end().split("\r\n").collect();
        let key = lines.iter().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).expect("a key");
        assert_eq!(BASE64_STANDARD.decode(key).expect("base64").len(), 16);
        assert_eq!(lines[..2], ["GET /mqtt HTTP/1.1", "Host: broker.example"]);
        for header in [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: mqtt",
        ] {
            assert!(lines.contains(&header), "{header} in {lines:?}");
        }
    }

    #[tokio::test]
    async fn each_wrong_answer_has_its_reason() {
        let long = format!("HTTP/1.1 101 X\r\nX: {}\r\n\r\n", "x".repeat(9000));
        let answers = [
            (with(0, "HTTP/1.1 401 Unauthorized"), "401 Unauthorized: the server wants a login"),
            (with(0, "HTTP/1.1 403 Forbidden"), "403 Forbidden: the server wants a login"),
            (with(0, "HTTP/1.1 404 Not Found"), "404 Not Found: brokers usually serve /mqtt"),
            (with(0, "HTTP/1.1 301 Moved\r\nLocation: wss://b.example/x"), "it moved to wss://b.example/x;"),
            (with(0, "HTTP/1.1 503 Service Unavailable"), "503 Service Unavailable"),
            (with(0, "HTTP/1.1 200 OK"), "200 OK"),
            (with(1, "Upgrade: h2c"), "another protocol"),
            (with(2, ""), "another protocol"),
            (with(3, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "not to our question"),
            (with(3, ""), "not to our question"),
            (with(4, "Sec-WebSocket-Protocol: chat"), "sub-protocol mqtt"),
            (with(4, ""), "sub-protocol mqtt"),
            (
                with(4, "Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Extensions: permessage-deflate"),
                "an extension",
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(), "does not answer in HTTP"),
            ("HTTP/1.1 1o1 Switching\r\n\r\n".to_owned(), "not valid HTTP"),
            (long, "8 KiB"),
        ];
        for (answer, reason) in answers {
            let text = against(&answer, "/mqtt").await.1.expect_err(&answer).to_string();
            assert!(text.starts_with("no WebSocket at broker.example/mqtt: "), "{text}");
            assert!(text.contains(reason), "{text:?} should say {reason:?}");
        }
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_is_lost() {
        let ended = against("HTTP/1.1 101 Switch", "/mqtt").await.1;
        assert!(matches!(ended, Err(Error::UpgradeIo { .. })), "{ended:?}");
    }

    #[tokio::test]
    async fn a_path_cannot_smuggle_headers() {
        let mut stream: Stream = Box::new(duplex(1024).0);
        let ended = upgrade(&mut stream, &endpoint("/mqtt HTTP/1.1\r\nX: y")).await;
        assert!(matches!(ended, Err(Error::Upgrade { .. })), "{ended:?}");
    }
}
