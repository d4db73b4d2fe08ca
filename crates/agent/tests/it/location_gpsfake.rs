//! Debian's gpsd on recordings of real receivers, by its own gpsfake: what it says is what is told, with errors at 68 %.

use std::{path::Path, time::Duration};

use serde_json::Value;
use testkit::{
    Feed, Process,
    ports::free_port,
    recordings::{self, Recording},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

use crate::support::{
    Home, SOON,
    command::{Ended, begin, end},
};

/// A recording that is played to gpsd over and over, and what gpsd reports.
struct Played {
    gpsfake: Process,
    port: u16,
    reports: Feed<Value>,
}

impl Played {
    async fn begin(recording: &Recording, folder: &Path) -> Self {
        let file = folder.join(&recording.name);
        std::fs::write(&file, &recording.bytes).unwrap();
        let port = free_port();
        let (port_text, file) = (port.to_string(), file.to_str().unwrap());
        let gpsfake = Process::spawn("gpsfake", ["-q", "-n", "-c", "0.02", "-P", &port_text, file]);
        let connecting = async {
            loop {
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", port)).await {
                    return stream;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let gpsfake = gpsfake.expect("apt-get install gpsd-clients");
        let stream = timeout(SOON, connecting).await.expect("gpsd does not listen");
        let reports = Feed::default();
        tokio::spawn(read(stream, reports.clone()));
        Self { gpsfake, port, reports }
    }

    /// What is told of it.
    async fn once(&self, patience: &str) -> Ended {
        let home = Home::new("mqtt://127.0.0.1:1")
            .yaml(&format!("services: {{location: {{enabled: true, gpsd: '127.0.0.1:{}'}}}}", self.port));
        end(begin(&home, &["location", "once", "--source", "gpsd", "--json", "--timeout", patience])).await
    }

    /// Also its gpsd.
    async fn end(mut self) {
        self.gpsfake.terminate().unwrap();
        self.gpsfake.wait_exit(SOON).await.unwrap();
    }
}

/// Ends with gpsd.
async fn read(mut stream: TcpStream, reports: Feed<Value>) {
    stream.write_all(b"?WATCH={\"enable\":true,\"json\":true};\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        reports.push(serde_json::from_str(&line).unwrap());
    }
    reports.close();
}

/// Metres at 68 % of a report: gpsd's are at 95 %, of both dimensions or of each.
fn accuracy(report: &Value) -> f64 {
    let each = report["epx"].as_f64().zip(report["epy"].as_f64());
    match (report["eph"].as_f64(), each) {
        (Some(both), _) => both / 1.615,
        (None, Some((east, north))) => east.hypot(north) / 1.96,
        (None, None) => 35.0,
    }
}

#[tokio::test]
async fn what_gpsd_makes_of_a_recording_is_told() {
    let (all, folder) = (recordings::all().unwrap(), tempfile::tempdir().unwrap());
    // Two that speak NMEA, two that speak SiRF, one that speaks UBX.
    for name in ["neo-m8n.log", "mtk-3301.log", "sirfstarv.log", "bu303-climbing.log", "ublox-lea-4t.log"] {
        let recording = all.iter().find(|recording| recording.name == name).unwrap();
        let played = Played::begin(recording, folder.path()).await;
        // Less than it is waited for here, so that it can say why.
        let shown = played.once("12").await;
        let place: Value = serde_json::from_str(&shown.out).unwrap_or(Value::Null);
        let number = |key: &str| place[key].as_f64().unwrap_or(f64::NAN);
        let same = |report: &Value| {
            let near = |key: &str, ours: f64| {
                report[key].as_f64().is_some_and(|theirs| (theirs - ours).abs() <= 1e-7)
            };
            report["class"] == "TPV"
                && near("lat", number("latitude"))
                && near("lon", number("longitude"))
                && (accuracy(report) - number("accuracy")).abs() <= 0.01
        };
        let reported = played.reports.find(same, SOON).await;
        played.end().await;
        assert_eq!(shown.code, 0, "{name}: {shown:#?}");
        assert!(reported.is_ok(), "{name}: {place:#}\n{reported:#?}");
        assert!(recording.has((number("latitude"), number("longitude"))), "{name}: {place:#}");
    }
}

#[tokio::test]
async fn what_has_no_fix_in_gpsd_has_none() {
    let (all, folder) = (recordings::all().unwrap(), tempfile::tempdir().unwrap());
    let recording = all.iter().find(|recording| recording.name == "bu303-nofix.log").unwrap();
    assert_eq!(recording.fixes, [], "gpsd has none");
    let played = Played::begin(recording, folder.path()).await;
    let shown = played.once("3").await;
    played.end().await;
    shown.assert(1, "");
    shown.assert_said("no fix within 3 s: gpsd: gpsd has no fix of ");
}
