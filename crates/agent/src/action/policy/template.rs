//! What a named command runs: the owner's shell text, in which `{name}` stands for a value that comes from outside.
//!
//! A value is never pasted into the text. `{name}` becomes `"${1}"`, the shell's own reference to an argument, and what
//! the shell puts there it does not parse again. What this file knows of the shell's quoting serves only that the value
//! stays one word: should it be mistaken there, a value is split or missing, and still not parsed.

/// What is written in the owner's text, innermost last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Single,
    Double,
    Comment,
    /// `$(…)`, or a group of commands.
    Parentheses,
    /// `$((…))`, whose values the shell evaluates.
    Arithmetic,
    /// `${…}`
    Expansion,
    Backquotes,
}

/// The shell text of `run`, whose values are arguments in the order of `names`.
///
/// # Errors
/// A placeholder where it would not be one word, one that is in `names` but not in `run`, or the other way round.
pub(super) fn script(run: &str, names: &[&str]) -> Result<String, String> {
    let mut scanner = Scanner {
        names,
        used: vec![false; names.len()],
        within: Vec::new(),
        here: false,
        script: String::new(),
    };
    let mut rest = run;
    let mut before = '\n';
    while let Some(c) = rest.chars().next() {
        let taken = scanner.step(rest, c, before)?;
        before = rest[..taken].chars().next_back().unwrap_or(c);
        rest = &rest[taken..];
    }
    let open = |within: &Within| matches!(within, Within::Single | Within::Double);
    if !scanner.here && scanner.within.iter().any(open) {
        return Err("a quote is not closed".to_owned());
    }
    match scanner.used.iter().position(|used| !used) {
        Some(unused) => Err(format!("`{{{}}}` is nowhere in it, but is one of args", names[unused])),
        None => Ok(scanner.script),
    }
}

struct Scanner<'a> {
    names: &'a [&'a str],
    used: Vec<bool>,
    within: Vec<Within>,
    /// There is a here-document.
    here: bool,
    script: String,
}

impl Scanner<'_> {
    /// Takes what `rest` begins with, at least `c`; says how many bytes that is.
    fn step(&mut self, rest: &str, c: char, before: char) -> Result<usize, String> {
        let top = self.within.last().copied();
        if let Some(name) = placeholder(rest) {
            return self.place(name, top, before);
        }
        let taken = match (top, c) {
            (Some(Within::Single), _) => self.close_at(c, '\''),
            (Some(Within::Comment), _) => self.close_at(c, '\n'),
            (_, '\\') => self.escape(rest)?,
            (Some(Within::Backquotes), '`') => self.close(),
            (_, '`') => self.open(Within::Backquotes, 1),
            (Some(Within::Double), '"') => self.close(),
            (_, '"') => self.open(Within::Double, 1),
            (_, '$') => self.dollar(rest)?,
            (Some(Within::Double), _) => 1,
            (Some(Within::Expansion), '}') => self.close(),
            (_, '\'') => self.open(Within::Single, 1),
            (Some(Within::Arithmetic), '(') => self.open(Within::Arithmetic, 1),
            (_, '(') => self.open(Within::Parentheses, 1),
            (Some(Within::Parentheses | Within::Arithmetic), ')') => self.close(),
            (_, '#') if top != Some(Within::Expansion) && begins_word(before) => {
                self.open(Within::Comment, 1)
            }
            (_, '<') if rest.starts_with("<<") && top != Some(Within::Arithmetic) => {
                self.here = true;
                2
            }
            _ => c.len_utf8(),
        };
        self.script.push_str(&rest[..taken]);
        Ok(taken)
    }

    fn open(&mut self, within: Within, bytes: usize) -> usize {
        self.within.push(within);
        bytes
    }

    fn close(&mut self) -> usize {
        self.within.pop();
        1
    }

    fn close_at(&mut self, c: char, end: char) -> usize {
        if c == end { self.close() } else { c.len_utf8() }
    }

    /// A backslash and what it takes the meaning from.
    fn escape(&self, rest: &str) -> Result<usize, String> {
        match placeholder(&rest[1..]).filter(|name| self.names.contains(name)) {
            Some(name) => Err(misplaced(name, "after a backslash")),
            None => Ok(1 + rest[1..].chars().next().map_or(0, char::len_utf8)),
        }
    }

    fn dollar(&mut self, rest: &str) -> Result<usize, String> {
        if let Some(name) = placeholder(&rest[1..]).filter(|name| self.names.contains(name)) {
            return Err(format!(
                "`${{{name}}}` is a variable of the shell's; `{{{name}}}` without `$` is the value"
            ));
        }
        Ok(if rest.starts_with("$((") {
            self.within.push(Within::Arithmetic);
            self.open(Within::Arithmetic, 3)
        } else if rest.starts_with("$(") {
            self.open(Within::Parentheses, 2)
        } else if rest.starts_with("${") {
            self.open(Within::Expansion, 2)
        } else {
            1
        })
    }

    /// A `{name}`, which is a value's place or, where nothing is replaced, text.
    fn place(&mut self, name: &str, top: Option<Within>, before: char) -> Result<usize, String> {
        let taken = name.len() + 2;
        let known = self.names.iter().position(|known| *known == name);
        let literal = matches!(top, Some(Within::Single | Within::Comment));
        let Some(index) = known else {
            if literal {
                self.script.push_str(&format!("{{{name}}}"));
                return Ok(taken);
            }
            return Err(format!("`{{{name}}}` is not one of args; as text it stands in single quotes"));
        };
        let inside = |within| self.within.contains(&within);
        let wrong = match top {
            Some(Within::Single) => Some("in single quotes"),
            Some(Within::Comment) => Some("in a comment"),
            _ if inside(Within::Backquotes) => Some("in backquotes; `$(…)` does the same"),
            _ if inside(Within::Arithmetic) => Some("in `$((…))`, which evaluates it"),
            _ if inside(Within::Expansion) => Some("in `${…}`"),
            _ if self.here => Some("after the beginning of a here-document; `printf` can be piped instead"),
            _ if before == '{' => Some("after another `{`; doubling it means nothing"),
            _ => None,
        };
        if let Some(place) = wrong {
            return Err(misplaced(name, place));
        }
        self.used[index] = true;
        let quote = if top == Some(Within::Double) { "" } else { "\"" };
        self.script.push_str(&format!("{quote}${{{}}}{quote}", index + 1));
        Ok(taken)
    }
}

