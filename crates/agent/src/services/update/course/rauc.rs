//! Bundles that RAUC installs.

use protocol::update::State;

use super::{Course, Next};
use crate::services::update::{Updater, installer::Unpacked, record::Record};

impl Updater {
    /// Hands the bundle to RAUC.
    pub(super) async fn install_bundle(
        &self,
        _course: &mut Course<'_>,
        _record: &mut Record,
        _package: &Unpacked,
    ) -> Next {
        Next::End(State::Failed, Some("bundles of RAUC are not supported yet".to_owned()))
    }

    pub(super) async fn bundle_arrived(
        &self,
        _course: &mut Course<'_>,
        _record: &mut Record,
    ) -> Option<Next> {
        None
    }

    pub(super) async fn commit_bundle(&self, _course: &mut Course<'_>, _record: &mut Record) -> Option<Next> {
        None
    }

    pub(super) async fn restore_bundle(&self, _course: &mut Course<'_>, record: &mut Record) -> Next {
        Next::End(State::Failed, record.why.clone())
    }
}
