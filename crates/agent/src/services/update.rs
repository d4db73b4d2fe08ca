//! Updates of the software on this device. So far the format in which they come; the service is still to follow.

pub mod package;
