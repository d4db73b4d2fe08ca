//! Where the device is: receivers on pseudoterminals and FIFOs, Debian's gpsd, and a real mosquitto.

use std::{path::Path, time::Duration};

use protocol::location::{Location, Source};
use serde_json::Value;
use testkit::{
    Mosquitto, Process, Watcher,
    client::Message,
    ports::free_port,
    receiver::{Receiver, lost, moment, sentence},
};
use tokio::{io::AsyncWriteExt as _, net::unix::pipe::OpenOptions, time::timeout};

use crate::support::{
    Home, SOON,
    command::{begin, end},
    wait_status,
};

const TOPIC: &str = "iot/d1/location";
/// Zürich, as receivers write it.
const ZURICH: &str = "4722.6147,N,00832.5020,E";
/// And as numbers.
const AT: (f64, f64) = (47.376_911_7, 8.541_7);

/// An enrolled agent with these settings; `{dir}` is its folder.
struct Story {
    _broker: Mosquitto,
    watcher: Watcher,
    home: Home,
}

fn settings(home: Home, location: &str) -> Home {
    let location = location.replace("{dir}", &home.path().display().to_string());
    home.yaml(&format!(
        "services:\n  registration: {{enabled: false}}\n  location: {{enabled: true, {location}}}"
    ))
}

impl Story {
    async fn begin(location: &str) -> Self {
        let broker = Mosquitto::builder().start().await.unwrap();
        let watcher = Watcher::start(&broker, TOPIC).await.unwrap();
        let home = Home::new(&format!("mqtt://127.0.0.1:{}", broker.addr().port())).device("d1");
        Self { _broker: broker, watcher, home: settings(home, location) }
    }

    /// The next location that is as `wanted`.
    async fn find(&self, wanted: impl Fn(&Location) -> bool) -> Location {
        let found = self.watcher.messages().next(|message: &Message| wanted(&decoded(message)), SOON).await;
        decoded(&found.unwrap())
    }

    async fn service(&self, state: &str, detail: &str) {
        wait_status(&self.home, |status| {
            let service = &status["services"]["location"];
            service["state"] == state && service["detail"].as_str().is_some_and(|said| said.contains(detail))
        })
        .await;
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.home.path().join(name)
    }
}

fn decoded(message: &Message) -> Location {
    serde_json::from_slice(&message.payload).unwrap_or_else(|error| panic!("{error}: {}", message.text()))
}

fn is_at(location: &Location, (latitude, longitude): (f64, f64)) -> bool {
    let place = &location.place;
    (place.latitude - latitude).abs() < 1e-6 && (place.longitude - longitude).abs() < 1e-6
}

fn fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test]
async fn a_receiver_is_followed_lost_and_found_again() {
    let story = Story::begin("interval: 200ms, max_age: 1s, gps_device_path: '{dir}/gps'").await;
    let link = story.path("gps");
    let receiver = Receiver::plug(&link, |number| moment(ZURICH, number)).unwrap();
    let mut agent = story.home.start();
    let first = story.find(|_| true).await;
    assert!(is_at(&first, AT), "{first:?}");
    assert_eq!((first.place.source, first.place.satellites), (Source::Gps, Some(9)));
    assert_eq!((first.place.accuracy, first.place.altitude), (7.0, Some(408.6)));
    assert_eq!(
        (first.place.speed, first.place.heading, first.place.hdop),
        (Some(2.0), Some(271.3), Some(1.0))
    );
    story.service("running", "the place is from gps").await;
    // Two that read it would get half of it each.
    let busy = end(begin(&story.home, &["location", "once", "--source", "gps"])).await;
    busy.assert(1, "");
    busy.assert_said("another program uses it");

    receiver.says(lost);
    story.service("degraded", "gps: the receiver has no fix, with 3 satellites").await;
    let sent = story.watcher.all().len();
    assert!(story.watcher.all().iter().all(|message| is_at(&decoded(message), AT)), "nothing is made up");
    receiver.unplug().await;
    story.service("degraded", &link.display().to_string()).await;
    assert_eq!(story.watcher.all().len(), sent, "none without a fix");

    story.watcher.messages().skip_to_end();
    let _receiver = Receiver::plug(&link, |number| moment("3351.4000,S,15112.6000,W", number)).unwrap();
    let back = story.find(|_| true).await;
    assert!(is_at(&back, (-33.856_666_7, -151.21)), "{back:?}");
    story.service("running", "the place is from gps").await;
    crate::support::stop(&mut agent, "with a receiver").await;
}

