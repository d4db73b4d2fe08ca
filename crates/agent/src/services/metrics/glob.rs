//! Names chosen by pattern.

/// A pattern over a whole name: `*` is any run of characters, also of none and over `/`; `?` is any one byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob(Vec<u8>);

impl Glob {
    /// Any text is a pattern.
    pub(crate) fn new(pattern: &str) -> Self {
        Self(pattern.as_bytes().to_owned())
    }

    /// Whether this is a name it means. The time is the product of the lengths at most.
    pub(crate) fn matches(&self, name: &[u8]) -> bool {
        let (mut at, mut pattern) = (0, 0);
        // Where the last `*` stands, and up to where it has eaten: the only place to go back to.
        let mut star = None;
        while at < name.len() {
            match self.0.get(pattern) {
                Some(b'*') => {
                    star = Some((pattern, at));
                    pattern += 1;
                }
                Some(byte) if *byte == b'?' || *byte == name[at] => {
                    at += 1;
                    pattern += 1;
                }
                _ => {
                    let Some((place, eaten)) = star else { return false };
                    star = Some((place, eaten + 1));
                    at = eaten + 1;
                    pattern = place + 1;
                }
            }
        }
        self.0[pattern..].iter().all(|byte| *byte == b'*')
    }
}

/// Which of many are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Where there are any: only these, and these of whatever kind, also of one left out by default.
    pub(crate) include: Vec<Glob>,
    /// Never these, even where they are included.
    pub(crate) exclude: Vec<Glob>,
}

impl Choice {
    /// Whether this one is wanted; `usual` is what holds where nothing was chosen.
    pub(super) fn takes(&self, name: &[u8], usual: bool) -> bool {
        let any = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(name));
        !any(&self.exclude) && if self.include.is_empty() { usual } else { any(&self.include) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_a_shell_would_mean() {
        for (pattern, name, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "/mnt/a b", true),
            ("eth*", "eth0", true),
            ("eth*", "veth0", false),
            ("eth?", "eth", false),
            ("eth?", "eth10", false),
            ("*.log", "a.log.log", true),
            ("a*b*c", "abbcbc", true),
            ("a*b*c", "abbcb", false),
            ("**?", "x", true),
            ("/mnt/*/x", "/mnt/a/b/x", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn a_hostile_pattern_takes_no_time_to_speak_of() {
        let name = vec![b'a'; 4000];
        assert!(
            !Glob::new(&"a*".repeat(500).replace("a*a", "*a*").chars().chain(['b']).collect::<String>())
                .matches(&name)
        );
    }

    #[test]
    fn to_exclude_wins_and_to_include_takes_any_kind() {
        let choice = |include: &[&str], exclude: &[&str]| Choice {
            include: include.iter().map(|glob| Glob::new(glob)).collect(),
            exclude: exclude.iter().map(|glob| Glob::new(glob)).collect(),
        };
        assert!(choice(&[], &[]).takes(b"eth0", true));
        assert!(!choice(&[], &[]).takes(b"lo", false));
        assert!(choice(&["l*"], &[]).takes(b"lo", false));
        assert!(!choice(&["l*"], &[]).takes(b"eth0", true));
        assert!(!choice(&["*"], &["eth*"]).takes(b"eth0", true));
    }
}
