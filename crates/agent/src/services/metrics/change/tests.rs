use serde_json::json;

use super::*;
use crate::services::metrics::{payload::Head, sample::Values, system::Summary};

/// What the machine would show.
#[derive(Default)]
struct Machine {
    values: Values,
    summary: Summary,
    processes: BTreeMap<String, Process>,
}

impl Machine {
    fn new(values: &[(&str, &'static str, f64)]) -> Self {
        let mut machine = Self::default();
        machine.values.begin();
        values.iter().for_each(|(name, unit, value)| machine.values.put(name, unit, *value));
        machine
    }

    fn look(&self) -> Look<'_> {
        Look { summary: self.summary, values: &self.values, processes: &self.processes }
    }
}

/// With settings that never send for the time's sake alone.
fn changes(deadband: serde_json::Value) -> Changes {
    let day = "1d";
    let config = json!({"enabled": true, "deadband": deadband, "max_silence": day, "full_every": day});
    Changes::new(serde_json::from_value(config).unwrap())
}

fn after(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

/// The changed ones, once the first sample has gone out.
fn changed(changes: &mut Changes, machine: &Machine) -> Vec<String> {
    match changes.judge(&machine.look(), Instant::now()) {
        None => Vec::new(),
        Some(Extent::Full) => panic!("a full sample"),
        Some(Extent::Changed) => {
            let look = machine.look();
            look.values().map(|(name, _)| name.to_owned()).filter(|name| changes.has(name)).collect()
        }
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_sent_where_it_is_off() {
    let machine = Machine::new(&[("a", "%", 1.0)]);
    let mut changes = Changes::new(OnChange::default());
    for _ in 0..3 {
        assert_eq!(changes.judge(&machine.look(), Instant::now()), Some(Extent::Full));
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_leaves_its_deadband_is_sent() {
    let mut changes = changes(json!({"abs": 2, "rel.*": "10%", "rel.wide": "50%", "all.*": 0}));
    let at = |abs, rel, wide, all| {
        Machine::new(&[("abs", "B", abs), ("rel.a", "B", rel), ("rel.wide", "B", wide), ("all.x", "%", all)])
    };
    assert_eq!(changes.judge(&at(10.0, 100.0, 100.0, 0.0).look(), Instant::now()), Some(Extent::Full));
    assert_eq!(changed(&mut changes, &at(12.0, 110.0, 150.0, 0.0)), Vec::<String>::new(), "on the edge");
    assert_eq!(changed(&mut changes, &at(12.1, 110.0, 150.0, 0.0)), ["abs"]);
    assert_eq!(changed(&mut changes, &at(12.1, 89.0, 150.0, 0.001)), ["all.x", "rel.a"]);
    // Against what was sent, not against what was seen: nobody creeps away in small steps.
    assert_eq!(changed(&mut changes, &at(13.0, 89.0, 140.0, 0.001)), Vec::<String>::new());
    assert_eq!(changed(&mut changes, &at(14.2, 89.0, 151.0, 0.001)), ["abs", "rel.wide"], "the longest glob");
}

#[tokio::test(start_paused = true)]
async fn small_steps_are_no_change_where_nothing_is_said() {
    let mut changes = changes(json!({}));
    let at = |n: f64| {
        Machine::new(&[
            ("cpu", "%", 10.0 + 4.9 * n),
            ("temp", "°C", 50.0 + 1.9 * n),
            ("net.x.rx_rate", "B/s", 0.0 + 4000.0 * n),
            ("disk.x.write_rate", "B/s", 0.0 + 60_000.0 * n),
            ("disk.x.write_ops_rate", "1/s", 0.0 + 19.0 * n),
            ("bytes", "B", 1e6 + 9e4 * n),
            ("count", "1", 2.0 + 0.4 * n),
        ])
    };
    assert!(changes.judge(&at(0.0).look(), Instant::now()).is_some());
    assert_eq!(changed(&mut changes, &at(1.0)), Vec::<String>::new());
    assert_eq!(
        changed(&mut changes, &at(2.5)),
        ["bytes", "count", "cpu", "disk.x.write_ops_rate", "disk.x.write_rate", "net.x.rx_rate", "temp",]
    );
    let up = |seconds| Machine::new(&[("uptime", "s", seconds)]);
    assert_eq!(changed(&mut changes, &up(5.0)), ["uptime"], "new");
    assert_eq!(changed(&mut changes, &up(5000.0)), Vec::<String>::new(), "time passes by itself");
    assert_eq!(changed(&mut changes, &up(2.0)), ["uptime"], "a restart");
    let mut machine = Machine::default();
    for (started, expected) in [(1.8e9, true), (1.8e9, false), (1.8e9 + 60.0, true)] {
        let process = Process { count: 1, started: Some(started), ..Process::default() };
        machine.processes.insert("nginx".to_owned(), process);
        let sent = changes.judge(&machine.look(), Instant::now()).is_some();
        assert_eq!(sent, expected, "nginx since {started}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_monitored_ones_and_the_processes_count_too() {
    let mut changes = changes(json!({"processes.*": 0, "network": "1%"}));
    let mut machine = Machine::default();
    assert!(changes.judge(&machine.look(), Instant::now()).is_some());
    let mut due = |machine: &Machine| changes.judge(&machine.look(), Instant::now()).is_some();
    assert!(!due(&machine));
    machine.summary.network = Some(1000);
    assert!(due(&machine), "there at last");
    machine.summary.network = Some(1010);
    assert!(!due(&machine));
    machine.summary.network = Some(1011);
    assert!(due(&machine));
    machine.processes.insert("nginx".to_owned(), Process::default());
    assert!(due(&machine));
    assert!(!due(&machine));
    machine.processes.get_mut("nginx").unwrap().fds = Some(3);
    assert!(due(&machine));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_and_everything_comes_again_in_its_time() {
    let config = json!({"enabled": true, "max_silence": "10m", "full_every": "1h"});
    let mut changes = Changes::new(serde_json::from_value(config).unwrap());
    let machine = Machine::new(&[("a", "%", 1.0)]);
    let mut sent = Vec::new();
    for minute in 0..=120 {
        if let Some(extent) = changes.judge(&machine.look(), after(60 * minute)) {
            sent.push((minute, extent == Extent::Full, changes.has("a")));
        }
    }
    let quiet = |minute| (minute, false, false);
    let hour = |from: u64| (1..6).map(move |n| quiet(from + 10 * n));
    let full = |minute| (minute, true, minute == 0);
    let expected: Vec<_> =
        [full(0)].into_iter().chain(hour(0)).chain([full(60)]).chain(hour(60)).chain([full(120)]).collect();
    assert_eq!(sent, expected);
    changes.full_next();
    assert_eq!(changes.judge(&machine.look(), after(7201)), Some(Extent::Full), "a reader that is new");
}

/// A look comes some milliseconds early or late; and `max_silence` may be no multiple of `interval`.
#[tokio::test(start_paused = true)]
async fn silence_is_no_longer_than_was_asked_for() {
    let (begin, second) = (Instant::now(), Duration::from_secs(10));
    for (max, longest) in [(60, 6), (64, 6), (58, 5), (5, 1)] {
        let config = json!({"enabled": true, "max_silence": max, "full_every": "1d"});
        let mut changes = Changes::new(serde_json::from_value(config).unwrap()).every(second);
        let machine = Machine::new(&[("a", "%", 1.0)]);
        let mut sent = Vec::new();
        for look in 0..100_u32 {
            let jitter = Duration::from_millis(u64::from(look % 3) * 9);
            if changes.judge(&machine.look(), begin + look * second + jitter).is_some() {
                sent.push(look);
            }
        }
        assert!(sent.windows(2).all(|two| two[1] - two[0] == longest), "{max} s: {sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_changed_sample_has_only_what_changed_and_the_monitored_ones() {
    let mut changes = changes(json!({}));
    let machine = |a| Machine {
        summary: Summary { memory: Some(48.0), network: Some(5), ..Summary::default() },
        processes: [("nginx".to_owned(), Process { count: 1, memory: Some(7), ..Process::default() })].into(),
        ..Machine::new(&[("a", "%", a), ("b", "B", 2.5)])
    };
    let device_id = "d1".parse().unwrap();
    let head = Head { device_id: &device_id, timestamp: "2026-01-31T12:00:00.123Z".parse().unwrap(), seq: 9 };
    let mut encoded = |a| {
        let machine = machine(a);
        let extent = changes.judge(&machine.look(), Instant::now())?;
        Some(String::from_utf8(machine.look().encode(head, (extent, &changes))).unwrap())
    };
    let sample = |metrics: &str| {
        let head =
            r#"{"device_id":"d1","timestamp":"2026-01-31T12:00:00.123Z","seq":9,"memory":48,"network":5,"#;
        Some(head.to_owned() + r#""processes":{"nginx":{"count":1,"memory":7}}"# + metrics + "}")
    };
    let both = r#","metrics":{"a":{"value":1,"unit":"%"},"b":{"value":2.5,"unit":"B"}}"#;
    assert_eq!(encoded(1.0), sample(both));
    assert_eq!(encoded(2.0), None);
    assert_eq!(encoded(7.0), sample(r#","metrics":{"a":{"value":7,"unit":"%"}}"#));
}

#[test]
fn a_deadband_is_a_number_or_a_share() {
    let parse = |value| serde_json::from_value::<Deadband>(value);
    for (written, deadband) in [
        (json!(0), Deadband::Absolute(0.0)),
        (json!(2.5), Deadband::Absolute(2.5)),
        (json!("5%"), Deadband::Percent(5.0)),
        (json!("0.5 %"), Deadband::Percent(0.5)),
    ] {
        assert_eq!(parse(written.clone()).unwrap(), deadband, "{written}");
        let again = serde_json::to_value(deadband).unwrap();
        assert_eq!(parse(again).unwrap(), deadband);
    }
    for wrong in
        [json!(-1), json!(-0.5), json!("5"), json!("%"), json!("-5%"), json!("nan%"), json!(true), json!([])]
    {
        assert!(parse(wrong.clone()).is_err(), "{wrong}");
    }
}
