//! What every remote action shares.

pub(crate) mod lines;
#[allow(dead_code, reason = "tunnels and updates are to come")]
pub(crate) mod policy;
