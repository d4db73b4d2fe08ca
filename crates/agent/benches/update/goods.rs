//! Software to deliver.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// Bytes of the payload, in four files.
pub(crate) const SIZE: u64 = 1 << 30;
const FILES: u64 = 4;
const WORDS: [&str; 16] = [
    "sensor", "value", "of", "the", "line", "0x1f", "error", "at", "device", "{", "}", "return", "static",
    "\n", "update", "\t",
];

/// What the payload is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing that could be packed.
    Noise,
    /// What is packed to about a third.
    Text,
}

/// A signed package.
pub(crate) struct Goods {
    pub(crate) package: PathBuf,
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

impl Goods {
    /// Makes it in this folder, for the software's folder `app` there, and leaves nothing else but `release.pub`.
    pub(crate) fn make(folder: &Path, kind: Kind, program: &Path) -> Self {
        let build = folder.join("build");
        fs::create_dir_all(&build).unwrap();
        for number in 0..FILES {
            let mut file = BufWriter::new(File::create(build.join(number.to_string())).unwrap());
            fill(&mut file, kind, number + 1);
            file.flush().unwrap();
        }
        let run = |program: &Path, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).current_dir(folder).status().unwrap();
            assert!(status.success(), "{} {arguments:?}", program.display());
        };
        let app = folder.join("app");
        if !folder.join("release.key").exists() {
            run(Path::new("minisign"), &["-G", "-W", "-p", "release.pub", "-s", "release.key"]);
        }
        run(
            program,
            &[
                &["package", "create", "build", "-o", "package", "--name", "app", "--version", "1.0.0"][..],
                &["--level", "3", "--target", app.to_str().unwrap()],
            ]
            .concat(),
        );
        fs::remove_dir_all(build).unwrap();
        run(program, &["package", "sign", "package", "--key", "release.key"]);
        let package = folder.join("package");
        let said = Command::new("sha256sum").arg(&package).output().unwrap().stdout;
        let sha256 = String::from_utf8(said).unwrap()[..64].to_owned();
        Self { size: fs::metadata(&package).unwrap().len(), sha256, package }
    }
}

fn fill(file: &mut impl Write, kind: Kind, seed: u64) {
    let mut random = testkit::Rng::new(seed);
    let mut left = SIZE / FILES;
    let mut piece = vec![0; 1 << 16];
    while left > 0 {
        match kind {
            Kind::Noise => random.fill(&mut piece),
            Kind::Text => {
                piece.clear();
                while piece.len() < 1 << 16 {
                    piece.extend_from_slice(random.pick(&WORDS).as_bytes());
                    write!(piece, " {} ", random.below(1000)).unwrap();
                }
            }
        }
        let count = usize::try_from(left).map_or(piece.len(), |left| left.min(piece.len()));
        file.write_all(&piece[..count]).unwrap();
        left -= count as u64;
    }
}
