//! What every remote action shares.

pub(crate) mod lines;
