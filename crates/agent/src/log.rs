//! Where log lines go: text on a terminal, fields to journald under systemd, a JSON object a line elsewhere. The
//! same fields under the same names in each.
//!
//! Make spans whose fields belong into lines (`service = …`) at error level: a span below the level is not there,
//! and its fields with it. The journal is never waited for: what it does not take at once goes to standard error. No
//! value is longer than [`MAX_VALUE`].

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::iter::successors;
use std::path::Path;
use std::time::SystemTime;

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

pub use crate::config::{Format, Level};
use fields::Fields;
use journal::Journal;
use line::Line;

mod fields;
mod journal;
mod line;

pub use fields::MAX_VALUE;

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

/// Changes the log while the agent runs.
#[derive(Clone)]
pub struct Handle {
    level: reload::Handle<LevelFilter, Registry>,
    format: Format,
}

/// A log was there before.
#[derive(Debug, thiserror::Error)]
#[error("the log is already set up")]
pub struct AlreadySet;

/// Sends the log of this process to where `format` says, with `now` as the time of its lines.
pub fn init(
    format: Format,
    level: Level,
    now: impl Fn() -> SystemTime + Send + Sync + 'static,
) -> Result<Handle, AlreadySet> {
    let (sink, chosen) = Sink::choose(format);
    let (threshold, level) = reload::Layer::new(filter(level));
    let subscriber =
        Registry::default().with(threshold).with(Lines { put: move |line: &Line<'_>| sink.put(line), now });
    tracing::subscriber::set_global_default(subscriber).map_err(|_| AlreadySet)?;
    if format == Format::Journald && chosen != Format::Journald {
        tracing::warn!("there is no journal: logging as JSON");
    }
    Ok(Handle { level, format: chosen })
}

impl Handle {
    /// Shows more or less from now on.
    pub fn set_level(&self, level: Level) {
        if self.level.reload(filter(level)).is_err() {
            tracing::error!("the log's level cannot be changed any more");
        }
    }

    /// The format in use, never [`Format::Auto`].
    pub fn format(&self) -> Format {
        self.format
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("format", &self.format).finish_non_exhaustive()
    }
}

enum Sink {
    Text { colour: bool },
    Json,
    Journal(Journal),
}

impl Sink {
    fn choose(format: Format) -> (Self, Format) {
        let terminal = io::stderr().is_terminal();
        let wanted = match format {
            Format::Auto if journal::is_stderr() => Format::Journald,
            Format::Auto if terminal => Format::Text,
            Format::Auto => Format::Json,
            chosen => chosen,
        };
        match wanted {
            Format::Text => (Self::Text { colour: terminal && colours_wanted() }, Format::Text),
            Format::Journald => match Journal::open(Path::new(journal::SOCKET)) {
                Ok(journal) => (Self::Journal(journal), Format::Journald),
                Err(_) => (Self::Json, Format::Json),
            },
            Format::Json | Format::Auto => (Self::Json, Format::Json),
        }
    }

    fn put(&self, line: &Line<'_>) {
        match self {
            Self::Text { colour } => to_stderr(&line.text(*colour)),
            Self::Json => to_stderr(&line.json()),
            Self::Journal(journal) => {
                if journal.send(&line.journal()).is_err() {
                    // systemd reads this too, as long as there is a journal at all.
                    to_stderr(&line.text(false));
                }
            }
        }
    }
}

/// <https://no-color.org>
fn colours_wanted() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

fn to_stderr(line: &str) {
    // In one write, so that lines of two processes do not mix. With nobody to read it there is nobody to tell.
    io::stderr().lock().write_all(line.as_bytes()).ok();
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The layer that makes lines out of events.
struct Lines<P, N> {
    put: P,
    now: N,
}

impl<S, P, N> Layer<S> for Lines<P, N>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    P: Fn(&Line<'_>) + Send + Sync + 'static,
    N: Fn() -> SystemTime + Send + Sync + 'static,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(of_span) = span.extensions().get::<Fields>() {
                fields.extend(of_span);
            }
        }
        event.record(&mut fields);
        let metadata = event.metadata();
        let line =
            Line { time: (self.now)(), level: *metadata.level(), target: metadata.target(), fields: &fields };
        (self.put)(&line);
    }
}

#[cfg(test)]
mod tests;
