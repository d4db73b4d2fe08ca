//! The engine with an action that does nothing but what a test wants, on a disk that fails, under a paused clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinHandle};

use super::*;
use crate::{
    action::{Decoded, End, Order, Refusal, Step},
    harness::Harness,
    outbox::{
        Tally,
        faulty::{Fault, Faulty},
    },
};

mod faults;
mod lives;
mod unnamed;

const SOON: Duration = Duration::from_secs(30);

/// What is asked: `say X` says X, `wait` waits to be let go or cancelled, `panic` panics, `forbidden` may not be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Wish {
    wish: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Said(String);

/// What outlives an engine: all that it has told and done, in order.
#[derive(Debug, Default)]
struct Log {
    told: Mutex<Vec<(String, String)>>,
    ran: Mutex<Vec<String>>,
    /// Whose end was written.
    released: Mutex<Vec<String>>,
    changed: Notify,
    go: Notify,
    /// How often all was said to be well.
    well: std::sync::atomic::AtomicUsize,
    /// An end is taken, and does not get to the disk.
    held_up: std::sync::atomic::AtomicBool,
}

impl Log {
    fn told(&self) -> Vec<(String, String)> {
        self.told.lock().unwrap().clone()
    }

    fn of(&self, id: &str) -> Vec<String> {
        self.told().into_iter().filter(|(told, _)| told == id).map(|(_, what)| what).collect()
    }

    fn ends(&self, id: &str) -> Vec<String> {
        self.of(id).into_iter().filter(|what| !matches!(&**what, "accepted" | "begun")).collect()
    }

    fn released(&self) -> Vec<String> {
        self.released.lock().unwrap().clone()
    }

    fn ran(&self) -> Vec<String> {
        self.ran.lock().unwrap().clone()
    }

    /// Waits until this was told of it.
    async fn hears(&self, id: &str, what: &str) {
        let heard = async {
            loop {
                let changed = self.changed.notified();
                if self.of(id).iter().any(|told| told == what) {
                    return;
                }
                changed.await;
            }
        };
        timeout(SOON, heard).await.unwrap_or_else(|_| panic!("{id} {what}: {:?}", self.told()));
    }
}

/// One that came without an id stands for its copies for so many seconds after its end; 0: not at all.
struct Act<const STANDS: u64>(Arc<Log>);

impl<const STANDS: u64> Action for Act<STANDS> {
    type Request = Wish;
    type Outcome = Said;

    const STANDS: Option<Duration> = match STANDS {
        0 => None,
        seconds => Some(Duration::from_secs(seconds)),
    };

    fn name(&self, request: &RawValue) -> String {
        if STANDS == 0 { crate::action::new_id() } else { format!("named {}", request.get().len()) }
    }

    fn decode(&self, message: &Inbound) -> Decoded<Wish> {
        let Ok(asked) = serde_json::from_slice::<Value>(&message.payload) else {
            return Decoded::Unreadable { reason: "no JSON".to_owned() };
        };
        let id = asked["id"].as_str().map(str::to_owned);
        if asked["cancel"] == true {
            return Decoded::Cancel { id: id.unwrap() };
        }
        let Some(wish) = asked["wish"].as_str() else {
            let (reason, keep) = ("no wish".to_owned(), asked["bad id"] != true);
            return match id {
                Some(id) => Decoded::Invalid { id, keep, reason },
                None => Decoded::Unreadable { reason },
            };
        };
        let expires_at = asked["expires_at"].as_i64().map(|at| Timestamp::from_millis(at).unwrap());
        Decoded::Order(Order { id, expires_at, request: Wish { wish: wish.to_owned() } })
    }

    fn authorise(&self, _id: &str, request: &Wish) -> Result<Option<String>, Refusal> {
        match &*request.wish {
            "forbidden" => Err(Refusal { rule: None, reason: "forbidden".to_owned() }),
            _ => Ok(Some("any".to_owned())),
        }
    }

    fn ending(&self, _request: Option<&Wish>, end: End) -> Said {
        Said(match end {
            End::Rejected(reason) => format!("rejected: {reason}"),
            End::Expired => "expired".to_owned(),
            End::Cancelled => "cancelled".to_owned(),
            End::Interrupted => "interrupted".to_owned(),
        })
    }

    fn tell(&self, id: &str, step: Step<'_, Self>) -> Option<Arc<Tally>> {
        let what = match step {
            Step::Accepted(_) => "accepted".to_owned(),
            Step::Begun(_) => "begun".to_owned(),
            Step::Ended(said) => said.0.clone(),
        };
        self.0.told.lock().unwrap().push((id.to_owned(), what));
        self.0.changed.notify_waiters();
        self.0.held_up.load(std::sync::atomic::Ordering::Relaxed).then(Arc::default)
    }

