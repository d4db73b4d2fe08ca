//! Against the testkit's server of a file, good and bad.

mod proof;
mod stories;

use std::path::Path;

use ring::digest::{SHA256, digest};
use tempfile::TempDir;
use testkit::downloads::{Downloads, End, Mood};

use super::*;
use crate::log::chain;

/// What is at the server, and where it goes.
struct World {
    server: Downloads,
    dir: TempDir,
    bytes: Vec<u8>,
    rules: Rules,
}

/// Bytes that are nowhere the same.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl World {
    async fn new(length: usize) -> Self {
        let bytes = noise(length);
        let server = Downloads::start(bytes.clone()).await.unwrap();
        let rules =
            Rules { bandwidth_limit: None, stall_timeout: Duration::from_secs(20), max_size: 1 << 30 };
        Self { server, dir: tempfile::tempdir().unwrap(), bytes, rules }
    }

    /// As after a start of the agent.
    fn download(&self) -> Download {
        let clock = Clock::new(crate::clock::built(), None);
        Download::new(self.folder(), self.rules.clone(), clock)
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("download")
    }

    fn wanted(&self) -> Wanted {
        let sha256 = digest(&SHA256, &self.bytes).as_ref().try_into().unwrap();
        let url = format!("{}file?key=hunter2", self.server.url());
        Wanted { url, size: self.bytes.len() as u64, sha256: Some(sha256) }
    }

    async fn fetch(&self) -> Result<PathBuf, Error> {
        self.download().fetch(&self.wanted(), |_| ()).await
    }

    /// A try of which nothing comes: its words, and what it has gained.
    async fn fails(&self) -> (String, u64) {
        let error = self.fetch().await.unwrap_err();
        let said = chain(&error);
        assert!(!said.contains("hunter2") && !format!("{error:?}").contains("hunter2"), "{said}");
        (said, error.progressed())
    }

    async fn succeeds(&self) {
        let path = self.fetch().await.unwrap();
        assert!(std::fs::read(path).unwrap() == self.bytes);
    }

    fn there(&self) -> u64 {
        std::fs::metadata(partial::path(&self.folder())).map_or(0, |found| found.len())
    }

    /// The first bytes that were asked for, and what was sent.
    fn asked(&self) -> Vec<(Option<u64>, u64)> {
        self.server.asked().iter().map(|asked| (asked.from, asked.sent)).collect()
    }
}

fn cut(after: u64) -> Mood {
    Mood { cut: Some((after, End::Closed)), ..Mood::default() }
}
