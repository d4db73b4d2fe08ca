//! U9: whatever the server does, the file comes whole or not at all, and what came is not fetched again.

use super::*;

/// What a case may cost besides the file: what was on its way when a connection was reset, in bytes.
const SMALL: u64 = 1 << 20;
/// Tries until a file has to be there.
const TRIES: usize = 4;

/// A case: what the server does in turn, and what of the file may be sent in all. None where there is to be no file, but
/// these words.
struct Case {
    name: String,
    moods: Vec<Mood>,
    /// From the second request on there is another file.
    changes: bool,
    expected: Result<u64, &'static str>,
}

fn case(name: &str, moods: impl IntoIterator<Item = Mood>, expected: Result<u64, &'static str>) -> Case {
    Case { name: name.to_owned(), moods: moods.into_iter().collect(), changes: false, expected }
}

/// Cut at so many offsets, in each way.
fn cuts(size: u64, count: u64) -> Vec<Case> {
    let mut cases = Vec::new();
    for n in 0..count {
        // The first byte and the last among them.
        let after = n * (size - 1) / (count - 1).max(1);
        for (end, waste) in [(End::Closed, 0), (End::Reset, SMALL)] {
            let mood = Mood { cut: Some((after, end)), ..Mood::default() };
            cases.push(case(&format!("{end:?} after {after}"), [mood], Ok(size + waste)));
        }
    }
    cases
}

/// The rest of the table. Half of the file is there when the lies begin.
fn lies(size: u64) -> Vec<Case> {
    let half = size / 2;
    let usual = Mood::default;
    let after_half = |mood: Mood| [cut(half), mood];
    let silent = |after| Mood { cut: Some((after, End::Silent)), ..usual() };
    let status = |status| Mood { status: Some(status), ..usual() };
    let again = Ok(size + half);
    let range = |text: String, expected| {
        case(&text, after_half(Mood { range: Some(text.clone()), ..usual() }), expected)
    };
    let changed = |blind| Case {
        changes: true,
        ..case(&format!("another ETag, blind: {blind}"), after_half(Mood { blind, ..usual() }), Ok(2 * size))
    };
    let to_itself = Mood { location: Some("/".to_owned()), ..status(302) };
    vec![
        case("206, then 200", after_half(Mood { whole: true, ..usual() }), again),
        case("416", after_half(status(416)), again),
        changed(false),
        changed(true),
        range(format!("bytes 0-{}/{size}", size - 1), Ok(2 * size + half)),
        range(format!("bytes {}-{}/{size}", half + 1, size - 1), Ok(2 * size + half)),
        range(format!("bytes {half}-{size}/*"), Ok(2 * size + half)),
        range("nonsense".to_owned(), Ok(2 * size + half)),
        range(format!("bytes {half}-{}/*", size - 1), Ok(size)),
        range(format!("bytes {half}-{}/{}", size - 1, size + 1), Err("wrong length")),
        case("a length too short", [Mood { length: Some(half), ..usual() }], Err("wrong length")),
        case("a length too long", [Mood { length: Some(size + 1), ..usual() }], Err("wrong length")),
        case("more than there is", [Mood { more: 9, chunked: true, ..usual() }], Err("sends more than")),
        case("chunks that break off", [Mood { chunked: true, ..cut(half) }], Ok(size)),
        case("a stall at the start", [silent(0)], Ok(size)),
        case("a stall in the middle", [silent(half), silent(half / 2)], Ok(size)),
        case("a stall before the end", [silent(size - 1)], Ok(size)),
        case("a loop", vec![to_itself; 6], Err("leads on more than 5 times")),
        case("not found", [status(404)], Err("404 Not Found")),
        case("trouble", [status(500)], Err("500 Internal Server Error")),
        case(
            "packed",
            [Mood { headers: "Content-Encoding: gzip\r\n".to_owned(), ..usual() }],
            Err("encoded (gzip)"),
        ),
    ]
}

/// How a case has ended: with the file, or with its words.
async fn tell(world: &World, case: &Case) -> Result<(), ()> {
    let folder = world.folder();
    world.download().discard().unwrap();
    world.server.next(case.moods.iter().cloned());
    if case.changes {
        let mut other = world.bytes.clone();
        other.reverse();
        world.server.replace(other);
    }
    for _ in 1..=TRIES {
        match world.fetch().await {
            Ok(path) => {
                assert!(path.starts_with(&folder), "{}", case.name);
                assert!(std::fs::read(path).unwrap() == world.bytes, "{}: not the file", case.name);
                return Ok(());
            }
            Err(error) if case.expected.is_err_and(|words| chain(&error).contains(words)) => return Err(()),
            Err(_) if case.changes => world.server.replace(world.bytes.clone()),
            Err(_) => {}
        }
    }
    panic!("{}: no file after {TRIES} tries: {:?}", case.name, world.asked());
}

#[tokio::test]
async fn prove_u9_what_breaks_off_goes_on_or_says_why_not() {
    let tier: u32 = std::env::var("IOT_AGENT_TIER").map_or(1, |tier| tier.parse().unwrap());
    let (size, count) = if tier > 1 { (4_000_000, 50) } else { (400_000, 12) };
    let mut world = World::new(size).await;
    world.rules.stall_timeout = Duration::from_secs(1);
    let (size, mut sent) = (size as u64, 0);
    let (mut resumed, mut aborted, mut again) = (0, 0, 0);
    let cases: Vec<Case> = cuts(size, count).into_iter().chain(lies(size)).collect();
    for case in &cases {
        let ended = tell(&world, case).await;
        let cost = world.server.sent() - sent;
        sent += cost;
        match (case.expected, ended) {
            (Ok(most), Ok(())) => {
                assert!(cost <= most, "{}: {cost} bytes were sent, more than {most}", case.name);
                resumed += 1;
            }
            (Err(_), Err(())) => aborted += 1,
            (expected, ended) => panic!("{}: {ended:?}, not {expected:?}", case.name),
        }
        if case.moods.iter().all(|mood| mood.cut.is_some()) {
            again = again.max(cost.saturating_sub(size));
        }
    }
    println!(
        "proof U9 tier={tier} wanted=whole_or_reason:{0} cases={0} resumed={resumed} aborted={aborted} sent_again_max={again} seed=none",
        cases.len()
    );
    assert_eq!(resumed + aborted, cases.len());
}
