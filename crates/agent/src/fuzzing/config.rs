//! A configuration file.

use std::fs;

use serde_json::Value;

use super::Folder;
use crate::{
    config::{self, Config, Sources},
    services::schemas,
};

/// Any bytes are a configuration or an error with its place; the same each time. What was understood can be written
/// down and is understood as the same again.
pub fn config(data: &[u8]) {
    let folder = Folder::new();
    let file = folder.path().join("config.yaml");
    fs::write(&file, data).expect("a new folder can be written");
    let sources = Sources { file, ..Sources::default() };
    match config::load(&sources, &schemas()) {
        Err(error) => {
            let (error, place) = (error.to_string(), sources.file.display().to_string());
            assert!(!error.is_empty(), "an error without a word");
            assert!(error.lines().all(|line| line.starts_with(&place)), "without a place: {error}");
        }
        Ok(loaded) => {
            for shown in config::show(&loaded, &schemas()) {
                assert_eq!(shown.to_string().lines().count(), 1, "{shown}");
            }
            let again = config::load(&sources, &schemas()).expect("it was accepted a moment ago");
            assert_eq!(again.config, loaded.config);
            written_down(&sources, &loaded.config);
        }
    }
}

/// JSON is YAML.
fn written_down(sources: &Sources, config: &Config) {
    let mut tree = serde_json::to_value(config).expect("a configuration can be written");
    let mqtt = &config.mqtt;
    if mqtt.password.is_some() || mqtt.proxy.as_ref().is_some_and(|proxy| proxy.credentials.is_some()) {
        // A secret is not written down, and not to be had from here.
        tree["mqtt"] =
            Value::Object([("broker".to_owned(), tree["mqtt"]["broker"].take())].into_iter().collect());
        tree["mqtt"]["allow_plaintext"] = true.into();
    }
    let secretive = tree["mqtt"].get("keep_alive").is_none();
    fs::write(&sources.file, tree.to_string()).expect("the folder is still there");
    let again = config::load(sources, &schemas()).unwrap_or_else(|error| panic!("{tree:#}\n{error}"));
    let mut different = again.config.differences(config);
    different.retain(|section| !(secretive && *section == "mqtt"));
    assert!(different.is_empty(), "{different:?} came back otherwise: {tree:#}");
}
