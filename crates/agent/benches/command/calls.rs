//! System calls of each command, by whom.

use std::fs;

use crate::{
    device::{Device, broker, memory},
    table::Table,
};

const COMMANDS: usize = 200;

/// Calls of the agent, of the keepers, and of the shells.
#[derive(Default)]
struct Calls([usize; 3]);

pub(crate) fn measure(table: &mut Table) {
    let broker = broker();
    let folder = tempfile::tempdir().unwrap();
    let traces = folder.path().join("trace");
    let services = "  command: {enabled: true}\n";
    let device = Device::traced("traced", &memory(), &broker, services, Some(&traces));
    let (mut orders, mut client) = device.operator(&broker);
    let before = Calls::of(folder.path());
    for number in 0..COMMANDS {
        let id = format!("traced-{number}");
        orders.order(&id, "true");
        client.success(&id);
    }
    let after = Calls::of(folder.path());
    let each = |whose: usize| (after.0[whose] - before.0[whose]) as f64 / COMMANDS as f64;
    table.figure("system calls a command, agent", each(0), "–");
    table.figure("… keeper", each(1), "–");
    table.figure("… sh", each(2), "–");
}

impl Calls {
    /// A line is a call; a thread that never becomes another program is the agent's.
    fn of(traces: &std::path::Path) -> Self {
        let mut calls = Self::default();
        for file in fs::read_dir(traces).unwrap() {
            let text = fs::read(file.unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&text);
            let last = text.lines().rfind(|line| line.starts_with("execve("));
            let whose = match last {
                None => 0,
                Some(line) if line.contains(r#", "run", "#) => 0,
                Some(line) if line.contains(r#", "executor"]"#) => 1,
                Some(_) => 2,
            };
            calls.0[whose] += text.lines().count();
        }
        calls
    }
}
