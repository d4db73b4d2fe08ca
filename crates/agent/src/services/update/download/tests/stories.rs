//! A try, and the one after it.

use super::*;

const SIZE: usize = 300_000;

#[tokio::test]
async fn a_file_comes_whole_and_is_not_asked_for_again() {
    let world = World::new(SIZE).await;
    let mut told = Vec::new();
    let path = world.download().fetch(&world.wanted(), |there| told.push(there)).await.unwrap();
    assert!(std::fs::read(path).unwrap() == world.bytes);
    assert_eq!((told[0], told.last()), (0, Some(&(SIZE as u64))));
    assert!(told.is_sorted());
    world.succeeds().await;
    assert_eq!(world.asked(), [(None, SIZE as u64)]);
    let request = &world.server.asked()[0].request;
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/file?key=hunter2"));
    assert_eq!(request.header("accept-encoding"), Some("identity"));
    world.download().discard().unwrap();
    assert_eq!(std::fs::read_dir(world.folder()).unwrap().count(), 0);
    world.download().discard().unwrap();
}

#[tokio::test]
async fn a_whole_file_that_is_damaged_is_fetched_again() {
    let world = World::new(SIZE).await;
    world.succeeds().await;
    let mut damaged = world.bytes.clone();
    damaged[5] ^= 1;
    std::fs::write(partial::path(&world.folder()), damaged).unwrap();
    world.succeeds().await;
    assert_eq!(world.asked(), [(None, SIZE as u64), (None, SIZE as u64)]);
}

#[tokio::test]
async fn what_broke_off_goes_on() {
    let world = World::new(SIZE).await;
    world.server.next([cut(100_000), cut(50_000)]);
    let size = format!("of {SIZE} bytes");
    for (there, gained) in [(100_000, 100_000), (150_000, 50_000)] {
        let (said, progressed) = world.fails().await;
        assert!(said.contains(&format!("broken off after {there} {size}")), "{said}");
        assert_eq!(progressed, gained);
    }
    world.succeeds().await;
    assert_eq!(world.asked(), [(None, 100_000), (Some(100_000), 50_000), (Some(150_000), 150_000)]);
    let asked = world.server.asked();
    assert_eq!(asked[1].request.header("if-range"), Some("\"generation-1\""));
}

/// What is gained is what there never was before.
#[tokio::test]
async fn a_server_without_ranges_gains_nothing_by_repeating() {
    let world = World::new(SIZE).await;
    world.server.usually(Mood { whole: true, ..cut(100_000) });
    assert_eq!(world.fails().await.1, 100_000);
    assert_eq!(world.fails().await.1, 0);
    world.server.next([Mood { whole: true, ..cut(120_000) }]);
    assert_eq!(world.fails().await.1, 20_000);
    world.server.usually(Mood { whole: true, ..Mood::default() });
    world.succeeds().await;
}

#[tokio::test]
async fn another_file_at_the_server_is_begun_anew() {
    let mut world = World::new(SIZE).await;
    world.server.next([cut(100_000)]);
    world.fails().await;
    world.bytes.reverse();
    world.server.replace(world.bytes.clone());
    // The same length, another hash: another file is wanted.
    world.server.next([cut(100_000)]);
    assert_eq!(world.fails().await.1, 100_000);
    assert_eq!(world.asked()[1], (None, 100_000));
    world.succeeds().await;
}

/// The server has the wrong file first, and the right one from the second request on.
#[tokio::test]
async fn an_etag_that_changes_begins_anew() {
    for blind in [false, true] {
        let world = World::new(SIZE).await;
        let right = world.bytes.clone();
        world.server.replace(noise(SIZE + 8)[8..].to_vec());
        world.server.next([cut(100_000)]);
        world.fails().await;
        world.server.replace(right);
        world.server.usually(Mood { blind, ..Mood::default() });
        world.succeeds().await;
        let asked = world.asked();
        assert_eq!(asked.last().map(|(_, sent)| *sent), Some(SIZE as u64), "blind: {blind} {asked:?}");
    }
}

