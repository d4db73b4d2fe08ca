//! An answer: its head, and its body as it comes.

use std::{future::poll_fn, pin::Pin, time::Duration};

use hyper::{
    StatusCode,
    body::{Body as _, Bytes, Incoming},
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::Error;

/// The head of an answer; its body is still to come. The connection ends with it.
#[derive(Debug)]
pub(crate) struct Response {
    host: String,
    head: hyper::Response<Incoming>,
    _connection: JoinSet<Option<()>>,
}

impl Response {
    pub(super) fn new(
        host: String,
        head: hyper::Response<Incoming>,
        connection: JoinSet<Option<()>>,
    ) -> Self {
        Self { host, head, _connection: connection }
    }

    /// The server that answers.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// What became of the request.
    pub(crate) fn status(&self) -> StatusCode {
        self.head.status()
    }

    /// The value of a header, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name)?.to_str().ok()
    }

    /// The next part of the body; none at its end.
    ///
    /// # Errors
    /// A body that breaks off, or of which nothing comes until `by`; `limit` is what the error says of that.
    pub(crate) async fn part(&mut self, by: Instant, limit: Duration) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = poll_fn(|cx| Pin::new(self.head.body_mut()).poll_frame(cx));
            match timeout_at(by, frame).await {
                Ok(None) => return Ok(None),
                // Trailers are passed over.
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(Some(Err(source))) => return Err(Error::Exchange { host: self.host.clone(), source }),
                Err(_) => return Err(Error::Silent { host: self.host.clone(), limit }),
            }
        }
    }

    /// The whole body, which has to be there `within` a time and no longer than `limit`.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) async fn body(mut self, limit: usize, within: Duration) -> Result<Vec<u8>, Error> {
        let (by, mut body) = (Instant::now() + within, Vec::new());
        while let Some(part) = self.part(by, within).await? {
            if body.len() + part.len() > limit {
                return Err(Error::TooLong { host: self.host, limit });
            }
            body.extend_from_slice(&part);
        }
        Ok(body)
    }
}
