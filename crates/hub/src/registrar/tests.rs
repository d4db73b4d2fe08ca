use protocol::proof::sign_request;
use protocol::registration::{METHOD, open_plain_reply, open_reply};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::store::tests::at;

const SECRET: &[u8] = b"a fleet secret of ample length";

fn psk() -> Psk {
    Psk::from_file_bytes(SECRET).unwrap()
}

fn client(id: &str) -> ClientId {
    id.parse().unwrap()
}

fn nonce(n: u32) -> Nonce {
    format!("{n:032x}").try_into().unwrap()
}

/// A registrar and the folder it lives in.
struct Fixture {
    folder: TempDir,
    registrar: Option<Registrar>,
}

impl Fixture {
    fn new() -> Fixture {
        let mut fixture = Fixture { folder: TempDir::new().unwrap(), registrar: None };
        fixture.restart();
        fixture
    }

    fn restart(&mut self) {
        self.registrar = None;
        let store = Store::open(self.folder.path()).unwrap();
        self.registrar = Some(Registrar::new(Arc::new(store), psk()));
    }

    fn raw(&mut self, topic: Option<&str>, payload: &[u8], now: i64) -> Option<Answer> {
        let topic = topic.map(client);
        self.registrar.as_mut().unwrap().answer(topic.as_ref(), payload, at(now))
    }

    /// Sends a signed request and opens the reply as the agent does.
    fn ask(&mut self, asker: &str, n: u32, signed_at: i64, now: i64) -> Reply {
        self.send(asker, &request(asker, None).signed(&psk(), nonce(n), at(signed_at)), n, now)
    }

    fn send(&mut self, asker: &str, payload: &[u8], n: u32, now: i64) -> Reply {
        let answer = self.raw(Some(asker), payload, now).expect("an answer");
        assert_eq!(answer.client_id, client(asker));
        open_reply(&psk(), &client(asker), &nonce(n), &answer.payload).expect("an authentic reply")
    }
}

fn request(client: &str, device_id: Option<&str>) -> Request {
    let mut request = json!({"client_id": client, "agent_version": "0.1.0", "device_name": "pump 3"});
    if let Some(id) = device_id {
        request["device_id"] = id.into();
    }
    serde_json::from_value(request).unwrap()
}

fn id(reply: &Reply) -> &str {
    reply.device_id.as_ref().unwrap_or_else(|| panic!("no id: {reply:?}")).as_str()
}

fn error(reply: &Reply) -> &str {
    assert_eq!(reply.device_id, None);
    reply.error.as_deref().expect("an error")
}

#[test]
fn a_client_gets_one_id_for_ever_and_no_two_get_the_same() {
    let mut hub = Fixture::new();
    let first = hub.ask("c1", 1, 0, 0);
    let uuid = Uuid::parse_str(id(&first)).unwrap();
    assert_eq!(uuid.get_version_num(), 7);
    assert_eq!(id(&hub.ask("c1", 2, 1, 1)), id(&first));
    hub.restart();
    assert_eq!(id(&hub.ask("c1", 3, 2, 2)), id(&first));
    assert_ne!(id(&hub.ask("c2", 4, 3, 3)), id(&first));
}

#[test]
fn a_replay_is_refused_even_after_a_restart() {
    let mut hub = Fixture::new();
    let payload = request("c1", None).signed(&psk(), nonce(1), at(0));
    let given = hub.send("c1", &payload, 1, 0);
    assert_eq!(error(&hub.send("c1", &payload, 1, 1)), "replay");
    hub.restart();
    assert_eq!(error(&hub.send("c1", &payload, 1, 2)), "replay");
    // Past its nonce's age it is past its timestamp's: never valid again.
    assert_eq!(error(&hub.send("c1", &payload, 1, 901)), "clock");
    // The hub died before its reply: the client asks anew, and gets the id it had.
    assert_eq!(id(&hub.ask("c1", 2, 902, 902)), id(&given));
}

#[test]
fn at_no_time_is_a_request_accepted_twice() {
    for skew in [-300, -299, 0, 299, 300] {
        let mut hub = Fixture::new();
        let payload = request("c1", None).signed(&psk(), nonce(1), at(skew));
        id(&hub.send("c1", &payload, 1, 0));
        for now in (1..1300).step_by(7) {
            let refused = hub.send("c1", &payload, 1, now);
            assert!(["replay", "clock"].contains(&error(&refused)), "{skew} {now}");
        }
    }
}

