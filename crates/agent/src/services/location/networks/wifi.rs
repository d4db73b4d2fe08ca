//! Access points, as NetworkManager knows them:
//! <https://networkmanager.dev/docs/api/latest/spec.html>.

use std::{collections::BTreeMap, time::Duration};

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};
use zbus::{Error, OwnedObjectPath};

use super::AccessPoint;
use crate::bus::{Bus, Place, Properties, bytes, text, whole};

const SERVICE: &str = "org.freedesktop.NetworkManager";
const MANAGER: Place<'_> =
    Place { service: SERVICE, path: "/org/freedesktop/NetworkManager", interface: SERVICE };
const DEVICE: &str = "org.freedesktop.NetworkManager.Device";
const WIRELESS: &str = "org.freedesktop.NetworkManager.Device.Wireless";
const POINT: &str = "org.freedesktop.NetworkManager.AccessPoint";
/// `NM_DEVICE_TYPE_WIFI`.
const WIFI: i64 = 2;
/// Most devices and access points that are looked at.
const MOST_DEVICES: usize = 64;
const MOST_POINTS: usize = 200;
/// How long a scan may take, and how often is looked whether it is done.
const SCAN: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(250);
/// NetworkManager drops access points that were not heard for so long. One that it has kept has been heard since,
/// whatever is said of the time.
const KEPT: Duration = Duration::from_secs(360);

/// Those around, of all devices; the freshest where one is heard by two of them.
pub(super) async fn hear(bus: &Bus) -> Result<Vec<AccessPoint>, Error> {
    let devices: Vec<OwnedObjectPath> = bus.call(MANAGER, "GetDevices", &()).await?;
    let mut points = BTreeMap::new();
    let mut found = false;
    for path in devices.iter().take(MOST_DEVICES) {
        let place = |interface| Place { service: SERVICE, path: path.as_str(), interface };
        // One that was pulled out meanwhile is no reason to hear nothing.
        let Ok(device) = bus.properties(place(DEVICE)).await else { continue };
        if whole(device.get("DeviceType")) != Some(WIFI) {
            continue;
        }
        found = true;
        let dated = scan(bus, place(WIRELESS)).await;
        for mut point in heard(bus, place(WIRELESS)).await? {
            if !dated {
                point.age = Duration::ZERO;
            }
            let known = points.entry(point.address).or_insert_with(|| point.clone());
            if point.age < known.age {
                *known = point;
            }
        }
    }
    if found {
        Ok(points.into_values().collect())
    } else {
        Err(Error::Failure("has no Wi-Fi device".to_owned()))
    }
}

/// Has it look around, and waits until it has. It may not want to, since it has just done so, or since the user of this
/// process may not ask: what it knows already will do then. Whether it says when it has scanned; if not, what it says of the
/// time of anything it has heard means nothing either.
async fn scan(bus: &Bus, device: Place<'_>) -> bool {
    let Some(before) = last_scan(bus, device).await else { return false };
    let none: std::collections::HashMap<&str, zbus::Variant<'_>> = std::collections::HashMap::new();
    if bus.call::<()>(device, "RequestScan", &none).await.is_err() {
        return true;
    }
    let until = Instant::now() + SCAN;
    while Instant::now() < until && last_scan(bus, device).await == Some(before) {
        sleep(LOOK).await;
    }
    true
}

async fn last_scan(bus: &Bus, device: Place<'_>) -> Option<i64> {
    whole(bus.properties(device).await.ok()?.get("LastScan"))
}

async fn heard(bus: &Bus, device: Place<'_>) -> Result<Vec<AccessPoint>, Error> {
    let paths: Vec<OwnedObjectPath> = bus.call(device, "GetAllAccessPoints", &()).await?;
    let mut points = Vec::new();
    for path in paths.iter().take(MOST_POINTS) {
        let place = Place { service: SERVICE, path: path.as_str(), interface: POINT };
        // One that is out of reach by now is gone.
        if let Ok(properties) = bus.properties(place).await {
            points.extend(point(&properties, since_boot()));
        }
    }
    Ok(points)
}

