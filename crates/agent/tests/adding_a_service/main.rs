//! `docs/adding-a-service.md` shows a service that compiles, and nothing else than this one.

#[allow(unreachable_pub, reason = "as it stands in the docs")]
mod uptime;

use iot_agent::{
    config::{SectionSchema, schema},
    service::{Entry, Service},
};

#[test]
fn the_example_is_the_one_in_the_docs() {
    let docs = include_str!("../../../../docs/adding-a-service.md");
    let shown =
        docs.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of code");
    let ours = include_str!("uptime.rs").replace("use iot_agent::{", "use crate::{");
    assert_eq!(shown, ours, "copy tests/adding_a_service/uptime.rs into the docs");
}

#[test]
fn an_entry_is_all_that_the_registry_needs() {
    let entry = Entry::of::<uptime::Uptime>();
    assert_eq!((entry.name, entry.schema.default_enabled), (uptime::Uptime::NAME, false));
    let (name, enabled) = (entry.name, entry.schema.default_enabled);
    let schema = schema(&[SectionSchema::of::<<uptime::Uptime as Service>::Config>(name, enabled)]);
    let interval = schema.pointer("/properties/services/properties/uptime/properties/interval/description");
    assert_eq!(interval, Some(&"Time between two messages.".into()));
}
