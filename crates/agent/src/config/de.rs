//! From the tree to types: a serde deserializer whose errors say where, what was expected and what was meant.
//!
//! Strict: an unknown key is an error, nothing is converted. Null stands for the default, whatever the type.
//! After an error the key is taken out and the rest is tried again, so that one run reports every mistake.

use std::borrow::Cow;
use std::cell::RefCell;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::files;
use super::finding::{Finding, Notice, Report, suggestion};
use super::node::{Map, Node, Value};
use fault::{Fault, Path, Place};

mod fault;

/// Reads a `T` from `node`, which stands at the dotted key `path`. Its map may have the keys `also`, too: they
/// are the caller's to read, and only suggested here.
pub(super) fn parse<T: DeserializeOwned>(
    node: &Node,
    path: &str,
    also: &[&str],
    report: &mut Report,
) -> Option<T> {
    let mut attempt = Attempt { tree: Cow::Borrowed(node), removed: Vec::new() };
    loop {
        let context = Context { also, notices: RefCell::default() };
        let root = De { node: &attempt.tree, path: Path::Root(path), context: &context };
        match root.place(T::deserialize(root)) {
            Ok(value) => {
                report.notices.append(&mut context.notices.take());
                return attempt.removed.is_empty().then_some(value);
            }
            Err(fault) => attempt.without(fault, report)?,
        }
    }
}

/// What is left of a tree after the faults that were found so far.
struct Attempt<'a> {
    tree: Cow<'a, Node>,
    removed: Vec<Vec<String>>,
}

impl Attempt<'_> {
    /// Reports `fault` and takes its cause out; `None` if there is nothing left to try.
    fn without(&mut self, fault: Fault, report: &mut Report) -> Option<()> {
        let Place { at, path, keys } = fault.place?;
        if fault.missing.is_some() && self.removed.contains(&keys) {
            return None;
        }
        report.problem(&at, path, fault.message);
        let found = self.tree.to_mut().remove(&keys);
        self.removed.push(keys);
        found.then_some(())
    }
}

struct Context<'a> {
    also: &'a [&'a str],
    notices: RefCell<Vec<Notice>>,
}

impl Place {
    fn of(de: De<'_>) -> Place {
        Place { at: de.node.at.clone(), path: de.path.full(), keys: de.path.keys() }
    }
}

#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a Node,
    path: Path<'a>,
    context: &'a Context<'a>,
}

impl<'a> De<'a> {
    fn place<T>(self, outcome: Result<T, Fault>) -> Result<T, Fault> {
        outcome.map_err(|fault| if fault.place.is_none() { self.placed(fault) } else { fault })
    }

    // Apart from its generic caller, as the others that are cold: there is a copy of that for every type.
    #[cold]
    #[inline(never)]
    fn placed(self, mut fault: Fault) -> Fault {
        let mut place = Place::of(self);
        if let Some(field) = fault.missing {
            if let Some(entry) = self.node.map().and_then(|map| map.get(field)) {
                place.at = entry.node.at.clone();
            }
            place.path = Path::Key(&self.path, field).full();
            place.keys.push(field.to_owned());
        }
        fault.place = Some(place);
        fault
    }

    #[cold]
    #[inline(never)]
    fn fault(self, message: String) -> Fault {
        self.placed(de::Error::custom(message))
    }

    #[cold]
    #[inline(never)]
    fn mismatch(self, expected: &str, hint: &str) -> Fault {
        self.fault(format!("expected {expected}, found {}{hint}", self.node.value))
    }

    fn refuse_unknown(self, map: &Map, fields: &'static [&'static str]) -> Result<(), Fault> {
        let also = if matches!(self.path, Path::Root(_)) { self.context.also } else { &[] };
        let unknown = map.iter().find(|(key, _)| !fields.contains(&key.as_str()));
        let Some((key, entry)) = unknown else { return Ok(()) };
        let mut keys = self.path.keys();
        keys.push(key.clone());
        let path = Path::Key(&self.path, key).full();
        let hint = suggestion(key, fields.iter().chain(also).copied());
        let place = Some(Place { at: entry.key.clone(), path, keys });
        Err(Fault { place, ..de::Error::custom(format_args!("unknown key; {hint}")) })
    }

    /// A whole number in `range`.
    fn number(self, (least, most): (i128, i128)) -> Result<i128, Fault> {
        Err(match &self.node.value {
            Value::Int(value) if (least..=most).contains(value) => return Ok(*value),
            Value::Int(_) => self.mismatch(&format!("a whole number from {least} to {most}"), ""),
            Value::Text(text) if text.parse::<i128>().is_ok() => {
                self.mismatch("a whole number", "; remove the quotes")
            }
            _ => self.mismatch("a whole number", ""),
        })
    }

    fn text(self) -> Result<&'a str, Fault> {
        Err(match &self.node.value {
            Value::Text(text) => return Ok(text),
            Value::List(_) | Value::Map(_) | Value::Null => self.mismatch("a string", ""),
            _ => self.mismatch("a string", "; put it in quotes"),
        })
    }

    /// The only kinds of value that need to know where they were written: secrets, and paths of files.
    fn special(self, name: &str) -> Result<Special<'a>, Fault> {
        let note = |message: String| {
            let notice = Finding::new(&self.node.at, self.path.full(), message);
            self.context.notices.borrow_mut().push(notice);
        };
        if name == files::SECRET && self.node.text().is_none() {
            return Err(self.fault("expected a string, found something else; put it in quotes".to_owned()));
        }
        let text = self.text()?;
        if name == files::SECRET || name == files::SECRET_IF_IT_HAS_A_USER {
            if name == files::SECRET || text.contains('@') {
                let remark = files::judge_secret(&self.node.at).map_err(|message| self.fault(message))?;
                remark.into_iter().for_each(note);
            }
            return Ok(Special::Text(text));
        }
        if name == files::KEY_OR_FILE && files::is_key(text) {
            return Ok(Special::Text(text));
        }
        files::locate(name, text, &self.node.at, note)
            .map(Special::Path)
            .map_err(|message| self.fault(message))
    }
}