/// Without anything that says so, the hash does: nothing of the mixture stays.
#[tokio::test]
async fn a_mixture_is_thrown_away() {
    let world = World::new(SIZE).await;
    let right = world.bytes.clone();
    world.server.usually(Mood { validators: Some("ETag: W/\"weak\"\r\n".to_owned()), ..Mood::default() });
    world.server.replace(noise(SIZE + 8)[8..].to_vec());
    world.server.next([Mood { validators: Some(String::new()), ..cut(100_000) }]);
    world.fails().await;
    world.server.replace(right);
    let (said, progressed) = world.fails().await;
    assert!(said.contains("another SHA-256"), "{said}");
    assert_eq!((progressed, world.there()), (0, 0));
    assert_eq!(world.server.asked()[1].request.header("if-range"), None);
    world.succeeds().await;
}

#[tokio::test]
async fn validators_are_sent_as_they_came() {
    let date = "Sat, 21 Nov 2026 10:00:00 GMT";
    let now = "Mon, 23 Nov 2026 10:00:00 GMT";
    for (headers, expected) in [
        ("ETag: \"a\"\r\n".to_owned(), Some("\"a\"")),
        (format!("ETag: \"a\"\r\nLast-Modified: {date}\r\nDate: {now}\r\n"), Some("\"a\"")),
        (format!("ETag: W/\"a\"\r\nLast-Modified: {date}\r\nDate: {now}\r\n"), Some(date)),
        (format!("Last-Modified: {date}\r\nDate: {now}\r\n"), Some(date)),
        (format!("Last-Modified: {now}\r\nDate: {now}\r\n"), None),
        ("ETag: W/\"a\"\r\n".to_owned(), None),
        ("ETag: a\r\n".to_owned(), None),
        (format!("ETag: \"{}\"\r\n", "a".repeat(600)), None),
        (String::new(), None),
    ] {
        let world = World::new(SIZE).await;
        world.server.usually(Mood { validators: Some(headers.clone()), ..Mood::default() });
        world.server.next([Mood { validators: Some(headers.clone()), ..cut(100_000) }]);
        world.fails().await;
        world.succeeds().await;
        assert_eq!(world.server.asked()[1].request.header("if-range"), expected, "{headers}");
        assert_eq!(world.asked()[1], (Some(100_000), 200_000), "{headers}");
    }
}

/// A range that is not the one that was asked for, or none that could be: from the start again, in the same try.
#[tokio::test]
async fn a_range_that_does_not_fit_is_not_taken() {
    for range in ["bytes 99999-299999/300000", "bytes 100000-299999", "bytes 100000-300000/*", "items 1-2/3"]
    {
        let world = World::new(SIZE).await;
        world.server.next([cut(100_000), Mood { range: Some(range.to_owned()), ..Mood::default() }]);
        world.fails().await;
        world.succeeds().await;
        assert_eq!(world.asked().last(), Some(&(None, SIZE as u64)), "{range}");
    }
    let world = World::new(SIZE).await;
    world.server.next([cut(100_000), Mood { status: Some(416), ..Mood::default() }]);
    world.fails().await;
    world.succeeds().await;
    assert_eq!(world.asked(), [(None, 100_000), (Some(100_000), 0), (None, SIZE as u64)]);
}

/// One of another length is not even begun, and what is there stays.
#[tokio::test]
async fn a_file_of_another_length_is_not_begun() {
    let world = World::new(SIZE).await;
    world.server.next([cut(100_000)]);
    world.fails().await;
    let lies = [
        (Mood { range: Some("bytes 100000-299999/300001".to_owned()), ..Mood::default() }, 300_001),
        (Mood { whole: true, more: 5, ..Mood::default() }, 300_005),
        (Mood { whole: true, length: Some(200_000), ..Mood::default() }, 200_000),
    ];
    for (mood, length) in lies {
        world.server.next([mood]);
        let (said, progressed) = world.fails().await;
        assert!(said.contains(&format!("wrong length: {length} bytes instead of 300000")), "{said}");
        assert_eq!((progressed, world.there()), (0, 100_000));
    }
    world.succeeds().await;
}

