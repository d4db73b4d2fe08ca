//! What an engine has on its hands, and what a turn makes of it.

use super::*;

/// One that runs.
pub(super) struct Running<A: Action> {
    pub(super) id: String,
    pub(super) request: A::Request,
    pub(super) cancel: CancellationToken,
}

/// An end that could not be written yet.
pub(super) struct Unwritten<A: Action> {
    pub(super) id: String,
    pub(super) outcome: A::Outcome,
    pub(super) since: Instant,
    pub(super) told: bool,
    pub(super) hold: Hold,
}

/// What is to be done, and what has to be written before.
pub(super) struct Item<A: Action> {
    pub(super) line: Option<Line>,
    pub(super) note: Option<Note>,
    pub(super) effect: Effect<A>,
    pub(super) hold: Hold,
    /// Whose acknowledgement waits for it.
    pub(super) message: Option<Inbound>,
}

/// What is done once it is written.
pub(super) enum Effect<A: Action> {
    Nothing,
    /// It waits for a place.
    Wait(Waiting<A>),
    /// It runs; a new one is told to be accepted first.
    Start {
        order: Waiting<A>,
        new: bool,
    },
    /// It has ended.
    End {
        id: String,
        outcome: A::Outcome,
    },
    /// What is known is told again.
    Again {
        id: String,
    },
    /// It is refused, and cannot be kept.
    Answer {
        id: String,
        outcome: A::Outcome,
    },
}

impl<A: Action> Item<A> {
    pub(super) fn nothing() -> Self {
        Self { line: None, note: None, effect: Effect::Nothing, hold: None, message: None }
    }

    pub(super) fn again(id: String) -> Self {
        Self { effect: Effect::Again { id }, ..Self::nothing() }
    }
}
