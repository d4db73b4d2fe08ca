use serde_json::json;

use super::*;
use crate::store::tests::at;

fn device(id: &str) -> DeviceId {
    id.parse().unwrap()
}

fn said(state: &str, run: &str) -> Vec<u8> {
    let mut presence = json!({
        "device_id": "d1", "state": state, "timestamp": at(0), "boot_id": "b", "run_id": run, "agent_version": "0.1.0",
        "os": "linux", "arch": "x86_64", "services": {"heartbeat": "running"}, "schema": 1,
    });
    if state == "offline" {
        presence["reason"] = "connection_lost".into();
    }
    serde_json::to_vec(&presence).unwrap()
}

fn beat(run: Option<&str>, seq: u64) -> Vec<u8> {
    let mut beat = json!({"device_id": "d1", "timestamp": at(0), "status": "1", "seq": seq});
    if let Some(run) = run {
        beat["run_id"] = run.into();
    }
    serde_json::to_vec(&beat).unwrap()
}

/// One device, and a clock that goes on by itself.
#[derive(Default)]
struct Fixture {
    fleet: Fleet,
    now: i64,
}

impl Fixture {
    fn presence(&mut self, state: &str, run: &str, retained: bool) -> Result<Change, Ignored> {
        self.now += 1;
        self.fleet.presence(&device("d1"), &said(state, run), retained, at(self.now))
    }

    fn beat(&mut self, run: Option<&str>, seq: u64) -> Result<Change, Ignored> {
        self.now += 1;
        let beat = self.fleet.heartbeat(Some(&device("d1")), &beat(run, seq), false, at(self.now));
        beat.map(|(_, change)| change)
    }

    fn state(&self) -> (Option<State>, Option<String>) {
        let seen = &self.fleet.devices()[0];
        (seen.state, seen.run_id.clone())
    }
}

const LOST: Change = Change::Offline(Some(Reason::ConnectionLost));

#[test]
fn a_life() {
    let mut d1 = Fixture::default();
    assert_eq!(d1.presence("online", "r1", false).unwrap(), Change::Online);
    let since = d1.fleet.devices()[0].since;
    assert_eq!(d1.presence("online", "r1", false).unwrap(), Change::None, "a reconnect");
    assert_eq!(d1.fleet.devices()[0].since, since);
    assert_eq!(d1.beat(Some("r1"), 1).unwrap(), Change::Heartbeat(Some(1)));
    assert_eq!(d1.presence("offline", "r1", false).unwrap(), LOST);
    assert_eq!(d1.presence("online", "r1", false).unwrap(), Change::Online);
    assert_eq!(d1.presence("online", "r2", false).unwrap(), Change::Online, "a new run");
    assert_eq!(d1.presence("offline", "r2", false).unwrap(), LOST);
}

#[test]
fn a_late_will_of_an_earlier_run_says_nothing() {
    let mut d1 = Fixture::default();
    d1.presence("online", "r1", false).unwrap();
    d1.presence("online", "r2", false).unwrap();
    for retained in [false, true] {
        assert!(matches!(d1.presence("offline", "r1", retained), Err(Ignored::EarlierRun)));
        assert!(matches!(d1.presence("online", "r1", retained), Err(Ignored::EarlierRun)));
    }
    assert!(matches!(d1.beat(Some("r1"), 99), Err(Ignored::EarlierRun)));
    // Of a run from before the hub knew the device.
    assert!(matches!(d1.presence("offline", "r0", false), Err(Ignored::EarlierRun)));
    assert_eq!(d1.state(), (Some(State::Online), Some("r2".into())));
}

#[test]
fn what_happened_while_the_hub_was_away() {
    let mut d1 = Fixture::default();
    d1.presence("online", "r1", false).unwrap();
    // r2 came and went: its will is retained.
    assert_eq!(d1.presence("offline", "r2", true).unwrap(), LOST);
    // r3 came; its birth was lost, its heartbeat was not.
    assert_eq!(d1.beat(Some("r3"), 5).unwrap(), Change::Heartbeat(Some(5)));
    assert_eq!(d1.state(), (Some(State::Online), Some("r3".into())));
}

