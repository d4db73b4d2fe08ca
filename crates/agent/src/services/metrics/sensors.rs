//! How hot the machine is, and whether it slowed down for it: `/sys/class/thermal`, `/sys/class/hwmon`, and the
//! processors' own counts.

use std::{fs, path::Path};

use super::{
    files::{Root, Source},
    sample::Values,
    text::{number, signed},
};

/// A sensor costs two system calls a look; a server may have hundreds.
const MOST: usize = 48;
/// After so many looks it is searched for new ones: a disk, a module.
const SEARCH_EVERY: u32 = 60;
/// No part of a machine that runs is outside; what is not connected reads -128, 255 or the like.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = -90.0..=200.0;

/// The sensors' collector.
#[derive(Debug)]
pub(super) struct Sensors {
    root: Root,
    temperatures: Vec<Sensor>,
    throttles: Vec<Sensor>,
    coolers: Vec<Sensor>,
    looks: u32,
}

#[derive(Debug)]
struct Sensor {
    name: String,
    source: Source,
}

impl Sensors {
    pub(super) fn new(root: &Root) -> Self {
        let (temperatures, throttles, coolers) = (Vec::new(), Vec::new(), Vec::new());
        Self { root: root.clone(), temperatures, throttles, coolers, looks: 0 }
    }

    /// Puts `temp.*` and what there is of `cpu.throttled` and `cpu.cooling`.
    pub(super) fn collect(&mut self, values: &mut Values) {
        if self.looks.is_multiple_of(SEARCH_EVERY) {
            self.search();
        }
        self.looks = self.looks.wrapping_add(1);
        for sensor in &mut self.temperatures {
            let degrees = sensor.source.read().ok().and_then(signed).map(|milli| milli as f64 / 1000.0);
            values.put_known(&sensor.name, "°C", degrees.filter(|degrees| PLAUSIBLE.contains(degrees)));
        }
        let mut read = |sensors: &mut Vec<Sensor>, name, join: fn(u64, u64) -> u64| {
            let numbers = sensors.iter_mut().filter_map(|sensor| sensor.source.read().ok().and_then(number));
            values.put_known(name, "1", numbers.reduce(join).map(|number| number as f64));
        };
        read(&mut self.throttles, "cpu.throttled", u64::saturating_add);
        read(&mut self.coolers, "cpu.cooling", u64::max);
    }

    /// Looks for sensors anew; one that stays keeps its open file.
    fn search(&mut self) {
        let mut found = Vec::new();
        zones(&self.root, &mut found);
        chips(&self.root, &mut found);
        found.truncate(MOST);
        merge(&self.root, &mut self.temperatures, found);
        merge(&self.root, &mut self.throttles, throttles(&self.root));
        merge(&self.root, &mut self.coolers, coolers(&self.root));
    }
}

/// A name, and the path of its file below the root.
type Found = Vec<(String, String)>;

fn merge(root: &Root, known: &mut Vec<Sensor>, found: Found) {
    let old = std::mem::take(known);
    let mut old: std::collections::HashMap<String, Sensor> =
        old.into_iter().map(|sensor| (sensor.name.clone(), sensor)).collect();
    for (name, path) in found {
        let source = || Source::new(root.path(&path));
        known.push(old.remove(&name).unwrap_or_else(|| Sensor { name: name.clone(), source: source() }));
    }
}

/// `thermal_zone0/{type,temp}`.
fn zones(root: &Root, found: &mut Found) {
    for zone in entries(root, "sys/class/thermal", "thermal_zone") {
        let path = format!("sys/class/thermal/{zone}");
        let kind = text(root, &format!("{path}/type")).unwrap_or_else(|| zone.clone());
        add(found, format!("temp.{kind}"), &zone["thermal_zone".len()..], format!("{path}/temp"));
    }
}

/// `hwmon0/{name,temp1_input,temp1_label}`. A chip that only shows a thermal zone again is left out.
fn chips(root: &Root, found: &mut Found) {
    for chip in entries(root, "sys/class/hwmon", "hwmon") {
        let path = format!("sys/class/hwmon/{chip}");
        let device = fs::read_link(root.path(&format!("{path}/device"))).unwrap_or_default();
        if device.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"thermal_zone")) {
            continue;
        }
        let name = text(root, &format!("{path}/name")).unwrap_or_else(|| chip.clone());
        for input in entries(root, &path, "temp") {
            let Some(sensor) = input.strip_suffix("_input") else { continue };
            let label = text(root, &format!("{path}/{sensor}_label")).unwrap_or_else(|| sensor.to_owned());
            add(found, format!("temp.{name}.{label}"), &chip["hwmon".len()..], format!("{path}/{input}"));
        }
    }
}

/// Of several of one name the later ones have their number behind it.
fn add(found: &mut Found, name: String, number: &str, path: String) {
    let taken = |name: &str| found.iter().any(|(other, _)| other == name);
    let name = if taken(&name) { format!("{name}.{number}") } else { name };
    if !taken(&name) {
        found.push((name, path));
    }
}

/// How often each processor package got too hot, of one of its cores: all cores of a package show the same.
fn throttles(root: &Root) -> Found {
    let mut found = Found::new();
    for core in entries(root, "sys/devices/system/cpu", "cpu") {
        let path = format!("sys/devices/system/cpu/{core}");
        let count = format!("{path}/thermal_throttle/package_throttle_count");
        let Some(package) = text(root, &format!("{path}/topology/physical_package_id")) else { continue };
        if root.path(&count).exists() && !found.iter().any(|(other, _)| *other == package) {
            found.push((package, count));
        }
    }
    found
}

/// What holds processors back, as ARM boards do it: `cooling_device0/{type,cur_state}`, 0 for not at all.
fn coolers(root: &Root) -> Found {
    let mut found = Found::new();
    for cooler in entries(root, "sys/class/thermal", "cooling_device") {
        let path = format!("sys/class/thermal/{cooler}");
        let kind = text(root, &format!("{path}/type")).unwrap_or_default();
        if kind.contains("cpufreq") || kind.contains("cpuidle") || kind == "Processor" {
            found.push((cooler, format!("{path}/cur_state")));
        }
    }
    found.truncate(MOST);
    found
}

/// The names in a folder that begin so, in the order of their numbers.
fn entries(root: &Root, folder: &str, start: &str) -> Vec<String> {
    let names = fs::read_dir(root.path(folder)).into_iter().flatten().flatten();
    let mut names: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| {
        name.strip_prefix(start).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    });
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names
}

/// A short text, such as a name.
fn text(root: &Root, path: &str) -> Option<String> {
    let text = fs::read(Path::new(&root.path(path))).ok()?;
    Some(String::from_utf8_lossy(text.trim_ascii()).into_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests;
