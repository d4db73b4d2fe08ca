//! Where an entry lies below the payload: a path that cannot lead anywhere else.

use serde::Serialize;

/// The longest path, in bytes.
const MAX_LENGTH: usize = 1024;
/// The longest name of a file or folder, in bytes, as file systems have it.
const MAX_NAME: usize = 255;
/// The most names in a path.
const MAX_DEPTH: usize = 32;

/// A relative path of normal names: no `..`, no `.`, no empty one, nothing that moves a terminal's cursor.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Place(String);

impl Place {
    /// Takes a path that is sound.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub fn new(path: String) -> Result<Self, (String, &'static str)> {
        match fault(&path) {
            Some(why) => Err((path, why)),
            None => Ok(Self(path)),
        }
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders that it lies in, the outermost first, as paths.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

impl std::borrow::Borrow<str> for Place {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What is wrong with a path, if anything is.
pub(super) fn fault(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("is empty");
    }
    if path.starts_with('/') {
        return Some("is absolute");
    }
    if path.len() > MAX_LENGTH {
        return Some("is longer than 1024 bytes");
    }
    if path.chars().any(char::is_control) {
        return Some("has a control character");
    }
    if path.split('/').count() > MAX_DEPTH {
        return Some("has more than 32 parts");
    }
    path.split('/').find_map(|name| match name {
        "" => Some("has an empty part"),
        "." => Some("has a part `.`"),
        ".." => Some("has a part `..`"),
        _ => (name.len() > MAX_NAME).then_some("has a part longer than 255 bytes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_down_or_nowhere() {
        for path in ["a", "a/b", "..a/b..", "...", "a b/ü", "-rf", "a\\b", &"x/".repeat(31).add("x")] {
            assert_eq!(fault(path), None, "{path:?}");
        }
        let wrong = [
            "", "/", "/a", "a/", "a//b", "./a", "a/.", "..", "../a", "a/../b", "a/..", "a\0b", "a\nb",
            "\u{9b}2J",
        ];
        for path in wrong {
            assert!(fault(path).is_some(), "{path:?}");
        }
        assert!(fault(&"x/".repeat(32).add("x")).is_some());
        assert!(fault(&"x".repeat(256)).is_some());
        assert!(fault(&"xxxx/".repeat(31).add(&"x".repeat(255)).add(&"/y".repeat(400))).is_some());
        let place = Place::new("a/b/c".into()).unwrap();
        assert_eq!(place.folders().collect::<Vec<_>>(), ["a", "a/b"]);
    }

    use std::ops::Add as _;
}
