//! The layers of a configuration and how they lie on each other: the file, `conf.d/*.yaml` beside it, the environment,
//! `--set`.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Sources;
use super::files::{exposed, open};
use super::finding::Report;
use super::node::{At, File, Layer, Map, Node, Value};
use super::{old, yaml};

/// What the names of variables begin with.
const ENV_PREFIX: &str = "IOT_AGENT__";

/// The largest configuration file.
const MAX_FILE: u64 = 1024 * 1024;

/// The sum of all layers; `None` after an error.
pub(super) fn gather(sources: &Sources, report: &mut Report) -> Option<Node> {
    let mut stack = Stack { report: &mut *report, rank: 0, old: None };
    let mut root = stack.file(&sources.file);
    let folder = sources.file.parent().unwrap_or(Path::new("")).join("conf.d");
    let mut over: Vec<Option<Node>> = stack.folder(&folder).iter().map(|path| stack.file(path)).collect();
    let mut env: Vec<_> = sources.env.iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
    env.sort();
    over.extend(env.into_iter().map(|(name, value)| stack.variable(name, value)));
    over.extend(sources.sets.iter().map(|set| stack.set(set)));
    let old = stack.old;
    for node in over {
        root.as_mut()?.merge(node?);
    }
    old::settle_layout(root.as_mut()?, old, report);
    root.filter(|_| report.problems.is_empty())
}

struct Stack<'a> {
    report: &'a mut Report,
    rank: usize,
    old: Option<At>,
}

impl Stack<'_> {
    fn layer(&mut self, name: String, file: Option<File>) -> Arc<Layer> {
        self.rank += 1;
        Arc::new(Layer { name, rank: self.rank, file })
    }

    /// Says that a whole layer is wrong.
    fn fail<T>(&mut self, layer: Arc<Layer>, message: impl Into<String>) -> Option<T> {
        self.report.problem(&At { layer, line: 0, column: 0 }, "", message);
        None
    }

    /// The files of `conf.d` in the order of their names.
    fn folder(&mut self, folder: &Path) -> Vec<PathBuf> {
        let names = fs::read_dir(folder).and_then(|found| {
            found.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
        });
        let mut names = match names {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                let layer = self.layer(folder.display().to_string(), None);
                self.fail::<()>(layer, format!("cannot be read: {error}"));
                return Vec::new();
            }
        };
        names.sort();
        names.retain(|name| !name.as_encoded_bytes().starts_with(b"."));
        for name in &names {
            if Path::new(name).extension() == Some(OsStr::new("yml")) {
                let layer = self.layer(folder.join(name).display().to_string(), None);
                let at = At { layer, line: 0, column: 0 };
                self.report.notice(&at, "", "not read: the name has to end in .yaml");
            }
        }
        names.retain(|name| Path::new(name).extension() == Some(OsStr::new("yaml")));
        names.iter().map(|name| folder.join(name)).collect()
    }

    fn file(&mut self, path: &Path) -> Option<Node> {
        let name = path.display().to_string();
        let (text, found) = match read(path) {
            Ok(found) => found,
            Err(error) => {
                let layer = self.layer(name, None);
                return self.fail(layer, format!("cannot be read: {error}"));
            }
        };
        let folder = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
        let file = File { folder: folder.unwrap_or_default(), exposed: exposed(&found) };
        let layer = self.layer(name, Some(file));
        let mut root = self.map(&text, &layer)?;
        let old = old::translate(&mut root, self.report);
        self.old = self.old.take().or(old);
        Some(root)
    }

    /// Keys and values; nothing at all is none.
    fn map(&mut self, text: &[u8], layer: &Arc<Layer>) -> Option<Node> {
        let mut root = self.parse(text, layer)?;
        match root.value {
            Value::Null => root.value = Value::Map(Map::new()),
            Value::Map(_) => {}
            _ => {
                self.report.problem(&root.at, "", format!("expected keys and values, found {}", root.value));
                return None;
            }
        }
        Some(root)
    }

    fn parse(&mut self, text: &[u8], layer: &Arc<Layer>) -> Option<Node> {
        let text = match str::from_utf8(text) {
            Ok(text) => text,
            Err(error) => {
                let before = String::from_utf8_lossy(&text[..error.valid_up_to()]);
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
                let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
                let at = At { layer: layer.clone(), line: number(line), column: number(column) };
                self.report.problem(&at, "", "not UTF-8");
                return None;
            }
        };
        yaml::parse(text, layer).map_err(|problem| self.report.problems.push(problem)).ok()
    }

    fn variable(&mut self, name: &str, value: &str) -> Option<Node> {
        let layer = self.layer(format!("environment {name}"), None);
        let path = name.strip_prefix(ENV_PREFIX).unwrap_or(name).to_ascii_lowercase();
        self.single(&path.split("__").collect::<Vec<_>>(), value, layer)
    }

    fn set(&mut self, set: &str) -> Option<Node> {
        let Some((path, value)) = set.split_once('=') else {
            let layer = self.layer("--set".to_owned(), None);
            return self.fail(layer, "expected section.key=value");
        };
        let layer = self.layer(format!("--set {path}"), None);
        self.single(&path.split('.').collect::<Vec<_>>(), value, layer)
    }

    /// A layer that is one value.
    fn single(&mut self, path: &[&str], value: &str, layer: Arc<Layer>) -> Option<Node> {
        if path.contains(&"") {
            return self.fail(layer, "names no key");
        }
        let node = self.parse(value.as_bytes(), &layer)?;
        Some(Node::nested(path.iter().copied(), node))
    }
}

/// A file of JSON that a key of the configuration names; `None` after an error.
pub(super) fn json(path: &Path, report: &mut Report) -> Option<Node> {
    let mut stack = Stack { report, rank: 0, old: None };
    let name = path.display().to_string();
    let (mut text, found) = match read(path) {
        Ok(found) => found,
        Err(error) => {
            let layer = stack.layer(name, None);
            return stack.fail(layer, format!("cannot be read: {error}"));
        }
    };
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    let layer = stack.layer(name, Some(File { folder, exposed: exposed(&found) }));
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(&text) {
        let number = |n| u32::try_from(n).unwrap_or(u32::MAX);
        let at = At { layer, line: number(error.line()), column: number(error.column()) };
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        report.problem(&at, "", format!("not JSON: {message}"));
        return None;
    }
    // JSON is YAML, whose reader knows where each value stands; but YAML has its own mind about tabs. None is within a
    // string of JSON.
    text.iter_mut().filter(|byte| **byte == b'\t').for_each(|byte| *byte = b' ');
    stack.parse(&text, &layer)
}

/// A file of YAML that a key of the configuration names, if `judge` lets it pass; `None` after an error.
pub(super) fn yaml_file(path: &Path, judge: Judge, report: &mut Report) -> Option<Node> {
    let mut stack = Stack { report, rank: 0, old: None };
    let name = path.display().to_string();
    let read = read(path).map_err(|error| format!("cannot be read: {error}"));
    match read.and_then(|(text, found)| judge(&found).map(|()| (text, found))) {
        Ok((text, found)) => {
            let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
            let layer = stack.layer(name, Some(File { folder, exposed: exposed(&found) }));
            stack.map(&text, &layer)
        }
        Err(why) => {
            let layer = stack.layer(name, None);
            stack.fail(layer, why)
        }
    }
}

/// Says of a file that was opened why it is not to be used.
pub(crate) type Judge = fn(&fs::Metadata) -> Result<(), String>;

fn read(path: &Path) -> io::Result<(Vec<u8>, fs::Metadata)> {
    let (file, found) = open(path)?;
    let mut text = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok((text, found))
}
