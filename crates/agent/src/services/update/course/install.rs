//! From a file to what is in use, and back.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use protocol::update::State;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Course, Duration, Next, Slots};
use crate::services::update::{
    Asked, Updater,
    installer::{Kind, Order, Report, Unpack, Unpacked, link},
    jobs::Fault,
    record::{Record, Software, Stage, Version},
};

/// How long a script of a package, or the owner's command, may take.
const COMMAND: Duration = Duration::from_secs(3600);
/// The exit code of an `update_command` that is complete only after a restart of the machine; as other agents have it
/// (AWS Systems Manager).
const REBOOT: i32 = 194;

impl Updater {
    pub(super) async fn verify(&self, course: &Course<'_>, record: &mut Record) -> Next {
        self.tell_state(course, record, State::Verifying);
        let Some(wanted) = course.wanted() else {
            return Next::End(State::Failed, Some("there is nothing to verify".to_owned()));
        };
        let failed = |why: String| Next::End(State::Failed, Some(why));
        let keys = match self.config.keys() {
            Ok(keys) => keys,
            Err(why) => return failed(format!("trusted_keys: {why}")),
        };
        let inventory = self.inventory().await;
        let order = Order::Unpack(Box::new(Unpack {
            file: self.file(course, record),
            sha256: wanted.sha256,
            size: wanted.size,
            version: wanted.version.clone(),
            keys,
            signature: wanted.signature.clone(),
            allow_unsigned: self.config.allow_unsigned,
            hardware_id: self.config.hardware_id.clone(),
            stage: self.stage(),
            own: self.own(),
            modules: self.config.modules_path.clone().into(),
            delta_memory: self.config.delta_memory.get(),
            full: record.full.clone(),
            installed: inventory.installed(),
        }));
        match self.jobs.install(&order).await {
            Ok(Report::Unpacked(package)) if package.already => {
                info!(id = course.id, name = package.name, version = package.version, "installed already");
                record.package = Some(*package);
                Next::End(State::Success, None)
            }
            Ok(Report::Unpacked(mut package)) => {
                // Where nothing is known of a switch that was made already, it must not lead back to itself.
                if package.previous == Some(link(&package.version)) {
                    let known = inventory.software.get(&package.name);
                    let known = known.map(|software| link(&software.current.version));
                    package.previous = known.or(package.previous);
                }
                record.package = Some(*package);
                Next::Enter(Stage::Installing)
            }
            Ok(Report::NeedsFull(full)) if record.full.is_none() => {
                info!(id = course.id, reason = full.reason, "the whole package is fetched");
                let why = format!("the whole package is fetched: {}", full.reason);
                record.full = Some(full);
                self.tell_why(course, record, State::Downloading, &why);
                Next::Enter(Stage::Downloading)
            }
            Ok(_) => failed("the installer has said nothing of what is in it".to_owned()),
            Err(refused) => failed(refused.why),
        }
    }

    pub(super) async fn install(&self, course: &mut Course<'_>, record: &mut Record) -> Next {
        let Some(package) = record.package.clone() else {
            return Next::End(State::Failed, Some("it is not known what is in it".to_owned()));
        };
        self.install_kind(course, record, &package).await
    }

    /// The folder becomes what is in use.
    pub(super) async fn switch(&self, course: &Course<'_>, record: &Record, package: &Unpacked) -> Next {
        let Some(target) = package.target.as_deref() else {
            return Next::End(State::Failed, Some("it is not known where it goes".to_owned()));
        };
        self.tell_state(course, record, State::Installing);
        // Once it is switched the staged folder is gone: a later process only finishes.
        if package.path.exists()
            && let Err(fault) = self.script(course, record, &package.scripts.pre_install, &package.path).await
        {
            return Next::End(State::Failed, Some(format!("pre_install {}", fault.why)));
        }
        let order = Order::Switch {
            target: target.to_owned(),
            version: package.version.clone(),
            staged: package.path.clone(),
        };
        if let Err(refused) = self.jobs.install(&order).await {
            return Next::Restore(refused.why);
        }
        match self.script(course, record, &package.scripts.post_install, &target.join("current")).await {
            Ok(()) => Next::Enter(Stage::Confirming),
            Err(fault) => Next::Restore(format!("post_install {}", fault.why)),
        }
    }

