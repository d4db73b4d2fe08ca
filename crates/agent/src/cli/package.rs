//! `iot-agent package`: makes, signs, shows and checks packages of updates. Needs neither daemon nor configuration.

mod output;
mod secret;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use protocol::{Timestamp, update::Sha256};
use serde_json::json;

use super::print;
use crate::{
    clock::{self, Clock},
    services::update::package::{
        Draft, Keys, Manifest, MetaData, Package as Opened, Patches, Trust, Unkept, Whole, Writer, sign,
        whole,
    },
    status::printable,
};
use output::{Output, Progress, Watched};

#[derive(Debug, Subcommand)]
pub(super) enum Package {
    /// Make a package from a folder; it still has to be signed
    #[command(after_help = "\
Example:
  iot-agent package create --name app --version 1.4.0 --hardware-id board-2 --target /opt/app \\
      --post-install restart.sh --health check.sh build/ -o app-1.4.0.pkg
  iot-agent package sign app-1.4.0.pkg --key release.key

The same folder with the same --created gives the same bytes. docs/packages.md has more, also how to make a package with tar,
zstd and minisign alone.")]
    Create(Box<Create>),
    /// Sign a package with a secret key of `minisign -G`, in place of any signature it has
    #[command(after_help = "\
The whole package is checked before it is signed, and replaced when the signed one is on the disk. A key with a password
asks for it on the terminal; --password-file is for machines that nobody sits at. It takes 1 GiB of memory, as in minisign.
Examples:
  minisign -G -p release.pub -s release.key        make the keys; release.pub is for the devices
  iot-agent package sign app-1.4.0.pkg --key release.key")]
    Sign(Sign),
    /// Show what a package says of itself, signed or not; believes every word
    Inspect(Inspect),
    /// Check a package as a device would: signature, hardware, each file, to the last byte; exit 1 with the reason
    #[command(after_help = "\
Examples:
  iot-agent package verify app-1.4.0.pkg --key release.pub
  iot-agent package verify app-1.4.0.pkg --key RWQf6LRC… --hardware-id board-2")]
    Verify(Verify),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The folder whose files are packed, with their permissions
    folder: PathBuf,
    /// The package to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// What the software is called: letters, digits and ._+-
    #[arg(long)]
    name: String,
    /// Its version, by semver.org: 1.4.0, 2.0.0-rc.1
    #[arg(long = "version", value_name = "VERSION")]
    version: String,
    /// A device that it is for; may be repeated. Without one it is for any
    #[arg(long, value_name = "ID")]
    hardware_id: Vec<String>,
    /// `files` become a version's folder below --target, `command` are given to the device's update_command, `module` to an
    /// update module of it, `rauc` is a bundle for RAUC, `agent` this program
    #[arg(long, default_value = "files", value_parser = ["files", "command", "module", "rauc", "agent"])]
    kind: String,
    /// Absolute path, on the device, of the folder for versions; `files` need it
    #[arg(long, value_name = "PATH")]
    target: Option<String>,
    /// The update module that installs it; `module` needs it
    #[arg(long, value_name = "NAME")]
    module: Option<String>,
    /// A JSON object that the module finds as header/meta-data
    #[arg(long, value_name = "FILE")]
    meta_data: Option<PathBuf>,
    /// Pack patches against the files of an earlier version, the folder that it was made from, wherever they are smaller; a
    /// device that has another version fetches the whole package from --full-url
    #[arg(long, value_name = "FOLDER")]
    delta_from: Option<PathBuf>,
    /// Where the same version lies as a package without patches
    #[arg(long, value_name = "URL", requires = "delta_from")]
    full_url: Option<String>,
    /// That package, signed, if it is at hand: its size and SHA-256 are noted
    #[arg(long, value_name = "FILE", requires = "full_url")]
    full: Option<PathBuf>,
    /// The oldest version that it may replace
    #[arg(long, value_name = "VERSION")]
    min_version: Option<String>,
    /// Let it replace a later version
    #[arg(long)]
    allow_downgrade: bool,
    /// A file of the folder to run before the switch to the new version
    #[arg(long, value_name = "PATH")]
    pre_install: Option<String>,
    /// A file of the folder to run after it
    #[arg(long, value_name = "PATH")]
    post_install: Option<String>,
    /// A file of the folder that says whether the new version works
    #[arg(long, value_name = "PATH")]
    health: Option<String>,
    /// When it was made, as RFC 3339; by default now
    #[arg(long, value_name = "TIME")]
    created: Option<Timestamp>,
    #[command(flatten)]
    level: Level,
}

