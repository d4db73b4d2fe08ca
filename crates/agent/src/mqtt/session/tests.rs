use tokio::{
    sync::oneshot::{self, Receiver},
    time::advance,
};

use super::*;
use crate::{
    mqtt::{Delivery, Message},
    outbox::Class,
};

fn queued(payload: &str, delivery: Delivery) -> (Queued, Receiver<Outcome>) {
    let (done, outcome) = oneshot::channel();
    let message = Message {
        topic: "t".into(),
        payload: payload.into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        delivery,
    };
    (Queued::new(message, Class::Metrics, done), outcome)
}

fn launch(session: &mut Session, payload: &str, delivery: Delivery) -> (u16, Receiver<Outcome>) {
    let (queued, outcome) = queued(payload, delivery);
    let packet = session.launch(queued, Wire::V311).unwrap();
    (id(&packet), outcome)
}

fn id(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[5], packet[6]])
}

/// Sends again what the broker has not acknowledged.
fn repeat(session: &mut Session) -> Option<u16> {
    session.next(Wire::V311).map(|packet| id(&packet.unwrap()))
}

#[test]
fn acknowledgements_may_come_in_any_order() {
    let mut session = Session::default();
    let (first, mut one) = launch(&mut session, "1", Delivery::Memory);
    let (second, mut two) = launch(&mut session, "2", Delivery::Memory);
    assert!(session.acknowledged(second));
    assert_eq!(two.try_recv(), Ok(Outcome::Sent));
    assert!(one.try_recv().is_err());
    assert!(session.acknowledged(first));
    assert!(!session.acknowledged(first), "a second PUBACK is ignored");
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn a_lost_session_gives_everything_back_in_order_but_live_messages() {
    let mut session = Session::default();
    let _one = launch(&mut session, "1", Delivery::Memory);
    let (_, mut live) = launch(&mut session, "2", Delivery::Live);
    let _three = launch(&mut session, "3", Delivery::Durable);
    session.interrupted();
    assert_eq!(live.try_recv(), Ok(Outcome::Offline));
    let again: Vec<_> = session.lost().into_iter().map(|queued| queued.message.payload).collect();
    assert_eq!(again, [b"1", b"3"]);
}

#[test]
fn a_kept_session_repeats_with_the_same_identifiers_and_dup() {
    let mut session = Session::default();
    let (kept, _outcome) = launch(&mut session, "1", Delivery::Memory);
    session.interrupted();
    let (queued, _birth) = queued("birth", Delivery::Live);
    let birth = session.launch(queued, Wire::V311).unwrap();
    assert_eq!((birth[0], &birth[7..]), (0x32, &b"birth"[..]), "before what is sent again");
    let again = session.next(Wire::V311).unwrap().unwrap();
    assert_eq!((again[0], id(&again)), (0x3a, kept), "PUBLISH, DUP, QoS 1");
    assert!(session.next(Wire::V311).is_none());
}

#[test]
fn what_is_refused_is_given_back_unless_the_broker_has_said_that_it_has_it() {
    let mut session = Session::default();
    let (refused, _outcome) = launch(&mut session, "1", Delivery::Memory);
    assert_eq!(session.refused(refused).unwrap().message.payload, b"1");
    let (had, mut outcome) = launch(&mut session, "2", Delivery::Memory);
    session.received_by_broker(had);
    assert!(session.refused(had).is_none());
    assert_eq!(outcome.try_recv(), Ok(Outcome::Sent));
}

#[test]
fn identifiers_wrap_and_skip_those_in_use() {
    let mut session = Session::default();
    let (first, _outcome) = launch(&mut session, "1", Delivery::Memory);
    session.last_id = u16::MAX;
    assert_eq!((first, session.fresh_id()), (EXACT_IDS + 1, EXACT_IDS + 2));
}

#[test]
fn in_flight_are_bounded_in_number_and_in_bytes() {
    let mut session = Session::default();
    let large = "x".repeat(300 * 1024);
    assert_eq!(session.room(2, true), Some(usize::MAX), "a single one may be of any size");
    let _outcome = launch(&mut session, &large, Delivery::Memory);
    assert_eq!(session.room(2, true), Some(WINDOW_BYTES - large.len() - 1));
    let _outcome = launch(&mut session, "1", Delivery::Memory);
    assert_eq!(session.room(2, true), None);
    let _outcome = launch(&mut session, &large, Delivery::Memory);
    assert_eq!(session.room(u16::MAX, true), Some(0));
}

/// The broker ends every connection on the second of three; the first and the third arrive.
#[tokio::test(start_paused = true)]
async fn a_message_on_which_the_broker_ends_every_connection_is_found() {
    let mut session = Session::default();
    let (first, _one) = launch(&mut session, "1", Delivery::Memory);
    let (second, _two) = launch(&mut session, "2", Delivery::Durable);
    let (third, _three) = launch(&mut session, "3", Delivery::Memory);
    assert!(session.blame(Blame::Perhaps).is_none());
    session.interrupted();
    assert_eq!(repeat(&mut session), Some(first));
    assert_eq!(session.room(64, true), None, "one by one from now on");
    assert!(session.acknowledged(first));
    for strike in 1..=5 {
        assert_eq!((repeat(&mut session), session.room(64, true)), (Some(second), None));
        advance(Duration::from_secs(5)).await;
        let found = session.blame(Blame::Perhaps);
        session.interrupted();
        assert_eq!(session.has_suspect(), (2..5).contains(&strike));
        assert_eq!(found.map(|queued| queued.message.payload), (strike == 5).then(|| b"2".to_vec()));
    }
    assert_eq!(repeat(&mut session), Some(third));
    assert!(session.acknowledged(third));
    let _four = launch(&mut session, "4", Delivery::Memory);
    assert!(session.room(64, true).is_some(), "no longer careful");
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_names_the_message_is_believed_at_once() {
    let mut session = Session::default();
    let (first, _one) = launch(&mut session, "1", Delivery::Memory);
    let _two = launch(&mut session, "2", Delivery::Memory);
    assert!(session.blame(Blame::Message).is_none(), "which of the two?");
    session.interrupted();
    assert_eq!(repeat(&mut session), Some(first));
    assert_eq!(session.blame(Blame::Message).unwrap().message.payload, b"1");
}

#[tokio::test(start_paused = true)]
async fn a_bad_network_is_no_fault_of_a_message() {
    let mut session = Session::default();
    let _one = launch(&mut session, "1", Delivery::Memory);
    for end in [Blame::Perhaps, Blame::Perhaps, Blame::Perhaps, Blame::Perhaps, Blame::Network].repeat(10) {
        advance(Duration::from_secs(60)).await;
        assert!(session.blame(end).is_none());
        session.interrupted();
        assert!(repeat(&mut session).is_some());
    }
}

/// However often in a short time: a broker that restarts, or a proxy before it.
#[tokio::test(start_paused = true)]
async fn strikes_in_quick_succession_prove_nothing() {
    let mut session = Session::default();
    let _one = launch(&mut session, "1", Delivery::Memory);
    for _ in 0..100 {
        advance(Duration::from_millis(150)).await;
        assert!(session.blame(Blame::Perhaps).is_none());
        session.interrupted();
        assert!(repeat(&mut session).is_some());
    }
}

/// A live message goes with its connection, and one of QoS 2 that the broker has cannot be given back.
#[tokio::test(start_paused = true)]
async fn only_what_could_be_sent_again_is_blamed() {
    let mut session = Session::default();
    let _live = launch(&mut session, "1", Delivery::Live);
    assert!(session.blame(Blame::Message).is_none());
    session.interrupted();
    let (had, _two) = launch(&mut session, "2", Delivery::Memory);
    session.received_by_broker(had);
    assert!(session.blame(Blame::Message).is_none());
}

/// A broker that holds identifiers of QoS 2 for the process before takes a new message under one for an old one.
#[test]
fn what_the_broker_may_hold_for_the_process_before_is_released_first() {
    let mut session = Session::new();
    let (plain, _outcome) = queued("1", Delivery::Memory);
    assert_eq!(session.launch(plain, Wire::V311).unwrap()[0] >> 4, 3, "nothing to release for QoS 1");
    let (mut exact, mut outcome) = queued("2", Delivery::Memory);
    exact.message.qos = Qos::ExactlyOnce;
    let releases: Vec<u8> = (1..=EXACT_IDS).flat_map(Wire::pubrel).collect();
    let packet = session.launch(exact, Wire::V311).unwrap();
    assert!(packet.starts_with(&releases) && packet.len() > releases.len());
    session.interrupted();
    session.next(Wire::V311).unwrap().unwrap();
    let again = session.next(Wire::V311).unwrap().unwrap();
    assert!(again.starts_with(&releases), "they may not have arrived");
    assert!(!session.completed(1), "of the one before, not of ours");
    assert!(outcome.try_recv().is_err());
    assert!(!session.completed(EXACT_IDS));
    session.received_by_broker(1);
    assert!(session.completed(1));
    assert_eq!(outcome.try_recv(), Ok(Outcome::Sent));
    let (mut exact, _outcome) = queued("3", Delivery::Memory);
    exact.message.qos = Qos::ExactlyOnce;
    assert_eq!(session.launch(exact, Wire::V311).unwrap()[0] >> 4, 3, "it has answered");
}

/// A broker that has forgotten one message, and answers all others, is not waited for for ever.
#[tokio::test(start_paused = true)]
async fn a_message_that_was_passed_over_is_known() {
    let mut session = Session::default();
    let _first = launch(&mut session, "1", Delivery::Memory);
    let (second, _two) = launch(&mut session, "2", Delivery::Memory);
    assert_eq!(session.overtaken(), None);
    session.acknowledged(second);
    let since = session.overtaken().unwrap();
    advance(Duration::from_secs(5)).await;
    let (third, _three) = launch(&mut session, "3", Delivery::Memory);
    session.acknowledged(third);
    assert_eq!(session.overtaken(), Some(since), "since the first time");
    session.interrupted();
    assert_eq!(session.overtaken(), None);
}

#[test]
fn a_live_message_has_a_place_of_its_own() {
    let mut session = Session::default();
    let _one = launch(&mut session, "1", Delivery::Durable);
    assert_eq!(session.room(2, false), None);
    assert!(session.room(2, true).is_some());
    assert_eq!(Session::default().room(1, false), Some(usize::MAX), "the only place is for all");
}
