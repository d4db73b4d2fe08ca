//! How a command has ended, and what of its output fits into a message.

use protocol::{
    Timestamp,
    command::{Output, Report, State},
};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::executor::{self, End, Kept, Piece};

/// What a payload takes beside output, topic and ids: keys, time, numbers, a short message.
pub(super) const AROUND: usize = 1024;

/// An end as it is written down and told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// It is told as bare text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) bare: bool,
    #[serde(flatten)]
    pub(crate) report: Report,
}

impl Outcome {
    /// What was written, and where that does not say it: how it ended.
    pub(super) fn text(&self) -> String {
        let Report { output, status, message, .. } = &self.report;
        let mut text =
            output.stdout.clone().unwrap_or_default() + output.stderr.as_deref().unwrap_or_default();
        let mut say = |line: String| {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&line);
            text.push('\n');
        };
        let dropped = output.stdout_dropped.unwrap_or(0) + output.stderr_dropped.unwrap_or(0);
        if dropped > 0 {
            say(format!("[{dropped} bytes are left out of the middle]"));
        }
        match (status, message) {
            (State::Success, _) => {}
            (State::Failed, None) if output.stdout.is_some() && dropped == 0 => {
                if self.wrote_nothing() {
                    say(self.summary());
                }
            }
            (_, Some(message)) => say(format!("{}: {message}", name(*status))),
            (_, None) => say(self.summary()),
        }
        text
    }

    fn wrote_nothing(&self) -> bool {
        let empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
        empty(&self.report.output.stdout) && empty(&self.report.output.stderr)
    }

    /// In a few words, without output.
    pub(super) fn summary(&self) -> String {
        let Report { status, exit_code, signal, message, .. } = &self.report;
        let how = match (exit_code, signal, message) {
            (_, _, Some(message)) => format!(": {message}"),
            (Some(code), ..) => format!(": exit code {code}"),
            (_, Some(signal), _) => format!(": signal {signal}"),
            _ => String::new(),
        };
        format!("{}{how}", name(*status))
    }
}

/// As it stands in payloads.
pub(crate) fn name(state: State) -> String {
    let json = serde_json::to_value(state).ok();
    json.and_then(|json| json.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The report of what has ended; its output may take `room` bytes in the payload.
pub(super) fn report(ended: executor::Report, room: usize, now: Timestamp) -> Report {
    let executor::Report { end, stdout, stderr, duration } = ended;
    let mut report = Report::of(State::Failed, now);
    report.duration_ms = Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    if !matches!(end, End::Failed(_)) {
        report.output = fit(&stdout, &stderr, room);
    }
    match end {
        End::Exited(code) => {
            report.exit_code = Some(code);
            report.status = if code == 0 { State::Success } else { State::Failed };
        }
        End::Signaled(signal) => report.signal = Some(signal),
        End::TimedOut => report.status = State::TimedOut,
        End::Cancelled => report.status = State::Cancelled,
        End::Interrupted => report.status = State::Interrupted,
        End::Lost => {
            report.status = State::Interrupted;
            report.message =
                Some("what watched over it was killed, perhaps by the command itself".to_owned());
        }
        End::Failed(why) => report.message = Some(why),
    }
    report
}

/// As much as fits of each stream, by halving what is kept of both.
fn fit(stdout: &Kept, stderr: &Kept, room: usize) -> Output {
    let output = |keep: usize| {
        let ((out, out_dropped, out_lossy), (err, err_dropped, err_lossy)) =
            (text(stdout, keep), text(stderr, keep));
        let encoded = encoded(&out) + encoded(&err);
        let some = |dropped: u64| (dropped > 0).then_some(dropped);
        let output = Output {
            stdout: Some(out),
            stderr: Some(err),
            stdout_dropped: some(out_dropped),
            stderr_dropped: some(err_dropped),
            lossy: out_lossy || err_lossy,
        };
        (output, encoded)
    };
    let length = |kept: &Kept| kept.head.len() + kept.tail.len();
    let all = length(stdout).max(length(stderr));
    let (whole, encoded) = output(all);
    if encoded <= room {
        return whole;
    }
    // The most that fits is between these two.
    let (mut fits, mut fails) = (0, all);
    while fails - fits > 1 {
        let middle = fits + (fails - fits) / 2;
        if output(middle).1 <= room { fits = middle } else { fails = middle }
    }
    output(fits).0
}

/// Bytes it takes in JSON.
fn encoded(text: &str) -> usize {
    serde_json::to_string(text).map_or(usize::MAX / 4, |json| json.len())
}

/// At most `keep` bytes of it from both ends, how many are left out between, and whether some were no UTF-8.
fn text(kept: &Kept, keep: usize) -> (String, u64, bool) {
    if kept.dropped == 0 && kept.head.len() + kept.tail.len() <= keep {
        let (text, lossy) = decode(&kept.joined());
        return (text, 0, lossy);
    }
    let all = kept.joined();
    let (head, tail) = if kept.dropped == 0 {
        all.split_at(all.len().div_ceil(2))
    } else {
        (&kept.head[..], &kept.tail[..])
    };
    let head = &head[..head.len().min(keep.div_ceil(2))];
    let tail = &tail[tail.len() - tail.len().min(keep / 2)..];
    // Characters that the cut has gone through.
    let head = &head[..head.len() - begun(head)];
    let tail = &tail[tail.iter().take(3).take_while(|byte| **byte & 0xc0 == 0x80).count()..];
    let dropped = kept.dropped + (all.len() - head.len() - tail.len()) as u64;
    let ((head, head_lossy), (tail, tail_lossy)) = (decode(head), decode(tail));
    (head + &tail, dropped, head_lossy || tail_lossy)
}

/// Bytes at the end that are the beginning of a character.
fn begun(bytes: &[u8]) -> usize {
    let length = |byte: u8| match byte {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => 0,
    };
    (1..=bytes.len().min(3)).find(|back| length(bytes[bytes.len() - back]) > *back).unwrap_or(0)
}

fn decode(bytes: &[u8]) -> (String, bool) {
    match str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), true),
    }
}

