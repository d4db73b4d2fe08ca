//! Against the testkit's server; its hostile answers.

use testkit::web::{Answer, Web};

use super::*;
use crate::log::chain;

async fn asked(web: &Web) -> Result<Vec<u8>, Error> {
    let url = format!("{}path?key=hunter2", web.url()).parse().unwrap();
    let client = Client::new(url, Clock::new(crate::clock::built(), None)).unwrap();
    let request = Request::post(client.url().target()).header("x-y", "z").body("{}".to_owned()).unwrap();
    client.send(request).await?.body(1000, Duration::from_millis(500)).await
}

#[tokio::test]
async fn a_request_arrives_as_it_was_made_and_its_answer_likewise() {
    let web = Web::start().await.unwrap();
    web.answers([Answer::json(200, "{\"a\": 1}"), Answer::chunked(200, &["{\"b\"", ": 2}"])]);
    assert_eq!(asked(&web).await.unwrap(), b"{\"a\": 1}");
    assert_eq!(asked(&web).await.unwrap(), b"{\"b\": 2}");
    let requests = web.requests();
    let request = &requests[0];
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/path?key=hunter2"));
    assert_eq!((request.body.as_slice(), request.header("content-length")), (&b"{}"[..], Some("2")));
    assert_eq!((request.header("x-y"), request.header("user-agent")), (Some("z"), Some(AGENT)));
    assert_eq!(request.header("host").unwrap(), web.url().trim_matches('/').trim_start_matches("http://"));
}

/// Each has its words, in bounded time and memory, and none repeats what was asked.
#[tokio::test]
async fn hostile_answers_end() {
    let web = Web::start().await.unwrap();
    let long = "x".repeat(1001);
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD));
    let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(FIELDS + 1));
    for (what, answer, expected) in [
        ("too long", Answer::json(200, &long), "longer than 1000 bytes"),
        ("never ends", Answer::raw("HTTP/1.1 200 OK\r\n\r\n").then_for_ever(), "longer than 1000 bytes"),
        (
            "says less",
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"),
            "no whole answer of HTTP",
        ),
        (
            "a bad length",
            Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
            "no whole answer of HTTP",
        ),
        (
            "a bad chunk",
            Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
            "no whole answer of HTTP",
        ),
        ("stops", Answer::raw("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}").then_silent(), "is silent"),
        ("a long head", Answer::raw(&head), "no whole answer of HTTP"),
        ("many fields", Answer::raw(&fields), "no whole answer of HTTP"),
        ("another protocol", Answer::raw("SSH-2.0-OpenSSH_9.2\r\n"), "no whole answer of HTTP"),
        ("nothing", Answer::raw(""), "no whole answer of HTTP"),
        ("a reset", Answer::raw("").then_reset(), "no whole answer of HTTP"),
    ] {
        web.answers([answer]);
        let error = asked(&web).await.expect_err(what);
        let said = format!("{} / {error:?}", chain(&error));
        assert!(said.contains(expected) && !said.contains("hunter2"), "{what}: {said}");
        assert!(!error.is_before_the_request(), "{what}");
    }
}

#[tokio::test]
async fn who_is_not_there_has_seen_nothing() {
    let url = format!("http://127.0.0.1:{}/", testkit::ports::free_port()).parse().unwrap();
    let client = Client::new(url, Clock::new(crate::clock::built(), None)).unwrap();
    let error = client.send(Request::get("/").body(String::new()).unwrap()).await.unwrap_err();
    assert!(error.is_before_the_request(), "{error:?}");
    assert!(chain(&error).contains("cannot be reached"), "{}", chain(&error));
}
