//! Lines into the outbox.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::{
    io::BufReader,
    net::unix::OwnedReadHalf,
    sync::OwnedSemaphorePermit,
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
    /// What lines that are on their way to the disk take: until how many are stored.
    shares: VecDeque<(u64, OwnedSemaphorePermit)>,
    /// What the client knows.
    told: Counts,
}

impl<'a> Keeping<'a> {
    pub(super) fn new(publisher: &'a Publisher, request: &'a Request, target: Target, talk: Talk) -> Self {
        let (replies, input) = talk.split();
        let (lines, tally) = (Lines::new(input), Arc::default());
        Self {
            publisher,
            request,
            target,
            replies,
            lines,
            tally,
            refused: 0,
            shares: VecDeque::new(),
            told: Counts::default(),
        }
    }

    pub(super) async fn run(mut self) -> io::Result<()> {
        if !self.publisher.mqtt.is_durable() {
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

    /// Takes lines for as long as there are any.
    async fn take_all(&mut self) -> io::Result<()> {
        loop {
            let (tally, told) = (Arc::clone(&self.tally), stored(&self.told));
            tokio::select! {
                more = self.lines.fill() => {
                    if !more? {
                        return Ok(());
                    }
                    self.take_chunk().await?;
                }
                _ = tally.wait(|counts| stored(counts) != told) => self.tell().await?,
            }
        }
    }

    async fn take_chunk(&mut self) -> io::Result<()> {
        for _ in 0..CHUNK {
            match self.lines.next() {
                Some(Ok(value)) => self.take(&value).await?,
                Some(Err(unfit)) => self.refuse(unfit.line, unfit.reason).await?,
                None => break,
            }
        }
        Ok(())
    }

    async fn take(&mut self, value: &RawValue) -> io::Result<()> {
        let Target { device_id, stream, topic } = &self.target;
        let names = topic.len() + device_id.as_str().len() + stream.as_str().len();
        let size = names + value.get().len() + AROUND;
        if !self.publisher.mqtt.with_outbox(|outbox| outbox.takes(size)).unwrap_or(true) {
            return self.refuse(self.lines.number(), "too large for the outbox; see outbox.max_size").await;
        }
        let share = loop {
            self.wait_for_room(size).await?;
            let share = self.wait_for_share(size).await?;
            // Another may have been faster.
            if self.has_room(size) {
                break share;
            }
        };
        self.store(value);
        self.shares.push_back((self.tally.counts().taken, share));
        Ok(())
    }

    fn store(&self, value: &RawValue) {
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
    }

    /// Who does not ask for room has it. Nothing makes room in an outbox where nothing waits.
    fn has_room(&self, size: usize) -> bool {
        let has_room = |outbox: &Outbox| outbox.has_room(size) || outbox.total().messages == 0;
        !self.request.block || self.publisher.mqtt.with_outbox(has_room).unwrap_or(true)
    }

    async fn wait_for_room(&mut self, size: usize) -> io::Result<()> {
        while !self.has_room(size) {
            if timeout(ALIVE, self.publisher.mqtt.room(size)).await.is_err() {
                self.tell().await?;
            }
        }
        Ok(())
    }

    /// A share of what may be on its way to the disk; more would be dropped.
    async fn wait_for_share(&mut self, size: usize) -> io::Result<OwnedSemaphorePermit> {
        let size = u32::try_from(size).unwrap_or(u32::MAX).min(self.publisher.shares_in_all);
        let wanted = Arc::clone(&self.publisher.shares).acquire_many_owned(size);
        tokio::pin!(wanted);
        loop {
            let (tally, told) = (Arc::clone(&self.tally), stored(&self.told));
            tokio::select! {
                share = &mut wanted => return Ok(share.expect("the semaphore is never closed")),
                _ = tally.wait(|counts| stored(counts) != told) => {}
                () = sleep(ALIVE) => {}
            }
            self.tell().await?;
        }
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
        while self.shares.front().is_some_and(|(until, _)| *until <= stored(&self.told)) {
            self.shares.pop_front();
        }
        let report = self.report(self.told);
        self.say(&Reply::Progress(report)).await
    }

    async fn refuse(&mut self, line: u64, reason: &str) -> io::Result<()> {
        self.refused += 1;
        self.say(&Reply::Refused { line, reason: reason.to_owned() }).await
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
