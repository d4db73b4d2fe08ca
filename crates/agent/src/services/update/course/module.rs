//! Packages that an update module of the device installs: a program that is asked for one thing after the other, as Mender
//! asks its modules by version 3 of their file API.
//!
//! ```text
//! installing   ProvidePayloadFileSizes, Download, SupportsRollback, ArtifactInstall, NeedsArtifactReboot
//! rebooting    ArtifactReboot, or reboot_command
//! confirming   ArtifactVerifyReboot; health and broker; ArtifactCommit
//! restoring    ArtifactRollback, ArtifactRollbackReboot, ArtifactVerifyRollbackReboot; ArtifactFailure
//! ended        Cleanup
//! ```
//!
//! What a module is about to be asked for is on the disk before, so the next process knows what was begun. What it has
//! installed is never asked for twice: one that was cut off there goes back, as Mender has it.

mod back;
mod streams;
mod tree;
mod verb;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use protocol::update::State;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Course, Duration, Next};
use crate::{
    log::chain,
    outbox::apart,
    services::update::{
        Updater,
        installer::usable_module,
        jobs::Fault,
        record::{Record, Stage},
    },
};
use streams::Streams;
use tree::Told;
pub(in crate::services::update) use verb::{Progress, Verb};
use verb::{Reboot, answered};

/// How long a module has to end once it cannot be given what it reads.
const PARTING: Duration = Duration::from_secs(5);

/// What becomes of a verb that an earlier process had running, and that was cut off with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// It has failed.
    Fails,
    /// It is asked for again.
    Again,
}

impl Updater {
    /// Has the module take the files and install them.
    pub(super) async fn install_module(&self, course: &mut Course<'_>, record: &mut Record) -> Next {
        self.tell_state(course, record, State::Installing);
        let failed = |why: String| Next::End(State::Failed, Some(why));
        let progress = record.module.get_or_insert_default();
        if !progress.has_done(Verb::Download)
            && let Err(why) = self.take(course, record).await
        {
            return failed(why);
        }
        if known(record).rollback.is_none() {
            match self.question(course, record, Verb::SupportsRollback, answered).await {
                Ok(answer) => known(record).rollback = Some(answer),
                Err(why) => return failed(why),
            }
        }
        if let Err(why) = self.ask(course, record, Verb::ArtifactInstall, Cut::Fails).await {
            return Next::Restore(why);
        }
        match self.question(course, record, Verb::NeedsArtifactReboot, Reboot::answered).await {
            Ok(answer) => known(record).reboot = Some(answer),
            Err(why) => return Next::Restore(why),
        }
        match known(record).reboot {
            Some(Reboot::Yes | Reboot::Automatic) => Next::Enter(Stage::Rebooting),
            _ => Next::Enter(Stage::Confirming),
        }
    }

    /// The module, or the machine's own command, restarts the machine.
    pub(super) async fn restart_for_module(
        &self,
        course: &Course<'_>,
        record: &mut Record,
    ) -> Result<(), Next> {
        let here = self.ctx.identity().boot_id();
        let progress = known(record);
        here.clone_into(&mut progress.restarted_from);
        if progress.reboot != Some(Reboot::Yes) {
            return self.reboot().await.map_err(Next::Restore);
        }
        // It may well have taken this agent down.
        if progress.now == Some(Verb::ArtifactReboot) && cut_off(course, Verb::ArtifactReboot) {
            progress.end(Verb::ArtifactReboot, true);
        }
        match self.ask(course, record, Verb::ArtifactReboot, Cut::Fails).await {
            // It need not be the machine that was restarted.
            Ok(_) => Err(Next::Enter(Stage::Confirming)),
            Err(why) => Err(Next::Restore(why)),
        }
    }

    /// Where something was restarted, the module says whether that went well. Once it is what stays there is no way back.
    pub(super) async fn module_arrived(&self, course: &mut Course<'_>, record: &mut Record) -> Option<Next> {
        let here = self.ctx.identity().boot_id();
        let progress = known(record);
        if progress.has_begun(Verb::ArtifactCommit) {
            return Some(match self.ask(course, record, Verb::ArtifactCommit, Cut::Fails).await {
                Ok(_) => self.confirmed(course, record).await,
                Err(why) => Next::Restore(why),
            });
        }
        if !matches!(progress.reboot, Some(Reboot::Yes | Reboot::Automatic)) {
            return None;
        }
        let verb = Verb::ArtifactVerifyReboot;
        // Restarted once more, by whoever watches over the machine; unless that was still the restart before it.
        let again = progress.boot_id == here || progress.boot_id == progress.restarted_from;
        let cut = if again { Cut::Again } else { Cut::Fails };
        self.ask(course, record, verb, cut).await.err().map(Next::Restore)
    }

