//! From a request to a version that has proved itself, or back.

use std::{fs, time::Duration};

use serde_json::{Value, json};
use testkit::{
    Process,
    downloads::{End, Mood},
};
use tokio::time::{Instant, sleep};

use crate::{
    story::{Story, until},
    support::stop,
};

/// Runs for as long as it finds a file.
const HOLD: &str = "#!/bin/sh\nwhile [ -e {home}/hold ]; do sleep 0.05; done\n";

#[tokio::test]
async fn an_update_goes_through_its_states_to_its_end() {
    let story = Story::begin("").await;
    let note = format!(
        "#!/bin/sh\necho \"$(basename $0) $IOT_UPDATE_NAME $IOT_UPDATE_PREVIOUS_VERSION $IOT_UPDATE_VERSION \
         $IOT_UPDATE_ID $IOT_UPDATE_ATTEMPT $(cat $IOT_UPDATE_PATH/version) $(pwd)\" >> {}\n",
        story.home.path().join("ran").display()
    );
    let scripts = ["--pre-install", "before", "--post-install", "after", "--health", "health"];
    let files: Vec<(&str, &str)> = ["before", "after", "health"].map(|name| (name, note.as_str())).to_vec();
    let one = story.package("1.0.0", &files, &scripts);
    let two = story.package("1.1.0", &files, &scripts);
    let mut agent = story.online().await;
    for (id, version, file) in [("u1", "1.0.0", &one), ("u2", "1.1.0", &two)] {
        let end = story.update(id, version, file).await;
        assert_eq!((&end["state"], &end["version"]), (&"success".into(), &version.into()), "{end}");
        assert_eq!(
            story.states(id),
            ["received", "downloading", "verifying", "installing", "confirming", "success"]
        );
        assert_eq!(story.version().as_deref(), Some(version));
        assert_eq!(story.said(id).iter().filter(|said| said.get("error").is_some()).count(), 0);
    }
    let ran = fs::read_to_string(story.home.path().join("ran")).unwrap();
    let ran: Vec<Vec<&str>> = ran.lines().map(|line| line.split(' ').collect()).collect();
    let names: Vec<&str> = ran.iter().map(|words| words[0]).collect();
    assert_eq!(names, ["before", "after", "health", "before", "after", "health"], "{ran:?}");
    assert_eq!(ran[3][1..7], ["app", "1.0.0", "1.1.0", "u2", "1", "1.1.0"], "{ran:?}");
    assert_eq!(ran[0][2], "", "there was nothing before");
    let current = fs::read_link(story.target().join("current")).unwrap();
    assert_eq!(current.to_str(), Some("versions/1.1.0"));

    // Again, and the same software under another id: one effect.
    let before = fs::read(story.home.path().join("ran")).unwrap();
    story.ask("u2", "1.1.0", &two).await;
    let same = story.update("u3", "1.1.0", &two).await;
    assert_eq!(same["state"], "success");
    assert_eq!(story.ends("u2").len(), 1);
    assert_eq!(fs::read(story.home.path().join("ran")).unwrap(), before);
    stop(&mut agent, "idle").await;
    let left: Vec<_> = fs::read_dir(story.home.path().join("state/update")).unwrap().collect();
    let left: Vec<String> =
        left.into_iter().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name == "stage"), "{left:?}");
}

