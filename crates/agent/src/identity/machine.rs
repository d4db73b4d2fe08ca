//! The id of the machine, where the system has one that lasts.

use std::fs;
use std::path::Path;

/// `machine-id(5)`, D-Bus's older place, and the BSDs' host id. macOS has no such file: there a client id is
/// bound to nothing.
const PLACES: &[&str] = &[
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    #[cfg(not(target_os = "linux"))] // There it is a file of four bytes, alike on many machines.
    "/etc/hostid",
];

/// The machine's id. `None` where there is none, where it is still to be made ("uninitialized"), or where it was
/// made for this boot only, as systemd does when `/etc` is read-only.
pub fn machine_id() -> Option<String> {
    PLACES.iter().find_map(|place| read(Path::new(place)))
}

fn read(place: &Path) -> Option<String> {
    let text = fs::read_to_string(place).ok()?;
    let id = usable(&text)?;
    if lost_at_reboot(place) {
        tracing::warn!(file = %place.display(), "the machine id lasts for this boot only, and is not used");
        return None;
    }
    Some(id.into())
}

/// The id in a machine-id file's content, if it tells machines apart.
pub(super) fn usable(text: &str) -> Option<&str> {
    let id = text.trim();
    let blank = id.chars().all(|c| matches!(c, '0' | '-'));
    (!blank && id != "uninitialized").then_some(id)
}

#[cfg(target_os = "linux")]
fn lost_at_reboot(file: &Path) -> bool {
    const TMPFS: i128 = 0x0102_1994;
    // The field's type differs from machine to machine; each fits.
    rustix::fs::statfs(file).is_ok_and(|found| i128::from(found.f_type) == TMPFS)
}

#[cfg(not(target_os = "linux"))]
fn lost_at_reboot(_: &Path) -> bool {
    false
}

/// The kernel's id of this boot; a random one where the kernel has none.
pub(crate) fn boot_id() -> Result<String, super::Error> {
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().into()),
        _ => super::random(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_ids_from_placeholders() {
        for blank in [
            "",
            "\n",
            "uninitialized\n",
            "00000000000000000000000000000000\n",
            "00000000-0000-0000-0000-000000000000",
        ] {
            assert_eq!(usable(blank), None, "{blank:?}");
        }
        let id = "b08dfa6083e7567a1921a715000001fb";
        assert_eq!(usable(&format!(" {id}\r\n")), Some(id));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn an_id_on_a_temporary_file_system_does_not_last() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = dir.path().join("machine-id");
        fs::write(&file, "b08dfa6083e7567a1921a715000001fb\n").unwrap();
        assert!(lost_at_reboot(&file));
        assert_eq!(read(&file), None);
        assert!(!lost_at_reboot(Path::new("/proc/self/status")));
    }
}