#[test]
fn a_wrong_clock_is_told_the_right_time() {
    let mut hub = Fixture::new();
    for (n, skew) in [(1, 301), (2, -301), (3, 1_000_000_000), (4, -1_700_000_000)] {
        let reply = hub.ask("c1", n, skew, 0);
        assert_eq!(error(&reply), "clock");
        assert_eq!(reply.server_time, Some(at(0)));
    }
    let right = hub.ask("c1", 5, 300, 0);
    assert_eq!(id(&hub.ask("c1", 6, -300, 0)), id(&right));
}

#[test]
fn two_requests_at_once_give_one_id() {
    let folder = TempDir::new().unwrap();
    let store = Arc::new(Store::open(folder.path()).unwrap());
    let ids: Vec<String> = std::thread::scope(|scope| {
        let ask = |n| {
            let mut registrar = Registrar::new(Arc::clone(&store), psk());
            scope.spawn(move || {
                let payload = request("c1", None).signed(&psk(), nonce(n), at(0));
                let answer = registrar.answer(Some(&client("c1")), &payload, at(0)).unwrap();
                let reply = open_reply(&psk(), &client("c1"), &nonce(n), &answer.payload).unwrap();
                id(&reply).to_owned()
            })
        };
        let threads: Vec<_> = (0..8).map(ask).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(store.enrolments().unwrap().len(), 1);
}

#[test]
fn naming_an_id() {
    let mut hub = Fixture::new();
    let mine = hub.ask("c1", 1, 0, 0);
    let mut name = |asker: &str, device: &str, n| {
        hub.send(asker, &request(asker, Some(device)).signed(&psk(), nonce(n), at(0)), n, 0)
    };
    assert_eq!(id(&name("c1", id(&mine), 2)), id(&mine));
    assert_eq!(error(&name("c2", id(&mine), 3)), "device_id_taken");
    // One that nobody has is kept: its device outlived the hub's database.
    assert_eq!(id(&name("c2", "press-7", 4)), "press-7");
    assert_eq!(error(&name("c1", "press-7", 5)), "device_id_taken");
    // A known client keeps the id it had, whatever free one it names.
    assert_eq!(id(&name("c1", "press-8", 6)), id(&mine));
    assert_eq!(id(&name("c3", "press-8", 7)), "press-8");
    // The refusal used the nonce up.
    let again = request("c1", Some("press-7")).signed(&psk(), nonce(5), at(0));
    assert_eq!(error(&hub.send("c1", &again, 5, 1)), "replay");
}

#[test]
fn another_s_topic_is_refused() {
    let mut hub = Fixture::new();
    let payload = request("c1", None).signed(&psk(), nonce(1), at(0));
    let answer = hub.raw(Some("c2"), &payload, 0).unwrap();
    assert_eq!(answer.verdict, Verdict::Refused("client_id_mismatch"));
    // Its own way is open: the nonce was not used up by whoever sent it elsewhere.
    id(&hub.send("c1", &payload, 1, 0));
}

#[test]
fn without_proof_no_id_and_no_mac() {
    let mut hub = Fixture::new();
    let other = Psk::from_file_bytes(b"another secret of ample length").unwrap();
    let foreign = request("c1", None).signed(&other, nonce(1), at(0));
    let mut altered: Value =
        serde_json::from_slice(&request("c2", None).signed(&psk(), nonce(2), at(0))).unwrap();
    altered["device_name"] = "not a pump".into();
    let cases = [
        ("c1", foreign),
        ("c2", serde_json::to_vec(&altered).unwrap()),
        ("c3", br#"{"client_id":"c3","agent_version":"1"}"#.to_vec()),
        ("c4", br#"{"client_id":"c4","device_secret":"a guess"}"#.to_vec()),
        ("c5", br#"{"client_id":"c5","device_secret":7}"#.to_vec()),
        ("c6", br#"{"client_id":"c6","proof":{"method":"none"}}"#.to_vec()),
    ];
    for (asker, payload) in cases {
        let answer = hub.raw(Some(asker), &payload, 0).expect("told once");
        assert_eq!((answer.client_id, answer.verdict), (client(asker), Verdict::Refused("unauthorized")));
        let reply = open_plain_reply(&answer.payload).unwrap();
        assert_eq!((error(&reply), reply.mac.as_deref()), ("unauthorized", None));
        assert!(hub.raw(Some(asker), &payload, 9).is_none(), "{asker} is not told again so soon");
        assert!(hub.raw(Some(asker), &payload, 10).is_some());
    }
    for unreadable in [&b""[..], b"{", b"[]", b"null", br#"{"client_id":"a/b"}"#, br#"{"client_id":7}"#] {
        assert!(hub.raw(Some("c1"), unreadable, 0).is_none());
    }
    let huge = format!(r#"{{"client_id":"c7","device_secret":"{}"}}"#, "x".repeat(MAX_REQUEST));
    assert!(hub.raw(Some("c7"), huge.as_bytes(), 0).is_none());
    assert_eq!(hub.registrar.unwrap().store.enrolments().unwrap(), []);
}

#[test]
fn a_signed_request_with_a_wrong_field_is_told_so() {
    let mut hub = Fixture::new();
    let mut body = json!({"client_id": "c1"});
    let mac = sign_request(&psk(), "c1", nonce(1).as_str(), &at(0).to_string(), &body);
    body["proof"] = json!({"method": METHOD, "nonce": nonce(1).as_str(), "timestamp": at(0), "mac": mac});
    let reply = hub.send("c1", &serde_json::to_vec(&body).unwrap(), 1, 0);
    assert_eq!(error(&reply), "invalid_request");
}

#[test]
fn a_device_with_plain_proof_gets_exactly_its_id() {
    let mut hub = Fixture::new();
    let plain = |client: &str| {
        serde_json::to_vec(&json!({"client_id": client, "device_secret": "a fleet secret of ample length"}))
            .unwrap()
    };
    let answer = hub.raw(None, &plain("c1"), 0).unwrap();
    let reply: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(reply, json!({"device_id": reply["device_id"].as_str().unwrap()}));
    let again = hub.raw(None, &plain("c1"), 1).unwrap();
    assert_eq!(again.payload, answer.payload);
    // One client, whichever way it asks; and what was known of it is kept.
    assert_eq!(id(&hub.ask("c1", 1, 2, 2)), reply["device_id"]);
    hub.raw(None, &plain("c1"), 3).unwrap();
    let known = hub.registrar.as_ref().unwrap().store.enrolments().unwrap();
    assert_eq!(known[0].device_name.as_deref(), Some("pump 3"));
    let mismatch = hub.raw(Some("c2"), &plain("c1"), 4).unwrap();
    assert_eq!(mismatch.verdict, Verdict::Refused("client_id_mismatch"));
}

#[test]
fn a_full_memory_refuses_new_requests() {
    let mut hub = Fixture::new();
    hub.registrar = None;
    let store = Store::open(hub.folder.path()).unwrap().with_max_nonces(2);
    hub.registrar = Some(Registrar::new(Arc::new(store), psk()));
    let first = hub.ask("c1", 1, 0, 0);
    hub.ask("c1", 2, 0, 0);
    assert_eq!(error(&hub.ask("c1", 3, 0, 0)), "busy");
    assert_eq!(id(&hub.ask("c1", 4, 901, 901)), id(&first));
}

/// No truncation and no flipped bit of a request enrols anyone.
#[test]
fn damaged_requests_enrol_nobody() {
    let mut hub = Fixture::new();
    let good = request("c1", Some("d1")).signed(&psk(), nonce(1), at(0));
    let mut now = 0;
    let mut damaged = |payload: &[u8]| {
        now += 1;
        if let Some(answer) = hub.raw(Some("c1"), payload, now % 200) {
            assert!(matches!(answer.verdict, Verdict::Refused(_)), "{}", String::from_utf8_lossy(payload));
        }
    };
    for length in 0..good.len() {
        damaged(&good[..length]);
    }
    for bit in 0..good.len() * 8 {
        let mut flipped = good.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        damaged(&flipped);
    }
    assert_eq!(id(&hub.send("c1", &good, 1, 0)), "d1");
}
