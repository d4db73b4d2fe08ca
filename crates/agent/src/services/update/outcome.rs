//! How an update ended, as it is kept and told.

use protocol::update::Report;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// Bytes of a reason that are kept for long.
const REASON: usize = 200;

/// The end of an update.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Outcome(pub(super) Report);

impl Outcome {
    /// For the audit.
    pub(super) fn summary(&self) -> String {
        let Report { state, version, error, .. } = &self.0;
        let version = version.as_deref().unwrap_or("?");
        match error {
            Some(error) => format!("{} {version}: {error}", state.name()),
            None => format!("{} {version}", state.name()),
        }
    }
}

/// The same with the beginning of its reason.
pub(super) fn brief(outcome: &RawValue) -> Box<RawValue> {
    let read = serde_json::from_str::<Outcome>(outcome.get());
    let Ok(Outcome(mut report)) = read else { return outcome.to_owned() };
    if let Some(error) = &mut report.error {
        error.truncate(error.floor_char_boundary(REASON));
    }
    to_raw_value(&Outcome(report)).unwrap_or_else(|_| outcome.to_owned())
}
