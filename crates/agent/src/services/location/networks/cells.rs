//! Cells, as modems tell them to ModemManager:
//! <https://www.freedesktop.org/software/ModemManager/doc/latest/ModemManager/>. Nothing is switched on to hear more.

use std::collections::HashMap;

use zbus::{Error, OwnedObjectPath, OwnedVariant};

use super::{Cell, Radio};
use crate::bus::{Bus, Place, Properties, text, truth, whole};

const SERVICE: &str = "org.freedesktop.ModemManager1";
const OBJECTS: Place<'_> = Place {
    service: SERVICE,
    path: "/org/freedesktop/ModemManager1",
    interface: "org.freedesktop.DBus.ObjectManager",
};
const MODEM: &str = "org.freedesktop.ModemManager1.Modem";
const LOCATION: &str = "org.freedesktop.ModemManager1.Modem.Location";
const SIGNAL: &str = "org.freedesktop.ModemManager1.Modem.Signal";
/// `MM_MODEM_LOCATION_SOURCE_3GPP_LAC_CI`.
const LAC_CI: u32 = 1;
/// Most modems and cells that are looked at.
const MOST_MODEMS: usize = 8;
const MOST_CELLS: usize = 64;

/// What an object offers: interfaces and their properties.
type Interfaces = HashMap<String, Properties>;

/// Those around, of all modems.
pub(super) async fn hear(bus: &Bus) -> Result<Vec<Cell>, Error> {
    let objects: HashMap<OwnedObjectPath, Interfaces> = bus.call(OBJECTS, "GetManagedObjects", &()).await?;
    let modems: Vec<_> = objects.iter().filter(|(_, interfaces)| interfaces.contains_key(MODEM)).collect();
    let mut cells = Vec::new();
    for (path, interfaces) in modems.iter().take(MOST_MODEMS) {
        let place = |interface| Place { service: SERVICE, path: path.as_str(), interface };
        let around = around(bus, place(MODEM)).await;
        if around.is_empty() {
            cells.extend(serving(bus, place(LOCATION), interfaces).await);
        } else {
            cells.extend(around);
        }
    }
    match cells.is_empty() {
        true if modems.is_empty() => Err(Error::Failure("has no modem".to_owned())),
        true => Err(Error::Failure("its modem tells no cell".to_owned())),
        false => Ok(cells),
    }
}

/// What a modem hears (ModemManager 1.20 and later, and not every modem).
async fn around(bus: &Bus, modem: Place<'_>) -> Vec<Cell> {
    let told = bus.call::<Vec<Properties>>(modem, "GetCellInfo", &()).await.unwrap_or_default();
    told.iter().take(MOST_CELLS).filter_map(cell).collect()
}

/// Kinds of cells, by the number that `MMCellType` gives them.
const KINDS: [(i64, Radio); 6] = [
    (1, Radio::Cdma),
    (2, Radio::Gsm),
    (3, Radio::Wcdma),
    // TD-SCDMA: UMTS by another radio, and named by the same numbers.
    (4, Radio::Wcdma),
    (5, Radio::Lte),
    (6, Radio::Nr),
];

fn cell(told: &Properties) -> Option<Cell> {
    let kind = whole(told.get("cell-type"))?;
    let radio = KINDS.iter().find(|(number, _)| *number == kind)?.1;
    let hex = |name: &str| text(told.get(name)).and_then(hexadecimal);
    let small = |name: &str| whole(told.get(name)).and_then(|n| i32::try_from(n).ok());
    let serving = truth(told.get("serving"));
    // In bit periods of GSM, and in what each of the others counts; all ones is unknown.
    let timing_advance =
        whole(told.get("timing-advance")).and_then(|n| u32::try_from(n).ok()).filter(|n| *n < 0xffff);
    if radio == Radio::Cdma {
        let area = hex("nid").and_then(|nid| u32::try_from(nid).ok());
        let network = hex("sid").and_then(|sid| u16::try_from(sid).ok())?;
        let id = hex("base-station-id")?;
        return Some(Cell {
            radio,
            country: 0,
            network,
            area,
            id,
            signal: None,
            timing_advance: None,
            serving,
        });
    }
    let (country, network) = operator(text(told.get("operator-id"))?)?;
    let signal = match radio {
        // RXLEV of 3GPP TS 45.008, 8.1.4: 0 is -110 dBm and less, 63 is -48 dBm and more.
        Radio::Gsm => small("rx-level").filter(|level| (1..=63).contains(level)).map(|level| level - 111),
        Radio::Wcdma => small("rscp"),
        _ => small("rsrp"),
    };
    let area = hex("tac").or_else(|| hex("lac")).and_then(|area| u32::try_from(area).ok());
    let signal = signal.filter(|dbm| (-160..0).contains(dbm));
    Some(Cell { radio, country, network, area, id: hex("ci")?, signal, timing_advance, serving })
}