    pub(super) async fn commit_module(&self, course: &mut Course<'_>, record: &mut Record) -> Option<Next> {
        self.ask(course, record, Verb::ArtifactCommit, Cut::Fails).await.err().map(Next::Restore)
    }

    /// It is over: the module removes what it has put anywhere, and its folder goes.
    pub(super) async fn clean_module(&self, course: &Course<'_>, record: &mut Record) {
        let tree = self.tree();
        if record.module.is_none() || !tree.exists() {
            return;
        }
        if let Err(fault) = self.call(course, record, Verb::Cleanup).await {
            warn!(id = course.id, error = fault.why, "an update module could not clean up");
        }
        // Nothing more is written down of it; whoever comes next does not wait for its keeper.
        self.jobs.release();
        if let Err(error) = apart(move || tree::remove(&tree)).await {
            warn!(error = %error, "the folder of an update module cannot be removed");
        }
    }

    /// How ended what an earlier process had asked modules for.
    pub(super) async fn left_verbs(&self) -> BTreeMap<Verb, Result<String, Fault>> {
        let mut left = BTreeMap::new();
        for verb in Verb::ALL {
            if let Some(ended) = self.jobs.left_in(&verb.spool()).await {
                left.insert(verb, ended);
            }
        }
        left
    }

    /// The folder that modules work in.
    fn tree(&self) -> PathBuf {
        self.folder.join("module")
    }

    /// Has the module take the files: through pipes, if it reads these, or as files. From the beginning, where it was cut off.
    async fn take(&self, course: &Course<'_>, record: &mut Record) -> Result<(), String> {
        let (tree, stage) = (self.tree(), self.stage());
        let files = tree.join("files");
        let trouble = |error: std::io::Error| format!("cannot make the module's folder: {}", chain(&error));
        if tree.exists() {
            let (from, to) = (files.clone(), stage.clone());
            let taken = apart(move || if to.exists() { Ok(()) } else { tree::give(&from, &to) }).await;
            taken.map_err(trouble)?;
            if let Err(fault) = self.call(course, record, Verb::Cleanup).await {
                warn!(id = course.id, error = fault.why, "an update module could not clean up");
            }
        }
        record.module = Some(Progress::default());
        set_path(record, &stage);
        let told = self.told(record).await?;
        apart(move || told.write()).await.map_err(trouble)?;
        let sizes = self.question(course, record, Verb::ProvidePayloadFileSizes, answered).await?;
        let (verb, payload) =
            (if sizes { Verb::DownloadWithFileSizes } else { Verb::Download }, stage.clone());
        let streams = apart(move || {
            let streams = Streams::new(&tree, &payload, sizes)?;
            streams.make().map(|()| streams)
        });
        let streams = streams.await.map_err(trouble)?;
        self.begin_verb(record, verb).await;
        let ended = self.download_verb(course, record, verb, &streams).await;
        self.ended_verb(record, verb, ended)?;
        if streams.began() && !streams.finished() {
            return Err(format!("{} of the module ended before it had read everything", verb.as_str()));
        }
        let (read, place) = (streams.began(), files.clone());
        let given = move || {
            streams.remove()?;
            if read { Ok(()) } else { tree::give(&stage, &place) }
        };
        apart(given).await.map_err(trouble)?;
        if !read {
            set_path(record, &files);
        }
        known(record).end(Verb::Download, true);
        self.keep(record).await;
        Ok(())
    }

    /// Runs it, and gives it what it reads.
    async fn download_verb(
        &self,
        course: &Course<'_>,
        record: &Record,
        verb: Verb,
        streams: &Streams,
    ) -> Result<String, Fault> {
        let fault = {
            let run = self.call(course, record, verb);
            tokio::pin!(run);
            let why = tokio::select! {
                ended = &mut run => return ended,
                why = streams.serve() => why,
            };
            // One that reads no more may just be about to end, and say why.
            match timeout(PARTING, &mut run).await {
                Ok(Err(fault)) => return Err(fault),
                _ => Fault { code: None, why },
            }
        };
        // It was ended with that.
        self.jobs.left_in(&verb.spool()).await;
        Err(fault)
    }