/// The time that NetworkManager counts in.
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::from_secs(time.tv_sec.try_into().unwrap_or(0))
}

/// An access point by its properties; none where one that is needed is missing or is none.
fn point(properties: &Properties, now: Duration) -> Option<AccessPoint> {
    let address = address(text(properties.get("HwAddress"))?)?;
    let seen = whole(properties.get("LastSeen")).map_or(Ok(now.as_secs()), u64::try_from);
    // Never: made for a network that was asked for and not heard.
    let age = now.checked_sub(Duration::from_secs(seen.ok()?)).unwrap_or_default();
    Some(AccessPoint {
        address,
        ssid: bytes(properties.get("Ssid")).unwrap_or_default(),
        signal: whole(properties.get("Strength")).and_then(level),
        frequency: whole(properties.get("Frequency"))
            .and_then(|mhz| u32::try_from(mhz).ok())
            .filter(|mhz| *mhz > 0),
        age: if age > KEPT { Duration::ZERO } else { age },
    })
}

/// dBm of a percentage: the inverse of what NetworkManager makes of dBm (`nm_wifi_utils_level_to_quality`), -100 to 0 and
/// -40 to 100.
fn level(percent: i64) -> Option<i32> {
    let percent = i32::try_from(percent).ok().filter(|percent| (0..=100).contains(percent))?;
    Some(percent * 3 / 5 - 100)
}

fn address(text: &str) -> Option<[u8; 6]> {
    let mut address = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut address {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(address)
}

#[cfg(test)]
mod tests {
    use zbus::{OwnedVariant, Variant};

    use super::*;

    fn properties(more: &[(&str, Variant<'static>)]) -> Properties {
        let all = [
            ("HwAddress", Variant::from("00:1A:2b:03:04:ff")),
            ("Ssid", Variant::from(vec![b'x', 0xff])),
            ("Strength", Variant::from(50_u8)),
            ("Frequency", Variant::from(5180_u32)),
            ("LastSeen", Variant::from(990_i32)),
        ];
        let own = |(name, value): (&str, Variant<'static>)| {
            (name.to_owned(), OwnedVariant::try_from(value).unwrap())
        };
        all.into_iter().chain(more.iter().cloned()).map(own).collect()
    }

    #[test]
    fn an_access_point_is_read() {
        let now = Duration::from_secs(1000);
        let read = point(&properties(&[]), now).unwrap();
        assert_eq!(
            read,
            AccessPoint {
                address: [0, 0x1a, 0x2b, 3, 4, 0xff],
                ssid: vec![b'x', 0xff],
                signal: Some(-70),
                frequency: Some(5180),
                age: Duration::from_secs(10),
            }
        );
        let age = |seen: i32| point(&properties(&[("LastSeen", seen.into())]), now).map(|point| point.age);
        assert_eq!(age(-1), None, "never heard");
        assert_eq!(age(640), Some(Duration::from_secs(360)));
        assert_eq!(age(1), Some(Duration::ZERO), "kept for longer than it can be");
        assert_eq!(age(1010), Some(Duration::ZERO), "in the future");
        for address in [
            "",
            "00:1a:2b:03:04",
            "00:1a:2b:03:04:05:06",
            "0:1a:2b:3:4:5",
            "00-1a-2b-03-04-05",
            "é:1a:2b:03:04:05",
        ] {
            assert_eq!(
                point(&properties(&[("HwAddress", address.to_owned().into())]), now),
                None,
                "{address}"
            );
        }
        let odd =
            properties(&[("Ssid", 3_u32.into()), ("Strength", "strong".into()), ("Frequency", 0_u32.into())]);
        let odd = point(&odd, now).unwrap();
        assert_eq!((odd.ssid, odd.signal, odd.frequency), (vec![], None, None));
    }

    #[test]
    fn levels_are_those_that_were_percentages() {
        assert_eq!(
            [0, 1, 50, 99, 100, 101, -1].map(level),
            [Some(-100), Some(-100), Some(-70), Some(-41), Some(-40), None, None]
        );
    }
}
