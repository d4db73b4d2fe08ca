//! Settings as a tree that remembers where each value was written.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// One source of settings. A later one overrules an earlier one.
#[derive(Debug)]
pub(super) struct Layer {
    /// As it is shown: a file's path, or the name of the variable or argument.
    pub(super) name: String,
    /// Rank among the layers.
    pub(super) rank: usize,
    /// What is known of a layer that is a file.
    pub(super) file: Option<File>,
}

#[derive(Debug)]
pub(super) struct File {
    /// Absolute; relative paths in the file start here.
    pub(super) folder: PathBuf,
    /// Whether anyone but the owner can read it.
    pub(super) exposed: bool,
}

/// A place in a layer. Line 0 is the layer as a whole.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) layer: Arc<Layer>,
    pub(super) line: u32,
    pub(super) column: u32,
}

impl At {
    pub(super) fn order(&self) -> (usize, u32, u32) {
        (self.layer.rank, self.line, self.column)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.layer.file, self.line) {
            (Some(_), 1..) => write!(f, "{}:{}:{}", self.layer.name, self.line, self.column),
            _ => f.write_str(&self.layer.name),
        }
    }
}

/// A value and where it stands. Equal to another if the value is. No `Debug`: it may hold secrets.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) at: At,
    pub(super) value: Value,
}

#[derive(Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Map),
}

pub(super) type Map = BTreeMap<String, Entry>;

/// A key's place and its value.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) key: At,
    pub(super) node: Node,
}

impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.node == other.node
    }
}

impl Node {
    pub(super) fn new(at: &At, value: Value) -> Node {
        Node { at: at.clone(), value }
    }

    /// `value` below the keys of `path`.
    pub(super) fn nested<'a>(path: impl DoubleEndedIterator<Item = &'a str>, node: Node) -> Node {
        path.rev().fold(node, |node, key| {
            let at = node.at.clone();
            Node::new(&at, Value::Map(Map::from([(key.to_owned(), Entry { key: at.clone(), node })])))
        })
    }

    /// Lays `over` on top: maps merge, everything else replaces. A section without content says nothing.
    pub(super) fn merge(&mut self, over: Node) {
        match (&mut self.value, over.value) {
            (Value::Map(base), Value::Map(over)) => {
                for (key, entry) in over {
                    match base.get_mut(&key) {
                        Some(below) => below.merge(entry),
                        None => drop(base.insert(key, entry)),
                    }
                }
            }
            (Value::Map(_), Value::Null) => {}
            (_, value) => *self = Node { at: over.at, value },
        }
    }

    pub(super) fn map(&self) -> Option<&Map> {
        match &self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(super) fn map_mut(&mut self) -> Option<&mut Map> {
        match &mut self.value {
            Value::Map(map) => Some(map),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of `key`, where there is one: null is none.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.map()?.get(key).map(|entry| &entry.node).filter(|node| node.value != Value::Null)
    }

    /// As [`Node::get`], key by key.
    pub(super) fn find<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Node> {
        path.into_iter().try_fold(self, Node::get)
    }

    /// The section `name`; where nothing is said, an empty one.
    pub(super) fn section(&self, name: &str) -> Node {
        match self.map().and_then(|map| map.get(name)) {
            Some(Entry { key, node }) if node.value == Value::Null => Node::new(key, Value::Map(Map::new())),
            Some(Entry { node, .. }) => node.clone(),
            None => Node::new(&self.at, Value::Map(Map::new())),
        }
    }

    /// Takes out what is at `path`; of a list the whole. Says whether there was anything.
    pub(super) fn remove(&mut self, path: &[String]) -> bool {
        let Some((key, rest)) = path.split_first() else { return false };
        let Some(map) = self.map_mut() else { return false };
        match map.get_mut(key) {
            Some(Entry { node, .. }) if !rest.is_empty() && node.map().is_some() => node.remove(rest),
            _ => map.remove(key).is_some(),
        }
    }
}

impl Entry {
    fn merge(&mut self, over: Entry) {
        if over.node.map().is_none() && over.node.value != Value::Null {
            self.key = over.key;
        }
        self.node.merge(over.node);
    }
}

/// A value as an error message tells it: "expected …, found …".
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("nothing"),
            Value::Bool(value) => write!(f, "`{value}`"),
            Value::Int(value) => write!(f, "the integer {value}"),
            Value::Float(value) => write!(f, "the number {value:?}"),
            Value::Text(text) => write!(f, "the string {:?}", text.chars().take(60).collect::<String>()),
            Value::List(_) => f.write_str("a list"),
            Value::Map(_) => f.write_str("a map"),
        }
    }
}
