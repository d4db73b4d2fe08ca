//! What the machine and its programs are doing.

mod files;
#[cfg(test)]
mod fixture;
mod glob;
mod processes;
mod sample;
mod text;
