//! What must hold for whatever comes from a server, and for what is on file about it.

pub use super::{client::fuzzing::server, link::trust::fuzzing::hosts};
