use std::fs;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::*;

const MACHINE: &str = "b08dfa6083e7567a1921a715000001fb";
const OTHER: &str = "11112222333344445555666677778888";

/// A state folder that outlives its agent, and a `device.json` beside it.
struct Disk {
    dir: TempDir,
    device_file: PathBuf,
}

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let device_file = dir.path().join("device.json");
        Self { dir, device_file }
    }

    fn with(device: &Value) -> Self {
        let disk = Self::new();
        fs::write(&disk.device_file, device.to_string()).unwrap();
        disk
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn load_as(&self, configured: &str, machine: Option<&str>) -> Result<Identity, Error> {
        let store = Store::open(&self.state()).unwrap();
        Identity::load(&store, &self.device_file, configured, machine.map(str::to_owned))
    }

    fn start(&self, machine: Option<&str>) -> Identity {
        self.load_as("", machine).unwrap()
    }

    fn device(&self) -> Option<Value> {
        fs::read(&self.device_file).ok().map(|bytes| serde_json::from_slice(&bytes).unwrap())
    }

    fn aside(&self) -> usize {
        let is_aside = |name: &str| name.starts_with("device.json.damaged-");
        fs::read_dir(self.dir.path())
            .unwrap()
            .filter(|entry| is_aside(entry.as_ref().unwrap().file_name().to_str().unwrap()))
            .count()
    }
}

fn id(text: &str) -> DeviceId {
    text.parse().unwrap()
}

fn enrolled(identity: &Identity) -> Option<String> {
    identity.device().borrow().as_ref().map(|device| device.device_id.to_string())
}

