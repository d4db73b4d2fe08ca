//! Debian's collectd, looking at the same things as often, and sending them to the same broker.

use std::{fs, path::Path, process::Command};

use testkit::Process;

use crate::crowd::NAMES;

const PROGRAM: &str = "/usr/sbin/collectd";
const PLUGINS: [&str; 7] = ["cpu", "memory", "df", "interface", "disk", "processes", "mqtt"];

/// One that runs, below this folder; none where it is not installed.
pub(crate) fn start(folder: &Path, port: u16) -> Option<Process> {
    let config = folder.join("collectd.conf");
    fs::write(&config, text(folder, port)).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("-f").arg("-C").arg(&config);
    match Process::run(command.into()) {
        Ok(process) => Some(process),
        Err(error) => {
            println!("peer absent, so its limit counts as missed (apt-get install collectd-core): {error:#}");
            None
        }
    }
}

fn text(folder: &Path, port: u16) -> String {
    let folder = folder.display();
    let plugins: String = PLUGINS.map(|plugin| format!("LoadPlugin {plugin}\n")).concat();
    let names: String = NAMES.map(|name| format!("Process \"{name}\"\n")).concat();
    format!(
        "Hostname \"peer\"\nFQDNLookup false\nInterval 1\nBaseDir \"{folder}\"\nPIDFile \"{folder}/pid\"\n\
         {plugins}\
         <Plugin processes>\n{names}</Plugin>\n\
         <Plugin mqtt>\n<Publish \"bench\">\nHost \"127.0.0.1\"\nPort {port}\nPrefix \"collectd\"\n\
         </Publish>\n</Plugin>\n"
    )
}