fn misplaced(name: &str, place: &str) -> String {
    format!("`{{{name}}}` cannot be {place}")
}

/// A comment begins where a word could.
fn begins_word(before: char) -> bool {
    before.is_ascii_whitespace() || matches!(before, ';' | '&' | '|' | '(' | ')')
}

/// The name of the placeholder that `text` begins with.
fn placeholder(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('{')?.split_once('}')?;
    is_name(name).then_some(name)
}

/// Whether an argument may be called so.
pub(super) fn is_name(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-');
    first && name.len() <= 64 && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placeholder_becomes_an_argument_and_all_else_stays() {
        let names = ["a", "unit"];
        for (run, expected) in [
            ("x {unit} {a}", r#"x "${2}" "${1}""#),
            (r#"x "is {unit}!" {a}.d"#, r#"x "is ${2}!" "${1}".d"#),
            (r#"x "$(y {unit})" {a}"#, r#"x "$(y "${2}")" "${1}""#),
            (r#"x "$(y "{unit}" (z) )" {a}"#, r#"x "$(y "${2}" (z) )" "${1}""#),
            ("x '{print}' # {b} it's\n{a} {unit}", "x '{print}' # {b} it's\n\"${1}\" \"${2}\""),
            (
                "x {} {a,b} { y; } ${HOME} $1 a#b {a}{unit}",
                "x {} {a,b} { y; } ${HOME} $1 a#b \"${1}\"\"${2}\"",
            ),
            (r#"x \{b} \" "\"{a}" \' {unit}"#, r#"x \{b} \" "\"${1}" \' "${2}""#),
            ("x ${y#'z'} $((1 << 2)) {a} {unit} é", "x ${y#'z'} $((1 << 2)) \"${1}\" \"${2}\" é"),
        ] {
            assert_eq!(script(run, &names).as_deref(), Ok(expected), "{run}");
        }
        assert_eq!(script("x '{a}' it", &[]).as_deref(), Ok("x '{a}' it"));
        assert_eq!(script("cat <<E\nit's {\nE", &[]).as_deref(), Ok("cat <<E\nit's {\nE"));
    }

    #[test]
    fn where_it_would_not_be_one_word_it_is_an_error() {
        for (run, error) in [
            ("x '{unit}'", "in single quotes"),
            (r#"x "a" '"{unit}"'"#, "in single quotes"),
            (r"x \{unit}", "after a backslash"),
            (r#"x "\{unit}""#, "after a backslash"),
            ("x # {unit}", "in a comment"),
            ("x `y {unit}`", "in backquotes"),
            (r#"x `y "{unit}"`"#, "in backquotes"),
            (r#"x "`y {unit}`""#, "in backquotes"),
            ("x $(( {unit} + 1 ))", "in `$((…))`"),
            ("x ${y:-{unit}}", "in `${…}`"),
            (r#"x "${y:-"{unit}"}""#, "in `${…}`"),
            ("x <<E\n{unit}\nE", "here-document"),
            ("x {{unit}}", "doubling"),
            ("x ${unit}", "variable of the shell's"),
            ("x {unit} {other}", "`{other}` is not one of args"),
            ("x", "`{unit}` is nowhere in it"),
            ("x {unit} 'y", "a quote is not closed"),
            ("x {unit} \"y", "a quote is not closed"),
        ] {
            let found = script(run, &["unit"]).unwrap_err();
            assert!(found.contains(error), "{run}: {found}");
        }
    }
}
