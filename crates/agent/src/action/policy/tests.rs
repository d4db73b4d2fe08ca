use std::{fs, os::unix::fs::PermissionsExt as _, process::Command, sync::mpsc, thread};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A policy file of one's own.
struct File {
    dir: TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { dir: tempfile::tempdir().unwrap() };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("policy.yaml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn policy(&self) -> Policy {
        Policy::new(Some(self.path()))
    }

    /// What is wrong with it, its folder left out.
    fn error(&self) -> String {
        let error = Policy::check(&self.path()).expect_err("it is broken").to_string();
        error.replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn policy(text: &str) -> (File, Policy) {
    let file = File::new(text);
    let policy = file.policy();
    (file, policy)
}

fn args(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[track_caller]
fn rule<T: std::fmt::Debug>(verdict: Verdict<T>) -> String {
    match verdict {
        Verdict::Allowed { rule, .. } => rule.expect("what allows has a name"),
        Verdict::Refused { .. } => panic!("{verdict:?}"),
    }
}

#[track_caller]
fn reason<T: std::fmt::Debug>(verdict: Verdict<T>) -> String {
    match verdict {
        Verdict::Refused { reason, .. } => reason,
        Verdict::Allowed { .. } => panic!("{verdict:?}"),
    }
}

const CONTRACT: &str = r#"{command: {allow_any: false, named: {restart-service: {run: "systemctl restart {unit}", args: {unit: "[a-z0-9@._-]+"}}}, patterns: ["^uptime$"]}, ssh: {allow: true, targets: [127.0.0.1:22]}, update: {allow: true}}"#;

#[test]
fn without_a_file_everything_is_allowed_but_args() {
    let policy = Policy::new(None);
    let what = Run { script: "rm -rf /".to_owned(), args: vec![] };
    let rule = Some("no policy".to_owned());
    assert_eq!(policy.command("rm -rf /", None), Verdict::Allowed { rule: rule.clone(), what });
    assert_eq!(policy.ssh("a:1"), Verdict::Allowed { rule: rule.clone(), what: () });
    assert_eq!(policy.update(), Verdict::Allowed { rule, what: () });
    assert!(reason(policy.command("x", Some(&args(&[("a", "b")])))).contains("there is no policy"));
    assert_eq!(policy.trouble(), None);
}

#[test]
fn the_example_of_the_contract() {
    let (_file, policy) = policy(CONTRACT);
    assert_eq!(policy.trouble(), None);
    let what =
        Run { script: r#"systemctl restart "${1}""#.to_owned(), args: vec!["ssh@1.service".to_owned()] };
    let verdict = policy.command("restart-service", Some(&args(&[("unit", "ssh@1.service")])));
    assert_eq!(verdict, Verdict::Allowed { rule: Some("command.named.restart-service".to_owned()), what });
    assert_eq!(rule(policy.command("uptime", None)), "command.patterns[0]");
    assert_eq!(rule(policy.command("uptime", Some(&args(&[])))), "command.patterns[0]");
    assert_eq!(rule(policy.ssh("127.0.0.1:22")), "ssh.targets[0]");
    assert_eq!(rule(policy.update()), "update.allow");
    for command in
        ["uptime\n", "\nuptime", "uptime\nrm -rf /", "uptime ", "uptime; rm", "rm", "", "UPTIME", "uptime\r"]
    {
        assert!(
            reason(policy.command(command, None)).starts_with("the policy allows only")
                || reason(policy.command(command, None)) == "the policy does not allow this command",
            "{command:?}"
        );
    }
    for target in ["127.0.0.1:23", "localhost:22", "127.0.0.1", "127.0.0.1:22 ", ""] {
        reason(policy.ssh(target));
    }
}

#[test]
fn the_arguments_of_a_named_command_are_exactly_those_it_takes() {
    let (_file, policy) = policy(CONTRACT);
    let long = "a".repeat(4097);
    for (given, expected) in [
        (None, "args: unit is missing"),
        (Some(args(&[])), "args: unit is missing"),
        (Some(args(&[("unit", "a"), ("more", "b")])), "args: this command takes no \"more\""),
        (Some(args(&[("unit", "")])), "args: unit is not what the policy allows"),
        (Some(args(&[("unit", "a b")])), "args: unit is not what the policy allows"),
        (Some(args(&[("unit", "a\n")])), "args: unit is not what the policy allows"),
        (Some(args(&[("unit", "\na")])), "args: unit is not what the policy allows"),
        (Some(args(&[("unit", "a\0")])), "args: unit contains a NUL"),
        (Some(args(&[("unit", &long)])), "args: unit is longer than 4096 bytes"),
    ] {
        let verdict = policy.command("restart-service", given.as_ref());
        let Verdict::Refused { rule, reason } = verdict else { panic!("{verdict:?}") };
        assert_eq!((rule.as_deref(), reason.as_str()), (Some("command.named.restart-service"), expected));
    }
    let elsewhere = policy.command("uptime", Some(&args(&[("unit", "a")])));
    assert!(reason(elsewhere).starts_with("args go with the name"));
}

#[test]
fn a_name_wins_over_whatever_else_would_allow_it() {
    let (_file, policy) = policy(
        "command: {allow_any: true, patterns: ['.'], named: {ls: {run: 'ls /srv'}, cat: {run: 'cat {f}', args: {f: '[a-z]+'}}}}",
    );
    assert_eq!(
        policy.command("ls", None),
        Verdict::Allowed {
            rule: Some("command.named.ls".to_owned()),
            what: Run { script: "ls /srv".to_owned(), args: vec![] }
        }
    );
    assert_eq!(reason(policy.command("cat", None)), "args: f is missing");
    assert!(reason(policy.command("ls", Some(&args(&[("f", "a")])))).contains("takes no \"f\""));
    assert_eq!(rule(policy.command("ls -l\nls", None)), "command.allow_any");
    assert!(reason(policy.command("ls\0", None)).contains("NUL"));
    assert!(reason(policy.command("x", Some(&args(&[("f", "a")])))).starts_with("args go with"));
}

#[test]
fn an_alternative_of_a_value_is_whole_too() {
    let (_file, policy) =
        policy("command: {named: {x: {run: 'x {a} {b}', args: {a: 'on|off', b: '(?m)^[0-9]$'}}}}");
    let ask = |a: &str, b: &str| policy.command("x", Some(&args(&[("a", a), ("b", b)])));
    for a in ["on", "off"] {
        assert_eq!(rule(ask(a, "1")), "command.named.x");
    }
    for (a, b) in
        [("on;", "1"), (";off", "1"), ("onoff", "1"), ("on", "1\n2"), ("on", "1\n"), ("on", "1;\n1")]
    {
        reason(ask(a, b));
    }
}

#[test]
fn what_is_not_in_it_is_refused() {
    for text in [
        "",
        "{}",
        "# nothing\n",
        "command:\nssh:\nupdate:\n",
        "{command: {}, ssh: {}, update: {}}",
        "ssh: {allow: true, targets: []}",
    ] {
        let (_file, policy) = policy(text);
        assert_eq!(policy.trouble(), None, "{text}");
        reason(policy.command("true", None));
        reason(policy.ssh("127.0.0.1:22"));
        reason(policy.update());
    }
    let (_file, policy) = policy("ssh: {allow: true}");
    assert_eq!(rule(policy.ssh("127.0.0.1:22")), "ssh.allow");
    reason(policy.update());
}

#[test]
fn what_is_wrong_has_its_place() {
    for (text, expected) in [
        ("comand: {}", "policy.yaml:1:1: comand: unknown key; did you mean `command`?"),
        (
            "command: {allow-any: true}",
            "policy.yaml:1:11: command.allow-any: unknown key; did you mean `allow_any`?",
        ),
        (
            "command: {allow_any: yes}",
            "policy.yaml:1:22: command.allow_any: expected true or false, found the string \"yes\"",
        ),
        ("command:\n  patterns: ['(']", "policy.yaml:2:14: command.patterns.0: not a regular expression: "),
        (
            "command: {patterns: ['(a{1000}){1000}']}",
            "policy.yaml:1:22: command.patterns.0: not a regular expression: ",
        ),
        ("command: {patterns: ['']}", "policy.yaml:1:22: command.patterns.0: expected a regular expression"),
        ("command: {patterns: ^uptime$}", "policy.yaml:1:21: command.patterns: expected a list"),
        ("command: {named: {x: 'ls'}}", "policy.yaml:1:22: command.named.x: expected a map"),
        ("command: {named: {x: {}}}", "policy.yaml:1:22: command.named.x.run: must be set"),
        (
            "command: {named: {x: {run: ''}}}",
            "policy.yaml:1:22: command.named.x: run: expected the text of a command",
        ),
        (
            "command: {named: {x: {run: \"a '{b}'\", args: {b: c}}}}",
            "policy.yaml:1:22: command.named.x: run: `{b}` cannot be in single quotes",
        ),
        (
            "command: {named: {x: {run: a, args: {b: c}}}}",
            "policy.yaml:1:22: command.named.x: run: `{b}` is nowhere in it, but is one of args",
        ),
        (
            "command: {named: {x: {run: 'a {b}'}}}",
            "policy.yaml:1:22: command.named.x: run: `{b}` is not one of args",
        ),
        (
            "command: {named: {x: {run: 'a {b}', args: {b: 'a)|(b'}}}}",
            "policy.yaml:1:22: command.named.x: args.b: not a regular expression: ",
        ),
        (
            "command: {named: {x: {run: 'a {b}', args: {b: '(?x)a #'}}}}",
            "policy.yaml:1:22: command.named.x: args.b: not a regular expression: ",
        ),
        (
            "command: {named: {x: {run: 'a', args: {'b c': 'a'}}}}",
            "policy.yaml:1:22: command.named.x: args: \"b c\" is no name",
        ),
        (
            "command: {named: {'': {run: 'a'}}}",
            "policy.yaml:1:18: command.named: the name of a command has 1 to 128 bytes",
        ),
        ("ssh: {targets: ['::1:22']}", "policy.yaml:1:17: ssh.targets.0: \"::1\" is no host"),
        ("ssh: {targets: [{a: b}]}", "policy.yaml:1:17: ssh.targets.0: expected a string"),
        ("update: true", "policy.yaml:1:9: update: expected a map"),
        ("- a", "policy.yaml:1:1: expected keys and values, found a list"),
        ("command: {", "policy.yaml:"),
        ("a: 1\n---\nb: 1", "policy.yaml:2:1: a second YAML document begins"),
    ] {
        let (file, policy) = policy(text);
        let found = file.error();
        assert!(found.starts_with(expected), "{text}: {found}");
        assert!(policy.trouble().is_some_and(|why| !why.contains('\n')), "{text}");
        for reason in
            [reason(policy.command("true", None)), reason(policy.ssh("a:1")), reason(policy.update())]
        {
            assert!(reason.starts_with("the policy cannot be used: "), "{reason}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_trusted_allows_nothing_until_it_is_mended() {
    let (file, policy) = policy("command: {allow_any: true}");
    let path = file.path();
    let allowed = || rule(policy.command("true", None));
    let refused = |why: &str| {
        let reason = reason(policy.command("true", None));
        assert!(reason.contains(why), "{reason}");
        assert!(policy.trouble().unwrap().contains(why));
    };
    assert_eq!(allowed(), "command.allow_any");
    fs::remove_file(&path).unwrap();
    refused("cannot be read: No such file");
    file.write("command: {allow_any: true}");
    assert_eq!(allowed(), "command.allow_any");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    refused("everybody may write to it (mode 0666)");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(allowed(), "command.allow_any");
    file.write("command: {allow_any: tru");
    refused("not YAML");
    file.write("command: {allow_any: true}");
    assert_eq!(allowed(), "command.allow_any");
    fs::write(&path, [b"command: \xff".as_slice(), b"x"].concat()).unwrap();
    refused("not UTF-8");
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    refused("larger than 1 MiB");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("not a regular file");
    fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("policy.yaml", &path).unwrap();
    refused("cannot be read");
    fs::remove_file(&path).unwrap();
    let other = path.with_extension("new");
    fs::write(&other, "command: {patterns: ['^a$']}").unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(rule(policy.command("a", None)), "command.patterns[0]");
    assert_eq!(policy.trouble(), None);
}

/// A pipe without a writer would keep whoever opens it.
#[test]
fn a_pipe_keeps_nobody_waiting() {
    let file = File::new("");
    fs::remove_file(file.path()).unwrap();
    assert!(Command::new("mkfifo").arg(file.path()).status().unwrap().success());
    let (done, wait) = mpsc::channel();
    let policy = file.policy();
    thread::spawn(move || done.send(reason(policy.command("true", None))).unwrap());
    let found = wait.recv_timeout(Duration::from_secs(10)).expect("it hangs");
    assert!(found.contains("not a regular file"), "{found}");
}

/// Two contents of one length, written as fast as can be: the time stamp alone need not tell them apart.
#[test]
fn the_latest_content_counts_however_fast_it_came() {
    let (file, policy) = policy("update: {allow: true }");
    for _ in 0..200 {
        file.write("update: {allow: false}");
        reason(policy.update());
        file.write("update: {allow: true }");
        rule(policy.update());
    }
}

#[test]
fn a_loose_pattern_is_told() {
    let file = File::new("command: {patterns: ['^ok$', 'uptime', '^ls']}");
    let notices = Policy::check(&file.path()).unwrap();
    assert_eq!(notices.len(), 2);
    assert!(notices[0].starts_with("command.patterns[1]: \"uptime\" may be found anywhere"), "{notices:?}");
    assert!(notices[1].starts_with("command.patterns[2]: \"^ls\""), "{notices:?}");
}

/// What a shell prints for a named command with this value.
fn through_the_shell(policy: &Policy, name: &str, value: &str) -> Vec<u8> {
    let verdict = policy.command(name, Some(&args(&[("a", value)])));
    let Verdict::Allowed { what: Run { script, args }, .. } = verdict else {
        panic!("{value:?}: {verdict:?}")
    };
    let output = Command::new("/bin/sh").arg("-c").arg(script).arg("sh").args(args).output().unwrap();
    assert!(output.status.success(), "{value:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

const SHELLED: &str = r#"
command:
  named:
    plain: {run: 'printf "%s\0" before {a} after', args: {a: '(?s).*'}}
    quoted: {run: 'printf "%s\0" before "{a}" after', args: {a: '(?s).*'}}
    glued: {run: 'printf "%s\0" before{a}after', args: {a: '(?s).*'}}
    nested: {run: 'printf "%s\0" before "$(printf "%s." {a})" after', args: {a: '(?s).*'}}
"#;

#[track_caller]
fn arrives(policy: &Policy, value: &str) {
    let separate = format!("before\0{value}\0after\0").into_bytes();
    assert_eq!(through_the_shell(policy, "plain", value), separate);
    assert_eq!(through_the_shell(policy, "quoted", value), separate);
    assert_eq!(through_the_shell(policy, "glued", value), format!("before{value}after\0").into_bytes());
    assert_eq!(through_the_shell(policy, "nested", value), format!("before\0{value}.\0after\0").into_bytes());
}

#[test]
fn what_means_something_to_a_shell_arrives_as_it_is() {
    let (_file, policy) = policy(SHELLED);
    for value in [
        "", " ", "*", "?", "~", "$HOME", "${1}", "$(id)", "`id`", "a b", "a\nb", "\n", "\t", "'", "\"", "\\",
        "\\\\", "\";id;\"", "';id;'", "$((1))", "-n", "--", "#x", "a|b", "a&b", "a;b", "a>b", "<<E", "!!",
        "{a}", "{a,b}", "é", "\u{1}", "\u{7f}", "%s", "\\0", "[a]", "=", "\r\n",
    ] {
        arrives(&policy, value);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_value_arrives_as_one_word(value in proptest::collection::vec(
        prop_oneof![any::<char>(), proptest::sample::select("'\"\\$`{}()*? \n;&|<>#~!-".chars().collect::<Vec<_>>())],
        0..40,
    )) {
        let (_file, policy) = policy(SHELLED);
        arrives(&policy, &value.into_iter().filter(|c| *c != '\0').collect::<String>());
    }
}
