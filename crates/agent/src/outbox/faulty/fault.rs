//! What can go wrong, and with which calls.

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A part is written, and then there is no room.
    Full,
    /// Nothing can be written.
    ReadOnly,
    /// Nothing can be read.
    Read,
    /// All is written, and the sync fails.
    Sync,
    /// The machine or the process dies within the call, of which a part may have been done; nothing works from then
    /// on, until [`super::Faulty::kill`] or [`super::Faulty::cut`].
    Crash,
}

/// The kinds of calls, by what can befall them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Read,
    /// Of bytes.
    Write,
    /// Of bytes or names, safe on return.
    Sync,
    /// Of names.
    Name,
}

impl Fault {
    pub(super) fn befalls(self, call: Call) -> bool {
        match self {
            Self::Full => matches!(call, Call::Write | Call::Sync),
            Self::ReadOnly | Self::Crash => call != Call::Read,
            Self::Read => call == Call::Read,
            Self::Sync => call == Call::Sync,
        }
    }
}
