//! Packages that an update module of the device installs.

use protocol::update::State;

use super::{Course, Next};
use crate::services::update::{Updater, installer::Unpacked, record::Record};

impl Updater {
    /// Has the module take the files and install them.
    pub(super) async fn install_module(
        &self,
        _course: &mut Course<'_>,
        _record: &mut Record,
        _package: &Unpacked,
    ) -> Next {
        Next::End(State::Failed, Some("update modules are not supported yet".to_owned()))
    }

    /// The module, or the machine's own command, restarts the machine.
    pub(super) async fn restart_for_module(
        &self,
        _course: &Course<'_>,
        _record: &mut Record,
    ) -> Result<(), String> {
        Ok(())
    }

    pub(super) async fn module_arrived(
        &self,
        _course: &mut Course<'_>,
        _record: &mut Record,
    ) -> Option<Next> {
        None
    }

    pub(super) async fn commit_module(&self, _course: &mut Course<'_>, _record: &mut Record) -> Option<Next> {
        None
    }

    pub(super) async fn restore_module(&self, _course: &mut Course<'_>, record: &mut Record) -> Next {
        Next::End(State::Failed, record.why.clone())
    }

    pub(super) async fn clean_module(&self, _course: &Course<'_>, _record: &mut Record) {}
}
