//! What the sources tell, and which of them is believed.

use std::time::Duration;

use protocol::location::Source;
use tokio::{sync::watch, time::Instant};

use super::fix::Fix;

/// How long a source may be without a new fix before the next one is asked.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// The same for a source that listens every minute at most, to what may have been heard a while ago.
const DEADLINE_BY_NETWORKS: Duration = Duration::from_secs(120);
/// How long it is waited for at the start: networks are heard and a server is asked.
const PATIENCE_BY_NETWORKS: Duration = Duration::from_secs(30);

/// How long a fix of this source counts as new.
pub(super) fn deadline(source: Source) -> Duration {
    if source == Source::Google { DEADLINE_BY_NETWORKS } else { DEADLINE }
}

fn patience(source: Source) -> Duration {
    if source == Source::Google { PATIENCE_BY_NETWORKS } else { DEADLINE }
}

/// What a source has to say.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Seen {
    /// The latest fix, however old.
    pub(super) fix: Option<Fix>,
    /// Why there is none now.
    pub(super) trouble: Option<Trouble>,
}

/// Why a source has no fix.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trouble {
    pub(super) why: String,
    /// It is not worth waiting for.
    pub(super) down: bool,
}

/// Where a source tells.
#[derive(Debug)]
pub(super) struct Teller(watch::Sender<Seen>);

impl Teller {
    pub(super) fn new() -> (Self, watch::Receiver<Seen>) {
        let (sender, receiver) = watch::channel(Seen::default());
        (Self(sender), receiver)
    }

    /// There is a fix.
    pub(super) fn fix(&self, fix: Fix) {
        let seen = Seen { fix: Some(fix), trouble: None };
        self.0.send_if_modified(|before| std::mem::replace(before, seen.clone()) != seen);
    }

    /// There is none at the moment.
    pub(super) fn none(&self, why: impl Into<String>) {
        self.trouble(Trouble { why: why.into(), down: false });
    }

    /// There will be none before something has changed.
    pub(super) fn down(&self, why: impl Into<String>) {
        self.trouble(Trouble { why: why.into(), down: true });
    }

    fn trouble(&self, trouble: Trouble) {
        let trouble = Some(trouble);
        self.0.send_if_modified(|seen| std::mem::replace(&mut seen.trouble, trouble.clone()) != trouble);
    }
}

/// Which fix to use.
#[derive(Debug, PartialEq)]
pub(super) enum Choice {
    /// This one.
    Fix(Source, Fix),
    /// None yet: a source has its chance until then.
    Wait(Instant),
    /// None.
    Nothing,
}

/// The first source in order that has a fix of late; one that may yet get one is waited for. Where none has: the
/// latest fix that is not too old. `began` is when the sources were started.
pub(super) fn choose(sources: &[(Source, Seen)], began: Instant, now: Instant, max_age: Duration) -> Choice {
    let age = |fix: &Fix| now.saturating_duration_since(fix.at);
    for (source, seen) in sources {
        if let Some(fix) = seen.fix.as_ref().filter(|fix| age(fix) <= deadline(*source).min(max_age)) {
            return Choice::Fix(*source, fix.clone());
        }
        let down = seen.trouble.as_ref().is_some_and(|trouble| trouble.down);
        let until = began + patience(*source);
        if now < until && seen.fix.is_none() && !down {
            return Choice::Wait(until);
        }
    }
    let fixes = sources.iter().filter_map(|(source, seen)| Some((*source, seen.fix.as_ref()?)));
    let latest = fixes.filter(|(_, fix)| age(fix) <= max_age).max_by_key(|(_, fix)| fix.at);
    latest.map_or(Choice::Nothing, |(source, fix)| Choice::Fix(source, fix.clone()))
}

/// Whether none of the sources before this one knows the place, or may know it soon.
pub(super) fn is_needed(
    source: Source,
    sources: &[(Source, Seen)],
    began: Instant,
    now: Instant,
    max_age: Duration,
) -> bool {
    let before = sources.iter().take_while(|(other, _)| *other != source).cloned().collect::<Vec<_>>();
    match choose(&before, began, now, max_age) {
        Choice::Fix(by, fix) => now.saturating_duration_since(fix.at) > deadline(by),
        Choice::Wait(_) => false,
        Choice::Nothing => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::location::fix::Point;

    #[tokio::test(start_paused = true)]
    async fn the_first_source_with_a_fix_of_late_is_believed() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let fix = |seconds| Fix::new(at(seconds), Point { latitude: 1.0, longitude: 2.0 }, 3.0);
        let seen = |when: Option<u64>| Seen { fix: when.map(fix), trouble: None };
        let down = Seen { fix: None, trouble: Some(Trouble { why: "gone".into(), down: true }) };
        let none = Seen { fix: None, trouble: Some(Trouble { why: "no sky".into(), down: false }) };
        let max_age = Duration::from_secs(60);
        let choice = |gps: &Seen, gpsd: &Seen, now: u64| {
            choose(&[(Source::Gps, gps.clone()), (Source::Gpsd, gpsd.clone())], began, at(now), max_age)
        };
        let gps = |seconds| Choice::Fix(Source::Gps, fix(seconds));
        let gpsd = |seconds| Choice::Fix(Source::Gpsd, fix(seconds));
        for (first, second, now, expected) in [
            (&seen(None), &seen(Some(1)), 2, Choice::Wait(at(10))),
            (&none, &seen(Some(1)), 2, Choice::Wait(at(10))),
            (&down, &seen(Some(1)), 2, gpsd(1)),
            (&seen(None), &seen(Some(9)), 10, gpsd(9)),
            (&seen(Some(1)), &seen(Some(10)), 11, gps(1)),
            (&seen(Some(1)), &seen(Some(10)), 12, gpsd(10)),
            (&seen(Some(1)), &seen(None), 61, gps(1)),
            (&seen(Some(1)), &seen(Some(2)), 61, gpsd(2)),
            (&seen(Some(1)), &seen(None), 62, Choice::Nothing),
            (&down, &down, 1, Choice::Nothing),
        ] {
            assert_eq!(choice(first, second, now), expected, "{first:?} {second:?} at {now}");
        }
    }

    /// What costs money is left alone while there is another.
    #[tokio::test(start_paused = true)]
    async fn a_source_is_needed_when_those_before_it_fail() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let fix = |seconds| Fix::new(at(seconds), Point { latitude: 1.0, longitude: 2.0 }, 3.0);
        let seen = |when: Option<u64>| Seen { fix: when.map(fix), trouble: None };
        let down = Seen { fix: None, trouble: Some(Trouble { why: "gone".into(), down: true }) };
        for (gps, now, needed) in [
            (&seen(None), 5, false),
            (&seen(None), 10, true),
            (&down, 1, true),
            (&seen(Some(20)), 30, false),
            (&seen(Some(20)), 31, true),
            (&seen(Some(20)), 300, true),
        ] {
            let all =
                [(Source::Gps, gps.clone()), (Source::Google, seen(None)), (Source::Fixed, seen(Some(now)))];
            let max_age = Duration::from_secs(60);
            assert_eq!(is_needed(Source::Google, &all, began, at(now), max_age), needed, "{gps:?} at {now}");
        }
    }
}