    async fn run(self: Arc<Self>, id: String, request: Wish, cancel: CancellationToken) -> (Said, Hold) {
        self.0.ran.lock().unwrap().push(id.clone());
        let said = match &*request.wish {
            "panic" => panic!("as it was asked"),
            "wait" => tokio::select! {
                () = self.0.go.notified() => Said("went".to_owned()),
                () = cancel.cancelled() => Said("cancelled".to_owned()),
            },
            other => Said(other.to_owned()),
        };
        let log = Arc::clone(&self.0);
        (said, Some(Box::new(move || log.released.lock().unwrap().push(id))))
    }

    async fn recover(&self, _id: &str, _request: Wish, rebooted: Option<bool>) -> Option<Said> {
        Some(Said(format!("recovered {rebooted:?}")))
    }

    fn ready(&self, ctx: &Context) {
        self.0.well.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        ctx.healthy();
    }

    fn detail(&self, request: &Wish) -> String {
        request.wish.clone()
    }

    fn summary(&self, outcome: &Said) -> String {
        outcome.0.clone()
    }

    fn brief(outcome: &RawValue) -> Box<RawValue> {
        outcome.to_owned()
    }
}

/// A device on which one engine lives after the other.
struct World {
    harness: Harness,
    disk: Arc<Faulty>,
    log: Arc<Log>,
}

/// One engine at work.
struct Life {
    inbox: mpsc::Sender<Inbound>,
    cancels: mpsc::Sender<Cancel>,
    shutdown: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl World {
    fn new() -> Self {
        let harness = Harness::new();
        harness.enrol("d1");
        Self { harness, disk: Faulty::new(1), log: Arc::default() }
    }

    /// An engine that is not at work yet: `first` is there when it begins.
    async fn start_with(&self, running: usize, waiting: usize, first: Vec<Inbound>) -> Life {
        self.start_of::<0>(running, waiting, first).await
    }

    /// The same, of an action with these [`Action::STANDS`].
    async fn start_of<const STANDS: u64>(&self, running: usize, waiting: usize, first: Vec<Inbound>) -> Life {
        let (inbox, receiver) = mpsc::channel(256);
        for message in first {
            inbox.send(message).await.unwrap();
        }
        let (cancels, wishes) = mpsc::channel(8);
        let shutdown = CancellationToken::new();
        let ctx = Context {
            name: "command",
            shared: Arc::clone(&self.harness.shared),
            mqtt: self.harness.mqtt.clone(),
            shutdown: shutdown.clone(),
        };
        let limits = Limits { running, waiting };
        let act = Act::<STANDS>(Arc::clone(&self.log));
        let mut engine = Engine::new(act, ctx, wishes, limits);
        let disk = Arc::clone(&self.disk);
        engine.disk = Box::new(move |_| Ok(Arc::<Faulty>::clone(&disk)));
        let task = tokio::spawn(engine.run(Inbox::fed_by(receiver)));
        Life { inbox, cancels, shutdown, task }
    }

    async fn start(&self, running: usize, waiting: usize) -> Life {
        self.start_with(running, waiting, Vec::new()).await
    }

    /// As the journal has it, when nobody writes it.
    fn states(&self) -> BTreeMap<String, &'static str> {
        let disk = Arc::<Faulty>::clone(&self.disk);
        let found = crate::action::journal::read(disk).unwrap();
        let state = |record: &crate::action::journal::Record| match (&record.ended, record.started) {
            (Some(_), _) => "ended",
            (None, true) => "started",
            (None, false) => "waiting",
        };
        found.iter().map(|record| (record.id.clone(), state(record))).collect()
    }
}

fn message(asked: &Value) -> Inbound {
    Inbound::detached("iot/d1/command", asked.to_string().as_bytes())
}

fn wish(id: &str, wish: &str) -> Inbound {
    message(&json!({ "id": id, "wish": wish }))
}

fn cancel(id: &str) -> Inbound {
    message(&json!({ "id": id, "cancel": true }))
}

impl Life {
    async fn send(&self, message: Inbound) {
        self.inbox.send(message).await.unwrap();
    }

    async fn cancel(&self, id: &str) -> Result<&'static str, String> {
        let (answer, said) = oneshot::channel();
        self.cancels.send(Cancel { id: id.to_owned(), answer }).await.unwrap();
        timeout(SOON, said).await.unwrap().unwrap()
    }

    /// As the supervisor ends it.
    async fn stop(self) {
        self.shutdown.cancel();
        timeout(SOON, self.task).await.expect("ends").expect("does not panic").expect("ends well");
    }

    /// As a SIGKILL ends it.
    async fn kill(self) {
        self.task.abort();
        drop(timeout(SOON, self.task).await.expect("ends"));
    }
}
