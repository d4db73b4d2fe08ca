//! YAML text into a tree with positions. The only file that names the parser.
//!
//! The subset is what a configuration needs: one document, plain keys, anchors and aliases, no tags but `!!str`, no
//! merge keys. Size, depth and the growth by aliases are bounded.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::finding::Finding;
use super::node::{At, Entry, Layer, Map, Node, Value};

/// The deepest nesting, aliases followed.
const MAX_DEPTH: usize = 32;
/// The most values in one document, aliases followed.
const MAX_NODES: usize = 10_000;

/// Parses the one document in `text`; nothing at all is null.
pub(super) fn parse(text: &str, layer: &Arc<Layer>) -> Result<Node, Finding> {
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: MAX_DEPTH,
        block_nesting_limit: MAX_DEPTH,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { parser, layer, anchors: HashMap::new(), left: MAX_NODES };
    builder.document()
}

struct Builder<'t> {
    parser: Parser<'t, StrInput<'t>>,
    layer: &'t Arc<Layer>,
    anchors: HashMap<usize, Node>,
    left: usize,
}

impl<'t> Builder<'t> {
    fn document(&mut self) -> Result<Node, Finding> {
        let mut root = None;
        while let Some((event, span)) = self.next()? {
            let at = self.at(&span);
            match event {
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_none() => {}
                Event::DocumentStart(..) => {
                    return Err(Finding::new(&at, "", "a second YAML document begins"));
                }
                event => root = Some(self.node(event, at, MAX_DEPTH)?),
            }
        }
        let start = At { layer: self.layer.clone(), line: 1, column: 1 };
        Ok(root.unwrap_or_else(|| Node::new(&start, Value::Null)))
    }

    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>, Finding> {
        self.parser.next_event().transpose().map_err(|error| {
            let at = self.place(error.marker());
            Finding::new(&at, "", format!("not YAML: {}", error.info()))
        })
    }

    /// The event after one that promised more.
    fn more(&mut self) -> Result<(Event<'t>, At), Finding> {
        let start = At { layer: self.layer.clone(), line: 1, column: 1 };
        let (event, span) = self.next()?.ok_or_else(|| Finding::new(&start, "", "not YAML: cut off"))?;
        Ok((event, self.at(&span)))
    }

    fn at(&self, span: &Span) -> At {
        self.place(&span.start)
    }

    fn place(&self, marker: &granit_parser::Marker) -> At {
        let line = u32::try_from(marker.line()).unwrap_or(u32::MAX);
        let column = u32::try_from(marker.col() + 1).unwrap_or(u32::MAX);
        At { layer: self.layer.clone(), line, column }
    }

