//! Lines sent now, over the connection there is, or never.

use std::io;

use serde_json::value::RawValue;
use tokio::{io::BufReader, net::unix::OwnedReadHalf};

use super::{CHUNK, PATIENCE, Publisher, Reply, Report, Request, Target, lines::Lines};
use crate::{
    config::{Delivery, Qos},
    control::{Replies, Talk},
    mqtt::{Message, Outcome, Pending},
};

/// One publisher whose lines are not kept.
pub(super) struct Sending<'a> {
    publisher: &'a Publisher,
    request: &'a Request,
    target: Target,
    replies: Replies,
    lines: Lines<BufReader<OwnedReadHalf>>,
    report: Report,
}

impl<'a> Sending<'a> {
    pub(super) fn new(publisher: &'a Publisher, request: &'a Request, target: Target, talk: Talk) -> Self {
        let (replies, input) = talk.split();
        Self { publisher, request, target, replies, lines: Lines::new(input), report: Report::default() }
    }

    /// A chunk at a time: the queue of the connection is short and drops what does not fit.
    pub(super) async fn run(mut self) -> io::Result<()> {
        while self.lines.fill().await? {
            let sent = self.send_chunk().await?;
            let mut stopped = None;
            for (line, pending) in sent {
                stopped = self.settle(line, pending.await).await?.or(stopped);
            }
            self.report.lines = self.lines.number();
            self.say(&Reply::Progress(self.report.clone())).await?;
            if let Some(why) = stopped {
                return self.say(&Reply::Error(why.to_owned())).await;
            }
        }
        self.say(&Reply::Ok(self.report.clone())).await
    }

    async fn send_chunk(&mut self) -> io::Result<Vec<(u64, Pending)>> {
        let mut sent = Vec::new();
        for _ in 0..CHUNK {
            let Some(line) = self.lines.next() else { break };
            match line {
                Ok(value) => match self.message(&value) {
                    Some(message) => {
                        sent.push((self.lines.number(), self.publisher.mqtt.publish(message)));
                    }
                    None => self.refuse(self.lines.number(), "too many streams".to_owned()).await?,
                },
                Err(unfit) => self.refuse(unfit.line, unfit.reason.to_owned()).await?,
            }
        }
        Ok(sent)
    }

    fn message(&self, value: &RawValue) -> Option<Message> {
        let seq = self.publisher.next_live(&self.target.stream)?;
        let payload = self.target.payload(self.publisher.now(), seq, value);
        let (topic, qos, delivery) = (self.target.topic.clone(), self.request.qos, Delivery::Live);
        Some(Message { topic, payload, qos, retain: false, delivery })
    }

    /// Counts what became of a line; why no further one can be sent.
    async fn settle(&mut self, line: u64, outcome: Outcome) -> io::Result<Option<&'static str>> {
        match outcome {
            Outcome::Sent => {
                self.report.sent += 1;
                self.report.acknowledged += u64::from(self.request.qos != Qos::AtMostOnce);
            }
            Outcome::Offline => return Ok(Some("not connected")),
            Outcome::Dropped => self.report.dropped += 1,
            Outcome::Refused(why) => self.refuse(line, format!("refused by the broker: {why}")).await?,
        }
        Ok(None)
    }

    async fn refuse(&mut self, line: u64, reason: String) -> io::Result<()> {
        self.report.refused += 1;
        self.say(&Reply::Refused { line, reason }).await
    }

    async fn say(&mut self, reply: &Reply) -> io::Result<()> {
        self.replies.send(reply, PATIENCE).await
    }
}
