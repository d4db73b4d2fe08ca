//! The owner's policy.

use std::{collections::BTreeMap, fs};

use super::Folder;
use crate::action::policy::{Policy, Run, Verdict};

/// Any bytes are a policy or an error with its place; the same each time. What is wrong allows nothing. A value is never a
/// part of a script, whatever the script.
pub fn policy(data: &[u8]) {
    let folder = Folder::new();
    let file = folder.path().join("policy.yaml");
    fs::write(&file, data).expect("a new folder can be written");
    let policy = Policy::new(Some(file.clone()));
    let checked = Policy::check(&file);
    assert_eq!(checked.is_ok(), policy.trouble().is_none());
    if let Err(error) = &checked {
        let (error, place) = (error.to_string(), file.display().to_string());
        assert!(error.lines().all(|line| line.starts_with(&place)), "without a place: {error}");
        assert!(!error.is_empty(), "an error without a word");
    }
    // Names and targets that may be in it, and those that are asked for in the seeds.
    let text = String::from_utf8_lossy(data);
    let words = text.split(|c: char| c.is_whitespace() || "{}[],'\"".contains(c));
    for word in words.take(50).chain(["restart-service", "uptime", "127.0.0.1:22"]) {
        let word = word.strip_suffix(':').unwrap_or(word);
        let args = BTreeMap::from([("unit".to_owned(), VALUE.to_owned())]);
        for args in [None, Some(&args)] {
            judged(checked.is_ok(), word, policy.command(word, args));
        }
        refused_if(checked.is_err(), &policy.ssh(word));
    }
    refused_if(checked.is_err(), &policy.update());
}

/// Stands in no policy by chance.
const VALUE: &str = "value-from-outside-7f3a9c";

fn judged(sound: bool, command: &str, verdict: Verdict<Run>) {
    refused_if(!sound, &verdict);
    if let Verdict::Allowed { what: Run { script, args }, rule } = verdict {
        assert!(rule.is_some(), "what allows has a name");
        assert!(!script.contains(VALUE) || command.contains(VALUE), "pasted: {script:?}");
        assert!(args.iter().all(|arg| arg == VALUE), "not what was given: {args:?}");
        assert!(
            !script.contains('\0') && args.iter().all(|arg| !arg.contains('\0')),
            "no program takes that"
        );
    }
}

fn refused_if<T>(broken: bool, verdict: &Verdict<T>) {
    match verdict {
        Verdict::Allowed { .. } => assert!(!broken, "allowed by a policy that cannot be read"),
        Verdict::Refused { reason, .. } => assert!(!reason.is_empty(), "no reason"),
    }
}
