//! The update in hand and the latest ends, for whoever wants to know; and the way in for this machine's own orders.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use protocol::update::{Report, Wanted};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::Asked;
use crate::action::{Order, new_id};

/// How many updates are shown.
const SHOWN: usize = 32;

/// What is told of updates on this machine.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    inner: Mutex<Inner>,
    /// Which life of the service may write its files.
    turn: Arc<Mutex<u64>>,
}

/// The right of one life of the service to write its files, until the next one has taken it.
#[derive(Debug, Clone)]
pub(super) struct Turn {
    turn: Arc<Mutex<u64>>,
    own: u64,
}

impl Turn {
    /// Does it, if it still may be done; meanwhile nobody else can take the right. Blocks.
    pub(super) fn with<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        (*turn == self.own).then(work)
    }
}

#[derive(Debug, Default)]
struct Inner {
    /// The latest of each, the newest last.
    said: VecDeque<Listed>,
    orders: Option<mpsc::Sender<Order<Asked>>>,
}

/// An update as it is listed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Listed {
    /// Its id.
    pub(crate) update_id: String,
    /// How far it is.
    #[serde(flatten)]
    pub(crate) report: Report,
}

impl Updates {
    /// The latest of each, the newest last.
    pub(crate) fn list(&self) -> Vec<Listed> {
        self.inner().said.iter().cloned().collect()
    }

    /// What was last said of one.
    pub(super) fn latest(&self, id: &str) -> Option<Report> {
        let inner = self.inner();
        inner.said.iter().find(|known| known.update_id == id).map(|known| known.report.clone())
    }

    /// Has a file of this machine installed; the id of that.
    ///
    /// # Errors
    /// Why it cannot be taken.
    pub(crate) fn install(&self, path: PathBuf, wanted: Wanted) -> Result<String, String> {
        self.order(Asked::Install { wanted, local: Some(path), expires_at: None })
    }

    /// Has the version before come back, of this software or the only one; the id of that.
    ///
    /// # Errors
    /// Why it cannot be taken.
    pub(crate) fn rollback(&self, name: Option<String>) -> Result<String, String> {
        if let Some(id) = self.in_hand() {
            return Err(format!(
                "another update is in hand, and would come first or be what is taken back: {id}"
            ));
        }
        self.order(Asked::Rollback { name })
    }

    /// An update that has not ended.
    pub(super) fn in_hand(&self) -> Option<String> {
        let inner = self.inner();
        inner.said.iter().find(|said| !said.report.state.is_final()).map(|said| said.update_id.clone())
    }

    fn order(&self, request: Asked) -> Result<String, String> {
        let orders = self.inner().orders.clone();
        let orders = orders.ok_or("the service update does not run")?;
        let id = format!("local-{}", new_id());
        let order = Order { id: Some(id.clone()), expires_at: None, request };
        let full = |_| "the service update has too many orders already".to_owned();
        orders.try_send(order).map(|()| id).map_err(full)
    }

    /// Where such orders arrive from now on.
    pub(super) fn open(&self) -> (mpsc::Sender<Order<Asked>>, mpsc::Receiver<Order<Asked>>) {
        let (sender, receiver) = mpsc::channel(8);
        self.inner().orders = Some(sender.clone());
        (sender, receiver)
    }

    /// Takes the right to write from whichever life has it, once that has written what it was writing. Blocks.
    pub(super) fn take_turn(&self) -> Turn {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn += 1;
        Turn { turn: Arc::clone(&self.turn), own: *turn }
    }

    pub(super) fn close(&self) {
        self.inner().orders = None;
    }

    pub(super) fn say(&self, id: &str, report: &Report) {
        let mut inner = self.inner();
        inner.said.retain(|known| known.update_id != id);
        inner.said.push_back(Listed { update_id: id.to_owned(), report: report.clone() });
        if inner.said.len() > SHOWN {
            inner.said.pop_front();
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
