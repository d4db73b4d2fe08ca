//! U9 and the disk, through the whole agent: its file comes whole, or the status says why it does not.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use testkit::{
    Process,
    certs::Pki,
    downloads::{Downloads, End, Mood},
};
use tokio::time::Instant;

use crate::{
    story::{Story, sha256},
    support::{
        disk::{Disk, Fault},
        proof, tier, wait_status,
    },
};

/// What may be sent again after a kill, in bytes.
const AGAIN: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(60);

/// A device that takes plain files, as `installed` in its folder.
async fn device(more: &str) -> Story {
    Story::begin(&format!(
        ", trusted_keys: [], allow_unsigned: true, update_command: 'cp \"$IOT_UPDATE_PATH\" {{home}}/installed', \
         health: {{need_connection: false}}{more}"
    ))
    .await
}

fn request(id: &str, server: &Downloads, bytes: &[u8]) -> Value {
    json!({
        "update_id": id, "version": "1.0.0", "update_url": format!("{}fw.bin", server.url()),
        "sha256": sha256(bytes), "size": bytes.len(),
    })
}

/// Bytes that are nowhere the same.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    testkit::Rng::new(seed).fill(&mut bytes);
    bytes
}

fn installed(story: &Story) -> Vec<u8> {
    fs::read(story.home.path().join("installed")).unwrap_or_default()
}

fn cut(after: u64) -> Mood {
    Mood { cut: Some((after, End::Closed)), ..Mood::default() }
}

/// Every way to break off, in turn, within one update each; then each that ends it.
#[tokio::test]
async fn prove_u9_through_the_agent() {
    let (size, cuts) = if tier() > 1 { (2_000_000, 50) } else { (400_000, 4) };
    let story = device(", max_retry_attempts: 2, download: {stall_timeout: 1s}").await;
    let _agent = story.online().await;
    let (mut resumed, mut aborted) = (0, 0);
    let usual = Mood::default;
    let half = size / 2;
    let silent = Mood { cut: Some((half, End::Silent)), ..usual() };
    let other = Mood { validators: Some("ETag: \"other\"\r\n".to_owned()), ..cut(half) };
    let mut good: Vec<Vec<Mood>> = (0..cuts).map(|n| vec![cut(n * (size - 1) / (cuts - 1).max(1))]).collect();
    good.extend([
        vec![silent],
        vec![cut(half), Mood { whole: true, ..usual() }],
        vec![cut(half), Mood { status: Some(416), ..usual() }],
        vec![other],
    ]);
    for (n, moods) in good.into_iter().enumerate() {
        let bytes = noise(usize::try_from(size).unwrap(), n as u64 + 1);
        let server = Downloads::start(bytes.clone()).await.unwrap();
        server.next(moods.clone());
        let id = format!("good-{n}");
        let mut wanted = request(&id, &server, &bytes);
        wanted["version"] = format!("1.0.{n}").into();
        story.send(wanted.to_string()).await;
        let end = story.end(&id).await;
        assert_eq!(end["state"], "success", "{moods:?}: {end}");
        assert!(installed(&story) == bytes, "{moods:?}");
        resumed += 1;
    }
    let (tries, before) = (3, installed(&story));
    let status = |status| Mood { status: Some(status), ..usual() };
    let around = Mood { location: Some("/".to_owned()), ..status(302) };
    for (mood, reason) in [
        (status(404), "404 Not Found"),
        (status(500), "500 Internal Server Error"),
        (Mood { whole: true, more: 1, ..usual() }, "wrong length"),
        (Mood { whole: true, length: Some(1), ..usual() }, "wrong length"),
        (Mood { whole: true, chunked: true, more: 1, ..usual() }, "sends more than"),
        (Mood { headers: "Content-Encoding: br\r\n".to_owned(), ..usual() }, "encoded (br)"),
        (Mood { cut: Some((0, End::Silent)), ..usual() }, "stalled"),
        (around, "leads on more than 5 times"),
    ] {
        let bytes = noise(100_000, 7);
        let server = Downloads::start(bytes.clone()).await.unwrap();
        server.usually(mood);
        let id = format!("bad-{aborted}");
        let mut wanted = request(&id, &server, &bytes);
        wanted["version"] = "2.0.0".into();
        story.send(wanted.to_string()).await;
        let end = story.end(&id).await;
        assert_eq!((&end["state"], &end["attempt"]), (&json!("failed"), &json!(tries)), "{reason}: {end}");
        assert!(end["error"].as_str().unwrap().contains(reason), "{reason}: {end}");
        aborted += 1;
    }
    assert!(installed(&story) == before);
    let wanted = resumed + aborted;
    proof("U9", &format!("wanted=whole_or_reason:{wanted} layer=agent resumed={resumed} aborted={aborted}"));
}

/// The wrong bytes of the right length are fetched no more often than allowed, and never used.
#[tokio::test]
async fn another_file_of_the_same_length_is_never_used() {
    let story = device(", max_retry_attempts: 1").await;
    let _agent = story.online().await;
    let server = Downloads::start(noise(100_000, 1)).await.unwrap();
    story.send(request("u1", &server, &noise(100_000, 2)).to_string()).await;
    let end = story.end("u1").await;
    assert_eq!(end["state"], "failed", "{end}");
    assert!(end["error"].as_str().unwrap().contains("another SHA-256"), "{end}");
    assert_eq!(server.asked().len(), 2);
    assert!(installed(&story).is_empty());
    let left = story.home.path().join("state/update/download");
    let left: Vec<_> =
        fs::read_dir(left).map(|files| files.map(|file| file.unwrap().path()).collect()).unwrap_or_default();
    assert!(left.is_empty(), "{left:?}");
}