enum Special<'a> {
    Text(&'a str),
    Path(std::path::PathBuf),
}

fn visit_integer<'de, V: Visitor<'de>>(visitor: V, value: i128) -> Result<V::Value, Fault> {
    match (u64::try_from(value), i64::try_from(value)) {
        (Ok(value), _) => visitor.visit_u64(value),
        (_, Ok(value)) => visitor.visit_i64(value),
        _ => visitor.visit_i128(value),
    }
}

macro_rules! numbers {
    ($($method:ident: $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let value = self.number((<$type>::MIN.into(), <$type>::MAX.into()))?;
            self.place(visit_integer(visitor, value))
        }
    )*};
}

macro_rules! texts {
    ($($method:ident),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let text = self.text()?;
            self.place(visitor.visit_str(text))
        }
    )*};
}

impl<'de> de::Deserializer<'de> for De<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.place(match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visit_integer(visitor, *value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items { parent: &self, items, index: 0 }),
            Value::Map(map) => visitor.visit_map(Entries::new(&self, map)),
        })
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Bool(value) => self.place(visitor.visit_bool(*value)),
            _ => Err(self.mismatch("true or false", "")),
        }
    }

    numbers! {
        deserialize_u8: u8, deserialize_u16: u16, deserialize_u32: u32, deserialize_u64: u64,
        deserialize_i8: i8, deserialize_i16: i16, deserialize_i32: i32, deserialize_i64: i64
    }

    texts! { deserialize_str, deserialize_string, deserialize_char }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Float(value) => self.place(visitor.visit_f64(*value)),
            Value::Int(value) => self.place(visit_integer(visitor, *value)),
            _ => Err(self.mismatch("a number", "")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Null => self.place(visitor.visit_none()),
            _ => self.place(visitor.visit_some(self)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if !files::is_special(name) {
            return self.place(visitor.visit_newtype_struct(self));
        }
        self.place(match self.special(name)? {
            Special::Text(text) => visitor.visit_str(text),
            Special::Path(path) => visitor.visit_bytes(path.as_os_str().as_encoded_bytes()),
        })
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::List(items) => self.place(visitor.visit_seq(Items { parent: &self, items, index: 0 })),
            _ => Err(self.mismatch("a list", "")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Map(map) => self.place(visitor.visit_map(Entries::new(&self, map))),
            Value::Null => self.place(visitor.visit_map(Entries::new(&self, &Map::new()))),
            _ => Err(self.mismatch("a map of keys and values", "")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if let Value::Map(map) = &self.node.value {
            self.refuse_unknown(map, fields)?;
        }
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Value::Text(text) = &self.node.value else {
            return Err(self.mismatch(&format!("one of {}", variants.join(", ")), ""));
        };
        let variant: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
        self.place(visitor.visit_enum(variant))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The entries of a map, less those that are null.
struct Entries<'a> {
    parent: &'a De<'a>,
    rest: std::collections::btree_map::Iter<'a, String, super::node::Entry>,
    value: Option<(&'a str, &'a Node)>,
}

impl<'a> Entries<'a> {
    fn new(parent: &'a De<'a>, map: &'a Map) -> Self {
        Entries { parent, rest: map.iter(), value: None }
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, entry)) = self.rest.find(|(_, entry)| entry.node.value != Value::Null) else {
            return Ok(None);
        };
        self.value = Some((key, &entry.node));
        let key: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        let value = De { node, path: Path::Key(&self.parent.path, key), context: self.parent.context };
        value.place(seed.deserialize(value))
    }
}

struct Items<'a> {
    parent: &'a De<'a>,
    items: &'a [Node],
    index: usize,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        let Some(node) = self.items.get(self.index) else { return Ok(None) };
        let key = self.index.to_string();
        self.index += 1;
        let item = De { node, path: Path::Key(&self.parent.path, &key), context: self.parent.context };
        item.place(seed.deserialize(item).map(Some))
    }
}