#[tokio::test]
async fn a_version_that_does_not_prove_itself_goes() {
    let story = Story::begin(", health: {command: 'test ! -e \"$IOT_UPDATE_PATH/sick\"', timeout: 2s}").await;
    let restarted = story.home.path().join("restarted");
    let after = format!("#!/bin/sh\ncp version {}\n", restarted.display());
    let scripts = ["--post-install", "after"];
    let good = story.package("1.0.0", &[("after", &after)], &scripts);
    let _agent = story.online().await;
    assert_eq!(story.update("good", "1.0.0", &good).await["state"], "success");

    for (at, (files, more, said)) in [
        (
            vec![("after", after.as_str()), ("sick", "")],
            &scripts[..],
            "not healthy within 2 s: health.command ended with exit code 1",
        ),
        (
            vec![("after", "#!/bin/sh\necho no such unit >&2\nexit 5\n")],
            &scripts[..],
            "post_install ended with exit code 5: no such unit",
        ),
        (
            vec![("after", &after), ("health", "#!/bin/sh\nkill -SEGV $$\n")],
            &["--post-install", "after", "--health", "health"],
            "not healthy within 2 s: health of the package was ended by signal 11",
        ),
        (
            vec![("after", &after), ("health", "#!/bin/sh\nsleep 60\n")],
            &["--post-install", "after", "--health", "health"],
            "not healthy within 2 s: health of the package did not end within",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let (id, version) = (format!("bad-{at}"), format!("2.0.{at}"));
        let bad = story.package(&version, &files, more);
        let began = Instant::now();
        let end = story.update(&id, &version, &bad).await;
        assert_eq!(end["state"], "rolled_back", "{end}");
        assert!(end["error"].as_str().unwrap().starts_with(said), "{said}: {end}");
        assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
        assert_eq!(story.version().as_deref(), Some("1.0.0"));
        assert!(!story.target().join("versions").join(&version).exists());
        assert_eq!(fs::read_to_string(&restarted).unwrap(), "1.0.0", "the old one is told to run again");
    }

    // What is wrong before the switch changes nothing.
    let bad = story.package("3.0.0", &[("before", "#!/bin/sh\nexit 7\n")], &["--pre-install", "before"]);
    let end = story.update("early", "3.0.0", &bad).await;
    assert_eq!(
        (&end["state"], &end["error"]),
        (&"failed".into(), &"pre_install ended with exit code 7".into())
    );
    assert_eq!(story.version().as_deref(), Some("1.0.0"));
    // The same version again, mended, under a new id.
    let mended = story.package("2.0.0", &[("after", &after)], &scripts);
    assert_eq!(story.update("mended", "2.0.0", &mended).await["state"], "success");
    assert_eq!(story.version().as_deref(), Some("2.0.0"));
}

/// Holds an update in this state; `-9` or `-TERM`.
async fn held_in(story: &Story, id: &str, state: &str, agent: &mut Process, term: bool) {
    story.wait(id, |said| said == state).await;
    // It is in the midst of it, not only about to be.
    sleep(Duration::from_millis(200)).await;
    if term {
        stop(agent, state).await;
    } else {
        agent.kill().await.unwrap();
    }
}

#[tokio::test]
async fn whatever_ends_the_agent_in_whichever_state_the_next_one_goes_on() {
    let story = Story::begin(", hold_file: '{home}/wait', health: {timeout: 20s}").await;
    let hold = HOLD.replace("{home}", story.home.path().to_str().unwrap());
    let mut agent = story.online().await;
    let flags = ["hold", "wait"].map(|name| story.home.path().join(name));
    for (at, (state, script)) in [
        ("waiting", ""),
        ("installing", "--pre-install"),
        ("installing", "--post-install"),
        ("confirming", "--health"),
    ]
    .into_iter()
    .enumerate()
    {
        for term in [false, true] {
            let version = format!("1.{at}.{}", u8::from(term));
            let id = format!("u-{version}");
            let more = if script.is_empty() { vec![] } else { vec![script, "held"] };
            let package = story.package(&version, &[("held", &hold)], &more);
            let flag = if script.is_empty() { &flags[1] } else { &flags[0] };
            fs::write(flag, "").unwrap();
            story.ask(&id, &version, &package).await;
            held_in(&story, &id, state, &mut agent, term).await;
            agent = story.online().await;
            fs::remove_file(flag).unwrap();
            let end = story.end(&id).await;
            assert_eq!(end["state"], "success", "{state} {term}: {:?}", story.states(&id));
            assert_eq!(story.ends(&id).len(), 1);
            assert_eq!(story.version().as_deref(), Some(version.as_str()));
        }
    }
}

#[tokio::test]
async fn a_download_goes_on_where_the_agent_was_ended() {
    let story = Story::begin(", download: {stall_timeout: 20s}").await;
    let mut agent = story.online().await;
    let noise: String = (0..4000).map(|n: u32| format!("{:x}", n.wrapping_mul(2_654_435_761))).collect();
    for term in [false, true] {
        let version = format!("1.0.{}", u8::from(term));
        let package = story.package(&version, &[("noise", &noise)], &[]);
        let request = story.request(&version, &version, &package).await;
        story.next([Mood { cut: Some((9000, End::Silent)), ..Mood::default() }]);
        story.send(request.to_string()).await;
        held_in(&story, &version, "downloading", &mut agent, term).await;
        agent = story.online().await;
        assert_eq!(story.end(&version).await["state"], "success");
        assert_eq!(story.version().as_deref(), Some(version.as_str()));
        assert_eq!(story.resumed(), Some(9000), "from where it was");
    }
}

#[tokio::test]
async fn what_takes_the_agent_down_with_it_goes_back() {
    let story = Story::begin(", health: {timeout: 20s}").await;
    let good = story.package("1.0.0", &[], &[]);
    let mut agent = story.online().await;
    assert_eq!(story.update("good", "1.0.0", &good).await["state"], "success");
    // Whoever watches over the new version ends the agent, again and again.
    let pid = story.home.path().join("state/pid");
    let deadly = format!("#!/bin/sh\nkill -9 $(cat {})\nsleep 60\n", pid.display());
    let bad = story.package("1.1.0", &[("health", &deadly)], &["--health", "health"]);
    story.ask("bad", "1.1.0", &bad).await;
    let mut lives = 0;
    while agent.wait_exit(Duration::from_secs(10)).await.is_ok() {
        lives += 1;
        assert!(lives <= 12, "it never gives up: {:?}", story.states("bad"));
        agent = story.home.start();
        if story.ends("bad").len() == 1 {
            break;
        }
    }
    let end = story.end("bad").await;
    assert_eq!(end["state"], "rolled_back", "{end}");
    assert!(end["error"].as_str().unwrap().contains("interrupted 10 times while confirming"), "{end}");
    assert_eq!(story.version().as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn restarts_in_good_order_are_no_fault_of_a_version() {
    let story = Story::begin(", health: {timeout: 60s}").await;
    let hold = HOLD.replace("{home}", story.home.path().to_str().unwrap());
    let package = story.package("1.0.0", &[("held", &hold)], &["--health", "held"]);
    fs::write(story.home.path().join("hold"), "").unwrap();
    let mut agent = story.online().await;
    story.ask("u1", "1.0.0", &package).await;
    for lives in 1..=12 {
        story.hears("u1", "confirming", lives).await;
        stop(&mut agent, "confirming").await;
        agent = story.online().await;
    }
    fs::remove_file(story.home.path().join("hold")).unwrap();
    let end = story.end("u1").await;
    assert_eq!((&end["state"], story.ends("u1").len()), (&"success".into(), 1), "{end}");
}

#[tokio::test]
async fn old_versions_go_as_the_settings_say() {
    let story = Story::begin(", keep_versions: 3").await;
    let _agent = story.online().await;
    for patch in 0..5 {
        let version = format!("1.0.{patch}");
        let package = story.package(&version, &[], &[]);
        assert_eq!(story.update(&version, &version, &package).await["state"], "success");
    }
    let versions = || {
        let found = fs::read_dir(story.target().join("versions")).unwrap();
        let mut names: Vec<String> =
            found.map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    until("three are kept", || versions() == ["1.0.2", "1.0.3", "1.0.4"]).await;
}

/// What is asked for again leaves what was before it.
#[tokio::test]
async fn the_same_again_does_not_take_the_way_back() {
    let story = Story::begin(", keep_versions: 1").await;
    let _agent = story.online().await;
    let [one, two] = ["1.0.0", "2.0.0"].map(|version| story.package(version, &[], &[]));
    for (id, version, file) in [("u1", "1.0.0", &one), ("u2", "2.0.0", &two), ("u3", "2.0.0", &two)] {
        assert_eq!(story.update(id, version, file).await["state"], "success");
    }
    let back = crate::support::command::run(&story.home, &["update", "rollback", "app"], "").await;
    assert_eq!(back.code, 0, "{back:#?}");
    assert_eq!(story.version().as_deref(), Some("1.0.0"));
}

#[tokio::test]
async fn a_cut_network_is_not_the_fault_of_a_version_but_a_broker_that_is_not_reached_is() {
    let mut story = Story::begin(", health: {timeout: 2s, network_grace: 60s}").await;
    let [one, two] = ["1.0.0", "1.1.0"].map(|version| {
        let script = format!(
            "#!/bin/sh\ntouch {0}/cut; while [ -e {0}/cut ]; do sleep 0.05; done\n",
            story.home.path().display()
        );
        story.package(version, &[("health", &script)], &["--health", "health"])
    });
    let cut = story.home.path().join("cut");
    let _agent = story.online().await;
    story.ask("u1", "1.0.0", &one).await;
    until("it is about to prove itself", || cut.exists()).await;
    story.broker.kill().await.unwrap();
    // What it says of itself comes through after the cut only.
    fs::remove_file(&cut).unwrap();
    let said = |story: &Story| -> Option<Value> {
        let status = story.home.status()?;
        status["updates"].as_array()?.last().cloned()
    };
    until("it has longer", || {
        said(&story)
            .is_some_and(|said| said["error"].as_str().is_some_and(|why| why.contains("there is no network")))
    })
    .await;
    assert_eq!(said(&story).unwrap()["state"], "confirming");
    story.broker.start().await.unwrap();
    until("it has proved itself", || said(&story).is_some_and(|said| said["state"] == "success")).await;
    assert_eq!(story.version().as_deref(), Some("1.0.0"));

    // A port that answers, and no broker behind it.
    let port = story.broker.port();
    let until_online = |status: &Value| status["connection"]["state"] == "connected";
    crate::support::wait_status(&story.home, until_online).await;
    let request = story.request("u2", "1.1.0", &two).await;
    story.send(request.to_string()).await;
    until("it is about to prove itself", || cut.exists()).await;
    story.broker.kill().await.unwrap();
    let _mute = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    fs::remove_file(&cut).unwrap();
    until("it went back", || said(&story).is_some_and(|said| said["state"] == "rolled_back")).await;
    let why = said(&story).unwrap()["error"].clone();
    assert!(
        why.as_str().unwrap().starts_with("the broker was not reached, although its port can be"),
        "{why}"
    );
    assert_eq!(story.version().as_deref(), Some("1.0.0"));
    assert_eq!(json!(story.ends("u2").len()), json!(0), "nobody could hear it yet");
}
