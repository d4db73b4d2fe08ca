//! How a tunnel has ended.

use protocol::ssh::Report;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// Somebody asked for its end.
pub(super) const REQUESTED: &str = "requested";
/// Its time was over.
pub(super) const TTL: &str = "ttl";
/// Nothing was connected through it for long.
pub(super) const IDLE: &str = "idle";
/// The service was ended.
pub(super) const SHUTDOWN: &str = "shutdown";
/// The agent was gone, and the tunnel with it.
pub(super) const INTERRUPTED: &str = "interrupted";

/// How much of a reason is kept for long.
const BRIEF: usize = 64;

/// An end as it is written down and told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    #[serde(flatten)]
    pub(crate) report: Report,
    /// Of one that was, or may have been, open: who else is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) server_id: Option<String>,
}

impl Outcome {
    /// Of one that never was open.
    pub(super) fn of(report: Report) -> Self {
        Self { report, server_id: None }
    }

    /// In a few words.
    pub(super) fn summary(&self) -> String {
        let Report { state, reason, bytes_in, bytes_out, duration_ms, .. } = &self.report;
        let reason = reason.as_deref().unwrap_or_default();
        match duration_ms {
            Some(ms) => format!("{}: {reason}; {bytes_in} bytes in, {bytes_out} out, {ms} ms", state.name()),
            None => format!("{}: {reason}", state.name()),
        }
    }
}

/// The same with less of a long reason.
pub(super) fn brief(outcome: &RawValue) -> Box<RawValue> {
    let Ok(mut parsed) = serde_json::from_str::<Outcome>(outcome.get()) else {
        return RawValue::NULL.to_owned();
    };
    if let Some(reason) = &mut parsed.report.reason {
        reason.truncate(reason.floor_char_boundary(BRIEF));
    }
    to_raw_value(&parsed).unwrap_or_else(|_| RawValue::NULL.to_owned())
}
