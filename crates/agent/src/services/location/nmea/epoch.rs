//! One fix out of the sentences that a receiver says of one moment.
//!
//! What belongs together has the same time of day; what has none belongs to what was before it. A fix stands when the
//! next moment begins or when the line falls silent. It is as old as the first sentence of its moment: a receiver whose
//! clock stands still repeats an old fix, whatever else it says.

use std::mem::{Discriminant, discriminant};

use tokio::time::Instant;

use super::sentence::{Kind, Mode, Position, Quality, Said, Sentence, Talker};
use crate::services::location::fix::Fix;

/// HDOP where a receiver tells none: one of a poor sky.
const UNKNOWN_DILUTION: f64 = 5.0;
/// Satellites that a fix takes, with a height that is known; gpsd asks for as many. Some receivers say that they have
/// a fix before they hear enough, or for a while after.
const FEWEST: u32 = 3;
/// Of how many talkers it is kept that they have no fix.
const TALKERS: usize = 8;
/// Whose sentences are for all constellations together.
const ALL: Talker = *b"GN";

/// What a moment came to.
#[derive(Debug, Clone, PartialEq)]
pub(in super::super) enum Judgement {
    Fix(Fix),
    /// The receiver says that there is none; so many satellites, if it says that.
    NoFix(Option<u32>),
}

/// The moment that the sentences are about.
#[derive(Debug, Default)]
pub(in super::super) struct Epochs {
    now: Option<Epoch>,
    before: Aside,
    /// What the moment before ended with.
    ending: Option<Word>,
    /// It says more than GLL, which then opens no moment: some send it late, with the time of before.
    richer: bool,
}

/// Which sentence it was, whatever it said.
type Word = (Talker, Discriminant<Said>, Option<Kind>);

#[derive(Debug)]
struct Epoch {
    at: Instant,
    time: Option<u32>,
    latest: Option<Word>,
    /// The best position, and who said it.
    best: Option<(Talker, Position)>,
    /// What else positions said, of whichever sentence.
    satellites: Option<u32>,
    hdop: Option<f64>,
    altitude: Option<f64>,
    speed: Option<f64>,
    heading: Option<f64>,
    /// What was said, for those without a time.
    kinds: Vec<(Talker, Kind)>,
    /// Who said that there is no fix.
    vetoes: Vec<Talker>,
    errors: Option<(f64, f64)>,
    aside: Aside,
}

/// What is said without a time. Some say it at the end of a moment, some before its beginning.
#[derive(Debug, Clone, Copy, Default)]
struct Aside {
    mode: Option<Mode>,
    hdop: Option<f64>,
    speed: Option<f64>,
    heading: Option<f64>,
}

impl Epochs {
    /// Another sentence; what the moment before it came to, if it begins another.
    pub(in super::super) fn push(&mut self, sentence: Sentence, at: Instant) -> Option<Judgement> {
        let Sentence { talker, time, said } = sentence;
        let kind = if let Said::Position(position) = &said { Some(position.kind) } else { None };
        if kind == Some(Kind::Gll) && self.richer && self.now.as_ref().is_none_or(|now| now.time != time) {
            return None;
        }
        self.richer |= kind.is_some_and(|kind| kind > Kind::Gll);
        let timed = kind.is_some() || matches!(said, Said::Errors { .. });
        let same = self.now.as_ref().is_some_and(|now| !timed || now.goes_on(talker, time, kind));
        let ended = if same { None } else { self.begin(time, at) };
        if let Some(now) = &mut self.now {
            now.latest = Some((talker, discriminant(&said), kind));
            now.take(talker, said);
        }
        ended
    }

    /// The line is silent: what the moment comes to, if it ended as the one before did. One that broke off may get its
    /// rest, which may say that there is no fix.
    pub(in super::super) fn pause(&self) -> Option<Judgement> {
        let whole = self.ending.is_none() || self.now.as_ref().is_none_or(|now| now.latest == self.ending);
        if whole { self.judge() } else { None }
    }

    /// What the moment comes to as far as it has been told.
    pub(in super::super) fn judge(&self) -> Option<Judgement> {
        self.now.as_ref().and_then(|now| now.judge(&self.before))
    }

