use proptest::prelude::*;

use super::*;

fn template(text: &str) -> Template {
    Template::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

#[test]
fn each_refusal_has_its_reason() {
    for (text, reason) in [
        ("", TopicError::Empty),
        ("a/+/b", TopicError::Wildcard('+')),
        ("a/#", TopicError::Wildcard('#')),
        ("$SYS/x", TopicError::Dollar),
        ("a\0b", TopicError::Control('\0')),
        ("a\u{7f}", TopicError::Control('\u{7f}')),
        ("a/{device_id", TopicError::Brace),
        ("a}", TopicError::Brace),
        ("{a{device_id}}", TopicError::Brace),
        ("{}", TopicError::EmptyPlaceholder),
        ("{device}", TopicError::UnknownPlaceholder("device".into())),
        ("{ prefix}", TopicError::UnknownPlaceholder(" prefix".into())),
    ] {
        assert_eq!(Template::parse(text), Err(reason), "{text:?}");
    }
    assert_eq!(Template::parse(&"x".repeat(65_536)), Err(TopicError::TooLong(65_536)));
    let nearly = format!("{}{{device_id}}", "x".repeat(65_500));
    assert_eq!(Template::parse(&nearly), Err(TopicError::TooLong(65_628)));
    assert!(serde_json::from_str::<Template>("\"a/#\"").is_err());
    let (mut length, id) = (MAX_TOPIC, "x".repeat(MAX_ID));
    let longest = loop {
        match Template::parse(&"x".repeat(length)) {
            Ok(template) => break template,
            Err(reason) => assert_eq!(reason, TopicError::TooLong(length)),
        }
        length -= 1;
    };
    let reply = registration_reply(Layout::IotCloud, &longest.for_requests());
    assert_eq!(reply.resolve("iot", Some(&id), &id).map(|topic| topic.len()), Some(MAX_TOPIC));
}

#[test]
fn a_prefix_is_made_of_plain_levels() {
    for good in ["iot", "acme/site 1/iot", "ü"] {
        assert_eq!(check_prefix(good), Ok(()), "{good}");
    }
    for (bad, reason) in [
        ("", TopicError::Empty),
        ("/iot", TopicError::EmptyLevel),
        ("iot/", TopicError::EmptyLevel),
        ("a//b", TopicError::EmptyLevel),
        ("a/+", TopicError::Wildcard('+')),
        ("$share/a", TopicError::Dollar),
        ("{device_id}", TopicError::PlaceholderInPrefix),
        ("a\tb", TopicError::Control('\t')),
    ] {
        assert_eq!(check_prefix(bad), Err(reason), "{bad:?}");
    }
    assert_eq!(check_prefix(&"x".repeat(257)), Err(TopicError::TooLong(257)));
}

#[test]
fn the_contract_s_topics() {
    let resolve = |layout, service: &str| {
        template(default_topic(layout, service).expect("has a topic"))
            .resolve("iot", Some("d1"), "c1")
            .unwrap()
    };
    for (service, device, iot_cloud) in [
        ("registration", "iot/registration/c1", "iot-registration"),
        ("heartbeat", "iot/d1/heartbeat", "iot-heartbeat"),
        ("metrics", "iot/d1/metrics", "iot-metrics"),
        ("location", "iot/d1/location", "iot-location"),
        ("command", "iot/d1/command", "iot-commands/d1"),
        ("ssh", "iot/d1/ssh", "iot-ssh/d1"),
        ("update", "iot/d1/update", "iot-update/d1"),
    ] {
        assert_eq!(resolve(Layout::Device, service), device);
        assert_eq!(resolve(Layout::IotCloud, service), iot_cloud);
    }
    assert_eq!(default_topic(Layout::Device, "nonesuch"), None);
    for (layout, reply) in
        [(Layout::Device, "iot/registration/c1/reply"), (Layout::IotCloud, "iot-registration/response/c1")]
    {
        let request = template(default_topic(layout, "registration").unwrap());
        assert_eq!(registration_reply(layout, &request).resolve("iot", None, "c1").unwrap(), reply);
    }
    assert_eq!(serde_json::to_string(&Layout::IotCloud).unwrap(), "\"iot-cloud\"");
}

#[test]
fn nothing_resolves_before_its_id_is_known() {
    assert_eq!(template(PRESENCE).resolve("iot", None, "c1"), None);
    assert!(template(PRESENCE).names_device());
    assert_eq!(template("flat").resolve("iot", None, "c1").unwrap(), "flat");
    assert_eq!(template("x/{device_id}").resolve("iot", Some("{client_id}"), "c1").unwrap(), "x/{client_id}");
}

#[test]
fn orders_are_always_addressed() {
    assert_eq!(template("iot-commands").for_requests().as_str(), "iot-commands/{device_id}");
    assert_eq!(template("{device_id}/do").for_requests().as_str(), "{device_id}/do");
}

#[test]
fn a_received_topic_names_its_device() {
    let of = |topic| device_of("a/iot", topic, "status").map(String::from);
    assert_eq!(of("a/iot/d1/status").as_deref(), Some("d1"));
    for foreign in [
        "a/iot/d1/heartbeat",
        "a/iot/registration/status",
        "a/iot/d1/x/status",
        "a/iot/status",
        "a/iot//status",
        "iot/d1/status",
        "a/iotd1/status",
        "",
    ] {
        assert_eq!(of(foreign), None, "{foreign}");
    }
    assert_eq!(registering_client("iot", "iot/registration/c1").unwrap().as_str(), "c1");
    for foreign in ["iot/registration/c1/reply", "iot/registration/", "iot/c1", "x/registration/c1"] {
        assert_eq!(registering_client("iot", foreign), None, "{foreign}");
    }
}

proptest! {
    #[test]
    fn an_accepted_template_resolves_to_a_topic(
        text in "([a-z/$+#\\x00]|\\{prefix\\}|\\{device_id\\}|\\{client_id\\}|[{}]){0,12}|\\PC{0,30}",
        id in "\\PC{1,40}",
    ) {
        let (Ok(template), Ok(id)) = (Template::parse(&text), id.parse::<DeviceId>()) else { return Ok(()) };
        let topic = template.resolve("iot", Some(id.as_str()), id.as_str()).expect("all ids are known");
        prop_assert!(!topic.is_empty() && topic.len() <= MAX_TOPIC && !topic.starts_with('$'));
        prop_assert!(!topic.contains(['+', '#', '\0']));
        prop_assert_eq!(template.resolve("iot", None, "c").is_none(), template.names_device());
        prop_assert!(template.for_requests().names_device());
    }

    #[test]
    fn a_presence_topic_names_the_device_it_was_made_for(id in "\\PC{1,40}") {
        if let Ok(id) = id.parse::<DeviceId>() {
            prop_assert_eq!(device_of("iot", &presence("iot", &id), "status"), Some(id));
        }
    }
}
