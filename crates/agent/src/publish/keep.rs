//! Lines into the outbox.

use std::{io, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::{
    io::BufReader,
    net::unix::OwnedReadHalf,
    time::{sleep, timeout},
};

use super::{CHUNK, PATIENCE, Publisher, Reply, Report, Request, Target, lines::Lines, stored};
use crate::{
    control::{Replies, Talk},
    outbox::{Counts, Draft, Outbox, Tally},
};

/// How often a client that waits is told, so that one that is gone is noticed.
const ALIVE: Duration = Duration::from_secs(10);
/// How long news are collected before they are told.
const COLLECT: Duration = Duration::from_millis(50);
/// How soon a full outbox is looked at again.
const ROOM: Duration = Duration::from_millis(100);
/// What a payload takes beside the value and the names: keys, time, number.
const AROUND: usize = 128;

/// One publisher whose lines are kept.
pub(super) struct Keeping<'a> {
    publisher: &'a Publisher,
    request: &'a Request,
    target: Target,
    replies: Replies,
    lines: Lines<BufReader<OwnedReadHalf>>,
    tally: Arc<Tally>,
    refused: u64,
    /// What the client knows.
    told: Counts,
}

impl<'a> Keeping<'a> {
    pub(super) fn new(publisher: &'a Publisher, request: &'a Request, target: Target, talk: Talk) -> Self {
        let (replies, input) = talk.split();
        let (lines, tally) = (Lines::new(input), Arc::default());
        Self { publisher, request, target, replies, lines, tally, refused: 0, told: Counts::default() }
    }

    pub(super) async fn run(mut self) -> io::Result<()> {
        if self.publisher.mqtt.with_outbox(|_| ()).is_none() {
            return self.say(&Reply::Error("this agent keeps no outbox".to_owned())).await;
        }
        self.take_all().await?;
        self.follow(Counts::is_stored).await?;
        if self.request.wait {
            self.follow(Counts::is_settled).await?;
        }
        let report = self.report(self.tally.counts());
        self.say(&Reply::Ok(report)).await
    }

    /// Reads on while a chunk is being written, and no further.
    async fn take_all(&mut self) -> io::Result<()> {
        let mut before = 0;
        loop {
            let (tally, told) = (Arc::clone(&self.tally), stored(&self.told));
            let may_take = stored(&tally.counts()) >= before;
            tokio::select! {
                more = self.lines.fill(), if may_take => {
                    if !more? {
                        return Ok(());
                    }
                    before = tally.counts().taken;
                    self.take_chunk().await?;
                }
                _ = tally.wait(|counts| stored(counts) != told) => self.tell().await?,
                () = sleep(ALIVE), if !may_take => self.tell().await?,
            }
        }
    }

    async fn take_chunk(&mut self) -> io::Result<()> {
        for _ in 0..CHUNK {
            match self.lines.next() {
                Some(Ok(value)) => self.take(&value).await?,
                Some(Err(unfit)) => {
                    self.refused += 1;
                    let reason = unfit.reason.to_owned();
                    self.say(&Reply::Refused { line: unfit.line, reason }).await?;
                }
                None => break,
            }
        }
        Ok(())
    }

    async fn take(&mut self, value: &RawValue) -> io::Result<()> {
        if self.request.block {
            self.wait_for_room(value).await?;
        }
        let Self { publisher, request, target, .. } = self;
        let now = publisher.now();
        let draft = Draft {
            class: request.class,
            topic: target.topic.clone(),
            qos: request.qos,
            retain: false,
            payload: &mut |seq| target.payload(now, seq, value),
        };
        publisher.mqtt.store(draft, Some(&self.tally));
        Ok(())
    }

    /// An empty outbox has no more room to wait for.
    async fn wait_for_room(&mut self, value: &RawValue) -> io::Result<()> {
        let Target { device_id, stream, topic } = &self.target;
        let names = topic.len() + device_id.as_str().len() + stream.as_str().len();
        let size = names + value.get().len() + AROUND;
        let full = |outbox: &mut Outbox| !outbox.has_room(size) && outbox.total().messages > 0;
        while self.publisher.mqtt.with_outbox(full).unwrap_or(false) {
            sleep(ROOM).await;
            self.tell().await?;
        }
        Ok(())
    }

    /// Tells how far the lines are until they are as far as wanted.
    async fn follow(&mut self, wanted: impl Fn(&Counts) -> bool + Send + Sync) -> io::Result<()> {
        let tally = Arc::clone(&self.tally);
        while !wanted(&tally.counts()) {
            let told = self.told;
            // None within the time is as well: it is told that nothing is new.
            drop(timeout(ALIVE, tally.wait(|counts| *counts != told)).await);
            drop(timeout(COLLECT, tally.wait(&wanted)).await);
            self.tell().await?;
        }
        Ok(())
    }

    async fn tell(&mut self) -> io::Result<()> {
        self.told = self.tally.counts();
        let report = self.report(self.told);
        self.say(&Reply::Progress(report)).await
    }

    async fn say(&mut self, reply: &Reply) -> io::Result<()> {
        self.replies.send(reply, PATIENCE).await
    }

    fn report(&self, counts: Counts) -> Report {
        let degraded = self.publisher.mqtt.with_outbox(|outbox| outbox.degraded().map(str::to_owned));
        Report {
            lines: self.lines.number(),
            refused: self.refused,
            on_disk: counts.on_disk,
            in_memory: counts.in_memory,
            dropped: counts.dropped,
            failed: counts.failed,
            acknowledged: counts.acknowledged,
            sent: 0,
            degraded: degraded.flatten(),
        }
    }
}
