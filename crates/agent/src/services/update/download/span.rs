//! What the head of an answer says about the body: which bytes of which file they are.

use super::error::Why;
use crate::http::Response;

/// The longest that is kept, in bytes.
const VALIDATOR: usize = 512;

/// What says, sent as `If-Range`, that a file is still the one that this answer began to bring: its strong ETag, else
/// its time. A weak ETag says nothing of single bytes (RFC 9110, section 13.1.5), nor does a time that is just now. None
/// of them is needed: it spares fetching what the hash would refuse.
pub(super) fn validator(response: &Response) -> Option<String> {
    let text = |name| response.header(name).filter(|value| value.len() <= VALIDATOR);
    let tag = text("etag").filter(|tag| tag.len() > 1 && tag.starts_with('"') && tag.ends_with('"'));
    let time = || text("last-modified").filter(|time| text("date").is_some_and(|date| date != *time));
    tag.or_else(time).map(str::to_owned)
}

/// Whether an answer of status 206 brings the file from this byte on. If not, it has to be asked for from its start.
///
/// # Errors
/// It is of a file of another length.
pub(super) fn is_the_rest(
    response: &Response,
    from: u64,
    known: Option<&str>,
    size: u64,
) -> Result<bool, Why> {
    let Some(span) = response.header("content-range").and_then(Span::parse) else { return Ok(false) };
    if let Some(said) = span.whole.filter(|said| *said != size) {
        return Err(Why::Length { host: response.host().to_owned(), said, size });
    }
    let other = match (known, validator(response).as_deref()) {
        (Some(known), Some(found)) => known.starts_with('"') == found.starts_with('"') && known != found,
        _ => false,
    };
    Ok(span.first == from && span.last < size && !other)
}

/// A file of another length need not even be begun.
///
/// # Errors
/// It is one.
pub(super) fn check_length(response: &Response, size: u64) -> Result<(), Why> {
    let said = response.header("content-length").and_then(|length| length.parse().ok());
    match said {
        Some(said) if said != size => Err(Why::Length { host: response.host().to_owned(), said, size }),
        _ => Ok(()),
    }
}

/// A `Content-Range`: `bytes 100-199/200`, with `*` where the server does not know the length.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    first: u64,
    last: u64,
    whole: Option<u64>,
}

impl Span {
    fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u64>().ok().filter(|_| digits)
        };
        let (unit, rest) = text.split_once(' ')?;
        let (span, whole) = rest.trim().split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let whole = if whole == "*" { None } else { Some(number(whole)?) };
        let span = Self { first: number(first)?, last: number(last)?, whole };
        let fits = span.first <= span.last && span.whole.is_none_or(|whole| span.last < whole);
        (unit.eq_ignore_ascii_case("bytes") && fits).then_some(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_or_refused() {
        let span = |first, last, whole| Some(Span { first, last, whole });
        for (text, expected) in [
            ("bytes 100-199/200", span(100, 199, Some(200))),
            ("Bytes 0-0/*", span(0, 0, None)),
            ("bytes 0-200/200", None),
            ("bytes 5-4/200", None),
            ("bytes */200", None),
            ("bytes -5-4/200", None),
            ("bytes +5-6/200", None),
            ("bytes 5-18446744073709551616/*", None),
            ("items 0-1/2", None),
            ("bytes=0-1/2", None),
            ("", None),
        ] {
            assert_eq!(Span::parse(text), expected, "{text}");
        }
    }
}
