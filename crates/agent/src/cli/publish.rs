//! `iot-agent publish`: lines from standard input to the daemon, and what became of them.

use std::{
    io::{self, Read as _},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, CommandFactory as _, error::ErrorKind};
use protocol::data::Stream;
use serde::{Deserialize as _, de::IntoDeserializer as _};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt as _, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Cli, From, block_on, daemon, print, report};
use crate::{
    agent,
    config::{Qos, Span},
    control,
    outbox::Class,
    publish::{Reply, Report, Request},
};

/// How much of standard input is read at a time.
const READ: usize = 64 << 10;
/// The longest reply, in bytes.
const MAX_REPLY: u64 = 1 << 20;
/// How long the daemon may take, when we are told to stop, to say how far it is.
const LAST_WORD: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = "\
Each line becomes one message on {prefix}/{device_id}/data/STREAM:
  {\"device_id\": …, \"timestamp\": …, \"seq\": 1, 2, 3, …, \"stream\": STREAM, \"data\": the line}
A line that is JSON is sent as that value, digit for digit; any other as a string. Lines must be UTF-8, up to 1 MiB.

Prints how many lines are on disk, also when it fails: `12 lines on disk`. What is on disk survives a crash, a power
cut and any time without network. Exit 0 when every line is on disk; 1 otherwise, with the reasons on standard error.
While the disk cannot be written lines wait in memory, and that is exit 1.

Examples:
  echo '{\"celsius\": 21.5}' | iot-agent publish room
  tail -n 0 -F /var/log/door.log | iot-agent publish door-log
  iot-agent publish alarms --class event --wait --timeout 30s < alarms.jsonl
  vmstat -n 1 | iot-agent publish load --live --qos 0")]
pub(super) struct Publish {
    /// Where to: 1 to 64 of a-z, 0-9, _ and -
    stream: Stream,
    /// How important: when the outbox is full the lowest class is dropped first, and the highest is sent first
    #[arg(long, value_enum, default_value = "metrics")]
    class: Class,
    /// 1: at least once; 2: exactly once; 0: perhaps, implies --live
    #[arg(long, value_parser = qos, default_value = "1")]
    qos: Qos,
    /// Do not keep the lines: send them now, or fail when there is no connection
    #[arg(long)]
    live: bool,
    /// Go on until the broker has acknowledged every line, and print how many: `12 lines on disk, 12 acknowledged`
    #[arg(long)]
    wait: bool,
    /// Give --wait up so long after the last line, e.g. 30s; what is on disk is still sent later
    #[arg(long, value_name = "DURATION", value_parser = span, requires = "wait")]
    timeout: Option<Span>,
    /// When the outbox is full, wait for room instead of dropping older or less important messages
    #[arg(long, conflicts_with = "live")]
    block: bool,
    #[command(flatten)]
    from: From,
}

fn qos(text: &str) -> Result<Qos, String> {
    let number: u64 = text.parse().map_err(|_| "expected 0, 1 or 2".to_owned())?;
    let qos = Qos::deserialize(number.into_deserializer());
    qos.map_err(|error: serde::de::value::Error| error.to_string())
}

fn span(text: &str) -> Result<Span, String> {
    let read: Result<_, serde::de::value::Error> = match text.parse::<u64>() {
        Ok(seconds) => Span::deserialize(seconds.into_deserializer()),
        Err(_) => Span::deserialize(text.into_deserializer()),
    };
    read.map_err(|error| error.to_string())
}

impl Publish {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let live = self.live || self.qos == Qos::AtMostOnce;
        let conflict = match self.qos {
            Qos::AtMostOnce if self.wait => {
                Some("--wait needs --qos 1 or 2: nothing acknowledges a message of qos 0")
            }
            Qos::AtMostOnce if self.block => Some("--block needs --qos 1 or 2: with qos 0 nothing is kept"),
            _ => None,
        };
        if let Some(why) = conflict {
            Cli::command().error(ErrorKind::ArgumentConflict, why).exit();
        }
        let Self { stream, class, qos, wait, block, timeout, from, .. } = self;
        let request = Request { stream, class, qos, live, block, wait };
        let mut told = Report::default();
        let socket = daemon(&from.sources()).map(|paths| agent::socket(&paths));
        let ended = socket
            .and_then(|socket| block_on(converse(&socket, &request, timeout.map(Span::get), &mut told)));
        let acknowledged = if wait { format!(", {} acknowledged", told.acknowledged) } else { String::new() };
        let printed = print(&format!("{} lines on disk{acknowledged}\n", told.on_disk));
        let complaints = complaints(&told, &request);
        complaints.iter().chain(&remark(&told, &request)).for_each(|line| report(&anyhow!("{line}")));
        // That nobody reads the count must not hide why there is less of it.
        ended?;
        if complaints.is_empty() { printed.map(|()| ExitCode::SUCCESS) } else { Ok(ExitCode::FAILURE) }
    }
}