#[test]
fn a_client_id_is_made_once() {
    let disk = Disk::new();
    let first = disk.start(Some(MACHINE)).client_id().clone();
    assert_eq!(first.as_str().len(), 32);
    assert!(first.as_str().bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(*disk.start(Some(MACHINE)).client_id(), first);
    let kept = fs::read_to_string(disk.state().join(FILE)).unwrap();
    assert!(!kept.contains(MACHINE), "the machine id itself must not be stored: {kept}");
    assert_ne!(*Disk::new().start(Some(MACHINE)).client_id(), first);
}

#[test]
fn a_copied_disk_becomes_another_device() {
    let disk = Disk::new();
    let original = disk.start(Some(MACHINE));
    original.enrol(id("d1")).unwrap();
    let old = original.client_id().clone();
    drop(original);

    let copy = disk.start(Some(OTHER));
    assert_ne!(*copy.client_id(), old);
    assert_eq!(enrolled(&copy), None);
    assert_eq!((disk.device(), disk.aside()), (None, 1));
    copy.enrol(id("d2")).unwrap();
    let new = copy.client_id().clone();
    drop(copy);

    let again = disk.start(Some(OTHER));
    assert_eq!((again.client_id(), enrolled(&again).as_deref()), (&new, Some("d2")));
}

#[test]
fn a_copied_disk_is_noticed_with_a_configured_client_id_too() {
    let disk = Disk::with(&json!({"device_id": "d1"}));
    drop(disk.load_as("pump", Some(MACHINE)).unwrap());
    let copy = disk.load_as("pump", Some(OTHER)).unwrap();
    assert_eq!((copy.client_id().as_str(), enrolled(&copy)), ("pump", None));
}

#[test]
fn another_machines_id_is_not_used_even_where_it_cannot_be_set_aside() {
    let disk = Disk::with(&json!({"device_id": "d1"}));
    drop(disk.start(Some(MACHINE)));
    // What a read-only place does to a rename, for root as well: there are already as many set aside as numbers.
    let taken = disk.dir.path().join(format!("device.json.damaged-{}", u32::MAX));
    fs::create_dir(&taken).unwrap();
    for _ in 0..2 {
        let copy = disk.start(Some(OTHER));
        assert_eq!(enrolled(&copy), None);
        assert_eq!(disk.device(), Some(json!({"device_id": "d1"})));
    }
    // The backend knows the copy by a configured client id and gives it the same id: that is an answer.
    let copy = disk.start(Some(OTHER));
    copy.enrol(id("d1")).unwrap();
    drop(copy);
    assert_eq!(enrolled(&disk.start(Some(OTHER))).as_deref(), Some("d1"));
}

#[test]
fn a_missing_machine_id_changes_nobody() {
    let disk = Disk::with(&json!({"device_id": "d1"}));
    let first = disk.start(None).client_id().clone();
    for machine in [None, Some(""), Some("uninitialized\n"), Some(MACHINE), None, Some(" "), Some(MACHINE)] {
        let identity = disk.start(machine);
        assert_eq!(
            (identity.client_id(), enrolled(&identity).as_deref()),
            (&first, Some("d1")),
            "{machine:?}"
        );
    }
    // Bound by the fourth start, and not unbound by the fifth.
    assert_ne!(*disk.start(Some(OTHER)).client_id(), first);
}

#[test]
fn a_configured_client_id_is_a_prefix_or_the_whole() {
    let disk = Disk::new();
    let made = disk.start(Some(MACHINE)).client_id().clone();
    let as_configured = |configured: &str| {
        disk.load_as(configured, Some(MACHINE)).map(|identity| identity.client_id().to_string())
    };
    assert_eq!(as_configured("iot_agent-").unwrap(), format!("iot_agent-{made}"));
    assert_eq!(as_configured("-").unwrap(), format!("-{made}"));
    assert_eq!(as_configured("pump-7").unwrap(), "pump-7");
    for bad in ["a/b", "$SYS-", "a+", &"x".repeat(129), &format!("{}-", "x".repeat(100))] {
        assert!(matches!(as_configured(bad), Err(Error::ClientId { .. })), "{bad}");
    }
}

#[test]
fn device_json_says_who_the_device_is() {
    let written = json!({
        "device_id": "d1", "device_name": "Pump", "org_id": "acme", "metadata": {"floor": 3}, "other": [1]
    });
    let identity = Disk::with(&written).start(Some(MACHINE));
    let profile = Profile {
        device_name: Some("Pump".into()),
        org_id: Some("acme".into()),
        metadata: json!({"floor": 3}).as_object().cloned(),
    };
    assert_eq!(*identity.device().borrow(), Some(Device { device_id: id("d1"), profile }));
}

#[test]
fn the_go_agents_spelling_is_accepted() {
    for (device, expected) in [
        (json!({"deviceID": "d1"}), Some("d1")),
        (json!({"deviceID": "d1", "device_id": "d1"}), Some("d1")),
        (json!({"deviceID": "d1", "device_id": ""}), Some("d1")),
        (json!({"deviceID": ""}), None),
        (json!({"device_id": null}), None),
    ] {
        let disk = Disk::with(&device);
        assert_eq!(enrolled(&disk.start(None)).as_deref(), expected, "{device}");
        assert_eq!(disk.device(), Some(device), "left as it was");
    }
}

#[test]
fn an_impossible_device_json_is_set_aside() {
    for device in [
        json!({"device_id": "a/b"}),
        json!({"device_id": "registration"}),
        json!({"device_id": "x".repeat(129)}),
        json!({"device_id": 7}),
        json!({"device_id": "d1", "deviceID": "d2"}),
        json!(["d1"]),
        json!("d1"),
    ] {
        let disk = Disk::with(&device);
        assert_eq!(enrolled(&disk.start(None)), None, "{device}");
        assert_eq!((disk.device(), disk.aside()), (None, 1), "{device}");
    }
}

#[test]
fn a_field_of_the_wrong_type_does_not_cost_the_id() {
    let disk = Disk::with(&json!({"device_id": "d1", "device_name": 7, "org_id": "acme", "metadata": []}));
    let identity = disk.start(None);
    assert_eq!(enrolled(&identity).as_deref(), Some("d1"));
    assert_eq!(*identity.profile(), Profile { org_id: Some("acme".into()), ..Profile::default() });
}

#[test]
fn an_enrolment_keeps_what_else_the_file_says() {
    let disk = Disk::with(&json!({"deviceID": "", "device_name": "Pump", "other": {"kept": true}}));
    let identity = disk.start(None);
    assert_eq!(identity.profile().device_name.as_deref(), Some("Pump"));
    identity.enrol(id("d1")).unwrap();
    let expected = json!({"device_id": "d1", "device_name": "Pump", "other": {"kept": true}});
    assert_eq!(disk.device(), Some(expected));
}

#[tokio::test]
async fn those_who_wait_learn_of_the_enrolment() {
    let disk = Disk::new();
    let identity = disk.start(None);
    let mut changes = identity.device();
    let wait = tokio::time::timeout(Duration::from_secs(5), identity.device_id());
    let (waited, ()) = tokio::join!(wait, async { identity.enrol(id("d1")).unwrap() });
    assert_eq!(waited.unwrap(), id("d1"));
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();

    identity.enrol(id("d1")).unwrap();
    assert!(!changes.has_changed().unwrap(), "the same id again is no change");
    let refused = identity.enrol(id("d2")).unwrap_err();
    assert_eq!(refused.to_string(), "this device is d1, not d2");
    assert_eq!(
        (enrolled(&identity).as_deref(), disk.device()),
        (Some("d1"), Some(json!({"device_id": "d1"})))
    );
}

#[test]
fn an_id_that_cannot_be_kept_is_used_and_kept_later() {
    let mut disk = Disk::new();
    let folder = disk.dir.path().join("later");
    disk.device_file = folder.join("device.json");
    let identity = disk.start(None);
    assert!(matches!(identity.enrol(id("d1")), Err(EnrolError::NotKept { .. })));
    assert_eq!(enrolled(&identity).as_deref(), Some("d1"));
    assert!(identity.keep().is_err());
    fs::create_dir(&folder).unwrap();
    identity.keep().unwrap();
    assert_eq!(disk.device(), Some(json!({"device_id": "d1"})));
}

#[test]
fn every_truncation_and_flip_of_either_file_leaves_an_agent_that_can_enrol() {
    let disk = Disk::with(&json!({"device_id": "d1"}));
    drop(disk.start(Some(MACHINE)));
    for file in [disk.state().join(FILE), disk.device_file.clone()] {
        let good = fs::read(&file).unwrap();
        let truncations = (0..good.len()).map(|length| good[..length].to_vec());
        let flips = (0..good.len()).flat_map(|at| {
            [0x01, 0x04, 0x10, 0x20, 0x80, 0xff].map(|flip| {
                let mut bad = good.clone();
                bad[at] ^= flip;
                bad
            })
        });
        for bad in truncations.chain(flips) {
            fs::write(&file, &bad).unwrap();
            let identity = disk.start(Some(MACHINE));
            let device_id = enrolled(&identity).unwrap_or("d3".into());
            identity.enrol(id(&device_id)).unwrap();
            let client_id = identity.client_id().clone();
            drop(identity);
            let next = disk.start(Some(MACHINE));
            assert_eq!((next.client_id(), enrolled(&next)), (&client_id, Some(device_id)));
        }
        fs::write(&file, &good).unwrap();
    }
}

#[test]
fn runs_differ_and_boots_do_not() {
    let disk = Disk::new();
    let (first, second) = (disk.start(None), Disk::new().start(None));
    assert_ne!(first.run_id(), second.run_id());
    #[cfg(target_os = "linux")]
    assert_eq!(first.boot_id(), second.boot_id());
    assert!(!first.boot_id().is_empty());
}