async fn killed_at_90_percent(more: &str, mood: Mood) -> u64 {
    let size = 20_000_000;
    let story = device(more).await;
    let mut agent = story.online().await;
    let bytes = noise(size, 3);
    let server = Downloads::start(bytes.clone()).await.unwrap();
    server.usually(mood);
    story.send(request("u1", &server, &bytes).to_string()).await;
    server.wait_sent(size as u64 * 9 / 10, SOON).await.unwrap();
    agent.kill().await.unwrap();
    server.usually(Mood::default());
    let _agent = story.online().await;
    let end = story.end("u1").await;
    assert_eq!(end["state"], "success", "{end}");
    assert!(installed(&story) == bytes);
    let asked = server.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(asked[1].from.is_some(), "{asked:?}");
    server.sent() - size as u64
}

/// By a slow network, and by a limit of our own.
#[tokio::test]
async fn prove_u9_a_killed_agent_goes_on() {
    let slow = killed_at_90_percent("", Mood { rate: Some(40_000_000), ..Mood::default() }).await;
    let own = killed_at_90_percent(", download: {bandwidth_limit: 16MiB}", Mood::default()).await;
    proof(
        "U9",
        &format!("wanted=sent_again<={AGAIN} killed_at=90% slow_network={slow} bandwidth_limit={own}"),
    );
    assert!(slow <= AGAIN && own <= AGAIN, "{slow} {own}");
}

/// Who can be on the way is asked for nothing and believed nothing.
#[tokio::test]
async fn encrypted_stays_encrypted() {
    let story = device(", max_retry_attempts: 0").await;
    let (pki, stranger) = (Pki::new().unwrap(), Pki::new().unwrap());
    let mut command = story.home.command(&["run"]);
    command.env("SSL_CERT_FILE", pki.ca_file()).env_remove("SSL_CERT_DIR");
    let _agent = Process::run(command.into()).unwrap();
    wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
    let bytes = noise(300_000, 4);
    let plain = Downloads::start(bytes.clone()).await.unwrap();
    let secure = Downloads::start_tls(&pki, bytes.clone()).await.unwrap();
    let unknown = Downloads::start_tls(&stranger, bytes.clone()).await.unwrap();
    let leads_on = |to: &Downloads| Mood {
        status: Some(302),
        location: Some(format!("{}fw.bin", to.url())),
        ..Mood::default()
    };
    story.send(request("u1", &unknown, &bytes).to_string()).await;
    let end = story.end("u1").await;
    assert_eq!(end["state"], "failed", "{end}");
    assert!(end["error"].as_str().unwrap().contains("certificate"), "{end}");
    secure.next([leads_on(&plain)]);
    story.send(request("u2", &secure, &bytes).to_string()).await;
    let end = story.end("u2").await;
    assert_eq!(end["state"], "failed", "{end}");
    assert!(end["error"].as_str().unwrap().contains("from https:// to http://"), "{end}");
    assert_eq!((plain.asked().len(), unknown.asked().len()), (0, 0));
    plain.next([leads_on(&secure)]);
    secure.next([cut(100_000)]);
    story.send(request("u3", &plain, &bytes).to_string()).await;
    let end = story.end("u3").await;
    // What gains something is not counted as a try.
    assert_eq!(end["state"], "success", "{end}");
    assert!(installed(&story) == bytes);
}

/// A device whose state is on a small disk.
async fn on_a_small_disk(more: &str) -> (Story, Disk, Process) {
    let story = device(more).await;
    fs::remove_dir_all(story.home.path().join("state")).unwrap();
    let disk = Disk::mount(&story.home, "24m").await;
    let agent = disk.start(&story.home);
    wait_status(&story.home, |status| status["connection"]["state"] == "connected").await;
    (story, disk, agent)
}

/// What there is no room for is not begun.
#[tokio::test]
async fn too_little_room_is_seen_before() {
    let (story, _disk, _agent) = on_a_small_disk(", max_retry_attempts: 1").await;
    let bytes = noise(30_000_000, 5);
    let server = Downloads::start(bytes.clone()).await.unwrap();
    story.send(request("u1", &server, &bytes).to_string()).await;
    let end = story.end("u1").await;
    assert_eq!((&end["state"], &end["attempt"]), (&json!("failed"), &json!(2)), "{end}");
    assert!(
        end["error"].as_str().unwrap().contains("no room on the disk: 30000000 bytes are needed"),
        "{end}"
    );
    assert_eq!(server.asked().len(), 0);
}

/// E6: a disk that fills up in the middle is waited for.
#[tokio::test]
async fn prove_e6_a_download_outlives_a_full_disk() {
    let (story, disk, mut agent) = on_a_small_disk(", max_retry_attempts: 500").await;
    let bytes = noise(8_000_000, 5);
    let server = Downloads::start(bytes.clone()).await.unwrap();
    server.next([Mood { rate: Some(4_000_000), ..Mood::default() }]);
    story.send(request("u1", &server, &bytes).to_string()).await;
    server.wait_sent(2_000_000, SOON).await.unwrap();
    disk.break_by(Fault::Full).await;
    let waits = |status: &Value| status["services"]["update"].to_string().contains("No space left on device");
    wait_status(&story.home, waits).await;
    assert!(agent.is_running().unwrap());
    disk.mend(Fault::Full).await;
    let mended = Instant::now();
    let end = story.end("u1").await;
    let recovered = mended.elapsed();
    assert_eq!(end["state"], "success", "{end}");
    assert!(installed(&story) == bytes);
    let again = server.sent() - bytes.len() as u64;
    proof(
        "E6",
        &format!(
            "wanted=recovered_ms<=10000 what=download recovered_ms={} sent_again={again}",
            recovered.as_millis()
        ),
    );
    assert!(recovered <= Duration::from_secs(10) && again <= AGAIN, "{recovered:?} {again}");
}
