//! What the daemon answers on its control socket.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    config::Qos,
    control::{self, Command, Talk},
    mqtt::Mqtt,
    outbox::{self, Class, Outbox, Record},
    publish::{self, Publisher},
    service::Shared,
    status,
};

/// How many messages one answer lists at most.
const PAGE: usize = 256;
/// How many bytes of a payload are shown.
const SHOWN: usize = 512;
/// An answer of so many bytes takes no further message: a client reads no answer of more than twice that.
const FULL: usize = 512 << 10;

/// How long the disk may take to forget what was set aside.
const REMOVED_WITHIN: Duration = Duration::from_secs(2);

/// The daemon behind the socket.
#[derive(Debug)]
pub struct Desk {
    shared: Arc<Shared>,
    mqtt: Mqtt,
    broker: String,
    publisher: Publisher,
    /// Where the outbox is.
    folder: PathBuf,
}

/// A message that waits, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// How important.
    pub class: Class,
    /// Its place among those of its class.
    pub index: u64,
    /// Where it goes.
    pub topic: String,
    /// Quality of service.
    pub qos: Qos,
    /// Bytes of payload.
    pub bytes: u64,
    /// The number that its payload carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The payload, or its beginning; what is no UTF-8 is replaced.
    pub payload: String,
    /// That was only the beginning.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

impl Item {
    fn new(class: Class, index: u64, record: &Record) -> Self {
        #[derive(Deserialize)]
        struct Numbered {
            seq: u64,
        }
        let Record { topic, payload, qos, .. } = record;
        let text = String::from_utf8_lossy(payload);
        let shown = &text[..text.floor_char_boundary(SHOWN)];
        Self {
            class,
            index,
            topic: topic.clone(),
            qos: *qos,
            bytes: payload.len() as u64,
            seq: serde_json::from_slice(payload).ok().map(|Numbered { seq }| seq),
            payload: shown.to_owned(),
            cut: shown.len() < text.len(),
        }
    }
}

impl Desk {
    /// For the device and the broker of these, whose outbox is in this folder.
    pub fn new(shared: Arc<Shared>, mqtt: Mqtt, broker: String, folder: PathBuf) -> Self {
        let publisher = Publisher::new(Arc::clone(&shared), mqtt.clone());
        Self { shared, mqtt, broker, publisher, folder }
    }

    fn outbox<T>(&self, look: impl FnOnce(&Outbox) -> T) -> Result<T, String> {
        self.mqtt.with_outbox(look).ok_or_else(none)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> Result<T, String> {
        self.mqtt.change_outbox(change).ok_or_else(none)
    }

    fn list(&self, class: Class, from: u64) -> Result<Value, String> {
        let found = self.outbox(|outbox| outbox.list(class, from, PAGE))?;
        let found = found.map_err(|error| format!("cannot read the outbox: {error}"))?;
        let (mut items, mut bytes) = (Vec::new(), 0);
        for (index, record) in &found {
            let item = json!(Item::new(class, *index, record));
            bytes += item.to_string().len();
            items.push(item);
            if bytes > FULL {
                break;
            }
        }
        Ok(json!(items))
    }

    async fn purge(&self, classes: &[Class], refused: bool) -> Result<Value, String> {
        let purged = self.change(|outbox| outbox.purge(classes))?;
        let mut removed = 0;
        if refused {
            let failed = |error| format!("cannot read what was set aside: {error}");
            removed = count_lines(&self.folder).map_err(failed)?;
            self.change(Outbox::purge_refused)?;
            self.wait_removed().await?;
        }
        tracing::info!(messages = purged, refused = removed, "outbox purged");
        Ok(json!({ "messages": purged, "refused": removed }))
    }

    /// The files go with the next commit, and whoever asked looks for them.
    async fn wait_removed(&self) -> Result<(), String> {
        let began = Instant::now();
        while count_lines(&self.folder).is_ok_and(|lines| lines > 0) {
            if began.elapsed() > REMOVED_WITHIN {
                return Err(
                    "what was set aside cannot be removed now; it will be as soon as the disk allows"
                        .to_owned(),
                );
            }
            sleep(REMOVED_WITHIN / 100).await;
        }
        Ok(())
    }
}

impl control::Desk for Desk {
    async fn answer(&self, command: Command) -> Result<Value, String> {
        match command {
            Command::Status => Ok(status::report(&self.shared, &self.mqtt, &self.broker)),
            Command::OutboxStats => self.outbox(stats),
            Command::OutboxList { class, from } => self.list(class, from),
            Command::OutboxPurge { classes, refused } => self.purge(&classes, refused).await,
            Command::Cancel { service, id } => {
                self.shared.actions.cancel(&service, id).await.map(|said| json!(said))
            }
            Command::UpdateInstall { path, wanted } => {
                self.shared.updates.install(path, wanted).map(|id| json!(id))
            }
            Command::UpdateRollback { name } => self.shared.updates.rollback(name).map(|id| json!(id)),
            Command::Publish(_) => Err("lines follow this command".to_owned()),
        }
    }

    async fn publish(&self, request: publish::Request, talk: Talk) -> io::Result<()> {
        self.publisher.serve(request, talk).await
    }
}

fn none() -> String {
    "this agent keeps no outbox".to_owned()
}

fn stats(outbox: &Outbox) -> Value {
    let mut stats = json!(outbox.total());
    stats["max_size"] = json!(outbox.cap());
    if let Some(why) = outbox.degraded() {
        stats["degraded"] = json!(why);
    }
    for class in Class::ALL {
        stats["classes"][class.name()] = json!(outbox.stats(class));
    }
    stats
}

/// How many messages were set aside.
fn count_lines(folder: &Path) -> io::Result<usize> {
    let mut lines = 0;
    for name in outbox::REFUSED {
        match File::open(folder.join(name)) {
            Ok(file) => lines += BufReader::new(file).split(b'\n').map_while(Result::ok).count(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lines)
}