    /// What the module is told of this update.
    async fn told(&self, record: &Record) -> Result<Told, String> {
        let Some(package) = &record.package else { return Err("it is not known what is in it".to_owned()) };
        let inventory = self.inventory().await;
        let current = inventory.software.get(&package.name);
        let artifact = |version: &str| format!("{}-{version}", package.name);
        Ok(Told {
            tree: self.tree(),
            module: package.module.clone().unwrap_or_default(),
            artifact: artifact(&package.version),
            current: current.map(|software| artifact(&software.current.version)).unwrap_or_default(),
            device_type: self.config.hardware_id.clone().unwrap_or_default(),
            meta_data: package.meta_data.clone(),
        })
    }

    /// Asks a question; asked again, if it was cut off.
    async fn question<T>(
        &self,
        course: &Course<'_>,
        record: &mut Record,
        verb: Verb,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<T, String> {
        known(record).done.retain(|done| *done != verb);
        let said = self.ask(course, record, verb, Cut::Again).await?;
        let said = said.trim_end_matches('\n');
        read(said)
            .ok_or_else(|| format!("{} of the module has the answer {said:?}, which is none", verb.as_str()))
    }

    /// Asks the module for it, unless that was done before. What an earlier process has left is how it ended.
    async fn ask(
        &self,
        course: &Course<'_>,
        record: &mut Record,
        verb: Verb,
        cut: Cut,
    ) -> Result<String, String> {
        let progress = known(record);
        if progress.has_done(verb) {
            return Ok(String::new());
        }
        let left = (progress.now == Some(verb)).then(|| course.verbs.get(&verb).cloned());
        let ended = match left {
            Some(Some(ended)) if cut == Cut::Fails || !is_cut(&ended) => ended,
            Some(None) if cut == Cut::Fails => Err(Fault { code: None, why: "was interrupted".to_owned() }),
            _ => {
                self.begin_verb(record, verb).await;
                self.call(course, record, verb).await
            }
        };
        if let (Cut::Fails, Err(fault)) = (cut, &ended) {
            // Where it goes from here is written down together with that: a process that dies before leaves it as it is.
            return Err(format!("{} of the module {}", verb.as_str(), fault.why));
        }
        let ended = self.ended_verb(record, verb, ended);
        self.keep(record).await;
        ended
    }

    /// It is about to be asked for this, and that is on the disk.
    async fn begin_verb(&self, record: &mut Record, verb: Verb) {
        let boot_id = self.ctx.identity().boot_id();
        known(record).begin(verb, boot_id);
        self.keep(record).await;
    }

    /// How it ended, in words.
    fn ended_verb(
        &self,
        record: &mut Record,
        verb: Verb,
        ended: Result<String, Fault>,
    ) -> Result<String, String> {
        known(record).end(verb, ended.is_ok());
        ended.map_err(|fault| format!("{} of the module {}", verb.as_str(), fault.why))
    }

    /// Runs the module.
    async fn call(&self, course: &Course<'_>, record: &Record, verb: Verb) -> Result<String, Fault> {
        let name = record.package.as_ref().and_then(|package| package.module.clone()).unwrap_or_default();
        let folder: PathBuf = self.config.modules_path.clone().into();
        let program = apart(move || usable_module(&folder, &name)).await;
        let program = program.map_err(|why| Fault { code: None, why: format!("cannot be run: {why}") })?;
        let tree = self.tree();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let argv = vec![text(&program), verb.as_str().to_owned(), text(&tree)];
        let env = self.environment(course, record).await;
        info!(id = course.id, module = %program.display(), verb = verb.as_str(), "asks an update module");
        self.jobs.run_left(&verb.spool(), argv, &env, tree).await
    }
}

/// How far the module is.
fn known(record: &mut Record) -> &mut Progress {
    record.module.get_or_insert_default()
}

fn set_path(record: &mut Record, path: &Path) {
    if let Some(package) = &mut record.package {
        path.clone_into(&mut package.path);
    }
}

/// It was ended by something else than itself.
fn is_cut(ended: &Result<String, Fault>) -> bool {
    matches!(ended, Err(Fault { code: None, .. }))
}

fn cut_off(course: &Course<'_>, verb: Verb) -> bool {
    course.verbs.get(&verb).is_none_or(is_cut)
}
