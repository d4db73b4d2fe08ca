//! x
#![allow(missing_docs, dead_code)]
use std::{collections::BTreeMap, path::PathBuf};
#[derive(Debug, Clone)]
pub struct Policy;
pub enum Verdict<T> {
    Allowed { rule: Option<String>, what: T },
    Refused { rule: Option<String>, reason: String },
}
pub struct Run {
    pub script: String,
    pub args: Vec<String>,
}
impl Policy {
    pub fn new(_: Option<PathBuf>) -> Self {
        Self
    }
    pub fn command(&self, c: &str, _: Option<&BTreeMap<String, String>>) -> Verdict<Run> {
        Verdict::Allowed { rule: None, what: Run { script: c.into(), args: vec![] } }
    }
}
