//! `iot-agent config check`, the real command: what loads and could never work is told with its place; what may come
//! later is not held against anybody.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

use crate::support::Home;

fn check(home: &Home) -> (Option<i32>, String) {
    let output = home.command(&["config", "check"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said.replace(&format!("{}/", home.path().display()), ""))
}

fn with_registration(settings: &str) -> Home {
    Home::new("mqtt://localhost").yaml(&format!("services:\n  registration: {{{settings}}}"))
}

#[test]
fn a_secret_that_cannot_be_used_is_a_bad_configuration() {
    for (secret, proof, expected) in [
        (
            "fifteen bytes..  \n",
            "psk-hmac",
            Some("the device secret: the secret has 15 bytes; at least 16 are needed"),
        ),
        ("\n", "psk-hmac", Some("the secret file psk is empty")),
        ("\n", "plain", Some("the secret file psk is empty")),
        ("sixteen bytes...\n", "psk-hmac", None),
        ("short\n", "plain", None),
    ] {
        let home = with_registration(&format!("device_secret_file: psk, proof: {proof}"));
        home.file("psk", secret, 0o600);
        let (code, said) = check(&home);
        let Some(expected) = expected else {
            assert_eq!((code, said.as_str()), (Some(0), ""), "{secret:?}");
            continue;
        };
        assert_eq!(code, Some(78), "{secret:?}: {said}");
        let place = "config.yaml:6:38: services.registration.device_secret_file: ";
        assert_eq!(said, format!("iot-agent: {place}{expected}\n"), "{secret:?}");
    }
}

/// As with mqtt.password: whoever changes the one must not find that the other counts.
#[test]
fn a_secret_in_two_places_is_refused() {
    let home = with_registration("device_secret_file: psk, device_secret: sixteen bytes or more");
    let (code, said) = check(&home);
    assert_eq!(code, Some(78), "{said}");
    let expected = "config.yaml:6:58: services.registration.device_secret: is also in device_secret_file";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_secret_that_is_not_there_or_not_wanted_is_none() {
    for (settings, notices) in [
        ("", 0),
        ("device_secret_file: to-come", 1),
        ("enabled: false, device_secret_file: short", 0),
        ("enabled: false", 0),
    ] {
        let home = with_registration(settings);
        home.file("short", "x", 0o600);
        let (code, said) = check(&home);
        assert_eq!((code, said.lines().count()), (Some(0), notices), "{settings}: {said}");
    }
}

#[test]
fn files_for_tls_are_told_by_their_key() {
    for (settings, expected) in [
        ("ca_certificate: garbage", Some("mqtt.ca_certificate: garbage: holds no PEM certificate")),
        (
            "{client_certificate: garbage, client_key: garbage}",
            Some("mqtt.client_certificate: garbage: holds no PEM certificate"),
        ),
        ("ca_certificate: to-come", None),
    ] {
        let home = settings
            .trim_matches(['{', '}'])
            .split(", ")
            .fold(Home::new("mqtts://broker.example"), Home::mqtt)
            .device("d1");
        home.file("garbage", "no certificate", 0o600);
        let (code, said) = check(&home);
        let Some(expected) = expected else {
            assert_eq!((code, said.lines().count()), (Some(0), 1), "{settings}: {said}");
            continue;
        };
        assert_eq!(code, Some(78), "{settings}: {said}");
        assert!(said.contains("config.yaml:4:") && said.contains(expected), "{settings}: {said}");
    }
}

#[test]
fn an_empty_password_file_is_told_by_its_key() {
    let home = Home::new("mqtt://localhost").mqtt("username: u").mqtt("password_file: password");
    home.file("password", "\n", 0o600);
    let (code, said) = check(&home);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("config.yaml:5:18: mqtt.password_file: "), "{said}");
}

/// Left out, it would be a setting that does nothing.
#[test]
fn a_variable_that_is_no_utf_8_is_told() {
    let home = Home::new("mqtt://localhost");
    let garbled = OsStr::from_bytes(b"de\xffbug");
    let output = home.command(&["config", "check"]).env("IOT_AGENT__LOG__LEVEL", garbled).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("environment IOT_AGENT__LOG__LEVEL: log.level: expected one of"), "{said}");
}

/// What is no setting is a mistake in the command line.
#[test]
fn a_set_without_a_key_is_wrong_usage() {
    let home = Home::new("mqtt://127.0.0.1:1");
    for wrong in ["nokey", "=5", ""] {
        let output = home.command(&["config", "check", "--set", wrong]).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(String::from_utf8(output.stderr).unwrap().contains("KEY=VALUE"));
    }
}

/// It is what a device may be made to do: a mistake in it is told before it refuses everything.
#[test]
fn a_policy_is_checked_with_the_rest() {
    let allowed = "command:\n  patterns: ['^uptime$']\n";
    for (text, mode, code, expected) in [
        (allowed, 0o640, 0, ""),
        ("", 0o600, 0, ""),
        (
            "command: {patterns: [ls]}",
            0o600,
            0,
            "policy.yaml: command.patterns[0]: \"ls\" may be found anywhere",
        ),
        (
            "command:\n  patern: []\n",
            0o600,
            78,
            "policy.yaml:2:3: command.patern: unknown key; did you mean `patterns`?",
        ),
        ("update: {allow: 1}", 0o600, 78, "policy.yaml:1:17: update.allow: expected true or false"),
        (allowed, 0o646, 78, "policy.yaml: everybody may write to it (mode 0646); chmod o-w it"),
    ] {
        let home = Home::new("mqtt://localhost").yaml("policy: policy.yaml");
        home.file("policy.yaml", text, mode);
        let (found, said) = check(&home);
        assert_eq!(found, Some(code), "{text}: {said}");
        let said = said.strip_prefix("iot-agent: ").unwrap_or(&said);
        assert!(said.starts_with(expected) && said.is_empty() == expected.is_empty(), "{text}: {said}");
    }
}
