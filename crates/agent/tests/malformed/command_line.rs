//! The command line, and settings by `--set` and by the environment.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, process::Command};

use crate::support::Home;

/// What is typed, and the reason.
const ARGUMENTS: &[(&[&str], &str)] = &[
    (&[], "Usage: iot-agent <COMMAND>"),
    (&["nonsense"], "unrecognized subcommand 'nonsense'"),
    (&[""], "unrecognized subcommand ''"),
    (&["RUN"], "unrecognized subcommand 'RUN'"),
    (&["-x"], "unexpected argument '-x' found"),
    (&["--config", "x"], "unexpected argument '--config' found"),
    (&["run", "extra"], "unexpected argument 'extra' found"),
    (&["run", "--config"], "a value is required for '--config <FILE>'"),
    (&["run", "-c"], "a value is required for '--config <FILE>'"),
    (&["run", "--config", "a", "--config", "b"], "'--config <FILE>' cannot be used multiple times"),
    (&["run", "--set"], "a value is required for '--set <KEY=VALUE>'"),
    (&["run", "--set", "nokey"], "invalid value 'nokey' for '--set <KEY=VALUE>': expected KEY=VALUE"),
    (&["run", "--set", "=5"], "invalid value '=5' for '--set <KEY=VALUE>': expected KEY=VALUE"),
    (&["run", "--set", ""], "expected KEY=VALUE"),
    (&["config"], "Usage: iot-agent config <COMMAND>"),
    (&["config", "chek"], "unrecognized subcommand 'chek'"),
    (&["config", "show", "--json"], "unexpected argument '--json' found"),
    (&["config", "schema", "x"], "unexpected argument 'x' found"),
    (&["status", "--jsn"], "unexpected argument '--jsn' found"),
    (&["status", "--json", "--json"], "'--json' cannot be used multiple times"),
    (&["status", "--json=yes"], "unexpected value 'yes' for '--json'"),
    (&["register", "--force=yes"], "unexpected value 'yes' for '--force'"),
    (&["register", "--forced"], "unexpected argument '--forced' found"),
    (&["version", "x"], "unexpected argument 'x' found"),
    (&["publish"], "the following required arguments were not provided"),
    (
        &["publish", ""],
        "invalid value '' for '<STREAM>': a stream is 1 to 64 of the characters a-z, 0-9, _ and -",
    ),
    (&["publish", "Big"], "invalid value 'Big' for '<STREAM>': a stream is"),
    (&["publish", "a/b"], "invalid value 'a/b' for '<STREAM>': a stream is"),
    (&["publish", "room", "door"], "unexpected argument 'door' found"),
    (&["publish", "room", "--qos", "3"], "invalid value '3' for '--qos <QOS>': expected 0, 1 or 2"),
    (&["publish", "room", "--qos", "x"], "invalid value 'x' for '--qos <QOS>': expected 0, 1 or 2"),
    (&["publish", "room", "--class", "none"], "invalid value 'none' for '--class <CLASS>'"),
    (&["publish", "room", "--timeout", "5s"], "the following required arguments were not provided"),
    (
        &["publish", "room", "--wait", "--timeout", "x"],
        "invalid value 'x' for '--timeout <DURATION>': expected a time",
    ),
    (&["publish", "room", "--live", "--block"], "'--live' cannot be used with '--block'"),
    (&["publish", "room", "--qos", "0", "--wait"], "--wait needs --qos 1 or 2"),
    (&["publish", "room", "--qos", "0", "--block"], "--block needs --qos 1 or 2"),
    (&["outbox"], "Usage: iot-agent outbox <COMMAND>"),
    (&["outbox", "lss"], "unrecognized subcommand 'lss'"),
    (&["outbox", "ls", "--limit", "x"], "invalid value 'x' for '--limit <N>'"),
    (&["outbox", "purge", "x"], "unexpected argument 'x' found"),
    (&["outbox", "purge", "--class", "none"], "invalid value 'none' for '--class <CLASS>'"),
    (&["outbox", "stats", "--jsn"], "unexpected argument '--jsn' found"),
    (&["update"], "Usage: iot-agent update <COMMAND>"),
    (&["update", "instal"], "unrecognized subcommand 'instal'"),
    (&["update", "install"], "the following required arguments were not provided"),
    (&["update", "install", "a", "b"], "unexpected argument 'b' found"),
    (&["update", "install", "a", "--version"], "a value is required for '--version <VERSION>'"),
    (&["update", "history", "--limit", "x"], "invalid value 'x' for '--limit <N>'"),
    (&["update", "rollback", "a", "b"], "unexpected argument 'b' found"),
];

