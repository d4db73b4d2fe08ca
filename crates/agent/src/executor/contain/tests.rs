use super::*;

#[test]
fn the_name_of_a_group_tells_its_keeper() {
    let plan = Plan { groups: vec![Group { kind: Kind::Pids, parent: "/x".into() }], rlimits: false };
    let cell = Cell::of_keeper(&plan, 12, 345);
    assert_eq!(cell.groups, [(Kind::Pids, PathBuf::from("/x/iot-agent-12-345"))]);
    assert_eq!(keeper("iot-agent-12-345"), Some((12, 345)));
    for other in ["iot-agent-12", "iot-agent-probe-1", "iot-agent-x-1", "agent", "iot-agent-1-2-3"] {
        assert_eq!(keeper(other), None, "{other}");
    }
}

#[test]
fn a_limit_that_cannot_be_set_is_told_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        groups: vec![Group { kind: Kind::Memory, parent: folder.path().join("nosuch") }],
        rlimits: false,
    };
    let why = Cell::make(&plan, &Limits::default()).unwrap_err();
    assert!(why.starts_with("cannot make ") && why.ends_with(": No such file or directory"), "{why}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
