//! What an update module can be asked for, by the names of version 3 of Mender's file API.

use serde::{Deserialize, Serialize};

/// The first argument of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::services::update) enum Verb {
    /// A question: whether `stream-next` is to tell sizes, too.
    ProvidePayloadFileSizes,
    /// To take the files.
    Download,
    /// The same, with their sizes.
    DownloadWithFileSizes,
    /// A question: whether it can take back what it does.
    SupportsRollback,
    /// To make them what is in use.
    ArtifactInstall,
    /// A question: whether something has to be restarted for it.
    NeedsArtifactReboot,
    /// To restart what has to be.
    ArtifactReboot,
    /// Whether that was restarted as it should be.
    ArtifactVerifyReboot,
    /// To make it what stays.
    ArtifactCommit,
    /// To take it back.
    ArtifactRollback,
    /// To restart once more for that.
    ArtifactRollbackReboot,
    /// Whether that has worked.
    ArtifactVerifyRollbackReboot,
    /// It has failed, and was taken back if that can be.
    ArtifactFailure,
    /// To remove what it has put anywhere meanwhile; the last in any case.
    Cleanup,
}

impl Verb {
    /// All of them.
    pub(super) const ALL: [Self; 14] = [
        Self::ProvidePayloadFileSizes,
        Self::Download,
        Self::DownloadWithFileSizes,
        Self::SupportsRollback,
        Self::ArtifactInstall,
        Self::NeedsArtifactReboot,
        Self::ArtifactReboot,
        Self::ArtifactVerifyReboot,
        Self::ArtifactCommit,
        Self::ArtifactRollback,
        Self::ArtifactRollbackReboot,
        Self::ArtifactVerifyRollbackReboot,
        Self::ArtifactFailure,
        Self::Cleanup,
    ];

    /// As the module hears it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ProvidePayloadFileSizes => "ProvidePayloadFileSizes",
            Self::Download => "Download",
            Self::DownloadWithFileSizes => "DownloadWithFileSizes",
            Self::SupportsRollback => "SupportsRollback",
            Self::ArtifactInstall => "ArtifactInstall",
            Self::NeedsArtifactReboot => "NeedsArtifactReboot",
            Self::ArtifactReboot => "ArtifactReboot",
            Self::ArtifactVerifyReboot => "ArtifactVerifyReboot",
            Self::ArtifactCommit => "ArtifactCommit",
            Self::ArtifactRollback => "ArtifactRollback",
            Self::ArtifactRollbackReboot => "ArtifactRollbackReboot",
            Self::ArtifactVerifyRollbackReboot => "ArtifactVerifyRollbackReboot",
            Self::ArtifactFailure => "ArtifactFailure",
            Self::Cleanup => "Cleanup",
        }
    }

    /// The file in which how it ended is left, should this process die. One for each: what an earlier one has left must not
    /// be taken for the end of the next.
    pub(super) fn spool(self) -> String {
        format!("module-{}", self.as_str())
    }
}

/// What has to be restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::services::update) enum Reboot {
    /// Nothing.
    No,
    /// Something that the module itself restarts.
    Yes,
    /// This machine.
    Automatic,
}

impl Reboot {
    /// The answer to [`Verb::NeedsArtifactReboot`]; nothing is no.
    pub(super) fn answered(said: &str) -> Option<Self> {
        match said {
            "" | "No" => Some(Self::No),
            "Yes" => Some(Self::Yes),
            "Automatic" => Some(Self::Automatic),
            _ => None,
        }
    }
}

/// The answer to any other question; nothing is no.
pub(super) fn answered(said: &str) -> Option<bool> {
    match said {
        "" | "No" => Some(false),
        "Yes" => Some(true),
        _ => None,
    }
}

/// How far a module is. On the disk before each verb runs, and after it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(in crate::services::update) struct Progress {
    /// What was begun, and how it ended is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) now: Option<Verb>,
    /// During which boot of the machine that was begun.
    #[serde(default)]
    pub(super) boot_id: String,
    /// What was ever begun.
    #[serde(default)]
    pub(super) begun: Vec<Verb>,
    /// What ended well.
    #[serde(default)]
    pub(super) done: Vec<Verb>,
    /// Whether it can take back what it does, once it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rollback: Option<bool>,
    /// What it needs restarted, once it has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reboot: Option<Reboot>,
    /// During which boot of the machine a restart was asked for.
    #[serde(default)]
    pub(super) restarted_from: String,
    /// How often a restart was tried for going back.
    #[serde(default)]
    pub(super) restarts: u32,
    /// Something of the way back failed.
    #[serde(default)]
    pub(super) stuck: bool,
}

impl Progress {
    /// It is about to be asked for this.
    pub(super) fn begin(&mut self, verb: Verb, boot_id: &str) {
        self.now = Some(verb);
        boot_id.clone_into(&mut self.boot_id);
        if !self.begun.contains(&verb) {
            self.begun.push(verb);
        }
    }

    /// That has ended; well, or not.
    pub(super) fn end(&mut self, verb: Verb, well: bool) {
        self.now = None;
        if well && !self.done.contains(&verb) {
            self.done.push(verb);
        }
    }

    /// It was begun at some time.
    pub(super) fn has_begun(&self, verb: Verb) -> bool {
        self.begun.contains(&verb)
    }

    /// It has ended well.
    pub(super) fn has_done(&self, verb: Verb) -> bool {
        self.done.contains(&verb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answers_of_the_protocol_are_answers() {
        assert_eq!(
            ["", "No", "Yes", "yes", "Yes.", "Automatic"].map(answered),
            [Some(false), Some(false), Some(true), None, None, None]
        );
        assert_eq!(
            ["", "Yes", "Automatic", "no"].map(Reboot::answered),
            [Some(Reboot::No), Some(Reboot::Yes), Some(Reboot::Automatic), None]
        );
    }

    #[test]
    fn a_verb_is_called_as_it_is_written_down() {
        for verb in Verb::ALL {
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.as_str());
        }
    }
}
