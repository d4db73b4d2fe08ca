//! Requests for what lies at a URL, wherever that leads.

use std::time::Duration;

use hyper::{
    Request, StatusCode,
    header::{ACCEPT_ENCODING, IF_RANGE, RANGE},
};

use super::{
    error::{Error, Why},
    pace,
};
use crate::{
    clock::Clock,
    http::{self, Client, Response, Url},
};

/// How often an answer may send us elsewhere.
const REDIRECTS: usize = 5;
/// How long the body of a document may take.
const BODY: Duration = Duration::from_secs(60);

/// How connections are made.
#[derive(Debug, Clone)]
pub(super) struct Way {
    /// Judges certificates.
    pub(super) clock: Clock,
    /// How much may wait in the kernel, in bytes.
    pub(super) receive_buffer: usize,
}

impl Way {
    /// Prepares to ask the server of `url`.
    ///
    /// # Errors
    /// An environment that makes no sense.
    pub(super) fn to(&self, url: Url) -> Result<Client, http::Error> {
        Ok(Client::new(url, self.clock.clone())?.with_receive_buffer(self.receive_buffer))
    }
}

/// What of a file is asked for.
pub(super) struct Rest<'a> {
    /// The first byte, counted from 0.
    pub(super) from: u64,
    /// What says that the file is still the same.
    pub(super) validator: Option<&'a str>,
}

/// The answer to a request for a file, or for the rest of it, after all redirects.
///
/// # Errors
/// No answer, one that leads nowhere, or one that is encoded.
pub(super) async fn get(way: &Way, first: &Client, rest: Option<Rest<'_>>) -> Result<Response, Why> {
    let mut elsewhere: Option<Client> = None;
    for _ in 0..=REDIRECTS {
        let client = elsewhere.as_ref().unwrap_or(first);
        let response = client.send(request(client.url(), rest.as_ref())).await?;
        if !leads_on(response.status()) {
            return unencoded(response);
        }
        let next = follow(client.url(), response.header("location"))?;
        elsewhere = Some(way.to(next)?);
    }
    Err(Why::Redirects { host: first.url().host().to_owned(), limit: REDIRECTS })
}

fn request(url: &Url, rest: Option<&Rest<'_>>) -> Request<String> {
    let mut request = Request::get(url.target()).header(ACCEPT_ENCODING, "identity");
    if let Some(Rest { from, validator }) = rest {
        request = request.header(RANGE, format!("bytes={from}-"));
        if let Some(validator) = validator {
            request = request.header(IF_RANGE, *validator);
        }
    }
    request.body(String::new()).expect("a URL's path and what was a header make a request")
}

fn leads_on(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn follow(from: &Url, location: Option<&str>) -> Result<Url, Why> {
    let host = || from.host().to_owned();
    let location = location.ok_or_else(|| Why::Nowhere { host: host() })?;
    // First, since it is the better reason where both are true.
    if from.is_secure() && location.to_ascii_lowercase().starts_with("http:") {
        return Err(Why::Downgrade { host: host() });
    }
    from.join(location).map_err(|reason| Why::Redirect { host: host(), reason })
}

/// Nothing else was asked for, and no length or range would mean anything.
fn unencoded(response: Response) -> Result<Response, Why> {
    match response.header("content-encoding") {
        Some(encoding) if !encoding.eq_ignore_ascii_case("identity") => Err(Why::Encoding {
            host: response.host().to_owned(),
            encoding: encoding.chars().filter(char::is_ascii_graphic).take(32).collect(),
        }),
        _ => Ok(response),
    }
}

/// The whole of a small document, of at most `limit` bytes.
///
/// # Errors
/// When there is none; nothing of the URL but its host is told.
pub(in crate::services::update) async fn document(
    url: &str,
    limit: usize,
    clock: &Clock,
) -> Result<Vec<u8>, Error> {
    let read = async {
        let url = url.parse().map_err(Why::Url)?;
        let way = Way { clock: clock.clone(), receive_buffer: pace::receive_buffer(None) };
        let response = get(&way, &way.to(url)?, None).await?;
        if response.status() != StatusCode::OK {
            return Err(Why::status(&response));
        }
        Ok(response.body(limit, BODY).await?)
    };
    read.await.map_err(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encrypted_stays_so() {
        let secure: Url = "https://a.example/b".parse().unwrap();
        for location in ["http://127.0.0.1/", "HTTP://localhost/", "http://a.example/", "http:"] {
            let why = follow(&secure, Some(location)).unwrap_err();
            assert!(matches!(why, Why::Downgrade { .. }), "{location}: {why}");
        }
        for location in ["https://b.example/", "//b.example/", "/c", "c"] {
            assert!(follow(&secure, Some(location)).unwrap().is_secure(), "{location}");
        }
        let plain: Url = "http://127.0.0.1/b".parse().unwrap();
        assert!(follow(&plain, Some("https://b.example/")).unwrap().is_secure());
        assert!(follow(&plain, None).is_err());
    }
}