#[test]
fn heartbeats_are_counted_once_and_in_order() {
    let mut d1 = Fixture::default();
    d1.presence("online", "r1", false).unwrap();
    assert_eq!(d1.beat(Some("r1"), 2).unwrap(), Change::Heartbeat(Some(2)));
    assert_eq!(d1.beat(Some("r1"), 2).unwrap(), Change::None, "delivered twice");
    assert_eq!(d1.beat(Some("r1"), 1).unwrap(), Change::None, "overtaken");
    d1.presence("offline", "r1", false).unwrap();
    // On its way when the connection broke: it does not bring the device back.
    assert_eq!(d1.beat(Some("r1"), 3).unwrap(), Change::Heartbeat(Some(3)));
    assert_eq!(d1.state().0, Some(State::Offline));
    // One that comes later does: the will was late.
    d1.now += 2;
    assert_eq!(d1.beat(Some("r1"), 4).unwrap(), Change::Heartbeat(Some(4)));
    assert_eq!(d1.state().0, Some(State::Online));
    let kept = d1.fleet.heartbeat(Some(&device("d1")), &beat(Some("r1"), 5), true, at(0));
    assert!(matches!(kept, Err(Ignored::Retained)));
}

#[test]
fn an_old_agent_has_heartbeats_only() {
    let mut d1 = Fixture::default();
    let old = br#"{"device_id":"d1","timestamp":"2026-01-31T12:00:00Z","status":"1"}"#;
    for now in 0..3 {
        let (_, change) = d1.fleet.heartbeat(None, old, false, at(now)).unwrap();
        assert_eq!(change, Change::Heartbeat(None));
    }
    let seen = &d1.fleet.devices()[0];
    assert_eq!((seen.state, seen.since), (None, None));
    assert_eq!(seen.last_heartbeat.as_ref().unwrap().received, at(2));
}

#[test]
fn what_is_not_believed_has_its_reason() {
    let mut d1 = Fixture::default();
    let fleet = &mut d1.fleet;
    let mut presence = |payload: &[u8]| fleet.presence(&device("d1"), payload, false, at(0)).unwrap_err();
    assert!(matches!(presence(b""), Ignored::Malformed(_)));
    assert!(matches!(presence(b"{}"), Ignored::Malformed(_)));
    assert!(matches!(presence(&vec![b' '; MAX_PAYLOAD + 1]), Ignored::TooLarge));
    assert!(matches!(
        fleet.presence(&device("d2"), &said("online", "r"), false, at(0)),
        Err(Ignored::Foreign)
    ));
    let foreign = fleet.heartbeat(Some(&device("d2")), &beat(None, 1), false, at(0));
    assert!(matches!(foreign, Err(Ignored::Foreign)));
    assert_eq!(fleet.devices(), []);
}

#[test]
fn strangers_are_bounded_and_the_enrolled_are_not() {
    let beat = |id: &str| serde_json::to_vec(&json!({"device_id": id})).unwrap();
    let mut fleet = Fleet::default();
    let heard = |fleet: &mut Fleet, id: &str| fleet.heartbeat(None, &beat(id), false, at(0)).is_ok();
    let listed = (0..MAX_STRANGERS + 10).filter(|n| heard(&mut fleet, &format!("s{n}"))).count();
    assert_eq!(listed, MAX_STRANGERS);
    let enrolment = |id: &str| Enrolment {
        device_id: device(id),
        client_id: format!("client of {id}").parse().unwrap(),
        device_name: None,
        org_id: None,
        metadata: None,
        agent_version: None,
        enrolled_at: at(0),
    };
    fleet.enrolled(enrolment("e1"));
    assert!(heard(&mut fleet, "e1"));
    assert!(!heard(&mut fleet, "another"));
    // A stranger that enrols is none any more.
    fleet.enrolled(enrolment("s0"));
    fleet.enrolled(enrolment("s0"));
    assert!(heard(&mut fleet, "another"));
    assert!(!heard(&mut fleet, "yet another"));
    // The bound holds after a restart.
    let mut again = Fleet::new(vec![enrolment("e1"), enrolment("s0")], fleet.take_changed());
    assert!(heard(&mut again, "s1"));
    assert!(!heard(&mut again, "yet another"));
}

#[test]
fn only_what_changed_is_saved_and_again_where_that_failed() {
    let mut d1 = Fixture::default();
    d1.presence("online", "r1", false).unwrap();
    let changed = d1.fleet.take_changed();
    assert_eq!(changed.len(), 1);
    assert_eq!(d1.fleet.take_changed(), []);
    d1.fleet.unsaved(changed);
    assert_eq!(d1.fleet.take_changed().len(), 1);
    d1.beat(Some("r1"), 1).unwrap();
    assert_eq!(d1.fleet.take_changed()[0].last_heartbeat.as_ref().unwrap().seq, Some(1));
}