/// What keeps lines that were taken from being where they should be.
fn complaints(told: &Report, request: &Request) -> Vec<String> {
    let Report { refused, in_memory, dropped, failed, .. } = *told;
    let why = told.degraded.as_deref().unwrap_or("the disk could not be written for a while");
    let counted = [
        (refused, "refused".to_owned()),
        (in_memory, format!("only in memory, not on disk: {why}")),
        (dropped, "dropped: there was no room".to_owned()),
        (if request.wait { failed } else { 0 }, LATER.to_owned()),
    ];
    let counted = counted.into_iter().filter(|(count, _)| *count > 0);
    let mut complaints: Vec<_> = counted.map(|(count, what)| format!("{count} lines {what}")).collect();
    if request.live && told.sent < told.lines {
        complaints.push(format!("{} of {} lines sent", told.sent, told.lines));
    }
    complaints
}

const LATER: &str = "dropped later to make room, or refused by the broker";

/// What became of lines after they were on disk, where that was all that was asked for.
fn remark(told: &Report, request: &Request) -> Option<String> {
    (told.failed > 0 && !request.wait).then(|| format!("{} lines {LATER}; they are counted", told.failed))
}

/// Sends everything and reads what comes back, which is left in `told`. An error: not all of it was done, or nobody
/// knows.
async fn converse(
    socket: &Path,
    request: &Request,
    timeout: Option<Duration>,
    told: &mut Report,
) -> anyhow::Result<()> {
    let stream = control::connect(socket)?;
    stream.set_nonblocking(true).context("use the agent's socket")?;
    let (input, output) = UnixStream::from_std(stream).context("use the agent's socket")?.into_split();
    let (mut replies, mut line) = (BufReader::new(input), Vec::new());
    let mut feeding = Some(Box::pin(feed(output, request)));
    let (mut deadline, mut failed) = (None, None);
    let mut signals = Signals::catch().context("catch signals")?;
    loop {
        tokio::select! {
            reply = receive(&mut replies, &mut line) => match reply? {
                Reply::Progress(report) => *told = report,
                Reply::Refused { line, reason } => report(&anyhow!("line {line}: {reason}")),
                Reply::Ok(report) => {
                    *told = report;
                    return failed.map_or(Ok(()), Err);
                }
                Reply::Error(why) => bail!("the agent says: {why}"),
            },
            fed = async { feeding.as_mut().expect("is being fed").await }, if feeding.is_some() => {
                feeding = None;
                failed = fed.err().map(|error| anyhow!(error).context("read standard input"));
                deadline = timeout.map(|timeout| Instant::now() + timeout);
            }
            () = signals.any() => {
                // Nothing more is sent; the daemon says how far it is with what it has.
                if feeding.take().is_none() {
                    bail!("interrupted");
                }
                failed = Some(anyhow!("interrupted"));
                deadline = Some(Instant::now() + LAST_WORD);
            }
            () = async { sleep_until(deadline.expect("there is one")).await }, if deadline.is_some() => {
                return Err(failed.unwrap_or_else(|| {
                    anyhow!("not all is acknowledged in time; what is on disk will still be sent")
                }));
            }
        }
    }
}

struct Signals(Signal, Signal);

impl Signals {
    fn catch() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}

