//! The networks around: access points of Wi-Fi from NetworkManager, and cells from ModemManager, over D-Bus.

#[cfg(all(feature = "dbus", target_os = "linux"))]
mod cells;
#[cfg(all(feature = "dbus", target_os = "linux"))]
mod wifi;

use std::time::Duration;

/// What is heard of the networks around.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Heard {
    pub(super) access_points: Vec<AccessPoint>,
    pub(super) cells: Vec<Cell>,
    /// Why there is not more; one text each for Wi-Fi and modem.
    pub(super) troubles: Vec<String>,
    /// There is nothing to listen with.
    pub(super) deaf: bool,
}

/// An access point, as it was last heard.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct AccessPoint {
    pub(super) address: [u8; 6],
    pub(super) ssid: Vec<u8>,
    /// dBm; None where unknown.
    pub(super) signal: Option<i32>,
    /// MHz.
    pub(super) frequency: Option<u32>,
    pub(super) age: Duration,
}

/// How a cell speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(all(feature = "dbus", target_os = "linux")), allow(dead_code, reason = "nothing is heard"))]
pub(super) enum Radio {
    Gsm,
    Cdma,
    Wcdma,
    Lte,
    Nr,
}

/// A cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cell {
    pub(super) radio: Radio,
    /// MCC.
    pub(super) country: u16,
    /// MNC, or SID in CDMA.
    pub(super) network: u16,
    /// LAC or TAC, or NID in CDMA.
    pub(super) area: Option<u32>,
    pub(super) id: u64,
    /// dBm.
    pub(super) signal: Option<i32>,
    pub(super) timing_advance: Option<u32>,
    /// It serves the device.
    pub(super) serving: bool,
}

/// What listens.
#[derive(Debug)]
pub(super) struct Ears;

impl Ears {
    pub(super) fn new() -> Self {
        Self
    }

    /// Listens anew; takes up to some seconds. Nothing is kept between two times, so that nothing wakes the device.
    #[cfg(all(feature = "dbus", target_os = "linux"))]
    pub(super) async fn hear(&mut self) -> Heard {
        listen().await
    }

    /// As above; there is nothing to ask.
    #[cfg(not(all(feature = "dbus", target_os = "linux")))]
    #[allow(clippy::unused_async, reason = "where there is something to ask, it waits")]
    pub(super) async fn hear(&mut self) -> Heard {
        let why = "this build does not listen to networks: it has no D-Bus";
        Heard { troubles: vec![why.to_owned()], deaf: true, ..Heard::default() }
    }
}

#[cfg(all(feature = "dbus", target_os = "linux"))]
async fn listen() -> Heard {
    use crate::bus;
    let bus = match bus::Bus::open().await {
        Ok(bus) => bus,
        Err(error) => {
            let why = format!("no system bus, so neither Wi-Fi nor a modem is heard: {}", bus::plain(&error));
            return Heard { troubles: vec![why], deaf: true, ..Heard::default() };
        }
    };
    let (points, cells) = tokio::join!(wifi::hear(&bus), cells::hear(&bus));
    let mut heard = Heard { deaf: points.is_err() && cells.is_err(), ..Heard::default() };
    let trouble = |what: &str, error: &zbus::Error| format!("{what}: {}", bus::plain(error));
    match points {
        Ok(points) => heard.access_points = points,
        Err(error) => heard.troubles.push(trouble("Wi-Fi is not heard, NetworkManager", &error)),
    }
    match cells {
        Ok(cells) => heard.cells = cells,
        Err(error) => heard.troubles.push(trouble("no modem is heard, ModemManager", &error)),
    }
    heard
}
