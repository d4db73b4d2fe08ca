//! x
#![allow(missing_docs, dead_code)]
#[derive(Debug)]
pub struct Audit;
#[derive(Debug)]
pub enum Decision {
    Asked,
    Refused,
    Done,
}
#[derive(Debug)]
pub struct Note {
    pub action: &'static str,
    pub id: String,
    pub decision: Decision,
    pub rule: Option<String>,
    pub detail: String,
}
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct Error;
impl Audit {
    pub async fn note(&self, _: Vec<Note>) -> Result<(), Error> {
        Ok(())
    }
}
