//! Templates of topics, prefixes and ids.

use protocol::{
    ClientId, DeviceId,
    topic::{self, Layout, MAX_TOPIC, Template},
};

/// Five lines: a template, a prefix, a device id, a client id, a topic as it was received. Whatever is accepted
/// makes topics that one may publish to, and reads back as it was written.
pub fn topics(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(5, '\n').chain(std::iter::repeat(""));
    let mut next = || lines.next().unwrap_or_default();
    let (template, prefix, device, client, received) = (next(), next(), next(), next(), next());
    let template = Template::parse(template).ok();
    let prefix = if topic::check_prefix(prefix).is_ok() { prefix } else { "iot" };
    let device: Option<DeviceId> = device.parse().ok();
    let client: Option<ClientId> = client.parse().ok();
    for id in
        [device.as_ref().map(DeviceId::as_str), client.as_ref().map(ClientId::as_str)].into_iter().flatten()
    {
        assert!(!id.contains('/'), "an id is one level: {id:?}");
        publishable(id);
    }
    if let Some(device) = &device {
        let presence = topic::presence(prefix, device);
        publishable(&presence);
        assert_eq!(topic::device_of(prefix, &presence, "status").as_ref(), Some(device));
        assert_eq!(topic::registering_client(prefix, &presence), None, "no device is called registration");
    }
    if let Some(template) = &template {
        assert_eq!(Template::parse(template.as_str()).as_ref(), Ok(template));
        let json = serde_json::to_string(template).expect("text is JSON");
        assert_eq!(serde_json::from_str::<Template>(&json).expect("as it was written"), *template);
        let client = client.clone().unwrap_or_else(|| "c1".parse().expect("an id"));
        resolved(template, prefix, device.as_ref(), &client);
    }
    read(prefix, received);
}

fn resolved(template: &Template, prefix: &str, device: Option<&DeviceId>, client: &ClientId) {
    let id = device.map(DeviceId::as_str);
    assert_eq!(template.resolve(prefix, None, client.as_str()).is_none(), template.names_device());
    let orders = template.clone().for_requests();
    assert!(orders.names_device(), "orders for whom?");
    assert_eq!(orders.resolve(prefix, None, client.as_str()), None, "orders for nobody");
    let replies =
        [Layout::Device, Layout::IotCloud].map(|layout| topic::registration_reply(layout, template));
    for template in [template, &orders].into_iter().chain(&replies) {
        if let Some(topic) = template.resolve(prefix, id, client.as_str()) {
            publishable(&topic);
        }
    }
    if let (Some(id), Some(topic)) = (id, orders.resolve(prefix, id, client.as_str())) {
        assert!(topic.contains(id), "{topic:?} is not for {id:?}");
    }
}

/// What a broker hands us, whoever published it.
fn read(prefix: &str, received: &str) {
    if let Some(device) = topic::device_of(prefix, received, "status") {
        assert_eq!(topic::presence(prefix, &device), received);
    }
    if let Some(client) = topic::registering_client(prefix, received) {
        let template = Template::parse("{prefix}/registration/{client_id}").expect("the default");
        assert_eq!(template.resolve(prefix, None, client.as_str()).as_deref(), Some(received));
    }
}

fn publishable(topic: &str) {
    assert!(!topic.is_empty() && topic.len() <= MAX_TOPIC, "{} bytes", topic.len());
    assert!(!topic.contains(['+', '#']), "a wildcard in {topic:?}");
    assert!(!topic.starts_with('$'), "{topic:?} is the broker's");
    assert!(!topic.contains(char::is_control), "a control character in {topic:?}");
}
