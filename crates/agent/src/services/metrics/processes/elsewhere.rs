//! Where there is no `/proc`: nothing is known of processes, and so nothing is said of them.

use std::{collections::BTreeMap, time::Duration};

use super::{Selector, Wanted};
use crate::services::metrics::{files::Root, sample::Process};

/// The processes of a list of selectors: not available here.
#[derive(Debug)]
pub(crate) struct Processes;

impl Processes {
    /// Says once that there will be none.
    pub(crate) fn new(_: &Root, selectors: Vec<Selector>, _: Wanted) -> Self {
        if !selectors.is_empty() {
            tracing::warn!("processes are watched on Linux only");
        }
        Self
    }

    /// Leaves none in `into`: "unknown" is not "none runs".
    pub(crate) fn collect(&mut self, _: Option<Duration>, into: &mut BTreeMap<String, Process>) {
        into.clear();
    }

    /// Nothing to look at.
    pub(crate) fn look_again(&mut self) {}
}