/// The cell that serves, as any modem of 3GPP tells it.
async fn serving(bus: &Bus, location: Place<'_>, interfaces: &Interfaces) -> Option<Cell> {
    let told: HashMap<u32, OwnedVariant> = bus.call(location, "GetLocation", &()).await.ok()?;
    let technologies = whole(interfaces.get(MODEM)?.get("AccessTechnologies"))?;
    let radio = radio(technologies)?;
    let mut cell = by_text(text(told.get(&LAC_CI))?, radio)?;
    cell.signal = interfaces.get(SIGNAL).and_then(|signal| level(signal, radio));
    Some(cell)
}

/// The youngest of the technologies in `MMModemAccessTechnology`.
fn radio(technologies: i64) -> Option<Radio> {
    const NR: i64 = 1 << 15;
    const LTE: i64 = 1 << 14 | 1 << 16 | 1 << 17;
    const UMTS: i64 = 0b1_1111 << 5 | 1 << 9;
    const GSM: i64 = 0b1111 << 1;
    let all = [(NR, Radio::Nr), (LTE, Radio::Lte), (UMTS, Radio::Wcdma), (GSM, Radio::Gsm)];
    all.into_iter().find(|(bits, _)| technologies & bits != 0).map(|(_, radio)| radio)
}

/// `MCC,MNC,LAC,CI,TAC`: the first two decimal, the others hexadecimal. LTE and 5G have a TAC and no LAC.
fn by_text(text: &str, radio: Radio) -> Option<Cell> {
    let mut parts = text.split(',');
    let mut part = || parts.next().unwrap_or_default();
    let (country, network) = (part().parse().ok()?, part().parse().ok()?);
    let (lac, id, tac) = (hexadecimal(part()), hexadecimal(part())?, hexadecimal(part()));
    let area = match radio {
        Radio::Lte | Radio::Nr => tac.filter(|tac| *tac != 0).or(lac),
        _ => lac,
    };
    let area = area.filter(|area| *area != 0).and_then(|area| u32::try_from(area).ok());
    (id != 0).then_some(Cell {
        radio,
        country,
        network,
        area,
        id,
        signal: None,
        timing_advance: None,
        serving: true,
    })
}

/// dBm, where the modem was told to measure them.
fn level(signal: &Properties, radio: Radio) -> Option<i32> {
    let (technology, name) = match radio {
        Radio::Gsm => ("Gsm", "rssi"),
        Radio::Cdma => ("Cdma", "rssi"),
        Radio::Wcdma => ("Umts", "rscp"),
        Radio::Lte => ("Lte", "rsrp"),
        Radio::Nr => ("Nr5g", "rsrp"),
    };
    let levels = Properties::try_from(signal.get(technology)?.try_clone().ok()?).ok()?;
    let dbm = whole(levels.get(name))?;
    i32::try_from(dbm).ok().filter(|dbm| (-160..0).contains(dbm))
}

/// MCC and MNC in one: three digits, and two or three more.
fn operator(text: &str) -> Option<(u16, u16)> {
    if !(5..=6).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (country, network) = text.split_at(3);
    Some((country.parse().ok()?, network.parse().ok()?))
}

fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use zbus::Variant;

    use super::*;

    fn told(all: &[(&str, Variant<'static>)]) -> Properties {
        let own = |(name, value): &(&str, Variant<'static>)| {
            ((*name).to_owned(), OwnedVariant::try_from(value.clone()).unwrap())
        };
        all.iter().map(own).collect()
    }

    #[test]
    fn cells_of_each_generation_are_read() {
        let gsm = told(&[
            ("cell-type", 2_u32.into()),
            ("serving", true.into()),
            ("operator-id", "26201".into()),
            ("lac", "1A2B".into()),
            ("ci", "C0DE".into()),
            ("timing-advance", 3_u32.into()),
            ("rx-level", 40_u32.into()),
        ]);
        let wanted = Cell {
            radio: Radio::Gsm,
            country: 262,
            network: 1,
            area: Some(0x1a2b),
            id: 0xc0de,
            signal: Some(-71),
            timing_advance: Some(3),
            serving: true,
        };
        assert_eq!(cell(&gsm), Some(wanted));
        let one = |kind: u32, more: &[(&str, Variant<'static>)]| {
            let base =
                [("cell-type", kind.into()), ("operator-id", "310410".into()), ("ci", "A1B2C3".into())];
            cell(&told(&[&base[..], more].concat()))
                .map(|cell| (cell.radio, cell.network, cell.area, cell.signal, cell.timing_advance))
        };
        let umts = one(3, &[("lac", "FF".into()), ("rscp", (-90_i32).into())]);
        assert_eq!(umts, Some((Radio::Wcdma, 410, Some(0xff), Some(-90), None)));
        let lte = one(
            5,
            &[
                ("tac", "1F".into()),
                ("rsrp", (-101.6_f64).into()),
                ("timing-advance", 0xffff_ffff_u32.into()),
            ],
        );
        assert_eq!(lte, Some((Radio::Lte, 410, Some(0x1f), Some(-102), None)));
        let nr = one(6, &[("tac", "ABCDEF".into()), ("rsrp", 7.0_f64.into())]);
        assert_eq!(nr, Some((Radio::Nr, 410, Some(0xab_cdef), None, None)));
        let cdma = told(&[
            ("cell-type", 1_u32.into()),
            ("sid", "10".into()),
            ("nid", "2".into()),
            ("base-station-id", "3".into()),
        ]);
        let cdma = cell(&cdma).map(|cell| (cell.radio, cell.network, cell.area, cell.id));
        assert_eq!(cdma, Some((Radio::Cdma, 16, Some(2), 3)));
    }

    #[test]
    fn what_is_no_cell_is_none() {
        let base = [("cell-type", Variant::from(5_u32)), ("operator-id", "26201".into()), ("ci", "1".into())];
        assert!(cell(&told(&base)).is_some());
        for (name, value) in [
            ("cell-type", Variant::from(0_u32)),
            ("cell-type", 7_u32.into()),
            ("cell-type", "lte".into()),
            ("operator-id", "2620".into()),
            ("operator-id", "26x01".into()),
            ("operator-id", "+26201".into()),
            ("ci", "".into()),
            ("ci", "+1".into()),
            ("ci", "12345678901234567".into()),
            ("ci", 1_u32.into()),
        ] {
            assert_eq!(cell(&told(&[&base[..], &[(name, value)]].concat())), None, "{name}");
        }
    }

    #[test]
    fn the_serving_cell_is_read_of_its_text() {
        let read =
            |text, radio| by_text(text, radio).map(|cell| (cell.country, cell.network, cell.area, cell.id));
        assert_eq!(read("262,02,FFFE,1A2D001,003F", Radio::Lte), Some((262, 2, Some(0x3f), 0x1a2_d001)));
        assert_eq!(read("262,02,3F,1A2D,0", Radio::Gsm), Some((262, 2, Some(0x3f), 0x1a2d)));
        assert_eq!(read("262,02,3F,1A2D", Radio::Wcdma), Some((262, 2, Some(0x3f), 0x1a2d)));
        for text in ["", "262", "262,02,3F,0,0", "262,02,3F,x,0", "26x,02,3F,1,0", ",,,,"] {
            assert_eq!(read(text, Radio::Lte), None, "{text}");
        }
        assert_eq!(
            [0, 1 << 1, 1 << 4, 1 << 5, 1 << 9, 1 << 14, 1 << 15 | 1 << 14, 1 << 16].map(radio),
            [
                None,
                Some(Radio::Gsm),
                Some(Radio::Gsm),
                Some(Radio::Wcdma),
                Some(Radio::Wcdma),
                Some(Radio::Lte),
                Some(Radio::Nr),
                Some(Radio::Lte),
            ]
        );
    }
}
