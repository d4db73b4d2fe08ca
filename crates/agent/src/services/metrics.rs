//! What the machine and its programs are doing.

mod files;
mod sample;
