//! What of the networks around may be told, what a request says of them, and whether they are those of before.
//!
//! The request is that of Google's Geolocation API, which BeaconDB, Ichnaea and others speak, too:
//! <https://developers.google.com/maps/documentation/geolocation/requests-geolocation>.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use serde::Serialize;

use super::super::networks::{AccessPoint, Cell, Heard, Radio};

/// An access point that was heard longer ago is somewhere else, perhaps.
const OLD: Duration = Duration::from_secs(120);
/// Of those heard, how many are looked at; and how many of them are told, the strongest first.
const MOST_POINTS: usize = 200;
const TOLD_POINTS: usize = 20;
/// Cells likewise.
const TOLD_CELLS: usize = 8;
/// The share of access points in both of all in either, from which on it is the same place. A scan misses some of the
/// weaker ones; the next street shares none.
const ALIKE: f64 = 0.5;

/// The networks around, less what must not or need not be told of them. The strongest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Surroundings {
    points: Vec<AccessPoint>,
    /// All of one technology, that of the cell that serves: a request names but one.
    cells: Vec<Cell>,
    /// Where nothing is heard: the address that the device has in its network.
    address: Option<IpAddr>,
}

impl Surroundings {
    /// What is left of what is heard. `address` stands for it where nothing is left.
    pub(crate) fn of(heard: &Heard, address: impl FnOnce() -> Option<IpAddr>) -> Self {
        let (points, cells) = (points(&heard.access_points), cells(&heard.cells));
        let nothing = points.is_empty() && cells.is_empty();
        Self { points, cells, address: if nothing { address() } else { None } }
    }

    /// Whether a place can follow from it without the address of the device.
    pub(crate) fn tell_a_place(&self) -> bool {
        !self.points.is_empty() || !self.cells.is_empty()
    }

    /// How long ago the youngest of it was heard.
    pub(crate) fn age(&self) -> Duration {
        let youngest = self.points.iter().map(|point| point.age).min().unwrap_or_default();
        if self.cells.is_empty() { youngest } else { Duration::ZERO }
    }

    /// Whether they are those of one place: half of the access points, by Jaccard's measure, and the serving cell, as
    /// far as either is there.
    pub(crate) fn are_those_of(&self, other: &Self) -> bool {
        let cell = |of: &Self| of.cells.first().map(|cell| (cell.country, cell.network, cell.area, cell.id));
        let served_alike = match (cell(self), cell(other)) {
            (Some(one), Some(two)) => one == two,
            // Access points alone will do, if there are some in both.
            _ => !self.points.is_empty() && !other.points.is_empty(),
        };
        match (self.tell_a_place(), other.tell_a_place()) {
            (true, true) => served_alike && self.shares_points_with(other),
            (false, false) => self.address == other.address,
            _ => false,
        }
    }

    fn shares_points_with(&self, other: &Self) -> bool {
        let addresses =
            |of: &Self| of.points.iter().map(|point| point.address).collect::<BTreeSet<[u8; 6]>>();
        let (one, two) = (addresses(self), addresses(other));
        let (both, either) = (one.intersection(&two).count(), one.union(&two).count());
        // Few enough for a float to count.
        either == 0 || both as f64 >= ALIKE * either as f64
    }

    /// The request's body.
    pub(crate) fn request(&self, consider_ip: bool) -> String {
        let request = Request {
            consider_ip,
            radio_type: self.cells.first().map(|cell| name(cell.radio)),
            cell_towers: self.cells.iter().take(TOLD_CELLS).map(Tower::of).collect(),
            wifi_access_points: self.points.iter().take(TOLD_POINTS).map(Point::of).collect(),
        };
        serde_json::to_string(&request).expect("strings and whole numbers make JSON")
    }
}

/// Those that may be told, and enough of them: a single one tells nobody where it is, and everybody who asks.
fn points(heard: &[AccessPoint]) -> Vec<AccessPoint> {
    let told = heard.iter().filter(|point| may_be_told(point) && point.age <= OLD);
    // Its name has been looked at, and is for nobody else.
    let mut points: Vec<AccessPoint> =
        told.map(|point| AccessPoint { ssid: Vec::new(), ..point.clone() }).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.signal));
    let mut seen = BTreeSet::new();
    points.retain(|point| seen.insert(point.address));
    points.truncate(MOST_POINTS);
    if points.len() < 2 { Vec::new() } else { points }
}