#[derive(Debug, Args)]
struct Level {
    /// How hard zstd tries, 1 to 22; no level takes more than 4 MiB on the device
    #[arg(long, value_name = "1-22", default_value_t = 9, value_parser = clap::value_parser!(i32).range(1..=22))]
    level: i32,
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The package
    file: PathBuf,
    /// The secret key, as a file of `minisign -G`
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Read the key's password from this file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    level: Level,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The package
    file: PathBuf,
    /// Print JSON, for programs: the manifest and who has signed it
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The package
    file: PathBuf,
    /// A public key that is trusted: a .pub file or the line that begins with RW; may be repeated
    #[arg(long = "key", value_name = "PUBLIC", required = true)]
    keys: Vec<String>,
    /// Check that it is for this device, too
    #[arg(long, value_name = "ID")]
    hardware_id: Option<String>,
}

impl Package {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Create(create) => create.run(),
            Self::Sign(sign) => sign.run(),
            Self::Inspect(inspect) => inspect.run(),
            Self::Verify(verify) => verify.run(),
        }
    }
}

fn open(file: &Path) -> anyhow::Result<BufReader<File>> {
    Ok(BufReader::new(File::open(file).with_context(|| format!("open {}", file.display()))?))
}

fn meta_data(file: &Path) -> anyhow::Result<MetaData> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON object", file.display()))
}

fn look(file: &Path) -> anyhow::Result<Whole> {
    whole(open(file)?).with_context(|| format!("read {}", file.display()))
}

impl Create {
    fn run(self) -> anyhow::Result<()> {
        let now = || Timestamp::from_system_time(Clock::new(clock::built(), None).now());
        let scripts =
            [("pre_install", self.pre_install), ("post_install", self.post_install), ("health", self.health)];
        let full = self.full.as_deref().map(look).transpose()?;
        let draft = Draft {
            name: self.name,
            version: self.version,
            hardware_ids: self.hardware_id,
            min_version: self.min_version,
            created: self.created.unwrap_or_else(now),
            kind: self.kind,
            target: self.target,
            module: self.module,
            meta_data: self.meta_data.as_deref().map(meta_data).transpose()?,
            full_url: self.full_url,
            full_size: full.map(|full| full.size),
            full_sha256: full.map(|full| Sha256(full.sha256).to_string()),
            allow_downgrade: self.allow_downgrade,
            scripts: scripts
                .into_iter()
                .filter_map(|(name, path)| Some((name, path?)))
                .collect::<BTreeMap<_, _>>(),
        };
        let mut manifest = draft.manifest(&self.folder)?;
        let patches = match &self.delta_from {
            Some(old) => Patches::make(&mut manifest, &self.folder, old, self.level.level)?,
            None => Patches::default(),
        };
        let mut output = Output::new(&self.output)?;
        let mut progress = Progress::new("packed", manifest.size());
        let writer = Writer::new(output.writer()?, self.level.level, &manifest.to_bytes()?, None)?;
        let mut sink = Watched { sink: writer, told: |bytes| progress.add(bytes) };
        Draft::pack(&manifest, &self.folder, &patches, &mut sink)?;
        sink.sink.finish()?;
        output.keep()?;
        progress.done();
        let count = manifest.entries().len();
        let what = match patches.count() {
            0 => String::new(),
            patches => format!(", {patches} of them as patches"),
        };
        print(&format!("{}: {count} files{what}, not signed yet\n", self.output.display()))
    }
}