/// Output that is sent while a command runs.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    number: u64,
    /// Of each stream, the beginning of a character whose rest has not come yet.
    rest: [Vec<u8>; 2],
}

impl Pieces {
    /// The next piece, as a report; its output may take `room` bytes in the payload.
    pub(super) fn next(&mut self, report: Report, stdout: Piece, stderr: Piece, room: usize) -> Report {
        let [out, err] = &mut self.rest;
        let ((out, out_dropped, out_lossy), (err, err_dropped, err_lossy)) =
            (piece(out, stdout, room / 2), piece(err, stderr, room / 2));
        let chunk = Some(self.number);
        self.number += 1;
        let output = Output {
            stdout: out,
            stderr: err,
            stdout_dropped: out_dropped,
            stderr_dropped: err_dropped,
            lossy: out_lossy || err_lossy,
        };
        Report { chunk, output, ..report }
    }

    /// What is left of characters whose rest never came.
    pub(super) fn last(&mut self, report: Report) -> Option<Report> {
        let [out, err] = std::mem::take(&mut self.rest).map(|rest| decode(&rest).0);
        let some = |text: String| (!text.is_empty()).then_some(text);
        let output = Output { stdout: some(out), stderr: some(err), lossy: true, ..Output::default() };
        let any = output.stdout.is_some() || output.stderr.is_some();
        any.then_some(Report { chunk: Some(self.number), output, ..report })
    }
}

fn piece(
    rest: &mut Vec<u8>,
    Piece { bytes, mut dropped }: Piece,
    room: usize,
) -> (Option<String>, Option<u64>, bool) {
    rest.extend(bytes);
    while !rest.is_empty() && encoded(&decode(rest).0) > room {
        let half = rest.len() / 2;
        let half = half - begun(&rest[..half]);
        dropped += (rest.len() - half) as u64;
        rest.truncate(half);
    }
    // What follows a gap is not its rest.
    let kept = if dropped == 0 { begun(rest) } else { 0 };
    let next = rest.split_off(rest.len() - kept);
    let (text, lossy) = decode(&std::mem::replace(rest, next));
    ((!text.is_empty()).then_some(text), (dropped > 0).then_some(dropped), lossy)
}

/// The same without output; its bytes count as dropped.
pub(super) fn brief(outcome: &RawValue) -> Box<RawValue> {
    let Ok(mut parsed) = serde_json::from_str::<Outcome>(outcome.get()) else {
        return RawValue::NULL.to_owned();
    };
    let report = &mut parsed.report;
    let output = std::mem::take(&mut report.output);
    let left = |text: Option<String>, dropped: Option<u64>| {
        Some(text.map_or(0, |text| text.len() as u64) + dropped.unwrap_or(0)).filter(|bytes| *bytes > 0)
    };
    report.output.stdout_dropped = left(output.stdout, output.stdout_dropped);
    report.output.stderr_dropped = left(output.stderr, output.stderr_dropped);
    if let Some(message) = &mut report.message {
        message.truncate(message.floor_char_boundary(64));
    }
    to_raw_value(&parsed).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

#[cfg(test)]
mod tests;
