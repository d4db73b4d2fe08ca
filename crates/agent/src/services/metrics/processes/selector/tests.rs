use serde_json::{Value, from_value, json, to_value};

use super::*;

fn read(value: Value) -> Result<Selector, String> {
    from_value(value).map_err(|error| error.to_string())
}

#[test]
fn a_string_is_a_name_or_a_glob() {
    let name = read(json!("sshd")).unwrap();
    assert_eq!((&name.by, name.key()), (&By::Name("sshd".to_owned()), "sshd"));
    let glob = read(json!("nginx*")).unwrap();
    assert!(matches!(&glob.by, By::Glob { text, .. } if text == "nginx*"));
    let exact = read(json!({"name": "what?"})).unwrap();
    assert_eq!(exact.by, By::Name("what?".to_owned()));
}

#[test]
fn the_key_is_what_as_says_or_the_selector() {
    for (value, key) in [
        (json!({"cmdline": "java .*Main$"}), "java .*Main$"),
        (json!({"pid_file": "/run/x.pid"}), "/run/x.pid"),
        (json!({"unit": "ssh"}), "ssh"),
        (json!({"unit": "ssh", "as": "remote"}), "remote"),
        (json!({"name": "sshd", "as": "remote"}), "remote"),
    ] {
        assert_eq!(read(value).unwrap().key(), key);
    }
}

#[test]
fn a_unit_without_a_kind_is_a_service() {
    for (written, expected) in [
        ("ssh", "ssh.service"),
        ("ssh.socket", "ssh.socket"),
        ("getty@tty1", "getty@tty1.service"),
        ("a.b", "a.b.service"),
    ] {
        let selector = read(json!({"unit": written})).unwrap();
        assert!(matches!(selector.by, By::Unit { full, .. } if full == expected));
    }
}

#[test]
fn what_is_wrong_is_said() {
    for (value, expected) in [
        (json!(""), "a name must not be empty"),
        (json!("  "), "a name must not be empty"),
        (json!("a\nb"), "a name must not hold control characters"),
        (json!("x".repeat(1025)), "must not be longer than 1024 bytes"),
        (json!(5), "expected the name of a process, or a map with name, glob, cmdline, pid_file or unit"),
        (json!({}), "exactly one of name, glob, cmdline, pid_file and unit is needed"),
        (json!({"name": "a", "glob": "b"}), "exactly one of"),
        (json!({"as": "a"}), "exactly one of"),
        (json!({"name": "a", "as": ""}), "as must not be empty"),
        (json!({"nmae": "a"}), "unknown field `nmae`"),
        (json!({"name": 5}), "expected a string"),
        (json!({"cmdline": "a("}), "cmdline is not a regular expression"),
        (json!({"cmdline": "((a{100}){100}){100}"}), "cmdline is not a regular expression"),
        (json!({"cmdline": ""}), "cmdline must not be empty"),
        (json!({"pid_file": "run/x.pid"}), "pid_file must be an absolute path"),
        (json!({"unit": "a/b"}), "unit must be a name, without a slash"),
    ] {
        let error = read(value.clone()).unwrap_err();
        assert!(error.contains(expected), "{value}: {error}");
    }
}

#[test]
fn it_is_written_as_it_was_read() {
    for value in [
        json!("sshd"),
        json!("nginx*"),
        json!({"name": "what?"}),
        json!({"name": "sshd", "as": "remote"}),
        json!({"glob": "plain"}),
        json!({"cmdline": "^/usr/bin/x( |$)", "as": "x"}),
        json!({"pid_file": "/run/x.pid"}),
        json!({"unit": "ssh"}),
    ] {
        assert_eq!(to_value(read(value.clone()).unwrap()).unwrap(), value);
    }
}

#[test]
fn no_two_have_one_key() {
    let list = |value: Value| from_value::<Selectors>(value).map_err(|error| error.to_string());
    let error = list(json!(["a", {"unit": "x", "as": "a"}])).unwrap_err();
    assert!(error.contains("two selectors are called \"a\"; set `as`"), "{error}");
    assert_eq!(list(json!(["a", "b", "a"])).unwrap().0.len(), 2, "the same twice is harmless");
    assert_eq!(list(json!(["a", {"unit": "a", "as": "b"}])).unwrap().0.len(), 2);
}

#[test]
fn the_schema_names_each_way() {
    let schema = schemars::schema_for!(Selectors).to_value().to_string();
    for key in ["name", "glob", "cmdline", "pid_file", "unit", "as"] {
        assert!(schema.contains(&format!("\"{key}\":")), "{key}: {schema}");
    }
}