#[tokio::test]
async fn what_is_too_long_or_too_short_without_a_length_is_seen() {
    let world = World::new(SIZE).await;
    world.server.next([Mood { chunked: true, more: 5, ..Mood::default() }]);
    let (said, _) = world.fails().await;
    assert!(said.contains("sends more than the 300000 bytes"), "{said}");
    assert_eq!(world.there(), 0);
    world.server.next([Mood { chunked: true, ..Mood::default() }]);
    world.succeeds().await;
    world.download().discard().unwrap();
    world.server.replace(world.bytes[..SIZE - 5].to_vec());
    world.server.next([Mood { chunked: true, ..Mood::default() }]);
    let (said, _) = world.fails().await;
    assert!(said.contains("ends the file after 299995 of 300000 bytes"), "{said}");
}

#[tokio::test]
async fn each_answer_that_is_no_file_has_its_words() {
    let world = World::new(SIZE).await;
    let status = |status| Mood { status: Some(status), ..Mood::default() };
    let to = |location: &str| Mood { location: Some(location.to_owned()), ..status(302) };
    for (mood, expected) in [
        (status(404), "404 Not Found: there is no such file"),
        (status(403), "403 Forbidden: the URL asks for a login, or is no longer valid"),
        (status(503), "503 Service Unavailable: the server cannot serve it now"),
        (status(204), "204 No Content: that is no file"),
        (status(416), "416 Range Not Satisfiable"),
        (status(302), "does not say where to"),
        (to("ftp://x/"), "leads on to what is no URL for a file"),
        (to("http://example.com/"), "leads on to what is no URL for a file"),
        (
            Mood { headers: "Content-Encoding: gzip\r\n".to_owned(), ..Mood::default() },
            "sends the file encoded (gzip)",
        ),
    ] {
        world.server.next([mood]);
        let (said, _) = world.fails().await;
        assert!(said.contains(expected), "{said}");
    }
    world.succeeds().await;
}

#[tokio::test]
async fn redirects_are_followed_so_far() {
    let world = World::new(SIZE).await;
    for status in [301, 302, 303, 307, 308] {
        world.download().discard().unwrap();
        let to = |location: &str| Mood {
            status: Some(status),
            location: Some(location.to_owned()),
            ..Mood::default()
        };
        let whole = format!("{}d", world.server.url());
        let before = world.server.asked().len();
        world.server.next([to("/a/b"), to("c?x#y"), to(&whole), to("../e"), to("//127.0.0.1:0/")]);
        let (said, _) = world.fails().await;
        assert!(said.contains("no URL for a file"), "{said}");
        world.server.next([to("/a/b"), to("c?x#y"), to(&whole), to("../e"), to("?f")]);
        world.succeeds().await;
        let asked = world.server.asked();
        let targets: Vec<_> = asked[before + 5..].iter().map(|asked| asked.request.target.as_str()).collect();
        assert_eq!(targets, ["/file?key=hunter2", "/a/b", "/a/c?x", "/d", "/e", "/e?f"]);
    }
    world.download().discard().unwrap();
    let before = world.server.asked().len();
    world.server.usually(Mood { status: Some(302), location: Some("/".to_owned()), ..Mood::default() });
    let (said, _) = world.fails().await;
    assert!(said.contains("leads on more than 5 times"), "{said}");
    assert_eq!(world.server.asked().len() - before, 6);
}

#[tokio::test]
async fn what_cannot_be_fetched_is_not_tried() {
    let world = World::new(SIZE).await;
    let url = |url: &str| Wanted { url: url.to_owned(), ..world.wanted() };
    let large = Wanted { size: (1 << 30) + 1, ..world.wanted() };
    for (wanted, expected) in [
        (url("file:///etc/passwd"), "the URL of the file cannot be used"),
        (url("http://example.com/x"), "use https://"),
        (url("https://a:b@example.com/x"), "must not contain a user or password"),
        (large, "more than the 1073741824 that download.max_size allows"),
    ] {
        let error = world.download().fetch(&wanted, |_| ()).await.unwrap_err();
        assert!(error.to_string().contains(expected) && error.is_final(), "{error}");
    }
    assert_eq!(world.asked(), []);
}

