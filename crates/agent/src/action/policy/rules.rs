//! The policy file: what it may say, and what that means for an action.

use std::{borrow::Borrow, collections::BTreeMap};

use regex_lite::{Regex, RegexBuilder};
use serde::Deserialize;

use super::{
    Run, Verdict,
    target::{self, Target},
    template,
};

/// The longest value of an argument.
const LONGEST_ARG: usize = 4096;
/// The longest command that is held against patterns, and the longest script.
const LONGEST_COMMAND: usize = 64 << 10;
/// The longest name and the longest regular expression.
const LONGEST_NAME: usize = 128;
const LONGEST_PATTERN: usize = 4096;
/// What a compiled pattern may take in memory.
const PATTERN_SIZE: usize = 256 << 10;

/// The file. What is not in it is refused.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rules {
    command: Commands,
    ssh: Tunnels,
    update: Updates,
}

/// Which commands may be run.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Commands {
    allow_any: bool,
    named: BTreeMap<Name, Named>,
    patterns: Vec<Pattern>,
}

/// Where tunnels may lead.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tunnels {
    allow: bool,
    /// None: wherever the service's own keys allow.
    targets: Option<Vec<target::Allowed>>,
}

/// Whether updates may be installed.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Updates {
    allow: bool,
}

/// What a command is asked for by.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.trim().is_empty() || text.len() > LONGEST_NAME || text.contains(char::is_control) {
            return Err(format!(
                "the name of a command has 1 to {LONGEST_NAME} bytes, none of them a control character"
            ));
        }
        Ok(Self(text))
    }
}

/// A command that is asked for by its name.
#[derive(Debug, Deserialize)]
#[serde(try_from = "Written")]
struct Named {
    script: String,
    args: BTreeMap<String, Whole>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    run: String,
    #[serde(default)]
    args: BTreeMap<String, String>,
}

/// What a command has to match; searched in it, as it is written.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
struct Pattern(Regex);

/// What a value has to match from its beginning to its end.
#[derive(Debug)]
struct Whole(Regex);

impl TryFrom<Written> for Named {
    type Error = String;

    fn try_from(Written { run, args }: Written) -> Result<Self, String> {
        if let Some(name) = args.keys().find(|name| !template::is_name(name)) {
            return Err(format!(
                "args: {name:?} is no name: up to 64 of the characters A-Z, a-z, 0-9, _ and -"
            ));
        }
        if run.trim().is_empty() || run.contains('\0') || run.len() > LONGEST_COMMAND {
            return Err("run: expected the text of a command".to_owned());
        }
        let names: Vec<&str> = args.keys().map(String::as_str).collect();
        let script = template::script(&run, &names).map_err(|why| format!("run: {why}"))?;
        let whole = |(name, text)| match Whole::new(text) {
            Ok(whole) => Ok((name, whole)),
            Err(why) => Err(format!("args.{name}: {why}")),
        };
        Ok(Self { script, args: args.into_iter().map(whole).collect::<Result<_, _>>()? })
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        regex(&text).map(Self)
    }
}

impl Whole {
    fn new(text: String) -> Result<Self, String> {
        // By itself, too: `a)|(b` is a part of no group.
        regex(&text)?;
        regex(&format!("^(?:{text})$")).map(Self)
    }
}

fn regex(text: &str) -> Result<Regex, String> {
    if text.is_empty() || text.len() > LONGEST_PATTERN + 6 {
        return Err(format!("expected a regular expression of 1 to {LONGEST_PATTERN} bytes"));
    }
    let compiled = RegexBuilder::new(text).size_limit(PATTERN_SIZE).build();
    compiled.map_err(|error| format!("not a regular expression: {error}"))
}

impl Rules {
    /// What their author should know.
    pub(super) fn notices(&self) -> Vec<String> {
        let loose =
            self.command.patterns.iter().enumerate().filter(|(_, Pattern(regex))| !anchored(regex.as_str()));
        loose
            .map(|(index, Pattern(regex))| {
                let text = regex.as_str();
                format!("command.patterns[{index}]: {text:?} may be found anywhere in a command, whatever else is in it; `^…$` takes the whole")
            })
            .collect()
    }

    pub(super) fn command(&self, command: &str, args: Option<&BTreeMap<String, String>>) -> Verdict<Run> {
        if command.contains('\0') {
            return Verdict::refused("the command contains a NUL");
        }
        if let Some(named) = self.command.named.get(command) {
            let rule = Some(format!("command.named.{command}"));
            return match named.fill(args) {
                Ok(what) => Verdict::Allowed { rule, what },
                Err(reason) => Verdict::Refused { rule, reason },
            };
        }
        if args.is_some_and(|args| !args.is_empty()) {
            return Verdict::refused("args go with the name of a command in the policy, and this is none");
        }
        let what = Run { script: command.to_owned(), args: Vec::new() };
        if self.command.allow_any {
            return Verdict::allowed("command.allow_any", what);
        }
        self.pattern(command, what)
    }

