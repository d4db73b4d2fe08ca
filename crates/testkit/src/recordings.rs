//! What real receivers have said: the regression logs of gpsd, fetched from Debian by `scripts/recordings`, and what
//! gpsd and pynmea2 make of each.

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};
use serde_json::Value;

/// Degrees that two readings of one sentence may differ by: half a metre, for receivers that say more digits in one
/// sentence of a moment than in another.
const NEAR: f64 = 5e-6;
/// Every place in a recording, as pynmea2 reads it: whether or not it counts.
const PYNMEA2: &str = r#"
import json, pynmea2, re, sys
places = []
for text in re.findall(rb"\$[\x20-\x23\x25-\x7e]{5,255}?\*[0-9A-Fa-f]{2}", sys.stdin.buffer.read()):
    try: sentence = pynmea2.parse(text.decode(), check=True)
    except (pynmea2.ParseError, UnicodeDecodeError): continue
    try:
        if sentence.lat and sentence.lon: places.append((sentence.latitude, sentence.longitude))
    except (AttributeError, ValueError): pass
json.dump(places, sys.stdout)
"#;

/// A recording.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The name of its file.
    pub name: String,
    /// What the receiver said, without gpsd's remarks before it.
    pub bytes: Vec<u8>,
    /// Latitude and longitude of each fix that gpsd reports, in degrees.
    pub fixes: Vec<(f64, f64)>,
    /// How many of them count for us too: neither typed nor simulated.
    pub valid: usize,
}

/// All recordings there are, fetched if need be.
///
/// # Errors
/// When they cannot be fetched, or are fewer than there must be.
pub fn all() -> anyhow::Result<Vec<Recording>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join("target/recordings");
    let fetched = Command::new(root.join("scripts/recordings"))
        .arg(&folder)
        .stdout(Stdio::null())
        .status()
        .context("run scripts/recordings")?;
    ensure!(fetched.success(), "scripts/recordings failed: it needs Debian's apt-get and the network, once");
    let mut recordings = Vec::new();
    for entry in fs::read_dir(folder.join("logs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            recordings.push(Recording::read(&path)?);
        }
    }
    recordings.sort_by(|one, other| one.name.cmp(&other.name));
    ensure!(recordings.len() >= 100, "only {} recordings", recordings.len());
    Ok(recordings)
}

impl Recording {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let mut bytes = fs::read(path)?;
        while bytes.starts_with(b"#") {
            let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
            bytes.drain(..end);
        }
        let reports = fs::read(path.with_extension("log.chk"))?;
        let (mut fixes, mut valid) = (Vec::new(), 0);
        for line in
            reports.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"{\"class\":\"TPV\""))
        {
            let Ok(report) = serde_json::from_slice::<Value>(line) else { continue };
            let place = report["lat"].as_f64().zip(report["lon"].as_f64());
            let Some(place) = place.filter(|_| report["mode"].as_u64() >= Some(2)) else { continue };
            fixes.push(place);
            valid += usize::from(!matches!(report["status"].as_u64(), Some(7 | 8)));
        }
        let name = path.file_name().context("a file has a name")?.to_string_lossy().into_owned();
        Ok(Self { name, bytes, fixes, valid })
    }

    /// Whether gpsd reports a fix there, within 5e-6 degrees.
    pub fn has(&self, place: (f64, f64)) -> bool {
        is_one_of(place, &self.fixes)
    }

    /// Every place that pynmea2 reads in it, be it a fix or not.
    ///
    /// # Errors
    /// When Debian's python3-nmea2 is missing, or fails.
    pub fn places(&self) -> anyhow::Result<Vec<(f64, f64)>> {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-c", PYNMEA2]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().context("start /usr/bin/python3")?;
        // It reads all before it writes.
        child.stdin.take().context("its input")?.write_all(&self.bytes)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "pynmea2 is installed by `scripts/tools check`");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// Whether this place is one of those.
pub fn is_one_of(place: (f64, f64), places: &[(f64, f64)]) -> bool {
    places.iter().any(|other| (place.0 - other.0).abs() <= NEAR && (place.1 - other.1).abs() <= NEAR)
}
