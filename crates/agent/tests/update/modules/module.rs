//! The suite's own module, in the style of one that installs a single file, and a device that has it.

use std::{fs, path::PathBuf};

use serde_json::Value;

use crate::story::Story;

/// The verbs that come before `ArtifactInstall`.
pub(super) const BEFORE: usize = 3;
/// The verbs after a failure.
pub(super) const AFTER: &[&str] = &["ArtifactFailure", "Cleanup"];

/// It writes down each verb, answers what lies beside it, does once what it finds for a verb there, and its work.
const SCRIPT: &str = r#"#!/bin/sh
set -e
HOME={home}
[ "$2" = "$(pwd)" ] && [ $# = 2 ] || exit 90
echo "$1" >> $HOME/asked
if [ -e $HOME/always-$1 ]; then . $HOME/always-$1; fi
if [ -e $HOME/do-$1 ]; then mv $HOME/do-$1 $HOME/did; . $HOME/did; fi
put() {
    cp "$1" "$2.new"; sync "$2.new"; mv "$2.new" "$2"; sync "$(dirname "$2")"
}
case "$1" in
ProvidePayloadFileSizes | NeedsArtifactReboot | SupportsRollback)
    if [ -e $HOME/say-$1 ]; then cat $HOME/say-$1; fi ;;
ArtifactInstall)
    if [ -e $HOME/installed ]; then put $HOME/installed tmp/backup
    else touch tmp/none; sync tmp; fi
    put files/version $HOME/installed ;;
ArtifactRollback)
    if [ -e tmp/backup ]; then put tmp/backup $HOME/installed
    elif [ -e tmp/none ]; then rm -f $HOME/installed; fi ;;
esac
"#;

pub(super) struct Module {
    pub(super) story: Story,
}

impl Module {
    /// A device with it, and further keys of the service.
    pub(super) async fn begin(more: &str) -> Self {
        let health = if more.contains("health:") { "" } else { ", health: {timeout: 20s}" };
        let story = Story::begin(&format!(
            ", modules_path: '{{home}}/modules', reboot_command: 'echo reboot >> {{home}}/reboots'{health}{more}"
        ))
        .await;
        let home = story.home.path().to_str().unwrap().to_owned();
        fs::create_dir(story.home.path().join("modules")).unwrap();
        story.home.file("modules/single-file", &SCRIPT.replace("{home}", &home), 0o755);
        story.builder.write("meta", r#"{"to": "installed"}"#, 0o644);
        Self { story }
    }

    /// A package for it.
    pub(super) fn package(&self, version: &str, files: &[(&str, &str)]) -> PathBuf {
        let more = ["--kind", "module", "--module", "single-file", "--meta-data", "meta"];
        self.story.builder.package(version, files, &more)
    }

    pub(super) async fn ask(&self, id: &str, version: &str) {
        self.story.ask(id, version, &self.package(version, &[])).await;
    }

    pub(super) async fn update(&self, id: &str, version: &str) -> Value {
        self.ask(id, version).await;
        self.end(id).await
    }

    /// Waits for its end, and until nothing of it is left.
    pub(super) async fn end(&self, id: &str) -> Value {
        let end = self.story.end(id).await;
        crate::story::until("it is cleaned up", || !self.tree().exists()).await;
        end
    }

    pub(super) fn states(&self, id: &str) -> Vec<String> {
        self.story.states(id)
    }

    /// The answer to a question.
    pub(super) fn says(&self, verb: &str, answer: &str) {
        self.story.home.file(&format!("say-{verb}"), &format!("{answer}\n"), 0o644);
    }

    /// What it does the next time.
    pub(super) fn does(&self, verb: &str, script: &str) {
        self.story.home.file(&format!("do-{verb}"), &format!("{script}\n"), 0o644);
    }

    /// What it does each time.
    pub(super) fn always_does(&self, verb: &str, script: &str) {
        self.story.home.file(&format!("always-{verb}"), &format!("{script}\n"), 0o644);
    }

    /// What it was asked for so far.
    pub(super) fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.story.home.path().join("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    /// It was asked for what comes before in any case, and then for this.
    pub(super) fn asked_before(&self, more: &[&str]) {
        let all = [
            "ProvidePayloadFileSizes",
            "Download",
            "SupportsRollback",
            "ArtifactInstall",
            "NeedsArtifactReboot",
        ];
        assert_eq!(self.asked(), [&all[..], more].concat());
    }

    pub(super) fn forget(&self) {
        fs::remove_file(self.story.home.path().join("asked")).ok();
    }

    /// What the module has installed.
    pub(super) fn installed(&self) -> Option<String> {
        fs::read_to_string(self.story.home.path().join("installed")).ok()
    }

    pub(super) fn tree(&self) -> PathBuf {
        self.story.home.path().join("state/update/module")
    }

    /// How often the machine was to be restarted.
    pub(super) fn reboots(&self) -> usize {
        let reboots = fs::read_to_string(self.story.home.path().join("reboots")).unwrap_or_default();
        reboots.lines().count()
    }
}