    fn node(&mut self, event: Event<'t>, at: At, depth: usize) -> Result<Node, Finding> {
        self.take(1, &at)?;
        if depth == 0 {
            return Err(Finding::new(&at, "", format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => (anchor, scalar(&text, style, tag.as_deref(), &at)?),
            Event::SequenceStart(_, anchor, tag) => {
                untagged(tag.as_deref(), &at)?;
                (anchor, Value::List(self.list(depth)?))
            }
            Event::MappingStart(_, anchor, tag) => {
                untagged(tag.as_deref(), &at)?;
                (anchor, Value::Map(self.map(depth)?))
            }
            Event::Alias(anchor) => return self.alias(anchor, at, depth),
            _ => return Err(Finding::new(&at, "", "not YAML: a value was expected here")),
        };
        let node = Node { at, value };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Finding> {
        let mut items = Vec::new();
        loop {
            match self.more()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at, depth - 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Map, Finding> {
        let mut map = Map::new();
        loop {
            let (name, key) = match self.more()? {
                (Event::MappingEnd, _) => return Ok(map),
                (Event::Scalar(text, ..), at) => (text.into_owned(), at),
                (_, at) => return Err(Finding::new(&at, "", "a key must be a plain word")),
            };
            if let Some(first) = map.get(&name) {
                let message = format!("the key `{name}` is here twice, first in line {}", first.key.line);
                return Err(Finding::new(&key, "", message));
            }
            let (event, at) = self.more()?;
            let node = self.node(event, at, depth - 1)?;
            map.insert(name, Entry { key, node });
        }
    }

    /// A copy of the anchored value. It keeps the places of the original, where a mistake has to be mended.
    fn alias(&mut self, anchor: usize, at: At, depth: usize) -> Result<Node, Finding> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Finding::new(&at, "", "an alias within the value that it stands for"));
        };
        let (count, height) = extent(node);
        if height > depth {
            return Err(Finding::new(&at, "", format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let node = node.clone();
        self.take(count, &at)?;
        Ok(node)
    }

    fn take(&mut self, count: usize, at: &At) -> Result<(), Finding> {
        let left = self.left.checked_sub(count);
        self.left = left.ok_or_else(|| Finding::new(at, "", format!("more than {MAX_NODES} values")))?;
        Ok(())
    }
}

/// How many values a tree has, and how deep it is.
fn extent(node: &Node) -> (usize, usize) {
    let below = |(count, height): (usize, usize), child: &Node| {
        let (more, deep) = extent(child);
        (count + more, height.max(deep + 1))
    };
    match &node.value {
        Value::List(items) => items.iter().fold((1, 1), below),
        Value::Map(map) => map.values().map(|entry| &entry.node).fold((1, 1), below),
        _ => (1, 1),
    }
}

fn untagged(tag: Option<&Tag>, at: &At) -> Result<(), Finding> {
    match tag {
        Some(tag) => Err(Finding::new(at, "", format!("the tag `{}` is not supported", tag.original()))),
        None => Ok(()),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: &At) -> Result<Value, Finding> {
    if tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str")) {
        return Ok(Value::Text(text.to_owned()));
    }
    untagged(tag, at)?;
    Ok(if style == ScalarStyle::Plain { plain(text) } else { Value::Text(text.to_owned()) })
}

/// What a word without quotes means: the core schema of YAML 1.2.2, section 10.3.2.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    integer(text)
        .map(Value::Int)
        .or_else(|| float(text).map(Value::Float))
        .unwrap_or(Value::Text(text.to_owned()))
}

fn integer(text: &str) -> Option<i128> {
    let based = |digits: &str, radix| {
        digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| i128::from_str_radix(digits, radix).ok())?
    };
    match text.split_at_checked(2) {
        Some(("0x", digits)) => based(digits, 16),
        Some(("0o", digits)) => based(digits, 8),
        _ => text.parse().ok(),
    }
}

fn float(text: &str) -> Option<f64> {
    let digits = text.bytes().any(|b| b.is_ascii_digit());
    let only = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'.' | b'+' | b'-' | b'e' | b'E'));
    (digits && only).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> Arc<Layer> {
        Arc::new(Layer { name: "t".into(), rank: 0, file: None })
    }

    fn fault(text: &str) -> String {
        match parse(text, &layer()) {
            Ok(_) => panic!("{text:?} was accepted"),
            Err(finding) => finding.to_string(),
        }
    }

    #[test]
    fn words_mean_what_yaml_1_2_says() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("true", Value::Bool(true)),
            ("yes", Value::Text("yes".into())),
            ("12", Value::Int(12)),
            ("-1", Value::Int(-1)),
            ("010", Value::Int(10)),
            ("0x1F", Value::Int(31)),
            ("0o17", Value::Int(15)),
            ("0x-1", Value::Text("0x-1".into())),
            ("1.5", Value::Float(1.5)),
            ("1e3", Value::Float(1000.0)),
            ("3.1.1", Value::Text("3.1.1".into())),
            ("inf", Value::Text("inf".into())),
            (".", Value::Text(".".into())),
            ("10s", Value::Text("10s".into())),
            ("é0", Value::Text("é0".into())),
        ] {
            assert!(plain(text) == value, "{text:?} became {}", plain(text));
        }
        let quoted = parse("a: '12'\nb: !!str 12\nc: |\n  12\n", &layer()).unwrap_or_else(|e| panic!("{e}"));
        for key in ["a", "b", "c"] {
            assert_eq!(quoted.get(key).and_then(Node::text).map(str::trim), Some("12"), "{key}");
        }
    }

    #[test]
    fn positions_are_those_an_editor_shows() {
        let layer = Layer { name: "f".into(), rank: 0, file: None };
        let file = super::super::node::File { folder: "/".into(), exposed: false };
        let layer = Arc::new(Layer { file: Some(file), ..layer });
        let root = parse("# é\na:\n  b: {c: é, d: 5}\n", &layer).unwrap_or_else(|e| panic!("{e}"));
        let d = root.find(["a", "b", "d"]).unwrap();
        assert_eq!(d.at.to_string(), "f:3:16");
        assert_eq!(root.get("a").unwrap().map().unwrap()["b"].key.to_string(), "f:3:3");
    }

    #[test]
    fn what_is_outside_the_subset_is_refused_with_its_place() {
        for (text, message) in [
            ("a: 1\na: 2\n", "t: the key `a` is here twice, first in line 1"),
            ("? [a]\n: b\n", "t: a key must be a plain word"),
            ("a: 1\n---\nb: 1\n", "t: a second YAML document begins"),
            ("a: !secret x\n", "t: the tag `!secret` is not supported"),
            ("a: !!map {}\n", "t: the tag `!!map` is not supported"),
            ("a: &x [*x]\n", "t: an alias within the value that it stands for"),
        ] {
            assert_eq!(fault(text), message);
        }
        assert!(fault("a: [1\n").starts_with("t: not YAML: "));
        assert!(fault("a: *x\n").starts_with("t: not YAML: "));
    }

    #[test]
    fn growth_by_aliases_is_bounded() {
        let mut wide = String::from("a0: &a0 [x, x, x, x, x, x, x, x]\n");
        let mut deep = String::from("a0: &a0 [x]\n");
        for n in 1..40 {
            let p = n - 1;
            wide += &format!("a{n}: &a{n} [*a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}, *a{p}]\n");
            deep += &format!("a{n}: &a{n} [*a{p}]\n");
        }
        assert_eq!(fault(&wide), "t: more than 10000 values");
        assert_eq!(fault(&deep), "t: nested deeper than 32 levels");
        assert!(fault(&"[".repeat(100_000)).starts_with("t: "));
    }
}