#[tokio::test]
async fn what_has_no_fix_hands_over_to_what_has() {
    let story = Story::begin(
        "interval: 200ms, gps_device_path: '{dir}/gps', fixed: {latitude: 1, longitude: -2.5}, round_to: 0.1",
    )
    .await;
    let mut agent = story.home.start();
    let fixed = story.find(|_| true).await;
    assert_eq!((fixed.place.source, fixed.place.latitude, fixed.place.longitude), (Source::Fixed, 1.0, -2.5));
    story.service("degraded", "the place is from fixed, since gps: ").await;
    let _receiver = Receiver::plug(&story.path("gps"), |number| moment(ZURICH, number)).unwrap();
    let found = story.find(|location| location.place.source == Source::Gps).await;
    assert_eq!((found.place.latitude, found.place.longitude, found.place.altitude), (47.4, 8.5, None));
    crate::support::stop(&mut agent, "handed over").await;
}

/// gpsd as Debian has it, on the receiver's device.
async fn gpsd(receiver: &Receiver) -> (Process, u16) {
    let port = free_port();
    let port_text = port.to_string();
    let device = receiver.device().to_str().unwrap();
    let gpsd = Process::spawn("gpsd", ["-N", "-n", "-S", &port_text, device]).expect("apt-get install gpsd");
    let up = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, up).await.expect("gpsd does not listen");
    (gpsd, port)
}

#[tokio::test]
async fn gpsd_is_believed_as_long_as_it_has_a_fix() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::plug(&folder.path().join("gps"), |number| moment(ZURICH, number)).unwrap();
    let (mut gpsd, port) = gpsd(&receiver).await;
    let story = Story::begin(&format!("interval: 200ms, max_age: 1s, gpsd: '127.0.0.1:{port}'")).await;
    let mut agent = story.home.start();
    let found = story.find(|_| true).await;
    assert!(is_at(&found, AT) && found.place.source == Source::Gpsd, "{found:?}");
    story.find(|location| location.place.accuracy > 0.5 && location.place.accuracy < 30.0).await;
    receiver.says(lost);
    story.service("degraded", "gpsd: gpsd has no fix of ").await;
    receiver.says(|number| moment(ZURICH, number));
    story.service("running", "the place is from gpsd").await;
    gpsd.kill().await.unwrap();
    story.service("degraded", &format!("gpsd: gpsd at 127.0.0.1:{port}: ")).await;
    crate::support::stop(&mut agent, "without its gpsd").await;
}

/// On a roof: no daemon, no broker.
#[tokio::test]
async fn one_fix_can_be_asked_for() {
    let home = settings(
        Home::new("mqtt://127.0.0.1:1"),
        "gps_device_path: '{dir}/gps', fixed: {latitude: 1, longitude: 2}",
    );
    let path = home.path().join("gps");
    fifo(&path);
    let asking = begin(&home, &["location", "once", "--source", "gps", "--json"]);
    let mut writer = OpenOptions::new().read_write(true).open_sender(&path).unwrap();
    let bytes = [&b"\xb5\x62\x01$GPGGA,12"[..], moment(ZURICH, 1).as_bytes()].concat();
    writer.write_all(&bytes).await.unwrap();
    writer.flush().await.unwrap();
    let shown = end(asking).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    let place: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!((&place["source"], &place["accuracy"]), (&"gps".into(), &7.0.into()), "{place:#}");
    assert!((place["latitude"].as_f64().unwrap() - AT.0).abs() < 1e-6, "{place:#}");
    assert!(place.get("device_id").is_none() && place.get("seq").is_none(), "{place:#}");
    let fixed = end(begin(&home, &["location", "once", "--source", "fixed"])).await;
    fixed.assert(
        0,
        "source      fixed\nlatitude    1.0 degrees\nlongitude   2.0 degrees\naccuracy    10.0 m\nfix_age_s   0 s\n",
    );
}

