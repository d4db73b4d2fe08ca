//! Whether a version may come onto this device.

use std::{cmp::Ordering, collections::BTreeMap};

use protocol::update::Sha256;
use semver::Version;

use super::{Error, Installed, Result};

/// What a signed manifest, or a signature's comment, says.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a Version,
    /// The oldest version that it may replace.
    pub(super) min_version: Option<&'a Version>,
    /// Whether it may be older than the floor.
    pub(super) allow_downgrade: bool,
    /// Of what is in it, however it was packed, where that can be compared.
    pub(super) content: Option<Sha256>,
}

/// What there is to say of a version that may come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// It is below the floor.
    pub(super) downgrade: bool,
    /// The same file is what is recorded as installed, or one with the same in it.
    pub(super) already: bool,
}

/// Holds an offer against the request and against what is installed.
///
/// Versions compare by semver.org, where build metadata makes none older.
pub(super) fn judge(
    offer: &Offer<'_>,
    wanted: &str,
    sha256: Sha256,
    installed: &BTreeMap<String, Installed>,
) -> Result<Verdict> {
    let Offer { name, version, min_version, allow_downgrade, content } = *offer;
    let wanted = Version::parse(wanted).map_err(|_| Error::NoVersion(wanted.to_owned()))?;
    if *version != wanted {
        return Err(Error::Version { found: version.clone(), wanted });
    }
    let Some(record) = installed.get(name) else { return Ok(Verdict { downgrade: false, already: false }) };
    let read = |text: &str| {
        Version::parse(text).map_err(|_| Error::Record { name: name.to_owned(), found: text.to_owned() })
    };
    let (present, floor) = (record.version.as_deref().map(read).transpose()?, read(&record.floor)?);
    let (name, version) = (name.to_owned(), version.clone());
    let same = present.as_ref() == Some(&version);
    let repacked = content.is_some() && content == record.content;
    if same && (repacked || record.sha256.eq_ignore_ascii_case(&sha256.to_string())) {
        return Ok(Verdict { downgrade: false, already: true });
    }
    if same && !allow_downgrade {
        return Err(Error::Rebuilt { name, version });
    }
    if let (Some(min), Some(installed)) = (min_version, present)
        && installed.cmp_precedence(min) == Ordering::Less
    {
        return Err(Error::TooFar { what: format!("{name} {version}"), min: min.clone(), installed });
    }
    let downgrade = version.cmp_precedence(&floor) == Ordering::Less;
    if downgrade && !allow_downgrade {
        return Err(Error::Older { name, version, floor });
    }
    Ok(Verdict { downgrade, already: false })
}
