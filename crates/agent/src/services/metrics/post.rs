//! Work that may hang, away from the thread that everything else runs on.

use anyhow::Context as _;
use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, timeout_at},
};

/// Something that works on a thread of its own, at most once at a time.
#[derive(Debug)]
pub(super) enum Post<T> {
    /// At rest.
    Here(T),
    /// At work, perhaps for ever.
    Away(JoinHandle<T>),
    /// Between the two; and for good after a panic.
    Gone,
}

impl<T: Send + 'static> Post<T> {
    pub(super) fn of(worker: T) -> Self {
        Self::Here(worker)
    }

    /// Lets it work; false when it has not ended `by` then, or still is at what it was sent to before.
    ///
    /// # Errors
    /// When it has panicked.
    pub(super) async fn work(
        &mut self,
        by: Instant,
        work: impl FnOnce(&mut T) + Send + 'static,
    ) -> anyhow::Result<bool> {
        if !self.back(None).await? {
            return Ok(false);
        }
        let Self::Here(mut worker) = std::mem::replace(self, Self::Gone) else {
            anyhow::bail!("what looks at the machine is gone");
        };
        *self = Self::Away(spawn_blocking(move || {
            work(&mut worker);
            worker
        }));
        self.back(Some(by)).await
    }

    /// It, if it is at rest.
    pub(super) fn here_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Here(worker) => Some(worker),
            Self::Away(_) | Self::Gone => None,
        }
    }

    /// It, if it is at rest.
    pub(super) fn here(&self) -> Option<&T> {
        match self {
            Self::Here(worker) => Some(worker),
            Self::Away(_) | Self::Gone => None,
        }
    }

    /// Whether it is at rest, now or `by` then.
    async fn back(&mut self, by: Option<Instant>) -> anyhow::Result<bool> {
        let Self::Away(working) = self else { return Ok(true) };
        let ended = match by {
            None if !working.is_finished() => return Ok(false),
            None => working.await,
            Some(by) => match timeout_at(by, working).await {
                Ok(ended) => ended,
                Err(_) => return Ok(false),
            },
        };
        *self = Self::Gone;
        *self = Self::Here(ended.context("look at the machine")?);
        Ok(true)
    }
}