    /// A program of the package, if there is one.
    pub(super) async fn script(
        &self,
        course: &Course<'_>,
        record: &Record,
        script: &Option<String>,
        folder: &Path,
    ) -> Result<(), Fault> {
        let Some(script) = script else { return Ok(()) };
        let argv = vec![folder.join(script).to_string_lossy().into_owned()];
        let env = self.environment(course, record).await;
        self.jobs.run(argv, &env, folder.to_owned(), COMMAND).await
    }

    /// The owner's command, as often as the settings allow.
    pub(super) async fn command(
        &self,
        course: &mut Course<'_>,
        record: &mut Record,
        package: &Unpacked,
    ) -> Next {
        let Some(command) = &self.config.update_command else {
            let why = "update_command is not set: it says what becomes of this kind of update";
            return Next::End(State::Failed, Some(why.to_owned()));
        };
        let mut why = "update_command was interrupted".to_owned();
        if course.resumed {
            // It was running when the agent, or the machine, went down; or had just ended.
            match course.left.take() {
                Some(Ok(())) => return Next::Enter(Stage::Confirming),
                Some(Err(Fault { code: Some(REBOOT), .. })) => return Next::Enter(Stage::Rebooting),
                Some(Err(fault)) => why = format!("update_command {}", fault.why),
                None => {}
            }
            record.attempt += 1;
        }
        loop {
            if record.attempt > self.config.max_retry_attempts.saturating_add(1) {
                record.attempt -= 1;
                return Next::End(State::Failed, Some(why));
            }
            self.keep(record).await;
            self.tell_state(course, record, State::Installing);
            let env = self.environment(course, record).await;
            let cwd = if package.path.is_dir() { package.path.clone() } else { PathBuf::from("/") };
            let fault = match self.jobs.run_owners(command.words(), &env, cwd, COMMAND).await {
                Ok(()) => return Next::Enter(Stage::Confirming),
                Err(Fault { code: Some(REBOOT), .. }) => return Next::Enter(Stage::Rebooting),
                Err(fault) => fault,
            };
            why = format!("update_command {}", fault.why);
            record.attempt += 1;
            if record.attempt <= self.config.max_retry_attempts.saturating_add(1) {
                warn!(id = course.id, attempt = record.attempt, error = why, "an update is tried again");
                self.tell_why(course, record, State::Installing, &why);
                sleep(self.ctx.shared.backoff.delay(record.attempt.saturating_sub(2))).await;
            }
        }
    }

    pub(super) async fn wait_for_reboot(&self, course: &Course<'_>, record: &mut Record) -> Next {
        if record.boot_id != self.ctx.identity().boot_id() {
            return Next::Enter(Stage::Confirming);
        }
        self.tell_state(course, record, State::Rebooting);
        if let Err(next) = self.restart_machine(course, record).await {
            return next;
        }
        Next::Restore(self.ends_with_the_machine().await)
    }

    /// The machine is going down, and this process with it. Why it has not.
    pub(super) async fn ends_with_the_machine(&self) -> String {
        let timeout = self.config.health.timeout.get();
        sleep(timeout).await;
        format!("the machine was not restarted within {} s", timeout.as_secs())
    }