/// The next reply; `line` holds what has come of it, should the wait be broken off.
async fn receive(replies: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> anyhow::Result<Reply> {
    let read = replies.take(MAX_REPLY).read_until(b'\n', line).await;
    if read.is_err() || !line.ends_with(b"\n") {
        bail!("the agent went away: what it has not confirmed may be lost");
    }
    let reply = serde_json::from_slice(line).context("read the agent's reply")?;
    line.clear();
    Ok(reply)
}

/// Sends the request and all of standard input, and gives the last line an end if it has none. That the daemon
/// takes no more is no error here: its replies say why.
async fn feed(mut output: OwnedWriteHalf, request: &Request) -> io::Result<()> {
    let mut head = serde_json::to_vec(&control::Command::Publish(request.clone()))?;
    head.push(b'\n');
    if output.write_all(&head).await.is_err() {
        return Ok(());
    }
    let (mut input, mut last) = (standard_input()?, b'\n');
    while let Some(bytes) = input.recv().await {
        let bytes = bytes?;
        last = bytes.last().copied().unwrap_or(last);
        if output.write_all(&bytes).await.is_err() {
            return Ok(());
        }
    }
    if last != b'\n' {
        drop(output.write_all(b"\n").await);
    }
    Ok(())
}

/// From a thread that is left behind when nobody listens any more: no read can be called off.
fn standard_input() -> io::Result<mpsc::Receiver<io::Result<Vec<u8>>>> {
    let (sender, receiver) = mpsc::channel(2);
    let read = move || {
        loop {
            let mut buffer = vec![0; READ];
            let read = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    buffer.truncate(length);
                    Ok(buffer)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".to_owned()).spawn(read)?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{super::Command, *};

    fn parse(arguments: &str) -> Result<Publish, clap::Error> {
        let cli = Cli::try_parse_from(format!("iot-agent publish {arguments}").split(' '))?;
        match cli.command {
            Command::Publish(publish) => Ok(publish),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_cannot_be_is_wrong_usage() {
        for wrong in [
            "",
            "a/b",
            "Door",
            "room --qos 3",
            "room --qos x",
            "room --class low",
            "room --timeout 5s",
            "room --wait --timeout soon",
            "room --wait --timeout -1s",
            "room --block --live",
            "room more",
        ] {
            assert_eq!(parse(wrong.trim_end()).unwrap_err().exit_code(), 2, "{wrong}");
        }
        let publish = parse("room --wait --timeout 90 --qos 2 --class event").unwrap();
        assert_eq!(publish.timeout.unwrap().get(), Duration::from_secs(90));
        assert_eq!((publish.qos, publish.class), (Qos::ExactlyOnce, Class::Event));
        assert_eq!(parse("room --wait --timeout 1m30s").unwrap().timeout, publish.timeout);
    }

    /// Only what is on disk, all of it and still, is silent success.
    #[test]
    fn whatever_is_not_on_disk_is_told() {
        let mut request = Request {
            stream: "room".parse().unwrap(),
            class: Class::Metrics,
            qos: Qos::AtLeastOnce,
            live: false,
            block: false,
            wait: false,
        };
        let fine = Report { lines: 3, on_disk: 3, ..Report::default() };
        assert!(complaints(&fine, &request).is_empty());
        let full = Some("no space left".to_owned());
        for (told, expected) in [
            (Report { refused: 1, on_disk: 2, ..fine.clone() }, "1 lines refused"),
            (
                Report { in_memory: 2, on_disk: 1, degraded: full, ..fine.clone() },
                "2 lines only in memory, not on disk: no space left",
            ),
            (Report { dropped: 3, on_disk: 0, ..fine.clone() }, "3 lines dropped: there was no room"),
        ] {
            assert_eq!(complaints(&told, &request), [expected]);
            assert_eq!(remark(&told, &request), None);
        }
        let later = Report { failed: 1, ..fine.clone() };
        assert!(complaints(&later, &request).is_empty() && remark(&later, &request).is_some());
        request.wait = true;
        assert!(!complaints(&later, &request).is_empty() && remark(&later, &request).is_none());
        request.wait = false;
        request.live = true;
        assert_eq!(complaints(&Report { sent: 2, ..fine.clone() }, &request), ["2 of 3 lines sent"]);
        assert!(complaints(&Report { sent: 3, on_disk: 0, ..fine }, &request).is_empty());
    }
}
