//! What is logged: each trouble once, and never an argument.

use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
};

use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{Layer, layer::Context, prelude::*};

use super::*;

/// Every event, on a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| write!(line, "{field}={value:?} ").unwrap());
        self.0.lock().unwrap().push(line);
    }
}

#[test]
fn each_trouble_once_and_never_an_argument() {
    let lines = Lines::default();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines.clone()), || {
        let made = Made { arguments: b"sleep\0--password=hunter2\0", ..Made::default() };
        let list = json!([{"cmdline": "--password", "as": "it"}, {"pid_file": "/run", "as": "file"}]);
        let mut machine = Machine::with(list, &[(7, made.clone()), (8, made)]);
        machine.tree.folder("run");
        machine.tree.remove("proc/7/io");
        machine.tree.remove("proc/8/io");
        machine.tree.file("proc/9", "no folder");
        for _ in 0..5 {
            machine.processes.look_again();
            machine.after(10);
        }
        assert_eq!(machine.found["it"].count, 2);
    });
    let lines = lines.0.lock().unwrap();
    let of = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(of("part of a process cannot be read"), 1, "{lines:?}");
    assert_eq!(of("process=\"it\" part=io"), 1, "{lines:?}");
    assert_eq!(of("a pid file cannot be read"), 1, "{lines:?}");
    assert_eq!(of("not all processes can be looked at"), 1, "{lines:?}");
    assert_eq!((lines.len(), of("hunter2")), (3, 0), "{lines:?}");
}