    /// Has the machine restarted, as the settings say.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) async fn reboot(&self) -> Result<(), String> {
        let words = self.config.reboot_command.words();
        let run = self.jobs.run(words, &BTreeMap::new(), PathBuf::from("/"), COMMAND).await;
        run.map_err(|fault| format!("reboot_command {}", fault.why))
    }

    /// It cannot be taken back now; says so and waits, longer each time.
    pub(super) async fn not_back_yet(&self, course: &Course<'_>, why: &str, tries: u32) {
        warn!(id = course.id, error = why, "an update cannot be taken back yet");
        self.ctx.degraded(format!("an update cannot be taken back yet: {why}"));
        sleep(self.ctx.shared.backoff.delay(tries)).await;
    }

    /// What was in use before is again.
    pub(super) async fn switch_back(&self, course: &Course<'_>, record: &Record) -> Next {
        let mut why = record.why.clone().unwrap_or_default();
        let Some(Unpacked { target: Some(target), version, previous, name, .. }) = &record.package else {
            let why = format!("{why}; what update_command has done cannot be taken back here");
            return Next::End(State::Failed, Some(why));
        };
        let order =
            Order::Back { target: target.clone(), version: version.clone(), previous: previous.clone() };
        self.tell_why(course, record, State::Installing, &format!("going back: {why}"));
        let mut tries = 0;
        while let Err(refused) = self.jobs.install(&order).await {
            if refused.lasting {
                let why = format!("{why}; and it cannot be taken back: {}", refused.why);
                return Next::End(State::Failed, Some(why));
            }
            // A full disk may have room again.
            self.not_back_yet(course, &refused.why, tries).await;
            tries += 1;
        }
        self.show_ready();
        let mut inventory = self.inventory().await;
        inventory.restore(name, version);
        self.insist(|| self.files.keep_inventory(&inventory)).await;
        // The old version is told to run again as it was told when it came.
        let old = inventory.software.get(name).and_then(|old| old.current.scripts.post_install.clone());
        let current = target.join("current");
        if let Some(script) = old.filter(|_| current.exists())
            && let Err(fault) = self.script(course, record, &Some(script), &current).await
        {
            why = format!("{why}; and post_install of the old version {}", fault.why);
        }
        Next::End(State::RolledBack, Some(why))
    }

    /// What can be taken back by hand: the software of this name, or the only one.
    ///
    /// # Errors
    /// Why nothing can.
    pub(super) async fn to_restore(&self, name: Option<&str>) -> Result<(Unpacked, Option<Slots>), String> {
        let inventory = self.inventory().await;
        let mut found = inventory.software.iter().filter(|(known, software)| {
            let here = software.target.is_some() || software.slot_before.is_some();
            here && name.is_none_or(|name| name == known.as_str())
        });
        let (name, software) = match (found.next(), found.next()) {
            (Some(found), None) => found,
            (None, _) => {
                let other = inventory.software.iter().any(|(known, _)| name.is_none_or(|name| name == known));
                let why = if other {
                    "what an update module or update_command has installed only that can take back, and a bundle only the one before it"
                } else {
                    "there is no such software that could be taken back"
                };
                return Err(why.to_owned());
            }
            (Some(_), Some(_)) => return Err("there is more than one software: name one".to_owned()),
        };
        if let Some(slot) = &software.slot_before {
            let slots = self.to_slot(slot).await?;
            return Ok((earlier(name, software, Kind::Rauc, None), Some(slots)));
        }
        let previous = software.previous.as_ref();
        let target = software.target.as_deref().unwrap_or(Path::new("/"));
        let kept = |previous: &&Version| target.join(link(&previous.version)).is_dir();
        let previous =
            previous.filter(kept).ok_or_else(|| format!("no earlier version of {name} is kept"))?;
        let kind = if target == self.own() { Kind::Agent } else { Kind::Files };
        Ok((earlier(name, software, kind, Some(link(&previous.version))), None))
    }

    /// What the programs of an update are told.
    pub(super) async fn environment(&self, course: &Course<'_>, record: &Record) -> BTreeMap<String, String> {
        let Some(package) = &record.package else { return BTreeMap::new() };
        let inventory = self.inventory().await;
        let before = inventory.software.get(&package.name);
        let before = before.map(|software| software.current.version.clone()).unwrap_or_default();
        let path = match (&package.target, course.asked) {
            (Some(target), _) if !package.path.exists() => target.join("current"),
            (_, Asked::Install { .. }) => package.path.clone(),
            (_, Asked::Rollback { .. }) => PathBuf::new(),
        };
        BTreeMap::from(
            [
                ("IOT_UPDATE_PATH", path.to_string_lossy().into_owned()),
                ("IOT_UPDATE_ID", course.id.to_owned()),
                ("IOT_UPDATE_NAME", package.name.clone()),
                ("IOT_UPDATE_VERSION", package.version.clone()),
                ("IOT_UPDATE_PREVIOUS_VERSION", before),
                ("IOT_UPDATE_ATTEMPT", record.attempt.to_string()),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        )
    }
}

/// What is in use, to be taken back.
fn earlier(name: &str, software: &Software, kind: Kind, previous: Option<String>) -> Unpacked {
    Unpacked {
        name: name.to_owned(),
        version: software.current.version.clone(),
        kind,
        target: software.target.clone(),
        path: PathBuf::new(),
        scripts: software.current.scripts.clone(),
        module: None,
        meta_data: None,
        downgrade: false,
        previous,
        already: false,
        content: None,
    }
}
