//! What the sentences say that bear on a fix. An empty field is absent, and so is one that makes no sense.

use crate::services::location::fix::Point;

/// Metres a second in a knot: 1852 m an hour.
const KNOT: f64 = 1852.0 / 3600.0;

/// The two letters of who speaks: GP, GN, GL, GA, GB, BD, GQ, QZ, GI or any other.
pub(super) type Talker = [u8; 2];

/// A sentence that bears on a fix.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) struct Sentence {
    pub(super) talker: Talker,
    /// When the fix was made, in milliseconds since midnight (UTC).
    pub(super) time: Option<u32>,
    pub(super) said: Said,
}

/// What it says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// GGA, GNS, RMC, GLL.
    Position(Position),
    /// GSA: what kind of fix there is; and HDOP.
    Active { mode: Mode, hdop: Option<f64> },
    /// GST: standard deviations to north and east, in metres.
    Errors { north: f64, east: f64 },
    /// VTG.
    Course { speed: Option<f64>, heading: Option<f64> },
}

/// The kind of fix by GSA.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Mode {
    None,
    Flat,
    Full,
}

/// A position, or that there is none.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Position {
    pub(super) kind: Kind,
    /// None where the sentence says that it does not count.
    pub(super) fix: Option<(Point, Quality)>,
    pub(super) satellites: Option<u32>,
    pub(super) hdop: Option<f64>,
    pub(super) altitude: Option<f64>,
    pub(super) speed: Option<f64>,
    pub(super) heading: Option<f64>,
}

/// The sentences with a position; the later have more to say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Gll,
    Rmc,
    Gns,
    Gga,
}

/// How a position was found; the later, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Quality {
    /// By dead reckoning.
    Estimated,
    Autonomous,
    Differential,
    /// By the signals for the military.
    Precise,
    FloatRtk,
    Rtk,
}

impl Quality {
    /// GGA's digit. Simulators (8) and what somebody has typed (7) are no fix.
    fn of_digit(digit: &str) -> Option<Self> {
        Some(match digit {
            "1" => Self::Autonomous,
            "2" => Self::Differential,
            "3" => Self::Precise,
            "4" => Self::Rtk,
            "5" => Self::FloatRtk,
            "6" => Self::Estimated,
            _ => return None,
        })
    }

    /// The mode of NMEA 2.3 and later. N: none; S, M: as above.
    fn of_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'A' => Self::Autonomous,
            b'D' => Self::Differential,
            b'P' => Self::Precise,
            b'R' => Self::Rtk,
            b'F' => Self::FloatRtk,
            b'E' => Self::Estimated,
            _ => return None,
        })
    }

    /// Status and mode: the first must be A, the second may be missing, as before NMEA 2.3.
    fn of_status(status: &str, mode: &str) -> Option<Self> {
        let by_mode = mode.bytes().next().map_or(Some(Self::Autonomous), Self::of_letter);
        by_mode.filter(|_| status == "A")
    }

    /// The standard deviation of a range in metres, which HDOP makes an error of the position. The sources are in
    /// docs/location.md.
    pub(super) fn range_error(self) -> f64 {
        match self {
            Self::Estimated => 20.0,
            Self::Autonomous => 7.0,
            Self::Differential => 2.0,
            Self::Precise => 1.5,
            Self::FloatRtk => 0.5,
            Self::Rtk => 0.05,
        }
    }
}

impl Sentence {
    /// Reads what is between `$` and `*`; `None` if it is nothing to us.
    pub(in super::super) fn parse(text: &str) -> Option<Self> {
        let (address, rest) = text.split_once(',')?;
        let (talker, kind) = address.split_at_checked(2)?;
        let talker: Talker = talker.as_bytes().try_into().ok()?;
        // More than any of these has: what is left over stays in the last.
        let mut fields = [""; 24];
        fields.iter_mut().zip(rest.split(',')).for_each(|(field, text)| *field = text.trim());
        // Numbered as in the standard, from 1.
        let field = |number: usize| fields[number - 1];
        let (time, said) = match kind {
            "GGA" => (field(1), gga(&field)),
            "GNS" => (field(1), gns(&field)),
            "RMC" => (field(1), rmc(&field)),
            "GLL" => (field(5), gll(&field)),
            "GST" => (field(1), gst(&field)?),
            "GSA" => ("", gsa(&field)),
            "VTG" => ("", vtg(&field)),
            _ => return None,
        };
        Some(Self { talker, time: time_of_day(time), said })
    }
}

fn position(kind: Kind, fix: Option<(Point, Quality)>) -> Position {
    Position { kind, fix, satellites: None, hdop: None, altitude: None, speed: None, heading: None }
}

fn gga<'a>(field: &impl Fn(usize) -> &'a str) -> Said {
    let fix = point([field(2), field(3), field(4), field(5)]).zip(Quality::of_digit(field(6)));
    Said::Position(Position {
        satellites: field(7).parse().ok(),
        hdop: dilution(field(8)),
        altitude: number(field(9)),
        ..position(Kind::Gga, fix)
    })
}