#[tokio::test]
async fn a_server_that_stalls_is_left() {
    let mut world = World::new(SIZE).await;
    world.rules.stall_timeout = Duration::from_secs(1);
    world.server.next([Mood { cut: Some((100_000, End::Silent)), ..Mood::default() }]);
    let (said, progressed) = world.fails().await;
    assert!(said.contains("stalled: no byte for 1 s after 100000 of 300000 bytes"), "{said}");
    assert_eq!(progressed, 100_000);
    world.server.next([Mood { cut: Some((100_000, End::Reset)), ..Mood::default() }]);
    world.fails().await;
    world.succeeds().await;
}

/// One that sends a few bytes again and again would never be done.
#[tokio::test]
async fn a_server_that_trickles_is_left() {
    let mut world = World::new(SIZE).await;
    world.rules.stall_timeout = Duration::from_millis(200);
    world.server.next([Mood { rate: Some(400), ..Mood::default() }]);
    let (said, progressed) = world.fails().await;
    assert!(said.contains("bytes in 2 s, ") && said.contains("stalled: only"), "{said}");
    assert!(progressed < 64 << 10, "{progressed}");
    world.rules.stall_timeout = Duration::from_secs(20);
    world.succeeds().await;
}

/// Whenever it is left, it goes on: no byte is written twice or lost.
#[tokio::test]
async fn it_may_be_dropped_at_any_time() {
    let world = World::new(3_000_000).await;
    world.server.usually(Mood { rate: Some(6_000_000), ..Mood::default() });
    let mut kept = 0;
    for turn in 0..8_u64 {
        let (download, wanted) = (world.download(), world.wanted());
        let (mut at, enough) = (0, tokio::sync::Notify::new());
        let told = |there| {
            at = there;
            if there >= (turn + 1) * 250_000 {
                enough.notify_one();
            }
        };
        tokio::select! {
            ended = download.fetch(&wanted, told) => { ended.unwrap(); }
            () = enough.notified() => {}
        }
        kept = kept.max(at);
    }
    world.succeeds().await;
    // What was in the queue or on the way is fetched again.
    assert!(world.server.sent() < 3_000_000 + 9 * (2 << 20), "{} {kept}", world.server.sent());
    let asked = world.asked();
    assert!(asked.iter().skip(1).all(|(from, _)| from.is_some()), "{asked:?}");
}

/// Who reads slowly on purpose does not let the kernel read ahead for it, either.
#[tokio::test]
async fn a_paced_download_that_is_left_wastes_little() {
    let mut world = World::new(3_000_000).await;
    world.rules.bandwidth_limit = Some(4_000_000);
    let (download, wanted, enough) = (world.download(), world.wanted(), tokio::sync::Notify::new());
    let told = |there| {
        if there >= 1_000_000 {
            enough.notify_one();
        }
    };
    tokio::select! {
        ended = download.fetch(&wanted, told) => { ended.unwrap(); }
        () = enough.notified() => {}
    }
    world.rules.bandwidth_limit = None;
    world.succeeds().await;
    assert_eq!(world.asked().len(), 2);
    assert!(world.server.sent() <= 3_000_000 + (1 << 20), "{:?}", world.asked());
}

#[tokio::test]
async fn documents_are_small_and_whole() {
    let world = World::new(1000).await;
    let clock = Clock::new(crate::clock::built(), None);
    let url = format!("{}x", world.server.url());
    let to = Mood { status: Some(302), location: Some("/y".to_owned()), ..Mood::default() };
    world.server.next([to]);
    assert_eq!(document(&url, 1000, &clock).await.unwrap(), world.bytes);
    for (mood, expected) in [
        (Mood { status: Some(404), ..Mood::default() }, "there is no such file"),
        (Mood { more: 1, ..Mood::default() }, "longer than 1000 bytes"),
        (cut(10), "no whole answer"),
    ] {
        world.server.next([mood]);
        let error = document(&url, 1000, &clock).await.unwrap_err();
        assert!(chain(&error).contains(expected), "{}", chain(&error));
    }
}

/// What a folder looks like where a try has never been.
#[tokio::test]
async fn the_folder_is_made_for_us_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let world = World::new(10).await;
    world.succeeds().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.folder()), 0o700);
    assert_eq!(mode(&partial::path(&world.folder())), 0o600);
}
