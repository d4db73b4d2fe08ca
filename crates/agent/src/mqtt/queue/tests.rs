use tokio::sync::oneshot::{self, Receiver};

use super::*;
use crate::mqtt::Qos;
use Delivery::{Live, Memory};

fn queued(payload: &str, class: Class, delivery: Delivery) -> (Queued, Receiver<Outcome>) {
    let (done, outcome) = oneshot::channel();
    let message = Message {
        topic: "t".into(),
        payload: payload.into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        delivery,
    };
    (Queued::new(message, class, done), outcome)
}

fn push(queue: &mut Queue, payload: &str, class: Class, delivery: Delivery) -> Receiver<Outcome> {
    let (queued, outcome) = queued(payload, class, delivery);
    queue.push(queued);
    outcome
}

fn pop(queue: &mut Queue) -> Option<Queued> {
    queue.pop(usize::MAX)
}

fn order(queue: &mut Queue) -> Vec<String> {
    let payload = |queued: Queued| String::from_utf8(queued.message.payload).unwrap();
    std::iter::from_fn(|| pop(queue)).map(payload).collect()
}

fn counters(queue: &Queue) -> Counters {
    let mut counters = Counters::default();
    queue.count(&mut counters);
    counters
}

#[test]
fn live_ones_go_first_then_class_by_class_the_oldest() {
    let mut queue = Queue::new(100, None);
    for (payload, class, delivery) in [
        ("m1", Class::Metrics, Memory),
        ("a1", Class::Audit, Memory),
        ("m2", Class::Metrics, Memory),
        ("c1", Class::Command, Memory),
        ("l1", Class::Metrics, Live),
        ("a2", Class::Audit, Memory),
    ] {
        push(&mut queue, payload, class, delivery);
    }
    assert_eq!(order(&mut queue), ["l1", "a1", "a2", "c1", "m1", "m2"]);
    assert!(queue.is_empty());
}

#[test]
fn a_full_queue_drops_the_least_important_then_the_oldest_and_counts_it() {
    let mut queue = Queue::new(8, None);
    let mut first = push(&mut queue, "111", Class::Metrics, Memory);
    push(&mut queue, "222", Class::Event, Memory);
    push(&mut queue, "333", Class::Event, Memory);
    assert_eq!(first.try_recv(), Ok(Outcome::Dropped));
    let mut least = push(&mut queue, "444", Class::Location, Memory);
    assert_eq!(least.try_recv(), Ok(Outcome::Dropped), "all else is more important");
    push(&mut queue, "555", Class::Event, Memory);
    let counted = counters(&queue);
    assert_eq!((counted.queued, counted.queued_bytes, counted.dropped), (2, 8, 3));
    let dropped = |class: Class| counted.classes[class as usize].dropped;
    assert_eq!(Class::ALL.map(dropped), [0, 0, 1, 1, 1]);
    assert_eq!(order(&mut queue), ["333", "555"]);
}

#[test]
fn one_that_can_never_fit_takes_no_other_with_it() {
    for delivery in [Memory, Live] {
        let mut queue = Queue::new(8, None);
        push(&mut queue, "111", Class::Metrics, delivery);
        let mut outcome = push(&mut queue, "12345678", Class::Audit, delivery);
        assert_eq!(outcome.try_recv(), Ok(Outcome::Dropped));
        assert_eq!(counters(&queue).queued, 1);
    }
}

/// Each has its own room: an offline night full of metrics must not cost a heartbeat, nor the other way round.
#[test]
fn live_ones_take_no_room_from_others() {
    let mut queue = Queue::new(8, None);
    let mut waiting = push(&mut queue, "1234567", Class::Metrics, Memory);
    let mut early = push(&mut queue, "111", Class::Audit, Live);
    push(&mut queue, "222", Class::Metrics, Live);
    push(&mut queue, "333", Class::Metrics, Live);
    assert!(waiting.try_recv().is_err());
    assert_eq!(early.try_recv(), Ok(Outcome::Dropped));
    assert_eq!(order(&mut queue), ["222", "333", "1234567"]);
}

#[test]
fn live_messages_go_with_the_connection_and_the_others_stay() {
    let mut queue = Queue::new(100, None);
    push(&mut queue, "1", Class::Metrics, Memory);
    let mut outcome = push(&mut queue, "2", Class::Metrics, Live);
    push(&mut queue, "3", Class::Metrics, Memory);
    queue.drop_live();
    assert_eq!(outcome.try_recv(), Ok(Outcome::Offline));
    assert_eq!(counters(&queue).queued, 2);
    assert_eq!(order(&mut queue), ["1", "3"]);
}

#[test]
fn what_was_in_flight_comes_back_first_and_in_order() {
    let mut queue = Queue::new(100, None);
    for payload in ["1", "2", "3", "4"] {
        push(&mut queue, payload, Class::Metrics, Memory);
    }
    let mut flights: Vec<_> = (0..3).map(|_| pop(&mut queue).unwrap()).collect();
    queue.give_back(vec![flights.remove(1)]);
    flights.reverse();
    queue.give_back(flights);
    assert_eq!(order(&mut queue), ["1", "2", "3", "4"]);
    assert_eq!((counters(&queue).queued, counters(&queue).queued_bytes), (0, 0));
}

#[test]
fn one_for_which_there_is_no_room_in_flight_keeps_its_turn() {
    let mut queue = Queue::new(100, None);
    push(&mut queue, "12345678", Class::Audit, Memory);
    push(&mut queue, "1", Class::Metrics, Memory);
    assert!(queue.pop(8).is_none());
    assert_eq!(counters(&queue).queued_bytes, 11);
    assert_eq!(order(&mut queue), ["12345678", "1"]);
}

/// Many refusals at once are one pause; the next one is twice as long, until a message has been taken in between.
#[tokio::test(start_paused = true)]
async fn a_pause_holds_back_all_but_live_messages() {
    let mut queue = Queue::new(100, None);
    let longest = Duration::from_secs(5);
    let paused = async |queue: &mut Queue| {
        (0..10).for_each(|_| queue.busy(longest));
        let began = Instant::now();
        tokio::time::sleep_until(queue.pause().unwrap()).await;
        began.elapsed().as_secs()
    };
    push(&mut queue, "1", Class::Metrics, Memory);
    queue.busy(longest);
    assert!(pop(&mut queue).is_none());
    push(&mut queue, "2", Class::Metrics, Live);
    assert_eq!(pop(&mut queue).unwrap().message.payload, b"2");
    assert_eq!(paused(&mut queue).await, 1);
    assert_eq!(pop(&mut queue).unwrap().message.payload, b"1");
    assert_eq!([paused(&mut queue).await, paused(&mut queue).await, paused(&mut queue).await], [2, 4, 5]);
    queue.busy(longest);
    queue.relieved();
    assert!(queue.pause().is_some(), "a late success of another message ends no pause");
    assert_eq!(paused(&mut queue).await, 5);
    assert_eq!(paused(&mut queue).await, 1);
}
