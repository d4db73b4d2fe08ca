//! What is in use: the new version, the old one again, and what is kept of older ones.

use std::{cmp::Reverse, path::Path};

use semver::Version;

use super::{
    Error, Result,
    target::{Target, link, sound},
};

/// The staged folder becomes the version's, and `current` leads to it.
pub(super) fn forth(path: &Path, version: &str, staged: &Path) -> Result<()> {
    let (target, version) = (Target::open(path)?, sound(version)?);
    // Before anything is moved: what is no link is not replaced.
    target.current()?;
    let staging = staged.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    // Where it lay there already, nothing was unpacked.
    if !staging.is_empty() && staging != version && target.has(staging)? {
        if target.in_use(version)? {
            let (path, other) = (target.version_path(version), "folder".to_owned());
            return Err(Error::InUse { path, other });
        }
        target.remove(version)?;
        target.rename(staging, version)?;
    } else if target.has(version)? {
        // Somebody came this far already, and may have been ended before it was on the disk.
        target.sync_versions()?;
    } else {
        return Err(Error::Gone { staged: staged.to_owned(), version: target.version_path(version) });
    }
    let link = link(version);
    if target.current()?.as_deref() == Some(link.as_str()) { target.sync() } else { target.lead(&link) }
}

/// `current` leads to what it did before.
///
/// What is not needed any more is removed after that, where the disk lets us; [`clean`] looks for it again.
pub(super) fn back(path: &Path, version: &str, previous: Option<&str>) -> Result<()> {
    let (target, version) = (Target::open(path)?, sound(version)?);
    let current = target.current()?;
    match previous {
        Some(previous) if current.as_deref() == Some(previous) => target.sync()?,
        Some(previous) if target.leads_somewhere(previous)? => target.lead(previous)?,
        Some(previous) => return Err(Error::NoWayBack(path.join(previous))),
        // It may lead elsewhere by now, and then it is somebody else's.
        None if target.in_use(version)? || current == Some(link(version)) => target.lead_nowhere()?,
        None => target.sync()?,
    }
    if !target.in_use(version)? {
        target.remove(version).ok();
    }
    target.remove_leftovers().and_then(|()| target.sync_versions()).ok();
    Ok(())
}

/// Removes what was left half unpacked, and versions beyond those that are kept: the one in use and the one before it
/// always, then the highest.
pub(super) fn clean(path: &Path, keep: u32, previous: Option<&str>) -> Result<()> {
    let target = Target::open(path)?;
    target.remove_leftovers()?;
    let (mut kept, mut others) = (0, Vec::new());
    for name in target.names()? {
        // What is called otherwise was not put there by us.
        let Ok(version) = Version::parse(&name) else { continue };
        if target.in_use(&name)? || previous == Some(link(&name).as_str()) {
            kept += 1;
        } else {
            others.push((version, name));
        }
    }
    others.sort_by(|(one, _), (other, _)| Reverse(one).cmp(&Reverse(other)));
    let room = usize::try_from(keep).unwrap_or(usize::MAX).saturating_sub(kept);
    for (_, name) in others.iter().skip(room) {
        target.remove(name)?;
    }
    target.sync_versions()
}