    fn begin(&mut self, time: Option<u32>, at: Instant) -> Option<Judgement> {
        let ended = self.judge();
        self.before = self.now.as_ref().map_or_else(Aside::default, |now| now.aside);
        self.ending = self.now.as_ref().and_then(|now| now.latest);
        self.now = Some(Epoch {
            at,
            time,
            latest: None,
            best: None,
            satellites: None,
            hdop: None,
            altitude: None,
            speed: None,
            heading: None,
            kinds: Vec::new(),
            vetoes: Vec::new(),
            errors: None,
            aside: Aside::default(),
        });
        ended
    }
}

impl Epoch {
    /// Whether a sentence is about this moment.
    fn goes_on(&self, talker: Talker, time: Option<u32>, kind: Option<Kind>) -> bool {
        match (self.time, time) {
            // Without a time, what has been said before is said anew.
            (None, None) => kind.is_none_or(|kind| !self.kinds.contains(&(talker, kind))),
            // What has been opened by something without a place, such as VTG, gets its time from the first that has one.
            (ours, theirs) => ours == theirs,
        }
    }

    fn take(&mut self, talker: Talker, said: Said) {
        match said {
            Said::Position(position) => self.position(talker, position),
            Said::Active { mode, hdop } => {
                // One for each constellation: it is enough that one of them has a fix.
                let best = match (self.aside.mode, mode) {
                    (Some(Mode::Full), _) | (_, Mode::Full) => Mode::Full,
                    (Some(Mode::Flat), _) | (_, Mode::Flat) => Mode::Flat,
                    _ => Mode::None,
                };
                self.aside.mode = Some(best);
                self.aside.hdop = self.aside.hdop.or(hdop);
            }
            Said::Errors { north, east } => self.errors = Some((north, east)),
            Said::Course { speed, heading } => {
                self.aside.speed = speed.or(self.aside.speed);
                self.aside.heading = heading.or(self.aside.heading);
            }
        }
    }

    fn position(&mut self, talker: Talker, position: Position) {
        if self.kinds.len() < 4 * TALKERS {
            self.kinds.push((talker, position.kind));
        }
        self.satellites = self.satellites.max(position.satellites);
        if position.fix.is_none() {
            if self.vetoes.len() < TALKERS && !self.vetoes.contains(&talker) {
                self.vetoes.push(talker);
            }
            return;
        }
        self.hdop = position.hdop.or(self.hdop);
        self.altitude = position.altitude.or(self.altitude);
        self.speed = position.speed.or(self.speed);
        self.heading = position.heading.or(self.heading);
        let rank = |talker: Talker, kind: Kind| (talker == ALL, kind);
        let better =
            self.best.as_ref().is_none_or(|(of, best)| rank(talker, position.kind) >= rank(*of, best.kind));
        if better {
            self.best = Some((talker, position));
        }
    }

    /// None of the moment is without a position, be it that there is none.
    fn judge(&self, before: &Aside) -> Option<Judgement> {
        if self.best.is_none() && self.vetoes.is_empty() {
            return None;
        }
        let fix = self.best.as_ref().and_then(|(talker, position)| {
            // A constellation without a fix of its own is no matter for another one.
            let veto = |of: &Talker| of == talker || *of == ALL || *talker == ALL;
            let (point, quality) = position.fix?;
            let few = quality != Quality::Estimated && self.satellites.is_some_and(|count| count < FEWEST);
            let refused = few || self.vetoes.iter().any(veto) || self.aside.mode == Some(Mode::None);
            (!refused).then(|| self.fix(point, quality, before))
        });
        Some(fix.map_or(Judgement::NoFix(self.satellites), Judgement::Fix))
    }

    fn fix(&self, point: crate::services::location::fix::Point, quality: Quality, before: &Aside) -> Fix {
        let Self { aside, .. } = self;
        let hdop = self.hdop.or(aside.hdop).or(before.hdop);
        let accuracy = match self.errors {
            Some((north, east)) => north.hypot(east),
            None => hdop.unwrap_or(UNKNOWN_DILUTION) * quality.range_error(),
        };
        // In two dimensions the height is that of before, or made up.
        let flat = aside.mode.or(before.mode) == Some(Mode::Flat);
        Fix {
            altitude: self.altitude.filter(|_| !flat),
            speed: self.speed.or(aside.speed).or(before.speed),
            heading: self.heading.or(aside.heading).or(before.heading),
            satellites: self.satellites,
            hdop,
            ..Fix::new(self.at, point, accuracy)
        }
    }
}
