//! RAUC, asked over D-Bus: <https://rauc.readthedocs.io/en/latest/reference.html#d-bus-api>.

use std::{collections::HashMap, path::Path};

use zbus::{Error, Variant};

use super::{Now, Slot};
use crate::bus::{Bus, Place, Properties, Signals, plain, text, whole};

const INSTALLER: Place<'_> =
    Place { service: "de.pengutronix.rauc", path: "/", interface: "de.pengutronix.rauc.Installer" };

/// RAUC, as long as the bus is there.
pub(in super::super) struct Rauc(Bus);

/// The results of installations; 0 is a success.
pub(in super::super) struct Results(Signals);

/// What is shown of a slot, by RAUC's names.
const FACTS: [&str; 6] =
    ["class", "bootname", "state", "boot-status", "bundle.version", "installed.timestamp"];

impl Rauc {
    pub(in super::super) async fn open() -> Result<Self, String> {
        Bus::open().await.map(Self).map_err(|error| format!("there is no system bus: {}", plain(&error)))
    }

    pub(in super::super) async fn now(&self) -> Result<Now, String> {
        let told = self.0.properties(INSTALLER).await.map_err(absent)?;
        let percent = match told.get("Progress").map(|value| &**value) {
            Some(Variant::Structure(progress)) => match progress.fields().first() {
                Some(Variant::I32(percent)) => u8::try_from(*percent).ok().filter(|percent| *percent <= 100),
                _ => None,
            },
            _ => None,
        };
        let word = |name: &str| text(told.get(name)).unwrap_or_default().to_owned();
        let busy = word("Operation") != "idle";
        Ok(Now { busy, percent, trouble: word("LastError"), booted: word("BootSlot") })
    }

    pub(in super::super) async fn results(&self) -> Result<Results, String> {
        self.0.signals(INSTALLER, "Completed").await.map(Results).map_err(absent)
    }

    /// Has a bundle installed; how that ends is told by [`Results`].
    pub(in super::super) async fn install(&self, bundle: &Path) -> Result<(), String> {
        let bundle = bundle.to_str().ok_or("the path of the bundle is no UTF-8")?;
        let none: HashMap<&str, Variant<'_>> = HashMap::new();
        self.0.call(INSTALLER, "InstallBundle", &(bundle, none)).await.map_err(absent)
    }

    /// Says of a slot ("booted", "other", or its name) what it is: "good", "bad", "active".
    pub(in super::super) async fn mark(&self, state: &str, slot: &str) -> Result<(), String> {
        let marked = self.0.call::<(String, String)>(INSTALLER, "Mark", &(state, slot)).await;
        let what = format!("RAUC does not mark the slot {slot} as {state}");
        marked.map(drop).map_err(|error| format!("{what}: {}", plain(&error)))
    }

    /// All slots.
    pub(in super::super) async fn slots(&self) -> Result<Vec<Slot>, String> {
        let told: Vec<(String, Properties)> =
            self.0.call(INSTALLER, "GetSlotStatus", &()).await.map_err(absent)?;
        let fact = |facts: &Properties, name: &'static str| {
            let value = facts.get(name);
            let value = text(value).map(str::to_owned).or_else(|| whole(value).map(|n| n.to_string()));
            Some((name, value?))
        };
        let slot = |(slot, facts): (String, Properties)| {
            let facts = FACTS.into_iter().filter_map(|name| fact(&facts, name)).collect();
            Slot { slot, facts }
        };
        Ok(told.into_iter().map(slot).collect())
    }
}

impl Results {
    /// The next one; none when the bus is gone.
    pub(in super::super) async fn next(&mut self) -> Option<i32> {
        self.0.next().await
    }
}

/// The slots of this machine.
///
/// # Errors
/// RAUC cannot be asked.
pub(crate) async fn slots() -> Result<Vec<Slot>, String> {
    Rauc::open().await?.slots().await
}

fn absent(error: Error) -> String {
    format!("RAUC cannot be asked: {}", plain(&error))
}
