//! HTTP/1.1 to servers, over TLS.

mod url;

pub(crate) use url::Url;