impl Sign {
    fn run(self) -> anyhow::Result<()> {
        let key = secret::open(&self.key, self.password_file.as_deref())?;
        let source = open(&self.file)?;
        let mut progress =
            Progress::new("signed", Opened::open(open(&self.file)?, Trust::UnsafeAnyone)?.manifest().size());
        let mut output = Output::new(&self.file)?;
        let out = BufWriter::new(output.writer()?);
        sign(source, out, &key, self.level.level, &mut |bytes| progress.add(bytes))?
            .into_inner()
            .context("write the package")?;
        output.keep()?;
        progress.done();
        print(&format!("{}: signed with key {}\n", self.file.display(), key.id()))
    }
}

impl Inspect {
    fn run(self) -> anyhow::Result<()> {
        let package = Opened::open(open(&self.file)?, Trust::UnsafeAnyone)?;
        let (manifest, signed) = (package.manifest(), package.signed());
        if self.json {
            let signature = signed.map(|signed| {
                json!({"key": signed.key.to_string(), "trusted_comment": signed.trusted_comment, "verified": false})
            });
            let mut value = json!({"manifest": manifest});
            if let Some(signature) = signature {
                value["signature"] = signature;
            }
            return print(&format!("{value:#}\n"));
        }
        let signature = match signed {
            Some(signed) => {
                format!("by key {}, not checked here: {}", signed.key, printable(&signed.trusted_comment))
            }
            None => "none that counts: the package is not signed".to_owned(),
        };
        print(&render(manifest, &signature))
    }
}

/// A value a line, then the entries.
fn render(manifest: &Manifest, signature: &str) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // To a string: it cannot fail.
        writeln!(text, "{name:13}  {}", printable(value)).unwrap_or_default();
    };
    line("name", manifest.name());
    line("version", &manifest.version().to_string());
    let hardware = manifest.hardware_ids().join(", ");
    line("hardware_ids", if hardware.is_empty() { "any" } else { &hardware });
    if let Some(version) = manifest.min_version() {
        line("min_version", &version.to_string());
    }
    line("created", &manifest.created().to_string());
    line("kind", manifest.kind().as_str());
    if let Some(module) = manifest.module() {
        line("module", module);
    }
    if let Some(target) = manifest.target() {
        line("target", target);
    }
    if let Some(full) = manifest.full() {
        line("full_url", &full.url);
    }
    if manifest.allow_downgrade() {
        line("allow_downgrade", "yes");
    }
    for (name, place) in manifest.scripts().iter() {
        line(name, place.as_str());
    }
    line("signature", signature);
    line("files", &format!("{}, {} bytes", manifest.entries().len(), manifest.size()));
    for entry in manifest.entries() {
        let base = entry.base.map(|base| format!(", as a patch of {}", Sha256(base))).unwrap_or_default();
        writeln!(text, "  {} {:>12}  {}{base}", entry.mode, entry.size, printable(entry.path.as_str()))
            .unwrap_or_default();
    }
    text
}

impl Verify {
    fn run(self) -> anyhow::Result<()> {
        let mut keys = Keys::default();
        for key in &self.keys {
            // The key itself is no file's name, by its length and slashes at least.
            let text = match fs::read_to_string(key) {
                Ok(text) => text,
                Err(_) if key.starts_with("RW") && !key.ends_with(".pub") => key.clone(),
                Err(error) => return Err(error).with_context(|| format!("read the public key {key}")),
            };
            keys.add(&text).with_context(|| format!("read the public key {key}"))?;
        }
        let package = Opened::open(open(&self.file)?, Trust::Keys(&keys))?;
        if let Some(hardware_id) = &self.hardware_id {
            package.manifest().fits(Some(hardware_id))?;
        }
        let (manifest, signed) = (package.manifest().clone(), package.signed().cloned());
        let mut progress = Progress::new("checked", manifest.size());
        package.payload(&mut Watched { sink: Unkept, told: |bytes| progress.add(bytes) })?;
        progress.done();
        let by = signed.map(|signed| format!(", signed with key {}", signed.key)).unwrap_or_default();
        // What they make only a device with the earlier version can tell.
        let but = if manifest.is_delta() { ", but for its patches, which were not applied" } else { "" };
        print(&format!(
            "{}: {} {} is whole{but}{by}\n",
            self.file.display(),
            manifest.name(),
            manifest.version()
        ))
    }
}