#[tokio::test]
async fn why_there_is_no_fix_is_said() {
    let home = settings(Home::new("mqtt://127.0.0.1:1"), "gps_device_path: '{dir}/gps', gpsd: '127.0.0.1:1'");
    let path = home.path().join("gps");
    let asked = async |arguments: &[&str], said: &str| {
        let shown = end(begin(&home, &[&["location", "once"], arguments].concat())).await;
        shown.assert(1, "");
        shown.assert_said(said);
    };
    asked(&["--source", "gps"], "gps: ").await;
    asked(&["--source", "gpsd"], "gpsd: gpsd at 127.0.0.1:1: cannot be reached: Connection refused").await;
    asked(&["--source", "google"], "google: Google's service needs a key; set api_key_file").await;
    asked(&["--source", "fixed"], "services.location.sources: fixed needs fixed").await;
    home.file("gps", "a file\n", 0o600);
    asked(&["--source", "gps"], "it is neither a serial port nor a FIFO").await;
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    asked(&["--source", "gps"], "it is neither a serial port nor a FIFO").await;
    std::fs::remove_file(&path).unwrap();
    let receiver = Receiver::plug(&path, lost).unwrap();
    asked(
        &["--source", "gps", "--timeout", "2"],
        "no fix within 2 s: gps: the receiver has no fix, with 3 satellites",
    )
    .await;
    receiver.says(|_| "garbage ".repeat(10));
    asked(&["--source", "gps", "--timeout", "4"], "no sentence of NMEA 0183 in ").await;
    let wrong = end(begin(&home, &["location", "once", "--source", "stars"])).await;
    assert_eq!(wrong.code, 2, "{wrong:?}");
}

/// A line of noise that never ends: no memory, and little of the processor. (A pipe, since that can carry so much.)
#[tokio::test]
async fn prove_i1_noise_costs_next_to_nothing() {
    let story =
        Story::begin("interval: 200ms, gps_device_path: '{dir}/gps', fixed: {latitude: 1, longitude: 2}")
            .await;
    let path = story.path("gps");
    fifo(&path);
    let mut agent = story.home.start();
    story.find(|_| true).await;
    let mut writer = OpenOptions::new().read_write(true).open_sender(&path).unwrap();
    let mut random = testkit::Rng::new(testkit::seed());
    let noise: Vec<u8> = (0..100_000).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
    let seconds = if crate::support::tier() > 1 { 10 } else { 3 };
    let before = testkit::procfs::usage(agent.pid()).unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..seconds * 10 {
        ticks.tick().await;
        timeout(SOON, writer.write_all(&noise)).await.expect("it is read").unwrap();
        timeout(SOON, writer.flush()).await.expect("it is read").unwrap();
    }
    let after = testkit::procfs::usage(agent.pid()).unwrap();
    let cpu = (after.cpu - before.cpu).as_secs_f64() / f64::from(seconds);
    let memory = after.rss.saturating_sub(before.rss) / 1024;
    crate::support::proof(
        "I1-noise",
        &format!("wanted=5%,1024KiB cpu={:.1}% memory={memory}KiB", 100.0 * cpu),
    );
    assert!(memory <= 1024, "{memory} KiB");
    // Without optimisation it is another program.
    assert!(crate::support::tier() == 1 || cpu <= 0.05, "{cpu}");
    // And it still hears what is one.
    writer.write_all(sentence("x").as_bytes()).await.unwrap();
    writer.write_all(moment(ZURICH, 1).as_bytes()).await.unwrap();
    writer.flush().await.unwrap();
    story.find(|location| location.place.source == Source::Gps && is_at(location, AT)).await;
    crate::support::stop(&mut agent, "after noise").await;
}
