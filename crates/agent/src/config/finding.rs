//! What there is to say about a configuration, and where it was written.

use std::fmt;

use super::node::At;

/// One remark on the configuration: `FILE:LINE:COLUMN: dotted.key: message`, on one line.
#[derive(Clone, Debug)]
pub struct Finding {
    at: At,
    path: String,
    message: String,
}

/// A [`Finding`] that does not keep the configuration from being used.
pub type Notice = Finding;

impl Finding {
    pub(super) fn new(at: &At, path: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { at: at.clone(), path: one_line(path.into()), message: one_line(message.into()) }
    }
}

/// A key of YAML may hold anything, line ends too.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    let visible = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(visible).collect()
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.at)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration, in the order of the layers and their lines; one line each.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.lines())]
pub struct Error {
    problems: Vec<Finding>,
}

impl Error {
    pub(super) fn new(mut problems: Vec<Finding>) -> Self {
        sort(&mut problems);
        Error { problems }
    }

    pub(super) fn into_problems(self) -> Vec<Finding> {
        self.problems
    }

    fn lines(&self) -> String {
        self.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

/// By layer and line.
pub(super) fn sort(findings: &mut [Finding]) {
    findings.sort_by_key(|finding| finding.at.order());
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Report {
    pub(super) notices: Vec<Notice>,
    pub(super) problems: Vec<Finding>,
}

impl Report {
    pub(super) fn notice(&mut self, at: &At, path: impl Into<String>, message: impl Into<String>) {
        self.notices.push(Finding::new(at, path, message));
    }

    pub(super) fn problem(&mut self, at: &At, path: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Finding::new(at, path, message));
    }
}

/// The one of `known` that was probably meant by `word`.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let part = |a: &str, b: &str| b.len() > 2 && a.contains(b);
    let distance = |name: &str| strsim::damerau_levenshtein(word, name);
    let close = |name: &&str| {
        part(word, name) || part(name, word) || distance(name) <= (name.chars().count() / 3).max(1)
    };
    known.into_iter().filter(close).min_by_key(|name| (distance(name), *name))
}

/// What to append to "unknown": the nearest of `known`, or all of them.
pub(super) fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    known.dedup();
    match nearest(word, known.iter().copied()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{one_line, suggestion};

    #[test]
    fn a_finding_is_one_line_whatever_the_key() {
        assert_eq!(one_line("mqtt.é\n\u{1b}[2J: x".to_owned()), "mqtt.é\\n\\u{1b}[2J: x");
    }

    #[test]
    fn a_near_miss_gets_one_name_and_a_far_one_all() {
        assert_eq!(suggestion("intervall", ["qos", "interval"]), "did you mean `interval`?");
        assert_eq!(suggestion("qso", ["qos", "topic"]), "did you mean `qos`?");
        assert_eq!(suggestion("warning", ["error", "warn"]), "did you mean `warn`?");
        assert_eq!(suggestion("hmac", ["plain", "psk-hmac"]), "did you mean `psk-hmac`?");
        assert_eq!(suggestion("", ["qos"]), "known here: qos");
        assert_eq!(suggestion("colour", ["qos", "interval"]), "known here: interval, qos");
    }
}