/// How many there are.
pub(crate) fn arguments() -> usize {
    let agent = |arguments: &[&OsStr]| {
        let output = Command::new(env!("CARGO_BIN_EXE_iot-agent")).args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for (arguments, reason) in ARGUMENTS {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        let (code, said) = agent(&arguments);
        assert!(code == Some(2) && said.contains(reason), "{arguments:?}: {code:?}: {said}");
    }
    let (code, said) = agent(&[OsStr::from_bytes(b"\xff")]);
    assert!(code == Some(2) && said.contains("unrecognized subcommand '\u{fffd}'"), "{code:?}: {said}");
    assert_eq!(agent(&[OsStr::new("version")]), (Some(0), String::new()));
    ARGUMENTS.len() + 1
}

/// A setting, and what is said of it after where it was made.
const SETTINGS: &[(&str, &str, &str)] = &[
    ("mqtt.keep_alive", "0", "must not be zero"),
    ("mqtt.keepalive", "5", "unknown key; did you mean `keep_alive`?"),
    ("mqtt", "5", "expected a map of keys and values, found the integer 5"),
    ("mqtt.broker", "", "must be set, there is no default"),
    ("mqtt.broker", "broker", "expected a URL such as mqtts://broker.example:8883"),
    ("mqtt.client_id", "a/b", "an id must not contain '/': it has a meaning in MQTT topics"),
    ("mqtt.version", "4", "expected auto, 5 or 3.1.1, found \"4\""),
    ("mqtt.prefix", "/a", "a prefix must not have an empty level: no leading, trailing or doubled '/'"),
    ("mqtt.max_packet_size", "1", "must be from 1KiB to 256MiB"),
    ("outbox.max_size", "-1", "expected a size such as 64KiB, 256MiB, 1GiB, 10MB, found the integer -1"),
    ("log.level", "loud", "expected one of error, warn, info, debug, trace, found \"loud\""),
    ("log.level", "[debug]", "expected one of error, warn, info, debug, trace, found a list"),
    ("services.heartbeat.interval", "0", "must not be zero"),
    ("services.heartbeat.intervall", "5", "unknown key; did you mean `interval`?"),
    ("services.heartbeat.qos", "3", "expected 0, 1 or 2, found the integer 3"),
    ("services.heartbeat.topic", "a/+", "the wildcard '+' is for subscriptions; it cannot stand in a topic"),
    ("services.command.enabled", "yes", "expected true or false, found the string \"yes\""),
];

const SECRET: &str = "is a secret and is refused here, where other processes can see it; write it in a file, or give \
                      the name of a file with the key that ends in _file";

/// How many there are, by each way.
pub(crate) fn settings() -> usize {
    let home = Home::new("mqtt://localhost");
    let secrets = [("mqtt.password", "abc", SECRET), ("services.registration.device_secret", "abc", SECRET)];
    let mut count = 0;
    for (key, value, reason) in SETTINGS.iter().chain(&secrets) {
        let said = refused(home.command(&["config", "check", "--set", &format!("{key}={value}")]));
        assert_eq!(said, format!("iot-agent: --set {key}: {key}: {reason}\n"));
        let name = format!("IOT_AGENT__{}", key.to_uppercase().replace('.', "__"));
        let said = refused(environment(&home, &name, value));
        assert_eq!(said, format!("iot-agent: environment {name}: {key}: {reason}\n"));
        count += 2;
    }
    for (set, reason) in [("mqtt..x=1", "names no key"), (".=1", "names no key")] {
        let said = refused(home.command(&["config", "check", "--set", set]));
        assert_eq!(said, format!("iot-agent: --set {}: {reason}\n", set.trim_end_matches("=1")));
        count += 1;
    }
    for (name, value, reason) in [
        ("IOT_AGENT__", "1", "names no key"),
        ("IOT_AGENT__LOG____LEVEL", "debug", "names no key"),
        ("IOT_AGENT__LOG__LEVEL", "[debug", "not YAML: unclosed bracket '['"),
        ("IOT_AGENT__LOG__LEVEL", "!x debug", "the tag `!x` is not supported"),
    ] {
        assert_eq!(
            refused(environment(&home, name, value)),
            format!("iot-agent: environment {name}: {reason}\n")
        );
        count += 1;
    }
    let output = environment(&home, "IOT_AGENT__LOG__LEVEL", "debug").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    count
}

fn environment(home: &Home, name: &str, value: &str) -> Command {
    let mut command = home.command(&["config", "check"]);
    command.env(name, value);
    command
}

fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{command:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}
