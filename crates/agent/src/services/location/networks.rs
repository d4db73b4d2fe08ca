//! The networks around: access points of Wi-Fi, and cells.

use std::time::Duration;

/// What is heard of the networks around.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Heard {
    pub(super) access_points: Vec<AccessPoint>,
    pub(super) cells: Vec<Cell>,
    /// Why there is not more; one text each for Wi-Fi and modem.
    pub(super) troubles: Vec<String>,
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
#[allow(dead_code, reason = "nothing listens to modems yet")]
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

    /// Listens anew; takes up to some seconds.
    #[allow(clippy::unused_async, reason = "what listens will wait")]
    pub(super) async fn hear(&mut self) -> Heard {
        Heard { troubles: vec!["this build does not listen to networks".to_owned()], ..Heard::default() }
    }
}
