//! From a file to a folder that is whole, on the disk, and what its signer made.

use std::{
    cmp::Ordering,
    ffi::CString,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use protocol::update::Sha256;
use rustix::fs::{Mode, OFlags};
use semver::Version;

use super::{
    Error, Full, Kind, Result, Scripts, Unpack, Unpacked,
    base::Current,
    error::disk,
    judge::{Offer, Verdict, judge},
    module::usable,
    same::Same,
    source::Source,
    target::{Target, make_anew},
    tree::{self, FOLDER},
};
use crate::{
    log::chain,
    services::update::package::{
        self, Keys, Manifest, Package, Place, PlainFile, Staging, Trust, Unkept, Whole,
    },
};

/// What a plain file without a signature is called.
const UNSIGNED: &str = "unsigned";

/// A package between its manifest and its payload.
type Opened<'a> = Package<&'a File>;

/// Verifies a file and unpacks it. Where that fails nothing of it stays.
pub(super) fn run(order: &Unpack) -> Result<Unpacked> {
    let mut source = Source::open(order)?;
    let mut keys = Keys::default();
    if !order.keys.trim().is_empty() {
        keys.add(&order.keys).map_err(Error::Keys)?;
    }
    match source.is_package()? {
        Ok(()) if keys.ids().next().is_none() => Err(Error::NoKeys),
        Ok(()) => packed(order, &source, &keys),
        // What stands for a signed package is one, whatever may come without a signature.
        Err(why) if order.full.is_some() => Err(why.into()),
        Err(why) => plain(order, &source, &keys, &why),
    }
}

fn packed(order: &Unpack, source: &Source<'_>, keys: &Keys) -> Result<Unpacked> {
    let package = Package::open(source.reader(), Trust::Keys(keys))?;
    let manifest = package.manifest();
    let content = manifest.content()?.map(Sha256);
    manifest.fits(order.hardware_id.as_deref())?;
    let (name, version) = (manifest.name(), manifest.version());
    let offer = Offer {
        name,
        version,
        min_version: manifest.min_version(),
        allow_downgrade: manifest.allow_downgrade(),
        content,
    };
    let verdict = judge(&offer, &order.version, order.sha256, &order.installed)?;
    let scripts = scripts(manifest);
    let (module, meta_data) = (manifest.module().map(str::to_owned), manifest.meta_data().cloned());
    let (name, version) = (name.to_owned(), version.to_string());
    // Known before anything is unpacked for it.
    if let Some(module) = &module {
        usable(&order.modules, module).map_err(Error::Module)?;
    }
    let expected = order.full.as_ref().map_or(Ok(()), |full| stands_for(manifest, full));
    expected?;
    let needed = full(manifest);
    let place = match manifest.kind() {
        package::Kind::Files => {
            let target = PathBuf::from(manifest.target().unwrap_or_default());
            files(order, source, package, (Kind::Files, target), verdict.already)
        }
        package::Kind::Agent => {
            files(order, source, package, (Kind::Agent, order.own.clone()), verdict.already)
        }
        package::Kind::Command => staged(order, source, package, Kind::Command, verdict.already),
        package::Kind::Module => staged(order, source, package, Kind::Module, verdict.already),
        package::Kind::Rauc => staged(order, source, package, Kind::Rauc, verdict.already),
    };
    let place = match (place, needed) {
        (Err(Error::Package(error)), Some(full)) if error.needs_full() => {
            return Err(Error::NeedsFull(Box::new(Full { reason: error.to_string(), ..full })));
        }
        (Err(Error::Package(error)), None) if error.needs_full() => return Err(Error::NoFull(error)),
        (place, _) => place?,
    };
    let Placed { kind, target, path, previous, already } = place;
    Ok(Unpacked {
        name,
        version,
        kind,
        target,
        path,
        scripts,
        module,
        meta_data,
        downgrade: verdict.downgrade,
        previous,
        already,
        content,
    })
}

/// Whether it is what the package with patches was.
fn stands_for(manifest: &Manifest, full: &Full) -> Result<()> {
    if manifest.is_delta() {
        return Err(Error::FullIsDelta);
    }
    let text = |name: &str, ids: &[String]| format!("{name} for [{}]", ids.join(", "));
    let found = text(manifest.name(), manifest.hardware_ids());
    let wanted = text(&full.name, &full.hardware_ids);
    if found == wanted { Ok(()) } else { Err(Error::FullOther { found, wanted }) }
}

/// Where the same lies without patches.
fn full(manifest: &Manifest) -> Option<Full> {
    let full = manifest.full()?;
    Some(Full {
        url: full.url.clone(),
        size: full.size,
        sha256: full.sha256.map(Sha256),
        name: manifest.name().to_owned(),
        hardware_ids: manifest.hardware_ids().to_vec(),
        reason: String::new(),
    })
}

/// Where a package has gone.
struct Placed {
    kind: Kind,
    target: Option<PathBuf>,
    path: PathBuf,
    previous: Option<String>,
    already: bool,
}

fn files(
    order: &Unpack,
    source: &Source<'_>,
    package: Opened<'_>,
    (kind, path): (Kind, PathBuf),
    recorded: bool,
) -> Result<Placed> {
    let version = package.manifest().version().to_string();
    let target = Target::make(&path)?;
    // A link that leads nowhere is no version to go back to.
    let mut previous = target.current()?;
    if let Some(link) = &previous
        && !target.leads_somewhere(link)?
    {
        previous = None;
    }
    let manifest = package.manifest();
    let mut others = order.installed.iter().filter(|(name, _)| *name != manifest.name());
    if let Some((other, _)) = others.find(|(_, other)| other.target.as_deref() == Some(path.as_path())) {
        return Err(Error::Taken { path, name: manifest.name().to_owned(), other: other.clone() });
    }
    if !order.installed.contains_key(manifest.name()) && !manifest.allow_downgrade() {
        not_below_what_is_in_use(manifest, previous.as_deref())?;
    }
    let in_use = target.in_use(&version)?;
    let placed = |folder: &str, previous| Placed {
        kind,
        path: target.version_path(folder),
        target: Some(path.clone()),
        previous,
        already: in_use && recorded,
    };
    if in_use {
        // What runs is not changed. It may be this very version, of a factory or of an agent that has lost its memory.
        let mut same = Same::new(target.version(&version)?);
        source.check(package.payload(&mut same)?)?;
        return match same.other() {
            Some(other) if !recorded => Err(Error::InUse { path: target.version_path(&version), other }),
            _ => Ok(placed(&version, previous)),
        };
    }
    target.remove_leftovers()?;
    let staging = Target::staging_name(order.sha256);
    let staged = target.version_path(&staging);
    let mut bases = Current::new(target.folder_in_use(), order.delta_memory, kind == Kind::Agent);
    filled(target.versions(), &staged, |root| {
        unpack(source, package, root, Mode::from_raw_mode(0o755), &mut bases)
    })?;
    Ok(placed(&staging, previous))
}

/// Of software that nobody has a record of, what is in use is the least that there was.
fn not_below_what_is_in_use(manifest: &Manifest, current: Option<&str>) -> Result<()> {
    let name = current.and_then(|link| link.rsplit('/').next());
    match name.and_then(|name| Version::parse(name).ok()) {
        Some(floor) if manifest.version().cmp_precedence(&floor) == Ordering::Less => {
            Err(Error::Older { name: manifest.name().to_owned(), version: manifest.version().clone(), floor })
        }
        _ => Ok(()),
    }
}

/// What is not installed here but given to somebody who does so.
fn staged(
    order: &Unpack,
    source: &Source<'_>,
    package: Opened<'_>,
    kind: Kind,
    already: bool,
) -> Result<Placed> {
    let placed = Placed { kind, target: None, path: order.stage.clone(), previous: None, already };
    if already {
        source.check(package.payload(&mut Unkept)?)?;
        return Ok(placed);
    }
    let parent = parent(&order.stage)?;
    // These have no patches.
    let mut bases = Current::new(None, 0, false);
    filled(&parent, &order.stage, |root| {
        unpack(source, package, root, Mode::from_raw_mode(0o700), &mut bases)
    })?;
    Ok(placed)
}

/// All entries into an empty folder, which is then on the disk and has this mode.
fn unpack(
    source: &Source<'_>,
    package: Opened<'_>,
    root: OwnedFd,
    mode: Mode,
    bases: &mut Current,
) -> Result<()> {
    let mut staging = Staging::new(root);
    staging.room(package.manifest())?;
    source.check(package.patched(&mut staging, bases)?)?;
    let root = staging.finish()?;
    rustix::fs::fchmod(&root, mode)
        .and_then(|()| rustix::fs::fsync(&root))
        .map_err(disk("sync", "the staging folder"))
}

/// Makes a folder anew and fills it. It is on the disk after that, or gone again.
fn filled<T>(parent: &OwnedFd, path: &Path, fill: impl FnOnce(OwnedFd) -> Result<T>) -> Result<T> {
    let name =
        path.file_name().map(|name| CString::new(name.as_bytes()).unwrap_or_default()).unwrap_or_default();
    let root = make_anew(parent, &name).map_err(disk("make", path))?;
    let synced = |done| rustix::fs::fsync(parent).map(|()| done).map_err(disk("sync", path));
    let done = fill(root).and_then(synced);
    if done.is_err() {
        // The next one does it, where this cannot be done now.
        tree::remove(parent, &name).ok();
    }
    done
}

/// The folder that the staging folder lies in: the agent's own.
fn parent(stage: &Path) -> Result<OwnedFd> {
    let path = stage.parent().unwrap_or(Path::new("/"));
    rustix::fs::open(path, FOLDER, Mode::empty()).map_err(disk("open", path))
}

fn scripts(manifest: &Manifest) -> Scripts {
    let mut scripts = Scripts::default();
    for (name, place) in manifest.scripts().iter() {
        let place = Some(Place::as_str(place).to_owned());
        match name {
            "pre_install" => scripts.pre_install = place,
            "post_install" => scripts.post_install = place,
            _ => scripts.health = place,
        }
    }
    scripts
}

/// What a plain file is, as its signer says or as nobody does.
struct Said {
    name: String,
    version: Version,
    allow_downgrade: bool,
}

fn plain(order: &Unpack, source: &Source<'_>, keys: &Keys, why: &package::Error) -> Result<Unpacked> {
    if order.signature.is_none() && !order.allow_unsigned {
        return Err(Error::Unsigned { why: chain(why) });
    }
    // Known before the whole file is read.
    let signature = order.signature.as_ref().map(|text| PlainFile::new(keys, text)).transpose()?;
    // What lies where others can write is copied as it is read: it could be another file a moment later.
    let ours = order.stage.parent().is_some_and(|folder| order.file.starts_with(folder));
    if ours {
        let (verdict, said) = checked(order, source, signature.as_ref(), None)?;
        return Ok(as_plain(said, &verdict, order.file.clone()));
    }
    let parent = parent(&order.stage)?;
    let name = order.file.file_name().unwrap_or_default();
    let path = order.stage.join(name);
    let (verdict, said) = filled(&parent, &order.stage, |root| {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let copy = rustix::fs::openat(&root, name, flags, Mode::from_raw_mode(0o600))
            .map_err(disk("make", &path))?;
        let copy = File::from(copy);
        let done = checked(order, source, signature.as_ref(), Some((&copy, &path)))?;
        copy.sync_all().map_err(disk("sync", &path))?;
        rustix::fs::fsync(&root).map_err(disk("sync", &order.stage))?;
        Ok(done)
    })?;
    Ok(as_plain(said, &verdict, path))
}

fn as_plain(Said { name, version, .. }: Said, verdict: &Verdict, path: PathBuf) -> Unpacked {
    Unpacked {
        name,
        version: version.to_string(),
        kind: Kind::Plain,
        target: None,
        path,
        scripts: Scripts::default(),
        module: None,
        meta_data: None,
        downgrade: verdict.downgrade,
        previous: None,
        already: verdict.already,
        content: None,
    }
}

/// Reads the whole file, into a copy if there is to be one, and judges what it is.
fn checked(
    order: &Unpack,
    source: &Source<'_>,
    signature: Option<&PlainFile<'_>>,
    copy: Option<(&File, &Path)>,
) -> Result<(Verdict, Said)> {
    let mut reader = source.copied(copy.map(|(file, _)| file));
    let path = copy.map_or(order.file.as_path(), |(_, path)| path);
    let said = match signature {
        None => io::copy(&mut reader, &mut io::sink()).map(|_| None).map_err(package::Error::Read),
        Some(signature) => signature.check(&mut reader).map(|(claim, _)| Some(claim)),
    };
    if let Some(error) = reader.failure() {
        return Err(disk("write", path)(error));
    }
    let said = said?;
    let whole: Whole = reader.finish();
    source.check(whole)?;
    let said = match said {
        None => {
            let version = &order.version;
            let version = Version::parse(version).map_err(|_| Error::NoVersion(version.clone()))?;
            Said { name: UNSIGNED.to_owned(), version, allow_downgrade: false }
        }
        Some(claim) => {
            claim.fits(order.hardware_id.as_deref())?;
            Said { name: claim.name, version: claim.version, allow_downgrade: claim.allow_downgrade }
        }
    };
    let Said { name, version, allow_downgrade } = &said;
    let offer = Offer { name, version, min_version: None, allow_downgrade: *allow_downgrade, content: None };
    let verdict = judge(&offer, &order.version, order.sha256, &order.installed)?;
    Ok((verdict, said))
}