/// One letter for each constellation; the best counts.
fn gns<'a>(field: &impl Fn(usize) -> &'a str) -> Said {
    let quality = field(6).bytes().filter_map(Quality::of_letter).max();
    Said::Position(Position {
        satellites: field(7).parse().ok(),
        hdop: dilution(field(8)),
        altitude: number(field(9)),
        ..position(Kind::Gns, point([field(2), field(3), field(4), field(5)]).zip(quality))
    })
}

/// The status of navigation of NMEA 4.1 (field 13) is V in receivers that have none, and says nothing of the fix.
fn rmc<'a>(field: &impl Fn(usize) -> &'a str) -> Said {
    let quality = Quality::of_status(field(2), field(12));
    Said::Position(Position {
        speed: speed(field(7), KNOT),
        heading: heading(field(8)),
        ..position(Kind::Rmc, point([field(3), field(4), field(5), field(6)]).zip(quality))
    })
}

fn gll<'a>(field: &impl Fn(usize) -> &'a str) -> Said {
    let quality = Quality::of_status(field(6), field(7));
    Said::Position(position(Kind::Gll, point([field(1), field(2), field(3), field(4)]).zip(quality)))
}

fn gsa<'a>(field: &impl Fn(usize) -> &'a str) -> Said {
    let mode = match field(2) {
        "3" => Mode::Full,
        "2" => Mode::Flat,
        _ => Mode::None,
    };
    Said::Active { mode, hdop: dilution(field(16)) }
}

fn gst<'a>(field: &impl Fn(usize) -> &'a str) -> Option<Said> {
    let error = |number: usize| self::number(field(number)).filter(|error| (0.0..1e6).contains(error));
    let (north, east) = (error(6)?, error(7)?);
    // A receiver that does not know says 0.
    (north > 0.0 || east > 0.0).then_some(Said::Errors { north, east })
}

/// Before NMEA 2.0 there were no letters between the numbers.
fn vtg<'a>(field: &impl Fn(usize) -> &'a str) -> Said {
    // Mode N: not valid.
    let counts = field(9) != "N";
    let knots = if field(2) == "T" { field(5) } else { field(3) };
    Said::Course {
        speed: speed(knots, KNOT).filter(|_| counts),
        heading: heading(field(1)).filter(|_| counts),
    }
}

/// A number in plain decimals: no exponent, no infinity.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+'));
    text.parse().ok().filter(|number: &f64| plain && number.is_finite())
}

/// 99.9 and the like stand for "none".
fn dilution(text: &str) -> Option<f64> {
    number(text).filter(|dilution| *dilution > 0.0 && *dilution < 99.0)
}

fn speed(text: &str, unit: f64) -> Option<f64> {
    number(text).map(|speed| speed * unit).filter(|speed| (0.0..1e4).contains(speed))
}

fn heading(text: &str) -> Option<f64> {
    number(text).filter(|heading| (0.0..=360.0).contains(heading)).map(|heading| heading % 360.0)
}

/// `hhmmss.sss` as milliseconds since midnight. A leap second is the one before it.
fn time_of_day(text: &str) -> Option<u32> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() != 6 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let hms: u32 = whole.parse().ok()?;
    let (hour, minute, second) = (hms / 10_000, hms / 100 % 100, hms % 100);
    let digit = |place| fraction.as_bytes().get(place).map_or(0, |byte| u32::from(byte - b'0'));
    let millis = 100 * digit(0) + 10 * digit(1) + digit(2);
    let sound = hour < 24 && minute < 60 && second <= 60;
    sound.then(|| ((hour * 60 + minute) * 60 + second.min(59)) * 1000 + millis)
}

/// `ddmm.mmm,N,dddmm.mmm,E`.
fn point([latitude, north, longitude, east]: [&str; 4]) -> Option<Point> {
    Point::new(angle(latitude, north, ["N", "S"])?, angle(longitude, east, ["E", "W"])?)
}

/// Degrees and minutes without a mark between them.
fn angle(text: &str, side: &str, [positive, negative]: [&str; 2]) -> Option<f64> {
    let whole = text.split('.').next().unwrap_or_default();
    let tens: u32 = whole.parse().ok().filter(|_| !whole.starts_with('+'))?;
    let (degrees, minutes) = whole.split_at(whole.len().saturating_sub(2));
    let minutes = number(&text[degrees.len()..]).filter(|_| minutes.len() <= 2 && tens < 100_000)?;
    let angle = f64::from(tens / 100) + minutes / 60.0;
    let sign = if side == positive {
        1.0
    } else if side == negative {
        -1.0
    } else {
        return None;
    };
    (0.0..60.0).contains(&minutes).then_some(sign * angle)
}
