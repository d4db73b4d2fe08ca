//! The one HTTP/1.1 exchange that a proxy and a WebSocket begin with: a request without a body, and the head of
//! its answer.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Io;
use crate::config::Bracketed;

/// The largest head that is read; a server has no business with more.
const HEAD_LIMIT: usize = 8 * 1024;
/// Of the server's own words, how many characters reach a log.
const REASON_LIMIT: usize = 100;

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: u16,
    reason: String,
    headers: Vec<(String, String)>,
}

/// Why there is no head.
#[derive(Debug)]
pub(super) enum Failure {
    Io(io::Error),
    Malformed(&'static str),
}

impl Head {
    /// Every value of a header, in one list: values may be spread over lines or separated by commas.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let lines = self.headers.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name));
        lines.flat_map(|(_, value)| value.split(',')).map(str::trim)
    }

    /// The status as a person writes it: `404 Not Found`.
    pub(super) fn status_line(&self) -> String {
        format!("{} {}", self.status, self.reason).trim_end().to_owned()
    }
}

/// Sends `request` and reads the head of the answer, and not a byte beyond it: what follows belongs to the next
/// layer. Hence one byte at a time, for the few hundred bytes that a head has.
pub(super) async fn exchange(stream: &mut dyn Io, request: &str) -> Result<Head, Failure> {
    stream.write_all(request.as_bytes()).await.map_err(Failure::Io)?;
    stream.flush().await.map_err(Failure::Io)?;
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() == HEAD_LIMIT {
            return Err(Failure::Malformed("its answer does not end within 8 KiB"));
        }
        head.push(stream.read_u8().await.map_err(Failure::Io)?);
        if head.len() == 5 && head != b"HTTP/" {
            return Err(Failure::Malformed("it does not answer in HTTP"));
        }
    }
    parse(&head)
}

fn parse(bytes: &[u8]) -> Result<Head, Failure> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => Ok(Head {
            status: response.code.unwrap_or_default(),
            reason: response.reason.unwrap_or_default().chars().take(REASON_LIMIT).collect(),
            headers: response.headers.iter().map(text).collect(),
        }),
        Ok(httparse::Status::Partial) | Err(_) => Err(Failure::Malformed("its answer is not valid HTTP")),
    }
}

fn text(header: &httparse::Header<'_>) -> (String, String) {
    (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned())
}

/// Whether `part` can stand in a request line or a header without ending it.
pub(super) fn is_token(part: &str) -> bool {
    part.bytes().all(|byte| byte.is_ascii_graphic())
}

/// `host:port` as HTTP writes it; an IPv6 address in brackets.
pub(super) fn authority(host: &str, port: u16) -> String {
    format!("{}:{port}", Bracketed(host))
}