    fn pattern(&self, command: &str, what: Run) -> Verdict<Run> {
        if self.command.patterns.is_empty() {
            return Verdict::refused("the policy does not allow this command");
        }
        // To the shell each line is another command, and `[^;]*` takes line breaks.
        if command.contains('\n') {
            return Verdict::refused("the policy allows only commands of one line");
        }
        if command.len() > LONGEST_COMMAND {
            return Verdict::refused(format!(
                "the policy allows only commands up to {LONGEST_COMMAND} bytes"
            ));
        }
        match self.command.patterns.iter().position(|Pattern(regex)| regex.is_match(command)) {
            Some(index) => Verdict::allowed(format!("command.patterns[{index}]"), what),
            None => Verdict::refused("the policy does not allow this command"),
        }
    }

    pub(super) fn ssh(&self, target: &str) -> Verdict<()> {
        if !self.ssh.allow {
            return Verdict::refused("the policy does not allow tunnels");
        }
        let Some(targets) = &self.ssh.targets else { return Verdict::allowed("ssh.allow", ()) };
        let target = match Target::parse(target) {
            Ok(target) => target,
            Err(why) => return Verdict::refused(why),
        };
        match targets.iter().position(|allowed| allowed.has(&target)) {
            Some(index) => Verdict::allowed(format!("ssh.targets[{index}]"), ()),
            None => Verdict::refused("the policy does not allow tunnels to this target"),
        }
    }

    pub(super) fn update(&self) -> Verdict<()> {
        if self.update.allow {
            Verdict::allowed("update.allow", ())
        } else {
            Verdict::refused("the policy does not allow updates")
        }
    }
}

impl Named {
    fn fill(&self, args: Option<&BTreeMap<String, String>>) -> Result<Run, String> {
        let none = BTreeMap::new();
        let given = args.unwrap_or(&none);
        if let Some(name) = given.keys().find(|name| !self.args.contains_key(*name)) {
            let name: String = name.chars().take(LONGEST_NAME).collect();
            return Err(format!("args: this command takes no {name:?}"));
        }
        let value = |(name, Whole(regex)): (&String, &Whole)| {
            let value = given.get(name).ok_or_else(|| format!("args: {name} is missing"))?;
            if value.len() > LONGEST_ARG {
                return Err(format!("args: {name} is longer than {LONGEST_ARG} bytes"));
            }
            if value.contains('\0') {
                return Err(format!("args: {name} contains a NUL"));
            }
            if !regex.is_match(value) {
                return Err(format!("args: {name} is not what the policy allows"));
            }
            Ok(value.clone())
        };
        let args = self.args.iter().map(value).collect::<Result<_, _>>()?;
        Ok(Run { script: self.script.clone(), args })
    }
}

/// Whether a pattern can only take a command as a whole, as far as can be seen from its text.
fn anchored(pattern: &str) -> bool {
    let Some(inner) = pattern.strip_prefix('^').and_then(|rest| rest.strip_suffix('$')) else { return false };
    let (mut depth, mut class, mut chars) = (0_u32, false, inner.chars());
    while let Some(c) = chars.next() {
        match c {
            // Nothing after the last backslash: it was the `$` that it took.
            '\\' if chars.next().is_none() => return false,
            '\\' => {}
            ']' => class = false,
            '[' => class = true,
            '(' if !class => depth += 1,
            ')' if !class => depth = depth.saturating_sub(1),
            '|' if !class && depth == 0 => return false,
            _ => {}
        }
    }
    !class && !has_flags(inner)
}

/// `(?m)` makes `^` and `$` stand at each line, `(?x)` hides what follows.
fn has_flags(pattern: &str) -> bool {
    pattern.split("(?").skip(1).any(|group| {
        let flags = group.split(|c: char| !c.is_ascii_alphabetic() && c != '-').next().unwrap_or_default();
        flags.contains(['m', 'x']) && !group.starts_with(['P', '<'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_takes_less_than_a_command_is_known() {
        for pattern in
            ["^uptime$", "^(a|b)$", "^[|$^]$", r"^a\|b$", r"^a\\$", "^$", "^(?:a|b)c$", "^(?P<m>x)$"]
        {
            assert!(anchored(pattern), "{pattern}");
        }
        for pattern in
            ["uptime", "^uptime", "uptime$", "^a|b$", r"^a\$", "^a$|^b$", "^(?m)a$", "^(?im:a)$", "$", "^"]
        {
            assert!(!anchored(pattern), "{pattern}");
        }
    }
}
