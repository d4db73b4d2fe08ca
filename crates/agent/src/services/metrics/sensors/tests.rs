use super::*;
use crate::services::metrics::fixture::{Tree, look};

fn seen(sensors: &mut Sensors) -> Vec<(String, f64)> {
    look(|values| sensors.collect(values)).into_iter().collect()
}

fn named(values: &[(&str, f64)]) -> Vec<(String, f64)> {
    values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
}

#[test]
fn a_machine_without_sensors_has_none() {
    assert_eq!(seen(&mut Sensors::new(&Tree::new().root())), []);
}

#[test]
fn zones_and_chips_each_once() {
    let tree = Tree::new();
    for (zone, kind, temp) in
        [(0, "cpu-thermal", "48312"), (1, "gpu", "-5000"), (2, "gpu", "51000"), (10, "odd", "x")]
    {
        tree.file(&format!("sys/class/thermal/thermal_zone{zone}/type"), format!("{kind}\n"));
        tree.file(&format!("sys/class/thermal/thermal_zone{zone}/temp"), format!("{temp}\n"));
    }
    tree.file("sys/class/hwmon/hwmon0/name", "cpu_thermal\n");
    tree.link("sys/class/hwmon/hwmon0/device", "../../thermal_zone0");
    tree.file("sys/class/hwmon/hwmon0/temp1_input", "48312\n");
    tree.file("sys/class/hwmon/hwmon1/name", "coretemp\n");
    tree.file("sys/class/hwmon/hwmon1/temp1_label", "Package id 0\n");
    tree.file("sys/class/hwmon/hwmon1/temp1_input", "60000\n");
    tree.file("sys/class/hwmon/hwmon1/temp2_input", "255000\n");
    tree.file("sys/class/hwmon/hwmon1/temp1_max", "100000\n");
    tree.file("sys/class/hwmon/hwmon1/fan1_input", "1200\n");
    let expected = [
        ("temp.coretemp.Package id 0", 60.0),
        ("temp.cpu-thermal", 48.312),
        ("temp.gpu", -5.0),
        ("temp.gpu.2", 51.0),
    ];
    let mut sensors = Sensors::new(&tree.root());
    assert_eq!(seen(&mut sensors), named(&expected));
    tree.remove("sys/class/thermal/thermal_zone1");
    tree.file("sys/class/thermal/thermal_zone0/temp", "49000\n");
    assert!(seen(&mut sensors).contains(&("temp.cpu-thermal".to_owned(), 49.0)));
}

#[test]
fn new_ones_are_found_and_there_is_a_bound() {
    let tree = Tree::new();
    let mut sensors = Sensors::new(&tree.root());
    assert_eq!(seen(&mut sensors), []);
    for zone in 0..500 {
        tree.file(&format!("sys/class/thermal/thermal_zone{zone}/type"), format!("zone {zone}\n"));
        tree.file(&format!("sys/class/thermal/thermal_zone{zone}/temp"), "20000\n");
    }
    for _ in 1..SEARCH_EVERY {
        assert_eq!(seen(&mut sensors), []);
    }
    assert_eq!(seen(&mut sensors).len(), MOST);
}

#[test]
fn throttling_is_counted_once_for_a_package_and_the_strongest_brake_shown() {
    let tree = Tree::new();
    for (core, package, count) in [(0, 0, 7), (1, 0, 7), (2, 1, 5), (10, 1, 5)] {
        let path = format!("sys/devices/system/cpu/cpu{core}");
        tree.file(&format!("{path}/topology/physical_package_id"), format!("{package}\n"));
        tree.file(&format!("{path}/thermal_throttle/package_throttle_count"), format!("{count}\n"));
    }
    tree.folder("sys/devices/system/cpu/cpufreq");
    for (cooler, kind, state) in [(0, "cpufreq-cpu0", 1), (1, "thermal-cpufreq-1", 3), (2, "pwm-fan", 9)] {
        tree.file(&format!("sys/class/thermal/cooling_device{cooler}/type"), format!("{kind}\n"));
        tree.file(&format!("sys/class/thermal/cooling_device{cooler}/cur_state"), format!("{state}\n"));
    }
    let mut sensors = Sensors::new(&tree.root());
    assert_eq!(seen(&mut sensors), named(&[("cpu.cooling", 3.0), ("cpu.throttled", 12.0)]));
}
