//! Who looks: at the machine, and at the processes, each on its own so that neither waits for the other.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{
    files::Root,
    payload::Look,
    post::Post,
    processes::Processes,
    sample::{Process, Values},
    settings::Config,
    system::{Summary, System},
};
use crate::clock::Clock;

/// All that looks.
#[derive(Debug)]
pub(super) struct Observer {
    machine: Post<Machine>,
    programs: Option<Post<Programs>>,
    timeout: Duration,
    late: Vec<&'static str>,
    again: bool,
}

#[derive(Debug)]
struct Machine {
    system: System,
    values: Values,
    summary: Summary,
    since: Since,
}

#[derive(Debug)]
struct Programs {
    processes: Processes,
    found: BTreeMap<String, Process>,
    since: Since,
}

/// What waits to be sent, as only the running agent knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// When the last look was.
#[derive(Debug, Default)]
struct Since(Option<Instant>);

impl Since {
    /// How long ago that was; this is the next.
    fn look(&mut self) -> Option<Duration> {
        let now = Instant::now();
        self.0.replace(now).map(|last| now - last)
    }
}

/// What is there while nothing could be seen.
static NOTHING: Values = Values::new();
static NOBODY: BTreeMap<String, Process> = BTreeMap::new();

impl Observer {
    /// Has not looked yet.
    pub(super) fn new(root: &Root, config: &Config, clock: Clock) -> Result<Self, String> {
        let selectors = config.selectors()?;
        let programs = (!selectors.is_empty()).then(|| {
            let processes = Processes::new(root, selectors, config.of_processes());
            Post::of(Programs { processes, found: BTreeMap::new(), since: Since::default() })
        });
        let machine = Machine {
            system: System::new(root, config.machine(), clock),
            values: Values::default(),
            summary: Summary::default(),
            since: Since::default(),
        };
        Ok(Self {
            machine: Post::of(machine),
            programs,
            timeout: config.timeout.get(),
            late: Vec::new(),
            again: false,
        })
    }

    /// Looks once, which takes no longer than `timeout`. `told` is what the agent says of itself, if it runs.
    ///
    /// # Errors
    /// When whoever looked has panicked.
    pub(super) async fn look(&mut self, told: Option<Told>) -> anyhow::Result<()> {
        let by = Instant::now() + self.timeout;
        let machine = self.machine.work(by, move |machine| machine.look(told));
        let again = std::mem::take(&mut self.again);
        let programs = async {
            match &mut self.programs {
                Some(programs) => programs.work(by, move |programs| programs.look(again)).await,
                None => Ok(true),
            }
        };
        let (machine, programs) = tokio::join!(machine, programs);
        let what = [(machine?, "the machine"), (programs?, "the processes")];
        self.late = what.into_iter().filter(|(in_time, _)| !in_time).map(|(_, what)| what).collect();
        Ok(())
    }

    /// The next look finds new processes at once, which otherwise takes a while.
    pub(super) fn look_again(&mut self) {
        self.again = true;
    }

    /// Who was not back in time from the last look.
    pub(super) fn late(&self) -> &[&'static str] {
        &self.late
    }

    /// What the last look has seen.
    pub(super) fn seen(&self) -> Look<'_> {
        let machine = self.machine.here();
        let programs = self.programs.as_ref().and_then(Post::here);
        Look {
            summary: machine.map(|machine| machine.summary).unwrap_or_default(),
            values: machine.map_or(&NOTHING, |machine| &machine.values),
            processes: programs.map_or(&NOBODY, |programs| &programs.found),
        }
    }
}

impl Machine {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn look(&mut self, told: Option<Told>) {
        let elapsed = self.since.look();
        self.values.begin();
        self.summary = self.system.collect(elapsed, &mut self.values);
        if let Some(Told { messages, bytes }) = told {
            self.values.put("agent.outbox_messages", "1", messages as f64);
            self.values.put("agent.outbox_bytes", "B", bytes as f64);
        }
    }
}

impl Programs {
    fn look(&mut self, again: bool) {
        let elapsed = self.since.look();
        if again {
            self.processes.look_again();
        }
        self.processes.collect(elapsed, &mut self.found);
    }
}
