//! What the machine and its programs are doing.

mod asker;
mod cgroup;
mod counters;
mod cpu;
mod disks;
mod files;
mod filesystems;
#[cfg(test)]
mod fixture;
mod glob;
mod host;
mod memory;
mod mounts;
mod name;
mod network;
mod own;
mod pressure;
mod processes;
mod sample;
mod sensors;
mod system;
mod text;
mod watched;