/// Its owner has not asked to be left out (`_nomap` at the end, or `_optout` anywhere), and its address is one that
/// a maker gave it: neither locally administered, as those of telephones that share their network, nor of a group.
fn may_be_told(point: &AccessPoint) -> bool {
    let optout = point.ssid.windows(7).any(|part| part.eq_ignore_ascii_case(b"_optout"));
    let nomap = point.ssid.len() >= 6 && point.ssid[point.ssid.len() - 6..].eq_ignore_ascii_case(b"_nomap");
    !nomap && !optout && point.address[0] & 0b11 == 0 && point.address != [0; 6]
}

fn cells(heard: &[Cell]) -> Vec<Cell> {
    let mut cells: Vec<Cell> = heard.iter().filter(|cell| is_sound(cell)).cloned().collect();
    cells.sort_by_key(|cell| std::cmp::Reverse((cell.serving, cell.signal)));
    let radio = cells.first().map(|cell| cell.radio);
    cells.retain(|cell| Some(cell.radio) == radio);
    let mut seen = BTreeSet::new();
    cells.retain(|cell| seen.insert((cell.country, cell.network, cell.area, cell.id)));
    cells.truncate(TOLD_CELLS);
    cells
}

/// Its numbers are within the ranges that Google documents; a modem that knows none says all ones.
fn is_sound(cell: &Cell) -> bool {
    let (ids, areas, networks) = match cell.radio {
        Radio::Gsm => (1 << 16, 1 << 16, 1000),
        Radio::Cdma => (1 << 16, 1 << 16, 1 << 15),
        Radio::Wcdma | Radio::Lte => (1 << 28, 1 << 16, 1000),
        Radio::Nr => (1_u64 << 36, 1 << 24, 1000),
    };
    let needs_area = matches!(cell.radio, Radio::Gsm | Radio::Cdma);
    let country = cell.radio == Radio::Cdma || (1..1000).contains(&cell.country);
    // The largest of each stands for an unknown one.
    country
        && cell.network < networks
        && cell.id < ids - 1
        && cell.area.map_or(!needs_area, |area| area < areas - 1)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    /// Always there: Google takes an absent one for true.
    consider_ip: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    radio_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cell_towers: Vec<Tower>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    wifi_access_points: Vec<Point>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tower {
    /// Google reads it of the request, others of each cell.
    radio_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mobile_country_code: Option<u16>,
    mobile_network_code: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    location_area_code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cell_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_radio_cell_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal_strength: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timing_advance: Option<u32>,
}

impl Tower {
    fn of(cell: &Cell) -> Self {
        let new = cell.radio == Radio::Nr;
        Self {
            radio_type: name(cell.radio),
            mobile_country_code: (cell.radio != Radio::Cdma).then_some(cell.country),
            mobile_network_code: cell.network,
            location_area_code: cell.area,
            cell_id: (!new).then_some(cell.id),
            new_radio_cell_id: new.then_some(cell.id),
            signal_strength: cell.signal,
            timing_advance: cell.timing_advance,
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Point {
    mac_address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal_strength: Option<i32>,
    /// Milliseconds.
    age: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<u32>,
}

impl Point {
    fn of(point: &AccessPoint) -> Self {
        let address: Vec<String> = point.address.iter().map(|byte| format!("{byte:02x}")).collect();
        Self {
            mac_address: address.join(":"),
            signal_strength: point.signal,
            age: point.age.as_millis(),
            channel: point.frequency.and_then(channel),
        }
    }
}

fn name(radio: Radio) -> &'static str {
    match radio {
        Radio::Gsm => "gsm",
        Radio::Cdma => "cdma",
        Radio::Wcdma => "wcdma",
        Radio::Lte => "lte",
        Radio::Nr => "nr",
    }
}

/// The number of a channel by its MHz (IEEE 802.11-2020, 17.4.6.3, 21.3.14 and 27.3.23.2).
fn channel(frequency: u32) -> Option<u32> {
    match frequency {
        2412..=2472 => Some((frequency - 2407) / 5),
        2484 => Some(14),
        5160..=5885 => Some((frequency - 5000) / 5),
        5955..=7115 => Some((frequency - 5950) / 5),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
